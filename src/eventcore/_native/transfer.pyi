from eventcore.types import Buffer

__all__ = ["copy_batch"]

def copy_batch(buf: Buffer, at: int, data: Buffer, pos: int, base_offset: int, leader_epoch: int) -> bool: ...

"""Copy encoded batches into the log and check them on the way."""

from __future__ import annotations

from eventcore._pure.batch import PREFIX_SIZE, as_bytes, batch_size, checked_range
from eventcore._pure.crc32c import crc32c
from eventcore.types import Buffer

__all__ = ["copy_batch"]

_CRC_START = 21


def copy_batch(buf: Buffer, at: int, data: Buffer, pos: int, base_offset: int, leader_epoch: int) -> bool:
    """Copy the batch at `pos` of `data` to `at`, with another base offset and leader epoch; whether its CRC holds.

    It is computed over what was copied. If it does not hold, the first 12 bytes at `at` are untouched: no batch.
    """
    view, source = writable(buf), as_bytes(data)
    size = batch_size(source, pos, checked_range(source, pos, -1))
    checked_range(view, at, at + size)
    view[at + PREFIX_SIZE : at + size] = source[pos + PREFIX_SIZE : pos + size]
    view[at + PREFIX_SIZE : at + PREFIX_SIZE + 4] = big_endian(leader_epoch, 4)
    if crc32c(view[at + _CRC_START : at + size]) != int.from_bytes(view[at + _CRC_START - 4 : at + _CRC_START], "big"):
        return False
    view[at : at + 8] = big_endian(base_offset, 8)
    view[at + 8 : at + PREFIX_SIZE] = big_endian(size - PREFIX_SIZE, 4)
    return True


def writable(buf: Buffer) -> memoryview:
    """The bytes of a buffer that may be stored to."""
    view = as_bytes(buf)
    if view.readonly:
        raise TypeError("the buffer is read-only")
    return view


def big_endian(value: int, size: int) -> bytes:
    """A signed integer of Kafka's."""
    return value.to_bytes(size, "big", signed=True)

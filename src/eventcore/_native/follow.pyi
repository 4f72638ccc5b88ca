from typing import final

from eventcore._native.guard import Mapping
from eventcore.types import Buffer, Record

__all__ = ["Follower"]

@final
class Follower:
    def __new__(
        cls,
        state: Buffer,
        log: Mapping,
        word: int,
        position: int,
        next_offset: int,
        generation: int,
        truncations: int,
        stop_mask: int,
    ) -> Follower: ...
    @property
    def position(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    def follow(self, max_count: int, spin_ns: int, timeout_ns: int) -> list[Record] | None: ...

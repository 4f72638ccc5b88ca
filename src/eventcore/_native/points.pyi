from typing import final

from eventcore.types import Buffer, Record

__all__ = ["MOST_ENTRIES", "MOST_UNPACKED", "STRIDE", "Points"]

MOST_ENTRIES: int
MOST_UNPACKED: int
STRIDE: int

@final
class Points:
    def __new__(cls, most_entries: int = ..., most_unpacked: int = ...) -> Points: ...
    @property
    def nbytes(self) -> int: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...
    def watch(
        self,
        state: Buffer | None,
        generation: int,
        truncations: int,
        start: int = -1,
        end: int = -1,
        patience_ns: int = -1,
    ) -> int: ...
    def add(
        self,
        token: int,
        buf: Buffer,
        position: int,
        end: int,
        stop: int,
        verify: bool,
        unpacked: bool = False,
    ) -> int: ...
    def get(self, index: object) -> Record | None: ...
    def find(self, offset: int) -> Record | None: ...

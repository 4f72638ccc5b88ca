"""A file that is mapped at its full capacity and gets its blocks ahead of its tail.

* The file is as long as its capacity while it grows; what lies behind `size` is zeros. Blocks are reserved in
  chunks (1 MiB growing to 64 MiB, less for small files) before they are written, so that a full disk is DiskFull
  at `reserve` and not a signal in the middle of a store, and a small log costs little.
* A mapped file never shrinks under its readers: it is cut only beyond what was ever published, in `trim`.
* A mapping lives as long as anybody refers to it: readers keep theirs when the file is closed or deleted. A file
  opened for reading needs no descriptor beyond its mapping, so it keeps none.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from eventcore.disk import Disk

_PAGE = 4096
_LARGEST_CHUNK = 64 << 20


class MappedFile:
    """One mapped file. `size` is owned by the caller: bytes below it are content, above it zeros.

    Opened for reading, a missing file is an empty one: every file but the log can be done without.
    """

    view = memoryview(b"")
    _mapping: mmap.mmap | None = None

    def __init__(self, disk: Disk, path: Path, *, write: bool, capacity: int = 0, first_chunk: int = 1 << 20) -> None:
        self.disk = disk
        self.path = path
        self.write = write
        self._chunk = first_chunk
        self._reserved = 0
        self.fd = disk.open(path, write=write, create=write) if write or disk.exists(path) else -1
        try:
            self.size = disk.size(self.fd) if self.fd >= 0 else 0
            self._map(max(capacity, self.size) if write else self.size)
        except BaseException:
            self.close()
            raise
        if not write:
            self.close()

    def _map(self, capacity: int) -> None:
        if self.write and capacity > self.disk.size(self.fd):
            self.disk.grow(self.fd, capacity)
        self.capacity = capacity
        self._mapping = self.disk.map(self.fd, capacity, write=self.write) if capacity else None
        self.view = memoryview(self._mapping) if self._mapping is not None else memoryview(b"")

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes as the file has them now; unlike a load from the map it cannot fault."""
        if not self.disk.exists(self.path):
            return b""
        fd = self.disk.open(self.path, write=False)
        try:
            return self.disk.pread(fd, size, position)
        finally:
            self.disk.close(fd)

    def reserve(self, end: int) -> None:
        """Make sure the blocks below `end` are ours. Raises DiskFull, with nothing changed."""
        if end <= self._reserved:
            return
        target = min(self.capacity, -(-max(end, self._reserved + self._chunk) // _PAGE) * _PAGE)
        self.disk.reserve(self.fd, self._reserved, target - self._reserved)
        self._reserved = target
        self._chunk = min(self._chunk * 2, _LARGEST_CHUNK)

    def zero(self, start: int, end: int) -> None:
        """Zero `[start, end)`; bytes that were never reserved are zeros already."""
        end = min(end, self.capacity)
        while start < end:
            step = min(end - start, 1 << 20)
            self.view[start : start + step] = bytes(step)
            start += step

    def data_end(self) -> int:
        """Where the last bytes that were ever written end."""
        return self.disk.data_end(self.fd, self.capacity)

    def grow(self, capacity: int) -> None:
        """Let a trimmed file grow again, up to `capacity`."""
        if capacity > self.capacity:
            self._reserved = self.capacity // _PAGE * _PAGE
            self._map(capacity)

    def sync(self) -> None:
        """On return everything stored so far survives a power cut."""
        self.disk.sync(self.fd)

    def trim(self, size: int) -> None:
        """Cut the reserved zeros behind `size`; nothing at or behind it may ever have been published."""
        self.disk.cut(self.fd, size)
        self.size = self.capacity = min(self.capacity, size)
        self._reserved = min(self._reserved, size)

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last reference to it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.disk.close(fd)

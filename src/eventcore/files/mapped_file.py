"""A file that is mapped at its full capacity and gets its blocks ahead of its tail.

* The file is as long as its capacity while it grows; what lies behind `size` is zeros. Blocks are reserved in
  chunks (1 MiB growing to 64 MiB, less for small files) before they are written, so that a full disk is DiskFull
  at `reserve` and not a signal in the middle of a store, and a small log costs little. Pages are populated ahead of
  the tail, so that a failing device is an error there, too.
* Where the file system cannot reserve, the map is private: stores go to memory, and `flush` writes them by pwrite,
  which can fail as a call should. Whoever maps the file shared sees what was flushed.
* A mapped file never shrinks under its readers: it is cut only beyond what was ever published, in `trim`.
* A mapping lives as long as anybody refers to it: readers keep theirs when the file is closed or deleted. A file
  opened for reading needs no descriptor beyond its mapping, so it keeps none.
"""

from __future__ import annotations

from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import DiskFull, NotALog

_PAGE = 4096
_LARGEST_CHUNK = 64 << 20
_POPULATE = 1 << 20
_LARGEST_FLOOR = 16 << 20
_FLOOR_SHARE = 64
"""What is left free for those who make space (retention, fencing): 1/64 of the file system, at most 16 MiB."""


class MappedFile:
    """One mapped file. `size` is owned by the caller: bytes below it are content, above it zeros.

    Opened for reading, a missing file is an empty one: every file but the log can be done without.
    """

    view = memoryview(b"")
    floored = False
    """Whether the file system's last free bytes are not for this kind of file."""
    shared = False
    """Whether it must be mapped shared whatever the file system can do."""
    _mapping: kernels.guard.Mapping | None = None

    def __init__(self, disk: Disk, path: Path, *, write: bool, capacity: int = 0, first_chunk: int = 1 << 20) -> None:
        self.disk = disk
        self.path = path
        self.write = write
        self._chunk = first_chunk
        self._reserved = self._populated = 0
        self._unflushed = (0, 0)
        self.private = False
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
        self.private = self.write and capacity > 0 and not self.shared and not self.disk.allocates(self.fd)
        self.capacity = capacity
        self._mapping = self.disk.map(self.fd, capacity, write=self.write, private=self.private) if capacity else None
        self.view = memoryview(self._mapping) if self._mapping is not None else memoryview(b"")

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes as the file has them now; unlike a load from the map it cannot fault."""
        try:
            fd = self.disk.open(self.path, write=False)
        except NotALog:
            if self.disk.exists(self.path):
                raise
            return b""  # the writer has deleted it
        try:
            return self.disk.pread(fd, size, position)
        finally:
            self.disk.close(fd)

    @property
    def broken(self) -> bool:
        """Whether a page of the map could not be had: nothing read or stored since then is to be believed."""
        return self._mapping is not None and self._mapping.broken

    def reserve(self, end: int) -> None:
        """Make sure the blocks below `end` are ours. Raises DiskFull, with nothing changed."""
        if end <= self._populated:
            return
        if end > self._reserved:
            self._reserve(end)
        target = min(self._reserved, max(end, self._populated + _POPULATE))
        if not self.private and self._mapping is not None:
            self.disk.populate(self.fd, self._mapping, self._populated, target)
        self._populated = target

    def _reserve(self, end: int) -> None:
        target = self._rounded(max(end, self._reserved + self._chunk))
        if not self._leaves_floor(target):
            target = self._rounded(end)
            if not self._leaves_floor(target):
                raise DiskFull("the last free space is kept for those who make some", path=self.path)
        if not self.private:
            self.disk.reserve(self.fd, self._reserved, target - self._reserved)
        self._reserved = target
        self._chunk = min(self._chunk * 2, _LARGEST_CHUNK)

    def _rounded(self, end: int) -> int:
        return min(self.capacity, -(-end // _PAGE) * _PAGE)

    def _leaves_floor(self, target: int) -> bool:
        """Blocks the file has behind `size` are counted as if they were new: near the floor that is close enough."""
        if not self.floored:
            return True
        free, total = self.disk.free(self.fd)
        return free - (target - max(self._reserved, self.size)) >= min(_LARGEST_FLOOR, total // _FLOOR_SHARE)

    def stored(self, start: int, end: int) -> None:
        """Bytes were stored through `view`; a private map owes them to the file until `flush`."""
        if self.private:
            low, high = self._unflushed
            self._unflushed = (min(low, start), max(high, end)) if low < high else (start, end)

    def flush(self) -> None:
        """On return everything stored is seen by whoever reads the file. Raises DiskFull, and can be called again."""
        start, end = self._unflushed
        if start < end and self._mapping is not None:
            self.disk.pwrite_all(self.fd, self.view[start:end], start)
            self._mapping.forget(start, end)
            self._unflushed = (0, 0)

    def zero(self, start: int, end: int) -> None:
        """Zero `[start, end)`; bytes that were never reserved are zeros already."""
        end = min(end, self.capacity)
        if start < end and end > self._reserved and not self.private:
            first = start // _PAGE * _PAGE
            self.disk.reserve(self.fd, first, self._rounded(end) - first)  # a page that is not all ours may fault
        while start < end:
            step = min(end - start, 1 << 20)
            self.view[start : start + step] = bytes(step)
            self.stored(start, start + step)
            start += step

    def data_end(self) -> int:
        """Where the last bytes that were ever written end."""
        return self.disk.data_end(self.fd, self.capacity)

    def grow(self, capacity: int) -> None:
        """Let a trimmed file grow again, up to `capacity`."""
        if capacity > self.capacity:
            self.flush()
            self._reserved = self._populated = self.capacity // _PAGE * _PAGE
            self._map(capacity)

    def sync(self) -> None:
        """On return everything stored so far survives a power cut."""
        self.flush()
        self.disk.sync(self.fd)

    def trim(self, size: int) -> None:
        """Cut the reserved zeros behind `size`; nothing at or behind it may ever have been published."""
        self.flush()
        self.disk.cut(self.fd, size)
        self.size = self.capacity = min(self.capacity, size)
        self._reserved = min(self._reserved, size)
        self._populated = min(self._populated, size)

    def release(self) -> None:
        """`close`, and keep no reference to the mapping."""
        self.close()
        self.view, self._mapping = memoryview(b""), None

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last reference to it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.disk.close(fd)

"""A file that is mapped at its full capacity and gets its blocks ahead of its tail.

* The file is as long as its capacity while it grows; what lies behind `size` is zeros. Blocks are reserved in
  chunks (1 MiB growing to 64 MiB, less for small files) before they are written, so that a full disk is DiskFull
  at `reserve` and not a signal in the middle of a store, and a small log costs little. Pages are populated ahead of
  the tail, so that a failing device is an error there, too.
* Where the file system cannot reserve, the map is private: stores go to memory, and `flush` writes them by pwrite,
  which can fail as a call should. Whoever maps the file shared sees what was flushed. One thread may store and note
  it while another one flushes: what is noted stays noted until a flush that began later has written it.
* A file that has a second name (a snapshot's) becomes a copy before it is opened for writing.
* A mapped file never shrinks under its readers: it is cut only beyond what was ever published, in `trim`.
* A mapping lives as long as anybody refers to it: readers keep theirs when the file is closed or deleted. A file
  opened for reading needs no descriptor beyond its mapping, so it keeps none.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import DiskFull, NotALog, StorageError
from eventcore.files.populator import POPULATOR

_PAGE = 4096
_LARGEST_CHUNK = 64 << 20
_STEP = 1 << 20
_TURN = 1 << 19
"""Bytes that the populator makes at a time: whoever needs pages now waits no longer than for these."""
_LARGEST_LEAD = 16 << 20
"""So far ahead of the tail pages are had by the populator; never further than there are bytes behind it."""
_LARGEST_FLOOR = 16 << 20
_FLOOR_SHARE = 64
"""What is left free for those who make space (retention, fencing): 1/64 of the file system, at most 16 MiB."""


class MappedFile(kernels.marks.End):
    """One mapped file. `size` is owned by the caller: bytes below it are content, above it zeros.

    Opened for reading, a missing file is an empty one: every file but the log can be done without.
    """

    capacity = 0
    view = memoryview(b"")
    floored = False
    """Whether the file system's last free bytes are not for this kind of file."""
    shared = False
    """Whether it must be mapped shared whatever the file system can do."""
    _mapping: kernels.guard.Mapping | None = None

    def __init__(self, disk: Disk, path: Path, *, write: bool, capacity: int = 0, first_chunk: int = 1 << 20) -> None:
        super().__init__()
        self.disk = disk
        self.path = path
        self.write = write
        self._chunk = first_chunk
        self._reserved = 0
        self._unflushed = self._in_flight = (0, 0)
        self._noting, self._flushing = threading.RLock(), threading.RLock()
        self._populating = threading.Lock()
        self.private = False
        if write:
            disk.unshare(path)
        self.fd = disk.open(path, write=write, create=write) if write or disk.exists(path) else -1
        try:
            if write:
                self.size = disk.size(self.fd)
                self._map(max(capacity, self.size))
            elif self.fd >= 0:
                self._map_as_it_is()
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

    def _map_as_it_is(self) -> None:
        """Map what there is of the file. Its writer may cut the reserved zeros meanwhile: then there is less of it."""
        while True:
            self.size = self.disk.size(self.fd)
            try:
                return self._map(self.size)
            except StorageError:
                if self.disk.size(self.fd) >= self.size:
                    raise

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
    def ready(self) -> int:
        """Below this position pages are there to be stored to, as `reserve` has made sure."""
        return self._mapping.populated if self._mapping is not None else 0

    @property
    def mapping(self) -> kernels.guard.Mapping | None:
        """What `view` shows; None of an empty file."""
        return self._mapping

    @property
    def broken(self) -> bool:
        """Whether a page of the map could not be had: nothing read or stored since then is to be believed."""
        return self._mapping is not None and self._mapping.broken

    def reserve(self, end: int) -> None:
        """Make sure the blocks below `end` are ours, and pages there. Raises DiskFull, with nothing changed."""
        if end <= self.ready:
            return
        if end > self._reserved:
            self._reserve(end)
        with self._populating:
            if end > self.ready:  # else the populator was at it
                self._populate(max(end, self.ready + _STEP))

    def populate(self, end: int) -> None:
        """Have the pages below `end` in place, of what is reserved. One thread at a time does that, the populator or
        whoever needs them now, who gets his turn soon: two that make the same pages take longer than one.
        """
        before = -1
        while before < self.ready < end:
            before = self.ready
            with self._populating:
                self._populate(min(end, self.ready + _TURN))

    def _populate(self, end: int) -> None:
        mapping, end = self._mapping, min(end, self._reserved)
        if mapping is None or end <= mapping.populated:
            return
        mapping.populated = max(mapping.populated, min(self.size, end) // _PAGE * _PAGE)  # content has its pages
        if self.private:
            mapping.populated = end
        elif self.fd >= 0:
            self.disk.populate(self.fd, mapping, mapping.populated, end)

    def lead(self) -> None:
        """Have the populator make pages ahead of the tail: few for a small file, more the larger it has become."""
        lead = min(self.size, _LARGEST_LEAD)
        if self.ready < min(self._reserved, self.size + lead // 2):
            POPULATOR.ask(self, self.size + lead)

    def preallocate(self) -> None:
        """Reserve all of it, and have all its pages. Without space for that it is left as it is."""
        with suppress(DiskFull):
            if self._reserved < self.capacity:
                self._reserve(self.capacity)
            POPULATOR.ask(self, self.capacity)

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
            with self._noting:
                self._unflushed = _spanned(self._unflushed, (start, end))

    def flush(self) -> None:
        """On return everything stored is seen by whoever reads the file. Raises DiskFull, and can be called again."""
        if not self.private:
            return
        with self._flushing:
            with self._noting:
                self._in_flight = _spanned(self._in_flight, self._unflushed)
                self._unflushed = (0, 0)
            self._write_out(*self._in_flight)
            self._in_flight = (0, 0)

    def _write_out(self, start: int, end: int) -> None:
        if start < end and self._mapping is not None:
            self.disk.pwrite_all(self.fd, self.view[start:end], start)
            self._mapping.forget(start, end)

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
            self._reserved = self.capacity // _PAGE * _PAGE
            self._map(capacity)

    def sync(self) -> None:
        """On return everything stored so far survives a power cut; also of a file that was closed, by its name."""
        self.flush()
        if self.fd >= 0:
            self.disk.sync(self.fd)
            return
        fd = self.disk.open(self.path, write=True)
        try:
            self.disk.sync(fd)
        finally:
            self.disk.close(fd)

    def trim(self, size: int) -> None:
        """Cut the reserved zeros behind `size`; nothing at or behind it may ever have been published."""
        self.flush()
        self.disk.cut(self.fd, size)
        self.size = self.capacity = min(self.capacity, size)
        self._reserved = min(self._reserved, size)
        if self._mapping is not None:
            self._mapping.populated = min(self._mapping.populated, size)

    def release(self) -> None:
        """`close`, and keep no reference to the mapping."""
        self.close()
        self.view, self._mapping = memoryview(b""), None

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last reference to it."""
        with self._flushing:  # who is writing just now must not find another file under its number
            fd, self.fd = self.fd, -1
        if fd >= 0:
            self.disk.close(fd)


def _spanned(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The range that holds both; an empty one holds nothing."""
    if one[0] >= one[1]:
        return other
    return (min(one[0], other[0]), max(one[1], other[1])) if other[0] < other[1] else one

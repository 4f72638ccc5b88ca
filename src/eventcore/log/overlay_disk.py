"""OverlayDisk: one folder as it would be after changes that nobody makes. The disk below it is only read.

A reader recovers on it what a crash has left: the folder may not be his to write, and a writer may come any time.

  * What is opened for writing is a copy in memory, or of a log, which may be large, a map whose pages are copied as
    they are stored to. It does not grow then: segments are to be opened with no more room than their file has.
  * Names are hidden, moved and made in a table.
  * Nothing is synced, no space is reserved, no lock is taken. Of other folders nothing is kept.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import NotALog
from eventcore.files import names

_STEP = 1 << 20
_COPIED_MAX = 1 << 20
"""A log of no more bytes is copied, too: it may grow."""
_ENDLESS = 1 << 62


class _Plain:
    """A file of some disk, by its descriptor there."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self.disk, self.fd = disk, fd

    def size(self) -> int:
        return self.disk.size(self.fd)

    def resize(self, size: int) -> None:
        self.disk.cut(self.fd, size)

    def map(self, size: int, write: bool) -> kernels.guard.Mapping:
        return self.disk.map(self.fd, size, write=write)

    def read(self, size: int, at: int) -> bytes:
        return self.disk.pread(self.fd, size, at)

    def write(self, data: bytes | memoryview, at: int) -> None:
        self.disk.pwrite_all(self.fd, data, at)


class _Covered(_Plain):
    """A file of the disk below, which keeps its bytes; those of the one map of it are shown."""

    def __init__(self, disk: Disk, fd: int) -> None:
        super().__init__(disk, fd)
        self._size = disk.size(fd)
        self._mapping = disk.map(fd, self._size, write=True, private=True)

    def size(self) -> int:
        return self._size

    def resize(self, size: int) -> None:
        self._size = min(size, len(self._mapping))

    def map(self, size: int, write: bool) -> kernels.guard.Mapping:
        return self._mapping

    def read(self, size: int, at: int) -> bytes:
        return bytes(memoryview(self._mapping)[at : min(at + size, self._size)])

    def write(self, data: bytes | memoryview, at: int) -> None:
        memoryview(self._mapping)[at : at + len(data)] = data


class OverlayDisk(Disk):
    """`folder` of the disk `below`, to be changed at will. Descriptors are its own.

    Nothing need be closed: what was opened or made goes with the last one who refers to the overlay.
    """

    def __init__(self, below: Disk, folder: Path) -> None:
        super().__init__()
        self._below = below
        self._folder = folder
        self._memory = Disk()
        self._files: dict[Path, _Plain | Path | None] = {}
        """What is not as it is below: a file of ours, one from below under another name, or nothing."""
        self._opened: dict[int, _Plain] = {}
        self._last = 0

    # -- names -------------------------------------------------------------------------------------------------

    def exists(self, path: Path) -> bool:
        """See `Disk`; so in all that follows."""
        return self._files[path] is not None if path in self._files else self._below.exists(path)

    def is_folder(self, path: Path) -> bool:
        return self._below.is_folder(path)

    def list(self, folder: Path) -> list[str]:
        found = set(self._below.list(folder))
        for path, file in self._files.items():
            if path.parent == folder:
                (found.discard if file is None else found.add)(path.name)
        return sorted(found)

    def entries(self, folder: Path) -> set[str]:
        if folder == self._folder:
            return set(self.list(folder))
        return self._below.entries(folder) if self._below.is_folder(folder) else set()

    def changed_ns(self, folder: Path) -> int:
        return self._below.changed_ns(folder)

    def modified_ms(self, path: Path) -> int:
        file = self._files.get(path, path)
        return self._below.modified_ms(file if isinstance(file, Path) else path)

    def make_folder(self, path: Path) -> None:
        pass

    def rename(self, old: Path, new: Path) -> None:
        self._files[new] = self._files.get(old, old)
        self._files[old] = None

    def unlink(self, path: Path) -> None:
        self._files[path] = None

    # -- files -------------------------------------------------------------------------------------------------

    def open(self, path: Path, *, write: bool, create: bool = False) -> int:
        self._last += 1
        self._opened[self._last] = self._find(path, write, create)
        self._paths[self._last] = path
        return self._last

    def _find(self, path: Path, write: bool, create: bool) -> _Plain:
        file = self._files.get(path, path)
        if isinstance(file, _Plain):
            return file
        if file is not None and self._below.exists(file):
            return self._from_below(path, file, write)
        if not create:
            raise NotALog("cannot open the file: it is missing", path=path, hint="check the path and its permissions")
        return self._keep(path, self._new())

    def _from_below(self, path: Path, source: Path, write: bool) -> _Plain:
        file = _Plain(self._below, self._below.open(source, write=False))
        if not write:
            return file
        with ExitStack() as closing:
            closing.callback(self._below.close, file.fd)
            if path.suffix != names.LOG or file.size() <= _COPIED_MAX:
                return self._keep(path, self._copy(file))
            covered = _Covered(self._below, file.fd)
            closing.pop_all()
            weakref.finalize(covered, self._below.close, file.fd)
            return self._keep(path, covered)

    def _keep(self, path: Path, file: _Plain) -> _Plain:
        if path.parent == self._folder:
            self._files[path] = file
        return file

    def _new(self) -> _Plain:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("eventcore")
        else:
            with tempfile.TemporaryFile() as temporary:
                fd = os.dup(temporary.fileno())
        file = _Plain(self._memory, fd)
        weakref.finalize(file, os.close, fd)
        return file

    def _copy(self, file: _Plain) -> _Plain:
        copy, size = self._new(), file.size()
        end = self._below.data_end(file.fd, size)
        for at in range(0, end, _STEP):
            copy.write(file.read(min(_STEP, end - at), at), at)
        copy.resize(size)
        return copy

    def close(self, fd: int) -> None:
        file = self._opened.pop(fd)
        del self._paths[fd]
        if type(file) is _Plain and file.disk is self._below:
            self._below.close(file.fd)

    def size(self, fd: int) -> int:
        return self._opened[fd].size()

    def data_end(self, fd: int, size: int) -> int:
        file = self._opened[fd]
        return min(file.disk.data_end(file.fd, size), size)

    def grow(self, fd: int, size: int) -> None:
        self._opened[fd].resize(size)

    def cut(self, fd: int, size: int) -> None:
        self._opened[fd].resize(size)

    def map(self, fd: int, size: int, *, write: bool, private: bool = False) -> kernels.guard.Mapping:
        return self._opened[fd].map(size, write)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        return self._opened[fd].read(size, at)

    def read_direct(self, fd: int, size: int, at: int) -> bytes:
        file = self._opened[fd]
        return file.disk.read_direct(file.fd, size, at) if type(file) is _Covered else file.read(size, at)

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        self._opened[fd].write(data, at)

    # -- what needs no doing -----------------------------------------------------------------------------------

    def allocates(self, fd: int) -> bool:
        return True

    def reserve(self, fd: int, start: int, size: int) -> None:
        pass

    def populate(self, fd: int, mapping: kernels.guard.Mapping, start: int, end: int) -> None:
        pass

    def unshare(self, path: Path) -> None:
        pass

    def free(self, fd: int) -> tuple[int, int]:
        return _ENDLESS, _ENDLESS

    def sync(self, fd: int) -> None:
        pass

    def sync_dir(self, folder: Path) -> None:
        pass

    def boot_id(self) -> bytes:
        return self._below.boot_id()

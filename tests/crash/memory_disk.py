"""An in-memory file system behind the interface of `eventcore.disk.Disk`: no real file is touched.

It is what the simulated power losses run on, so it is fast: to open, check and close a log on it takes less than a
millisecond. Maps of one file share its memory, as shared maps do. What a real disk does otherwise, a test would find
that plays the same calls to both (`test_crash_disk.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eventcore.disk import Disk
from eventcore.errors import LogLocked, NotALog, StorageError
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import tail

PAGE = 4096
MODIFIED_MS = 1_700_000_000_000
"""When every file was last written."""
CAPACITY = 8192
"""Bytes of memory a file has unless it is asked to be larger; a file that is mapped cannot get more."""

LIVE_WORDS = slice(tail.LOG_START, 192)
"""Of the state file: they speak of the living writer, and after a power cut nobody reads those of a dead one."""

Image = dict[str, dict[str, bytes]]
"""The files of each folder: what one crash leaves on the disk."""


class LinkedBytes(bytes):
    """The content of a file that has several names in an image: each of them has this very object."""


def mask_state(name: str, content: bytes) -> bytes:
    """The content without what makes no difference to an opening."""
    if name != STATE_NAME or len(content) < LIVE_WORDS.stop:
        return content
    return content[: LIVE_WORDS.start] + content[LIVE_WORDS.stop :]


class Inode:
    """One file: bytes behind `size` are zeros. Names come and go, open descriptors and maps keep it."""

    __slots__ = ("data", "mapped", "number", "private", "size")

    def __init__(self, number: int, content: bytes = b"", capacity: int = CAPACITY) -> None:
        self.number = number
        self.size = len(content)
        self.data = bytearray(max(capacity, self.size))
        self.data[: self.size] = content
        self.mapped = False
        self.private: list[Window] = []

    def content(self) -> bytes:
        """What a reader gets."""
        return bytes(self.data[: self.size])

    def resize(self, size: int) -> None:
        """Make it longer, with zeros, or shorter."""
        if size > len(self.data):
            self.data.extend(bytes(size - len(self.data)))  # BufferError while it is mapped: give it more CAPACITY
        if size < self.size:
            self.data[size : self.size] = bytes(self.size - size)
        self.size = size

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Write all of `data` at `at`. A private map sees it in the pages it has no bytes of its own in."""
        end = at + len(data)
        before = bytes(self.data[: self.size]) if self.private else b""
        if end > self.size:
            self.resize(end)
        self.data[at:end] = data
        for window in self.private:
            window.follow(before, at, end)


def copy_of(inode: Inode) -> Inode:
    """One of the same number and content, that nobody has mapped."""
    return Inode(inode.number, inode.content(), len(inode.data))


class Window(np.ndarray):  # type: ignore[type-arg]
    """A shared map of a file's first bytes: an array over the same memory, with the methods of a `guard.Mapping`."""

    broken = False
    populated = 0
    inode: Inode
    memory: bytearray

    @classmethod
    def of(cls, inode: Inode, size: int, *, write: bool) -> Window:
        """A map of the first `size` bytes."""
        return cls._over(inode, inode.data, size, write)

    @classmethod
    def private_of(cls, inode: Inode, size: int) -> Window:
        """A map whose stores do not get to the file."""
        window = cls._over(inode, bytearray(inode.data), size, True)
        inode.private.append(window)
        return window

    @classmethod
    def _over(cls, inode: Inode, memory: bytearray, size: int, write: bool) -> Window:
        window = cls.__new__(cls, (size,), np.uint8, memory)
        window.inode, window.memory = inode, memory
        if not write:
            window.flags.writeable = False
        return window

    def find(self, sub: bytes, start: int, end: int) -> int:
        """Like `bytes.find`."""
        return self.memory.find(sub, start, min(end, len(self)))

    def populate(self, start: int, end: int) -> None:
        """Memory is always there."""
        self.populated = max(self.populated, end)

    def forget(self, start: int, end: int) -> None:
        """Shared maps show the file in any case; a private one again in its whole pages inside `[start, end)`."""
        if self.memory is not self.inode.data:
            first, last = -(-start // PAGE) * PAGE, len(self) if end >= len(self) else end // PAGE * PAGE
            self.memory[first:last] = self.inode.data[first:last]

    def follow(self, before: bytes, start: int, end: int) -> None:
        """The file was `before` and has been written in `[start, end)`."""
        for at in range(start // PAGE * PAGE, end, PAGE):
            if self.memory[at : at + PAGE] == before[at : at + PAGE].ljust(PAGE, b"\0"):
                self.memory[at : at + PAGE] = self.inode.data[at : at + PAGE]


class MemoryDisk(Disk):
    """Files in memory. Folders are known by their path; a file is found by folder and name."""

    leaves_locks = False
    """Whether the file of a lock is there after a crash, empty. Nobody reads it, so most histories do without."""

    def __init__(
        self, image: Image | None = None, *, boot: int = 1, capacity: int = CAPACITY, allocates: bool = True
    ) -> None:
        super().__init__()
        self._boot = boot
        self._allocates = allocates
        self._capacity = capacity
        self._next = 0
        self.folders: dict[str, dict[str, Inode]] = {}
        self._open: dict[int, Inode] = {}
        self._locked: set[str] = set()
        self._changes: dict[str, int] = {}
        linked: dict[int, Inode] = {}
        for folder, files in (image or {}).items():
            self.folders[folder] = {name: self._inode_of(content, linked) for name, content in files.items()}

    def _inode_of(self, content: bytes, linked: dict[int, Inode]) -> Inode:
        if not isinstance(content, LinkedBytes):
            return self._inode(content)
        if id(content) not in linked:
            linked[id(content)] = self._inode(content)
        return linked[id(content)]

    def _inode(self, content: bytes = b"") -> Inode:
        self._next += 1
        return Inode(self._next, content, self._capacity)

    def image(self) -> Image:
        """What every file holds now."""
        return {
            folder: {name: inode.content() for name, inode in files.items()} for folder, files in self.folders.items()
        }

    def inodes(self) -> Iterator[Inode]:
        """Every file that has a name."""
        for files in self.folders.values():
            yield from files.values()

    def open_paths(self) -> list[Path]:
        """The files that were opened and not closed."""
        return list(self._paths.values())

    # -- descriptors -------------------------------------------------------------------------------------------

    def _find(self, path: Path) -> Inode | None:
        folder, _, name = str(path).rpartition("/")
        files = self.folders.get(folder)
        return None if files is None else files.get(name)

    def _names(self, folder: Path) -> dict[str, Inode]:
        files = self.folders.get(str(folder))
        if files is None:
            raise NotALog("cannot list the folder: it is missing", path=folder)
        return files

    def open(self, path: Path, *, write: bool, create: bool = False) -> int:
        inode = self._find(path)
        if inode is None:
            if not create:
                raise NotALog("cannot open the file: it is missing", path=path)
            inode = self._inode()
            self._link(path, inode)
        self._next += 1
        self._open[self._next] = inode
        self._paths[self._next] = path
        return self._next

    def _link(self, path: Path, inode: Inode) -> None:
        self._names(path.parent)[path.name] = inode
        self._changed(str(path.parent))

    def _changed(self, folder: str) -> None:
        self._changes[folder] = self._changes.get(folder, 0) + 1

    def close(self, fd: int) -> None:
        del self._open[fd], self._paths[fd]

    def size(self, fd: int) -> int:
        return self._open[fd].size

    # -- names -------------------------------------------------------------------------------------------------

    def exists(self, path: Path) -> bool:
        return self._find(path) is not None or str(path) in self.folders

    def is_folder(self, path: Path) -> bool:
        return str(path) in self.folders

    def entries(self, folder: Path) -> set[str]:
        below = f"{folder}/"
        inner = {path[len(below) :] for path in self.folders if path.startswith(below)}
        return set(self._names(folder)) | {name for name in inner if "/" not in name}

    def changed_ns(self, folder: Path) -> int:
        self._names(folder)
        return self._changes.get(str(folder), 0)

    def modified_ms(self, path: Path) -> int:
        return MODIFIED_MS

    def list_folders(self, folder: Path) -> list[str]:
        return sorted(self.entries(folder) - set(self._names(folder)))

    def unlink_folder(self, path: Path) -> None:
        if self._names(path) or self.list_folders(path):
            raise StorageError("cannot remove the folder: it is not empty", path=path)
        del self.folders[str(path)]
        self._changed(str(path.parent))

    def list(self, folder: Path) -> list[str]:
        return sorted(self._names(folder))

    def length(self, path: Path) -> int:
        found = self._find(path)
        if found is None:
            raise NotALog("cannot look at the file: it is missing", path=path)
        return found.size

    def sizes(self, folder: Path) -> dict[str, int]:
        return {name: inode.size for name, inode in self._names(folder).items()}

    def links(self, path: Path) -> int:
        found = self._find(path)
        return 0 if found is None else sum(inode is found for inode in self.inodes())

    def link(self, path: Path, new: Path) -> bool:
        inode = self._find(path)
        if inode is None or self.exists(new):
            raise NotALog(f"cannot link it to {new.name}", path=path)
        self._link(new, inode)
        return True

    def new_folder(self, path: Path) -> None:
        if self.exists(path):
            raise NotALog("cannot create the folder: it exists and is something else", path=path)
        self._names(path.parent)
        self.folders[str(path)] = {}
        self._changed(str(path.parent))

    def make_folder(self, path: Path) -> None:
        if self.is_folder(path):
            return
        if path.parent != path:
            self.make_folder(path.parent)
        self.folders[str(path)] = {}
        self._changed(str(path.parent))
        self.sync_dir(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        if self.is_folder(old):
            self._rename_folder(old, new)
            return
        inode = self._find(old)
        if inode is None:
            raise NotALog(f"cannot rename it to {new.name}: it is missing", path=old)
        del self._names(old.parent)[old.name]
        self._changed(str(old.parent))
        self._link(new, inode)

    def _rename_folder(self, old: Path, new: Path) -> None:
        if self.exists(new):
            raise StorageError(f"cannot rename it to {new.name}: that exists", path=old)
        for path in [path for path in self.folders if path == str(old) or path.startswith(f"{old}/")]:
            self.folders[f"{new}{path[len(str(old)) :]}"] = self.folders.pop(path)
        self._changed(str(new.parent))

    def unlink(self, path: Path) -> None:
        if self._names(path.parent).pop(path.name, None) is None:
            raise NotALog("cannot remove the file: it is missing", path=path)
        self._changed(str(path.parent))

    # -- content -----------------------------------------------------------------------------------------------

    def data_end(self, fd: int, size: int) -> int:
        inode = self._open[fd]
        written = len(inode.data[:size].rstrip(b"\0"))
        return min(-(-written // PAGE) * PAGE, size, inode.size)

    def reserve(self, fd: int, start: int, size: int) -> None:
        inode = self._open[fd]
        if start + size > inode.size:
            inode.resize(start + size)

    def grow(self, fd: int, size: int) -> None:
        self._open[fd].resize(size)

    def cut(self, fd: int, size: int) -> None:
        self._open[fd].resize(size)

    def allocates(self, fd: int) -> bool:
        return self._allocates

    def map(self, fd: int, size: int, *, write: bool, private: bool = False) -> Any:
        inode = self._open[fd]
        if size > inode.size:
            raise StorageError(f"cannot map {size} bytes of a file of {inode.size}", path=self._path(fd))
        if private:
            return Window.private_of(inode, size)
        inode.mapped = inode.mapped or write
        return Window.of(inode, size, write=write)

    def populate(self, fd: int, mapping: Any, start: int, end: int) -> None:
        mapping.populate(start, end)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        inode = self._open[fd]
        return bytes(inode.data[at : min(at + size, inode.size)])

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        self._open[fd].write(data, at)

    def read_direct(self, fd: int, size: int, at: int) -> bytes:
        return self.pread(fd, size, at)

    def sync(self, fd: int) -> None:
        pass

    def sync_away(self, fd: int) -> None:
        self.sync(fd)

    def sync_dir(self, folder: Path) -> None:
        self._names(folder)

    # -- the machine -------------------------------------------------------------------------------------------

    def free(self, fd: int) -> tuple[int, int]:
        return 1 << 40, 1 << 41

    def boot_id(self) -> bytes:
        return self._boot.to_bytes(16, "big")

    def lock(self, path: Path, owner: str) -> int:
        """Locks are gone after a crash."""
        if str(path) in self._locked:
            raise LogLocked("the folder is being written by this process", path=path.parent)
        if self.leaves_locks:
            self.close(self.open(path, write=True, create=True))
        self._locked.add(str(path))
        self._next += 1
        self._paths[self._next] = path
        return self._next

    def lock_shared(self, path: Path) -> int:
        self._next += 1
        self._paths[self._next] = path
        return self._next

    def take_turn(self, fd: int) -> None:
        """There is one process, and it asks one thing at a time."""

    def give_turn(self, fd: int) -> None:
        """See `take_turn`."""

    def unlock(self, fd: int) -> None:
        self._locked.discard(str(self._paths.pop(fd)))

    def locked(self, path: Path) -> bool:
        return str(path) in self._locked

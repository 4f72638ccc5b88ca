"""FolderPlace: snapshots in a folder, where files of the store are linked if both are on one file system."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventcore import fork_safe
from eventcore.disk import Disk
from eventcore.errors import MissingObject, NotALog
from eventcore.snapshot.place import LOCK_NAME
from eventcore.types import Buffer

_TEMPORARY = ".tmp"
_STEP = 8 << 20


class FolderPlace:
    """See `Place`."""

    threads = 2
    links = True

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.url = str(folder)
        self.folder = folder
        self._disk = disk
        self._unsettled: set[Path] = set()
        self._lock = fork_safe.lock()

    def _path(self, name: str) -> Path:
        return self.folder.joinpath(*name.split("/"))

    def _made(self, name: str) -> Path:
        """The path of an object that is to be, in a folder that is there."""
        path = self._path(name)
        with self._lock:
            self._disk.make_folder(path.parent)
            self._unsettled.add(path.parent)
        return path

    def sizes(self, prefix: str) -> dict[str, int]:
        """See `Place`; so in all that follows. Symbolic links are not followed, and what is no file is not there."""
        folder = self._path(prefix.rstrip("/"))
        if folder.parent != self.folder or not self._disk.exists(folder):
            return {}
        if folder.name not in self._disk.list_folders(self.folder):
            raise NotALog("it is no folder", path=folder, hint="give the folder of snapshots, or a new name")
        found = {prefix + name: size for name, size in self._disk.sizes(folder).items()}
        for inner in self._disk.list_folders(folder):
            files = self._disk.sizes(folder / inner)
            found |= {f"{prefix}{inner}/{name}": size for name, size in files.items()}
        return {name: size for name, size in found.items() if not name.endswith(_TEMPORARY)}

    def read(self, name: str, start: int, size: int) -> bytes:
        """See `Place`."""
        path = self._path(name)
        try:
            fd = self._disk.open(path, write=False)
        except NotALog:
            if self._disk.exists(path):
                raise
            raise MissingObject(str(path)) from None
        try:
            return self._disk.pread(fd, size, start)
        finally:
            self._disk.close(fd)

    def write(self, name: str, data: Buffer) -> None:
        """See `Place`; durable after `settle`."""
        path = self._made(name)
        temporary = path.with_name(path.name + _TEMPORARY)
        try:
            self._write_synced(temporary, memoryview(data).cast("B"))
            self._disk.rename(temporary, path)
        except BaseException:
            with suppress(Exception):  # what went wrong first is what one needs to know
                self._disk.unlink(temporary)
            raise

    def _write_synced(self, path: Path, data: memoryview) -> None:
        fd = self._disk.open(path, write=True, create=True)
        try:
            self._disk.cut(fd, 0)
            for at in range(0, len(data), _STEP):
                self._disk.pwrite_all(fd, data[at : at + _STEP], at)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def create(self, name: str, data: Buffer) -> bool:
        """See `Place`; whoever calls it holds the lock, so that nobody comes between the look and the rename."""
        if self._disk.exists(self._path(name)):
            return False
        self.write(name, data)
        self.settle()
        return True

    def link(self, name: str, path: Path) -> bool:
        """See `Place`. The file's bytes are synced: it may be of a log that leaves that to the system."""
        new = self._made(name)
        if self._disk.exists(new):
            self._disk.unlink(new)
        if not self._disk.link(path, new):
            return False
        fd = self._disk.open(new, write=False)
        try:
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        return True

    def settle(self) -> None:
        """See `Place`."""
        while self._unsettled:
            self._disk.sync_dir(self._unsettled.pop())

    def remove(self, names: Iterable[str]) -> None:
        """See `Place`; durable on return."""
        folders = set()
        for name in names:
            path = self._path(name)
            if self._disk.exists(path):
                self._disk.unlink(path)
                folders.add(path.parent)
        for folder in folders:
            self._disk.sync_dir(folder)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """See `Place`. The lock goes with its process."""
        self._disk.make_folder(self.folder)
        fd = self._disk.lock(self.folder / LOCK_NAME, f"process {os.getpid()}, for snapshots")
        try:
            yield
        finally:
            self._disk.unlock(fd)

"""A disk whose sync fails once and then "succeeds", as Linux has it: what was dirty then never gets to the disk.

After a failed sync the kernel takes the dirty pages for clean. The page cache goes on showing the new bytes, the next
sync returns success, and the disk keeps the old ones, until somebody stores something new in these pages. `LyingDisk`
keeps beside the real files, which are the page cache, what the disk would hold: in plain files, so that any process
can look. Only `.log` files are followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import StorageError

PAGE = 4096


class LyingDisk(Disk):
    """`fail_next` syncs fail. `image` is the folder for what the disk holds; each process makes its own object."""

    def __init__(self, image: Path) -> None:
        super().__init__()
        self.image = image
        self.fail_next = 0
        self.syncs = 0
        self.failures = 0
        image.mkdir(exist_ok=True)

    def held(self, path: Path) -> bytes:
        """What the disk has of a file; where it has nothing there are zeros when it is read."""
        place = self.image / path.name
        return place.read_bytes() if place.exists() else b""

    def _lost(self, path: Path) -> Iterator[tuple[int, Path]]:
        """The pages that the kernel takes for clean, each with a file of what was in it at that time."""
        for place in self.image.glob(f"{path.name}@*"):
            yield int(place.name.rpartition("@")[2]), place

    def _cached(self, fd: int) -> bytes:
        return os.pread(fd, os.fstat(fd).st_size, 0)

    def sync(self, fd: int) -> None:
        """Fails if it is to; else stores what the kernel knows to be dirty."""
        path = self._path(fd)
        if path.suffix != ".log":
            return super().sync(fd)
        self.syncs += 1
        if self.fail_next:
            self.fail_next -= 1
            self.failures += 1
            self._lose(path, self._cached(fd))
            raise StorageError(f"cannot sync the file: {os.strerror(errno.EIO)}", path=path)
        super().sync(fd)
        self._keep(path, self._cached(fd))

    def _lose(self, path: Path, cached: bytes) -> None:
        held = self.held(path).ljust(len(cached), b"\0")
        for page, at in enumerate(range(0, len(cached), PAGE)):
            if cached[at : at + PAGE] != held[at : at + PAGE]:
                (self.image / f"{path.name}@{page}").write_bytes(cached[at : at + PAGE])

    def _keep(self, path: Path, cached: bytes) -> None:
        disk, held = bytearray(cached), self.held(path).ljust(len(cached), b"\0")
        for page, place in self._lost(path):
            at = page * PAGE
            if cached[at : at + PAGE] == place.read_bytes()[: len(cached) - at]:
                disk[at : at + PAGE] = held[at : at + PAGE]
            else:
                place.unlink()  # a store since then has made it dirty again
        (self.image / path.name).write_bytes(disk)

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """A write makes its pages dirty, even if it changes nothing."""
        super().pwrite_all(fd, data, at)
        for page, place in list(self._lost(self._path(fd))):
            if at < (page + 1) * PAGE and at + len(data) > page * PAGE:
                place.unlink()

    def read_direct(self, fd: int, size: int, at: int) -> bytes:
        """What the disk holds; it has been told the file's length."""
        path = self._path(fd)
        if path.suffix != ".log":
            return super().read_direct(fd, size, at)
        return self.held(path).ljust(os.fstat(fd).st_size, b"\0")[at : at + size]

    def unlink(self, path: Path) -> None:
        """The disk forgets it, too."""
        super().unlink(path)
        for place in (self.image / path.name, *(place for _, place in self._lost(path))):
            place.unlink(missing_ok=True)

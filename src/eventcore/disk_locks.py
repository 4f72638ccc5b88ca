"""Locks of files, a part of `Disk`: who writes a folder, and who has his turn."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from eventcore import file_lock
from eventcore.disk_errors import typed
from eventcore.errors import DiskFull, LogLocked, StorageError

_OWNER_SIZE_MAX = 200
_PAUSES_S = (0.001, 0.005, 0.02)


class LockFd(int):
    """The descriptor of a lock that gives itself back when nobody refers to it any more.

    Ctrl-C may come before it has got to whoever wanted it, and a lock without an owner would keep everybody out.
    """

    disk: Locks | None = None
    """Who gives it back; None before it is to be, and once it was."""
    pid = 0

    def __del__(self) -> None:
        if self.disk is not None and self.pid == os.getpid() and not sys.is_finalizing():
            with suppress(StorageError):
                self.disk.unlock(self)


class Locks:
    """What it needs of `Disk` stands first."""

    def _path(self, fd: int) -> Path:
        raise NotImplementedError

    def open(self, path: Path, *, write: bool, create: bool = False) -> int:
        """See `Disk`."""
        raise NotImplementedError

    def close(self, fd: int) -> None:
        """See `Disk`."""
        raise NotImplementedError

    def exists(self, path: Path) -> bool:
        """See `Disk`."""
        raise NotImplementedError

    def pread(self, fd: int, size: int, at: int) -> bytes:
        """See `Disk`."""
        raise NotImplementedError

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """See `Disk`."""
        raise NotImplementedError

    def lock(self, path: Path, owner: str) -> int:
        """Take the writer lock of a folder until `unlock`; `owner` is for others' error messages.

        It is an flock, and where the system has them a lock of the open file description, too: the latter is what a
        Java process (a Kafka broker) sees and respects. A POSIX lock would be lost with any other descriptor of the
        file. Raises LogLocked.
        """
        fd = self._own(path, write=True, create=True)
        try:
            self._lock_exclusively(fd, path)
            with suppress(DiskFull):  # a lock without a name on it is a lock, too
                self.pwrite_all(fd, owner.encode()[:_OWNER_SIZE_MAX].ljust(_OWNER_SIZE_MAX), 0)
        except BaseException:
            self.close(fd)
            raise
        file_lock.hold(fd)
        return fd

    def _own(self, path: Path, *, write: bool, create: bool = False) -> LockFd:
        fd = LockFd(self.open(path, write=write, create=create))
        fd.pid, fd.disk = os.getpid(), self
        return fd

    def lock_shared(self, path: Path) -> int:
        """Share the lock of a Kafka log directory with other writers of its partitions, against a broker.

        Returns a descriptor for `unlock`. Raises LogLocked if a broker holds it.
        """
        fd = self._own(path, write=False)
        with typed(path, "lock the file"):
            if file_lock.take_description(fd, file_lock.SHARED):
                file_lock.hold(fd)
                return fd
            holder = file_lock.holder(fd)
        self.unlock(fd)
        raise LogLocked(f"the log directory is locked by {holder}", path=path.parent)

    def unlock(self, fd: int) -> None:
        """Give a lock back, whoever else (a forked child) still has the descriptor. Twice is like once."""
        if isinstance(fd, LockFd) and fd.disk is None:
            return  # its own end came first, in a cycle, and its number may be another file's by now
        try:
            with typed(self._path(fd), "unlock the file"):
                file_lock.release(fd)
        finally:
            self.close(fd)

    def take_turn(self, fd: int) -> None:
        """Have a file to oneself, once whoever has it gave it back or died. For short things: he may be stopped."""
        with typed(self._path(fd), "lock the file"):
            file_lock.wait_for_flock(fd)

    def give_turn(self, fd: int) -> None:
        """Let the next one have it."""
        file_lock.give_flock(fd)

    def _lock_exclusively(self, fd: int, path: Path) -> None:
        """`locked` in another process may hold a shared lock for a moment: one refusal is not the answer yet."""
        for pause in _PAUSES_S:
            if self._flock(fd, file_lock.EXCLUSIVE):
                break
            time.sleep(pause)
        if self._takes(fd):
            return
        holder = self._holder(fd)
        if holder.startswith(f"process {os.getpid()}"):
            gc.collect()  # a handle that nobody has any more may be part of cycles
            if self._takes(fd):
                return
        raise LogLocked(f"the folder is being written by {holder}", path=path.parent)

    def _takes(self, fd: int) -> bool:
        return self._flock(fd, file_lock.EXCLUSIVE) and file_lock.take_description(fd, file_lock.EXCLUSIVE)

    def _holder(self, fd: int) -> str:
        return self.pread(fd, _OWNER_SIZE_MAX, 0).decode(errors="replace").strip("\0\n ") or "another process"

    def _flock(self, fd: int, kind: int) -> bool:
        with typed(self._path(fd), "lock the file"):
            return file_lock.take_flock(fd, kind)

    def locked(self, path: Path) -> bool:
        """Whether a writer holds the lock now. Where that can be asked no lock is taken: Ctrl-C leaves none behind."""
        if not self.exists(path):
            return False
        fd = self.open(path, write=False)
        try:
            described = file_lock.is_described(fd)
            return not self._flock(fd, file_lock.SHARED) if described is None else described
        finally:
            self.close(fd)

"""Every side effect on files, in one place: tests hand in a disk that traces, fails or crashes.

Rules kept here: blocks are reserved by `fallocate` before they are written through a map (a sparse file would turn a
full disk into SIGBUS); data is made durable by `fdatasync`, a name by syncing its folder; small files are replaced by
write, sync, rename, sync of the folder. Paths are never followed through symbolic links at their last component.
Linux first; macOS lacks `fallocate` (real zeros are written) and needs F_FULLFSYNC.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore import file_lock
from eventcore.descriptors import above_standard
from eventcore.disk_errors import failed_sync, typed
from eventcore.disk_locks import LockFd, Locks
from eventcore.errors import CorruptFile, NotALog, StorageError

_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
_ALIGNMENT, _STEP = 4096, 4 << 20
_WRITE_MAX = 1 << 17
"""Of one call, as `cp` does it: one of 8 MiB makes the system look for large pages."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Disk(Locks):
    """Direct system calls with typed errors. Stateless but for the paths of open descriptors, kept for messages."""

    def __init__(self) -> None:
        self._paths: dict[int, Path] = {}

    def _path(self, fd: int) -> Path:
        path = self._paths.get(fd)
        return path if path is not None else Path(f"<fd {fd}>")

    def open(self, path: Path, *, write: bool, create: bool = False) -> int:
        """Open a regular file; with `create` make it (mode 0600) if it is missing."""
        flags = os.O_RDWR if write else os.O_RDONLY
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_CREAT if create else 0)
        with typed(path, "open the file"):
            fd = above_standard(os.open(path, flags, 0o600))  # O_NONBLOCK: a pipe in its place must not make us wait
        self._paths[fd] = path
        try:
            if not stat.S_ISREG(self._status(fd).st_mode):
                raise NotALog("cannot open the file: it is no regular file", path=path, hint="check the path")
        except BaseException:
            self.close(fd)
            raise
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        if isinstance(fd, LockFd):
            fd.disk = None  # first: its number may be another file's when nobody refers to it any more
        file_lock.forget(fd)
        with typed(self._paths.pop(fd, Path(f"<fd {fd}>")), "close the file"):
            os.close(fd)

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""
        return self._status(fd).st_size

    def _status(self, fd: int) -> os.stat_result:
        with typed(self._path(fd), "look at the file"):
            return os.fstat(fd)

    def exists(self, path: Path) -> bool:
        """Whether there is anything at `path`; what may not be looked at is an error."""
        return self._mode(path, os.lstat) is not None

    def is_folder(self, path: Path) -> bool:
        """Whether `path` is a folder, or a symbolic link to one."""
        mode = self._mode(path, os.stat)
        return mode is not None and stat.S_ISDIR(mode)

    def _mode(self, path: Path, look: Callable[[Path], os.stat_result]) -> int | None:
        with typed(path, "look at it"):
            try:
                return look(path).st_mode
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise

    def entries(self, folder: Path) -> set[str]:
        """Names of everything in a folder."""
        with typed(folder, "list the folder"):
            return set(os.listdir(folder))

    def changed_ns(self, folder: Path) -> int:
        """When a name was last added to or removed from the folder; only good for "the same as before"."""
        with typed(folder, "look at the folder"):
            return os.stat(folder).st_mtime_ns

    def list_folders(self, folder: Path) -> list[str]:
        """Names of the folders in a folder, sorted; a symbolic link to one is none."""
        with typed(folder, "list the folder"), os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def modified_ms(self, path: Path) -> int:
        """When a file was last written, in ms since the epoch."""
        with typed(path, "look at it"):
            return os.stat(path, follow_symlinks=False).st_mtime_ns // 1_000_000

    def list(self, folder: Path) -> list[str]:
        """Names of the plain files in a folder, sorted."""
        with typed(folder, "list the folder"), os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def length(self, path: Path) -> int:
        """How many bytes a file has."""
        with typed(path, "look at the file"):
            return os.lstat(path).st_size

    def sizes(self, folder: Path) -> dict[str, int]:
        """The plain files in a folder, and how many bytes each has."""
        with typed(folder, "list the folder"), os.scandir(folder) as entries:
            files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in files}

    def link(self, path: Path, new: Path) -> bool:
        """Give a file one more name, durable after `sync_dir`; False where the file system cannot."""
        with typed(path, f"link it to {new.name}"):
            try:
                os.link(path, new, follow_symlinks=False)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return False
                raise
        return True

    def links(self, path: Path) -> int:
        """How many names a file has; 0 if there is none."""
        with typed(path, "look at it"):
            try:
                return os.lstat(path).st_nlink
            except FileNotFoundError:
                return 0

    def unshare(self, path: Path) -> None:
        """Before a file is changed in place: what it is elsewhere (in a snapshot) stays as it is. Durable on return."""
        if self.links(path) > 1:
            temporary = path.with_name(path.name + ".tmp")
            self.copy(path, temporary)
            self.rename(temporary, path)
            self.sync_dir(path.parent)

    def copy(self, path: Path, new: Path) -> None:
        """Make `new` a file of the same content; its bytes are durable on return, its name after `sync_dir`."""
        source = self.open(path, write=False)
        try:
            target = self.open(new, write=True, create=True)
            try:
                size = self.size(source)
                self.cut(target, 0)
                for at in range(0, size, _STEP):
                    self.pwrite_all(target, self.pread(source, min(_STEP, size - at), at), at)
                self.sync(target)
            finally:
                self.close(target)
        finally:
            self.close(source)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder with everything in it; durable after `sync_dir` of the one around it."""
        for name in self.list_folders(path):
            self.remove_folder(path / name)
        for name in self.entries(path):
            self.unlink(path / name)
        self.unlink_folder(path)

    def unlink_folder(self, path: Path) -> None:
        """Remove an empty folder; durable after `sync_dir` of the one around it."""
        with typed(path, "remove the folder"):
            os.rmdir(path)

    def new_folder(self, path: Path) -> None:
        """Create a folder (mode 0700) that must not exist; its name is durable after the `sync_dir` around it."""
        with typed(path, "create the folder"):
            os.mkdir(path, 0o700)

    def make_folder(self, path: Path) -> None:
        """Create a folder (mode 0700) unless it exists, and those above it; make their names durable."""
        if self.is_folder(path):
            return
        if path.parent != path:
            self.make_folder(path.parent)
        with typed(path, "create the folder"):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not self.is_folder(path):
                    raise
        self.sync_dir(path.parent)

    def data_end(self, fd: int, size: int) -> int:
        """Where the last written bytes of the file's first `size` end; holes and reserved blocks do not count."""
        end = 0
        with typed(self._path(fd), "look for the end of the data"):
            while end < size:
                try:
                    end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    break
        return min(end, size)

    def reserve(self, fd: int, start: int, size: int) -> None:
        """Give `[start, start + size)` real blocks, keeping what is there. Raises DiskFull."""
        with typed(self._path(fd), "reserve space"):
            try:
                kernels.guard.allocate(fd, start, size)
                return
            except OSError as error:
                if error.errno not in _NO_FALLOCATE:
                    raise
            self._write_zeros(fd, start, size)

    def allocates(self, fd: int) -> bool:
        """Whether `reserve` gets real blocks from the file system, so that storing into them cannot fail for space.

        It tries with the first page of the file, which must not be empty.
        """
        with typed(self._path(fd), "reserve space"):
            try:
                kernels.guard.allocate(fd, 0, min(_ALIGNMENT, os.fstat(fd).st_size))
            except OSError as error:
                if error.errno not in _NO_FALLOCATE:
                    raise
                return False
        return True

    def _write_zeros(self, fd: int, start: int, size: int) -> None:
        """Give holes real blocks by writing back what they read as; for file systems without fallocate."""
        for at in range(start, start + size, 1 << 16):
            length = min(1 << 16, start + size - at)
            self.pwrite_all(fd, os.pread(fd, length, at).ljust(length, b"\0"), at)

    def grow(self, fd: int, size: int) -> None:
        """Make the file longer without giving it blocks: room to map, to be reserved before it is used."""
        with typed(self._path(fd), "extend the file"):
            os.ftruncate(fd, size)

    def cut(self, fd: int, size: int) -> None:
        """Make the file shorter. Only for bytes that no reader was ever shown."""
        with typed(self._path(fd), "cut the file"):
            os.ftruncate(fd, size)

    def map(self, fd: int, size: int, *, write: bool, private: bool = False) -> kernels.guard.Mapping:
        """Map the first `size` bytes, shared with every process; if `private`, stores stay in memory of our own."""
        with typed(self._path(fd), "map the file"):
            try:
                return kernels.guard.Mapping(fd, size, write, private)
            except ValueError as error:  # the file has become shorter than `size`
                raise StorageError(f"cannot map {size} bytes of the file: {error}", path=self._path(fd)) from None

    def populate(self, fd: int, mapping: kernels.guard.Mapping, start: int, end: int) -> None:
        """Have the pages of `[start, end)` of a map of this file in place before they are stored to.

        Raises MappingFault where the device fails: here that is an error, in the store it would be a signal.
        """
        with typed(self._path(fd), "populate the map"):
            mapping.populate(start, end)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        """Up to `size` bytes from position `at`."""
        with typed(self._path(fd), "read the file"):
            return os.pread(fd, size, at)

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """Write all of `data` at position `at`; a short write is continued."""
        view = memoryview(data)
        with typed(self._path(fd), "write the file"):
            while view:
                written = os.pwrite(fd, view[:_WRITE_MAX], at)
                if written == 0:
                    raise StorageError("the file takes no more bytes", path=self._path(fd), position=at)
                view, at = view[written:], at + written

    def sync(self, fd: int) -> None:
        """On return the file's content survives a power cut, stores through maps included.

        A failure is no DiskFull, even for want of space: what was to be synced is lost, and a second try would lie.
        """
        with failed_sync(), typed(self._path(fd), "sync the file"):
            if sys.platform == "darwin":
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(fd)

    def sync_away(self, fd: int) -> None:
        """`sync`, and leave the memory that the content takes to others: it is not read soon."""
        self.sync(fd)
        if hasattr(os, "posix_fadvise"):
            with typed(self._path(fd), "give its memory back"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_dir(self, folder: Path) -> None:
        """On return the names in the folder survive a power cut."""
        with typed(folder, "sync the folder"):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with failed_sync(), typed(folder, "sync the folder"):
                    os.fsync(fd)
            finally:
                os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, replacing `new`, or a folder; durable after `sync_dir`."""
        with typed(old, f"rename it to {new.name}"):
            os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file; durable after `sync_dir`."""
        with typed(path, "remove the file"):
            os.unlink(path)

    def read_file(self, path: Path, limit: int) -> bytes:
        """The whole content of a small file. Raises CorruptFile for one of more than `limit` bytes."""
        fd = self.open(path, write=False)
        try:
            size = self.size(fd)
            if size > limit:
                raise CorruptFile(f"a file of {size} bytes where at most {limit} are expected", path=path)
            return self.pread(fd, size, 0)
        finally:
            self.close(fd)

    def replace_file(self, path: Path, data: bytes | memoryview) -> None:
        """Replace a small file: after a crash it holds the old bytes or the new ones; the new ones after `sync_dir`."""
        temporary = path.with_name(path.name + ".tmp")
        if self.exists(temporary):
            self.unlink(temporary)
        try:
            self._write_synced(temporary, data)
            self.rename(temporary, path)
        except BaseException:
            with suppress(StorageError):  # what went wrong first is what the caller needs to know
                self.unlink(temporary)
            raise

    def _write_synced(self, path: Path, data: bytes | memoryview) -> None:
        fd = self.open(path, write=True, create=True)
        try:
            self.pwrite_all(fd, data, 0)
            self.sync(fd)
        finally:
            self.close(fd)

    def free(self, fd: int) -> tuple[int, int]:
        """Bytes that may still be used on the file's file system, and bytes it has in all."""
        with typed(self._path(fd), "look at the file system"):
            found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def boot_id(self) -> bytes:
        """16 bytes that differ after a restart of the machine; zeros where the system does not tell."""
        text = _BOOT_ID.read_text("ascii") if _BOOT_ID.exists() else ""
        return bytes.fromhex(text.strip().replace("-", "")) or bytes(16)

    def read_direct(self, fd: int, size: int, at: int) -> bytes:
        """Up to `size` bytes as the disk has them, past the page cache; both numbers are multiples of 4,096.

        After a failed sync the cache shows what the disk never got. Where there is no such reading (tmpfs) the cache
        is dropped as far as it can be, and read.
        """
        path = self._path(fd)
        with typed(path, "read the file past the cache"):
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, at, size, os.POSIX_FADV_DONTNEED)
            try:
                direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | getattr(os, "O_DIRECT", 0))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return os.pread(fd, size, at)
            try:
                buffer = mmap.mmap(-1, max(size, _ALIGNMENT))  # O_DIRECT asks for aligned memory
                return buffer[: os.preadv(direct, [buffer], at)][:size]
            finally:
                os.close(direct)

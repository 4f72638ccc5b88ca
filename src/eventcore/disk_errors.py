"""What a system call's error means: which of our errors it becomes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventcore.errors import DiskFull, MappingFault, NotALog, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNUSABLE = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is not a folder",
    errno.EEXIST: "exists and is something else",
    errno.EACCES: "may not be accessed",
    errno.EPERM: "may not be accessed",
    errno.EROFS: "is on a read-only file system",
    errno.ELOOP: "is a symbolic link",
    errno.EISDIR: "is a folder",
    errno.ENAMETOOLONG: "has too long a name",
}


@contextmanager
def typed(path: Path | str, action: str) -> Iterator[None]:
    """A system error inside becomes one of ours that says what was done to which path."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFAULT:  # a page of a map
            raise MappingFault(f"cannot {action}: a page cannot be had", path=path) from error
        if error.errno in _FULL:
            raise DiskFull(f"no space left to {action}", path=path) from error
        if error.errno in _UNUSABLE:
            raise NotALog(
                f"cannot {action}: it {_UNUSABLE[error.errno]}", path=path, hint="check the path and its permissions"
            ) from error
        raise StorageError(f"cannot {action}: {error.strerror or error}", path=path) from error


@contextmanager
def failed_sync() -> Iterator[None]:
    """A sync that fails is no DiskFull: what was to be synced is lost, and a second try would lie."""
    try:
        yield
    except DiskFull as error:
        raise StorageError(error.message, path=error.path) from error.__cause__

"""Advisory locks on open files, as a Kafka broker, other processes and forked children see them.

An flock belongs to the open file description: it is not lost with another descriptor of the file, as a POSIX lock
would be, but a forked child's copy keeps it alive. A lock of the open file description (OFD) is what a Java process
respects; a system or file system without them is one that no broker can lock, either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

EXCLUSIVE = fcntl.LOCK_EX
SHARED = fcntl.LOCK_SH

_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", None)
_WHOLE_FILE = struct.Struct("hhqqi4x")
"""A `struct flock`: start and length of 0 are the whole file; the process id must be 0."""
_KINDS = {EXCLUSIVE: fcntl.F_WRLCK, SHARED: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
_HELD = {errno.EACCES, errno.EAGAIN}
_LOCKS = Path("/proc/locks")
_held: set[int] = set()


def take_flock(fd: int, kind: int) -> bool:
    """Take an flock; False if somebody has one that excludes it."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_flock(fd: int) -> None:
    """Take an flock that excludes all others, once they have given theirs back."""
    hold(fd)
    fcntl.flock(fd, EXCLUSIVE)


def give_flock(fd: int) -> None:
    """Give an flock back."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def take_description(fd: int, kind: int) -> bool:
    """Take a lock of the open file description; False if somebody has one that excludes it."""
    if _OFD_SETLK is not None:
        try:
            fcntl.fcntl(fd, _OFD_SETLK, _WHOLE_FILE.pack(_KINDS[kind], os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            return error.errno not in _HELD
    return True


def is_described(fd: int) -> bool | None:
    """Whether somebody has a lock of his open file description, or as a Java process; nothing is taken to find that
    out. None where the system or the file system knows of no such locks.
    """
    if _OFD_GETLK is None:
        return None
    asked = _WHOLE_FILE.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        told = fcntl.fcntl(fd, _OFD_GETLK, asked)
    except OSError:
        return None
    return bool(_WHOLE_FILE.unpack(told)[0] != fcntl.F_UNLCK)


def hold(fd: int) -> None:
    """From now on a forked child closes its copy of the descriptor: else it could keep the lock for ever."""
    _held.add(int(fd))  # not the object, which has an end of its own: see `LockFd`


def release(fd: int) -> None:
    """Give back the locks of a descriptor, whoever else has a copy of it."""
    _held.discard(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    take_description(fd, fcntl.LOCK_UN)


def forget(fd: int) -> None:
    """The descriptor is about to be closed."""
    _held.discard(fd)


def holder(fd: int) -> str:
    """Who has a lock that a Java process could have: Linux lists `1: POSIX  ADVISORY  WRITE 4711 08:01:42 0 EOF`."""
    inode = os.fstat(fd).st_ino
    with suppress(OSError, ValueError, IndexError):
        for line in _LOCKS.read_text("ascii").splitlines():
            fields = line.split()
            if "->" not in fields and int(fields[5].rpartition(":")[2]) == inode and int(fields[4]) > 0:
                return f"process {fields[4]}"
    return "another process"


def _close_copies() -> None:
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_close_copies)

"""Maps of files. This twin guards nothing: where a page of a map cannot be had the process is killed by SIGBUS.

A handler written in Python is no help, for the load or store that faulted would run again at once; so `broken` is
always False here. What is left is to reserve blocks before they are written, and to `populate` pages before they are
used, which gives an error instead of the signal.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from contextlib import ExitStack
from typing import final

from eventcore.types import Buffer

__all__ = ["Mapping", "allocate", "faults", "is_guarded"]

_POPULATE_READ, _POPULATE_WRITE = 22, 23
"""MADV_POPULATE_*: Linux 5.14, EINVAL before."""


@final
class Mapping(mmap.mmap):
    """The first `size` bytes of a file as memory: shared, or `private`, where stores stay in this process.

    A buffer of bytes, writable if `write` or `private`. Before Python 3.13 it keeps a copy of the descriptor. Raises
    OSError, and ValueError if the size is not above 0 or the file is shorter.
    """

    populated: int
    _writable: bool
    _private: bool

    def __new__(cls, fd: int, size: int, write: bool, private: bool = False) -> Mapping:
        if size <= 0:
            raise ValueError(f"a map must have at least one byte, not {size}")
        length = os.fstat(fd).st_size
        if length < size:
            raise ValueError(f"cannot map {size} bytes of a file that has {length}")
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write or private else 0)
        untracked = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        with ExitStack() as held:
            while (taken := os.dup(fd)) <= 2:  # the copy must be none of stdin, stdout and stderr
                held.callback(os.close, taken)
            held.callback(os.close, taken)
            self = super().__new__(cls, fd, size, flags, protection, **untracked)
        self._writable, self._private, self.populated = write or private, private, 0
        return self

    @property
    def broken(self) -> bool:
        """Whether there was a fault in this map; here nobody is left to ask then."""
        return False

    def find(self, sub: Buffer, start: int, end: int) -> int:  # type: ignore[override]
        """The lowest position of `sub` inside `[start, end)`, -1 if there is none; like `bytes.find`."""
        if start > len(self):
            return -1
        start, end, _ = slice(start, end).indices(len(self))  # what mmap makes of other bounds differs by version
        return super().find(sub, start, end) if start <= end else -1

    def _check(self, start: int, end: int) -> None:
        if not 0 <= start <= end <= len(self):
            raise ValueError(f"no part of a map of {len(self)} bytes: [{start}, {end})")

    def populate(self, start: int, end: int) -> None:
        """Make the pages of `[start, end)` present, for stores where the map is writable: no fault awaits there then.

        `populated`, which its owner sets, moves along where there is no gap: another thread may look at it meanwhile.
        Raises OSError (EFAULT) where a page cannot be had. Does nothing where the system does not know how to.
        """
        self._check(start, end)
        if start == end:
            return
        start -= start % mmap.PAGESIZE
        try:
            if sys.platform == "linux":
                self.madvise(_POPULATE_WRITE if self._writable else _POPULATE_READ, start, end - start)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if start <= self.populated < end:
            self.populated = end

    def forget(self, start: int, end: int) -> None:
        """Let the whole pages inside `[start, end)` of a private map read as the file again; shared ones always do."""
        self._check(start, end)
        start += -start % mmap.PAGESIZE
        if end < len(self):
            end -= end % mmap.PAGESIZE
        if self._private and start < end:
            self.madvise(mmap.MADV_DONTNEED, start, end - start)


def faults() -> int:
    """How many faults were absorbed in this process."""
    return 0


def is_guarded() -> bool:
    """Whether a fault in a map is absorbed now."""
    return False


def allocate(fd: int, start: int, size: int) -> None:
    """Give `[start, start + size)` of the file real blocks, making it longer if it ends before.

    Raises OSError; EOPNOTSUPP where the system has no such call. Where only the file system has none, the C library
    may write to every block instead, which only the native twin does not allow.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.posix_fallocate(fd, start, size)

"""Numbers of descriptors: no file of a log is stdin, stdout or stderr.

Whoever has closed one of these may still write messages there, and they must not land in a log.
"""

from __future__ import annotations

import fcntl
import os

STANDARD = 3


def above_standard(fd: int) -> int:
    """The same file under a number from `STANDARD` on; the one that was given is closed if it is below."""
    if fd >= STANDARD:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STANDARD)
    finally:
        os.close(fd)

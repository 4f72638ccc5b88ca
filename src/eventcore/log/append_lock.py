"""The lock of one partition's writer: whoever holds it has the appender for himself."""

from __future__ import annotations

import threading

from eventcore import _kernels as kernels


class AppendLock:
    """A re-entrant lock. `Appender.append` does without it, and declines while somebody holds it."""

    def __init__(self, appender: kernels.append.Appender) -> None:
        self._lock = threading.RLock()
        self._appender = appender

    def __enter__(self) -> None:
        self._lock.acquire()
        self._appender.pause()

    def __exit__(self, *exception: object) -> None:
        self._appender.resume()
        self._lock.release()

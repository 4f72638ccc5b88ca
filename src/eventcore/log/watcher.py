"""Watcher: tells the subscribers of a reader that the end moved, from a thread that lives as long as there are some."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from eventcore import fork_safe
from eventcore.errors import ClosedError, EventCoreError
from eventcore.log.subscribers import Subscribers

_SLICE_S = 1.0
"""After so long a sleep it is asked whether anybody still wants to know."""
_PAUSE_S = 0.5
"""After an error."""


class Watched(Protocol):
    """What it needs of a log."""

    @property
    def high_watermark(self) -> int:
        """The end of what may be read."""

    def pause(self) -> Callable[[float], object]:
        """Call it before the end is asked for: the answer sleeps until something was published since then, at most so
        many seconds, and does not hold the log.
        """


class Watcher:
    """Holds the log weakly; its thread holds neither while it sleeps: what nobody else knows any more is let go."""

    def __init__(self, log: Watched) -> None:
        self._log = weakref.ref(log)
        self._starting = fork_safe.lock()
        self.subscribers = Subscribers()
        self.thread: threading.Thread | None = None
        """None while nobody subscribes."""

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Subscribers.add`."""
        leave = self.subscribers.add(callback)
        try:
            with self._starting:
                if self.thread is None:
                    watch = weakref.ref(self)
                    thread = threading.Thread(target=_run, args=(watch,), name="eventcore-watch", daemon=True)
                    thread.start()
                    self.thread = thread
        except BaseException:
            leave()
            raise
        return leave

    def look(self, seen_end: int) -> tuple[int, Callable[[float], object]] | None:
        """Notify if the end is another one than was seen; the end, and what sleeps. None: the thread is to end."""
        log = self._log()
        with self._starting:
            if log is None or not self.subscribers.callbacks:
                self.thread = None
                return None
        try:
            pause, end = log.pause(), log.high_watermark
        except ClosedError:
            with self._starting:
                self.thread = None
            return None
        except (EventCoreError, OSError, MemoryError):
            self.subscribers.notify()  # who looks himself meets the error, or finds that it is over
            return -1, _after_an_error
        if end != seen_end:
            self.subscribers.notify()
        return end, pause


def _after_an_error(timeout_s: float) -> None:
    time.sleep(min(timeout_s, _PAUSE_S))


def _run(known: weakref.ref[Watcher]) -> None:
    end = -1
    while True:
        watcher = known()
        found = None if watcher is None else watcher.look(end)
        del watcher
        if found is None:
            return
        end, pause = found
        pause(_SLICE_S)

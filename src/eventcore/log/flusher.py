"""The thread behind `fsync="interval"`: syncs a partition every `flush.ms` while something is unsynced."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from eventcore.errors import EventCoreError


class Syncable(Protocol):
    """What the thread needs of a partition log."""

    @property
    def log_end_offset(self) -> int:
        """The end to sync to."""

    def sync_to(self, end: int) -> None:
        """Make everything below `end` durable."""


class Flusher:
    """Holds the log only weakly: a forgotten partition can be collected, and then the thread ends."""

    def __init__(self, log: Syncable, interval_ms: int) -> None:
        self._stopped = threading.Event()
        self._log = weakref.ref(log, lambda _, stopped=self._stopped: stopped.set())  # type: ignore[misc]
        self._interval_s = min(max(interval_ms, 1) / 1000, threading.TIMEOUT_MAX)  # Kafka's default is 2^63-1 ms
        self._thread = threading.Thread(target=self._run, name="eventcore-flush", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            log = self._log()
            if log is None:
                return
            try:
                log.sync_to(log.log_end_offset)
            except EventCoreError:
                return  # closed, or fenced: the next append says so
            del log  # nobody is kept while this thread sleeps

    def stop(self, *, wait: bool = True) -> None:
        """End the thread; a sync under way is waited for."""
        self._stopped.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join()

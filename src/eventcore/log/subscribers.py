"""Callbacks for whoever wants to know that the high watermark has moved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from eventcore import fork_safe
from eventcore.errors import ClosedError

logger = logging.getLogger("eventcore")


class Subscribers:
    """Called in the order of their subscription, in the thread that notifies."""

    def __init__(self) -> None:
        self._changing = fork_safe.lock()
        self.callbacks: tuple[Callable[[], None], ...] = ()
        """Replaced, never changed: notifying takes no lock."""

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it from now on; the answer ends that."""
        one = partial(callback)  # an object of its own: the same callback may come twice
        with self._changing:
            self.callbacks = (*self.callbacks, one)
        return lambda: self._remove(one)

    def _remove(self, gone: Callable[[], None]) -> None:
        with self._changing:
            self.callbacks = tuple(one for one in self.callbacks if one is not gone)

    def notify(self) -> None:
        """Call them all. What one of them raises is logged: the others, and the append that moved the end, go on."""
        pending = iter(self.callbacks)
        try:
            for callback in pending:
                _call(callback)
        finally:
            for callback in pending:  # an interrupt came in between: who waits is told all the same
                _call(callback)


def _call(callback: Callable[[], None]) -> None:
    try:
        with suppress(ClosedError):  # it looked at a handle that is being closed
            callback()
    except Exception:
        logger.exception("a callback that was told of new records failed")

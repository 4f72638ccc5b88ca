"""Callbacks for whoever wants to know that the high watermark has moved."""

from __future__ import annotations

from collections.abc import Callable


class Subscribers:
    """Called in the order of their subscription, in the thread that notifies."""

    def __init__(self) -> None:
        self.callbacks: tuple[Callable[[], None], ...] = ()
        """Replaced, never changed: notifying takes no lock."""

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it from now on; the answer ends that."""
        self.callbacks = (*self.callbacks, callback)
        return lambda: self._remove(callback)

    def _remove(self, callback: Callable[[], None]) -> None:
        self.callbacks = tuple(one for one in self.callbacks if one is not callback)

    def notify(self) -> None:
        """Call them all."""
        for callback in self.callbacks:
            callback()

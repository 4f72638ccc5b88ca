"""So many bytes a second, for work that can wait."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """Called with the bytes of each step once it is done, it sleeps for as long as keeps the rate.

    `wait(seconds)` sleeps; it returns True as soon as the work is to end, and then the call raises what `stopped`
    gives. What was not used is saved up for a second at most.
    """

    def __init__(
        self,
        bytes_per_second: int,
        wait: Callable[[float], bool],
        stopped: Callable[[], Exception],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = bytes_per_second
        self._wait = wait
        self._stopped = stopped
        self._now = now
        self._due = now()

    def __call__(self, count: int) -> None:
        """Account for `count` bytes."""
        now = self._now()
        self._due = max(self._due, now - 1) + count / self._rate
        if self._wait(max(self._due - now, 0)):
            raise self._stopped()

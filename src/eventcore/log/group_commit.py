"""Group commit: callers that wait for the same sync share it, and the next one begins before they are woken.

One caller leads: it syncs whatever has been appended by then. Who comes meanwhile waits. When the sync is done, the
first waiter that it did not cover leads the next, and only then those that it did cover are released, so that the
disk is not idle while threads wake up one after the other.

Leading is holding a lock; being named is a hint. So nobody waits for a leader that Ctrl-C has taken away: whoever has
waited for long tries to lead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from eventcore import _kernels as kernels
from eventcore import fork_safe

PATIENCE_S = 1.0
"""After so long a waiter looks for itself. A sync that takes longer goes on: then it waits for the lock."""


class _Waiter:
    __slots__ = ("end", "leads", "released")

    def __init__(self, end: int) -> None:
        self.end = end
        self.leads = False
        self.released = threading.Lock()
        self.released.acquire()


class GroupCommit:
    """`sync` makes everything appended durable or raises; `durable` tells the offset below which everything is."""

    def __init__(self, sync: Callable[[], None], durable: Callable[[], int]) -> None:
        self._sync = sync
        self._durable = durable
        self._leading = kernels.write_lock.WriteLock(())
        self._mutex = fork_safe.lock()
        self._waiting: list[_Waiter] = []
        self._led = False
        """A hint: somebody leads, or was named and is about to."""

    def wait_for(self, end: int) -> None:
        """Return once everything below `end`, which has been appended, is durable. Raises what `sync` does."""
        if self._leading.held():  # a signal handler's append, while this thread syncs
            return self._sync()
        waiter = self._join(end)
        if waiter is None:
            return self._lead(end)
        try:
            named = waiter.released.acquire(timeout=PATIENCE_S)
        except BaseException:  # Ctrl-C: nobody must wait for one who has left
            self._leave(waiter)
            if waiter.leads:
                self._hand_over()
            raise
        if not named:  # perhaps there is nobody who could
            self._leave(waiter)
        return self._lead(end) if waiter.leads or not named else None

    def _join(self, end: int) -> _Waiter | None:
        """None for the caller that leads."""
        with self._mutex:
            if not self._led:
                self._led = True
                return None
            waiter = _Waiter(end)
            self._waiting.append(waiter)
            return waiter

    def _lead(self, end: int) -> None:
        try:
            with self._leading:
                if self._durable() < end:
                    self._sync()
        finally:
            self._hand_over()

    def _leave(self, waiter: _Waiter) -> None:
        with self._mutex:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _hand_over(self) -> None:
        """Name the next leader, if anybody is left; release those who need none."""
        durable = self._durable()
        with self._mutex:
            covered = [waiter for waiter in self._waiting if waiter.end <= durable]
            self._waiting = [waiter for waiter in self._waiting if waiter.end > durable]
            self._led = bool(self._waiting)
            if self._led:
                leader = self._waiting.pop(0)
                leader.leads = True
                covered.insert(0, leader)
        for waiter in covered:
            waiter.released.release()

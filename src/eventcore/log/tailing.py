"""Follow a log for ever: records as they become visible, sleeping in between until something is published."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from eventcore.errors import LogTruncated
from eventcore.types import Record

_SLICE_S = 1.0


class Followable(Protocol):
    """What a tail needs of a partition."""

    def end(self, committed: bool) -> int:
        """The end of what may be read now."""

    def chunks(self, start: int, stop: int, committed: bool, since: int) -> Iterator[list[Record]]:
        """The records of [start, stop), in lists."""

    def truncations(self) -> int:
        """How often the log was truncated; -1 if that is not known now."""

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end."""

    def signal(self) -> int:
        """Read it before `end`."""

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until the signal differs."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the end moves."""


class Tail(Iterator[Record], AsyncIterator[Record]):
    """An endless iterator, for `for` and for `async for`.

    With a `timeout` (seconds) it ends once nothing has come for that long. `position` is the next offset it will look
    at. A truncation below it raises LogTruncated, once: going on then reads from where the log was cut. It can be used
    by one consumer at a time.
    """

    def __init__(self, log: Followable, offset: int, timeout: float | None, committed: bool) -> None:
        self._log = log
        self._timeout = timeout
        self._committed = committed
        self._ready: deque[Record] = deque()
        self._chunks: Iterator[list[Record]] = iter(())
        self._bound = offset
        self._truncations = log.truncations()
        self.position = offset

    def __iter__(self) -> Tail:
        return self

    def __next__(self) -> Record:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._ready:
            seen = self._log.signal()
            if self._fill():
                break
            left = _SLICE_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise StopIteration
            self._log.wait(seen, min(left, _SLICE_S))
        return self._take()

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> Record:
        loop = asyncio.get_running_loop()
        moved = asyncio.Event()
        unsubscribe: Callable[[], None] | None = None
        try:
            while not self._ready and not self._fill():
                if unsubscribe is None:
                    unsubscribe = self._log.subscribe(lambda: _set_soon(loop, moved))
                    continue  # what came between the look and the subscription would not wake us
                try:
                    await asyncio.wait_for(moved.wait(), self._timeout)
                except asyncio.TimeoutError:
                    raise StopAsyncIteration from None
                moved.clear()
        finally:
            if unsubscribe is not None:
                unsubscribe()
        return self._take()

    def _take(self) -> Record:
        record = self._ready.popleft()
        self.position = record.offset + 1
        return record

    def _fill(self) -> bool:
        """Decode the next records that are visible, if any."""
        while not self._ready:
            try:
                chunk = next(self._chunks, None)
            except LogTruncated:
                self._after_truncation()
                continue
            if chunk is not None:
                self._ready.extend(chunk)
                continue
            self.position = self._bound
            if self._log.truncations() != self._truncations:
                self._after_truncation()
            end = self._log.end(self._committed)
            if end <= self._bound:
                return False
            self._chunks, self._bound = self._log.chunks(self._bound, end, self._committed, self._truncations), end
        return True

    def _after_truncation(self) -> None:
        """Go on if what was handed out still stands. Of several truncations only the last is known."""
        before, self._truncations = self._truncations, self._log.truncations()
        cut = self._log.truncated_to()
        harmless = -1 in (before, self._truncations) or (self._truncations == before + 1 and cut >= self.position)
        passed, self.position = self.position, self.position if harmless else min(self.position, cut)
        self._chunks, self._bound = iter(()), self.position
        if not harmless:
            raise LogTruncated(f"the log was truncated to offset {cut}; {passed} was the next one to be read")


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)

"""Follow a log for ever: records as they become visible, sleeping in between until something is published.

There are two ways to the next records. The slow way looks at the folder, takes the segments and reads them as any
reader does; it can do everything. Where it has come to its end, in the active segment, a `Follower` (a kernel) is
placed: in one call it waits, spinning or asleep, and decodes what was published. Whatever is not a plain batch behind
the last one (a roll, a truncation, a compressed batch, a marker, damage) it leaves to the slow way, and another
follower is placed behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from eventcore import _kernels as kernels
from eventcore.errors import LogTruncated, StorageError
from eventcore.files.state_file import tail
from eventcore.format.batch import CODEC_MASK, CONTROL, TRANSACTIONAL
from eventcore.log.reader import CHUNK
from eventcore.log.segments import SegmentList
from eventcore.types import Record

_SLICE_S = 1.0
"""After so long a sleep it is asked whether the handle is still open."""
_GLANCES = 1000
_PLACINGS = 3
"""Followers without a record until one sleeps on the slow way: nobody may be writing, or it changes too often."""


class Standing(NamedTuple):
    """The state page of a living writer, a generation that was read from it, and the segments then, or later.

    `check_open` raises ClosedError once the handle was closed, and in a fork's child.
    """

    page: memoryview
    generation: int
    segments: SegmentList
    check_open: Callable[[], object]


class Truncatable(Protocol):
    """What tells of truncations."""

    def truncations(self) -> int:
        """How often the log was truncated."""

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end; -1 while that is just being written."""


class Followable(Truncatable, Protocol):
    """What a tail needs of a partition."""

    def end(self, committed: bool) -> int:
        """The end of what may be read now."""

    def chunks(self, start: int, stop: int, committed: bool, since: int) -> Iterator[list[Record]]:
        """The records of [start, stop), in lists."""

    def signal(self) -> int:
        """Read it before `end`."""

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until the signal differs."""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the end moves."""

    def standing(self) -> Standing | None:
        """What a follower stands on; None while nobody writes. Raises ClosedError."""


class Tail(Iterator[Record], AsyncIterator[Record]):
    """An endless iterator, for `for` and for `async for`.

    With a `timeout` (seconds) it ends once nothing has come for that long. `position` is the next offset it will look
    at. A truncation below it raises LogTruncated, once: going on then reads from where the log was cut. It can be used
    by one consumer at a time. `spin`: see `Partition.tail`.
    """

    def __init__(
        self,
        log: Followable,
        offset: int,
        since: int,
        timeout: float | None,
        committed: bool,
        spin: float = 0.0,
    ) -> None:
        self._log = log
        self._timeout = timeout
        self._spin = spin
        self._committed = committed
        self._ready: deque[Record] = deque()
        self._chunks: Iterator[list[Record]] = iter(())
        self._bound = offset
        self._follower: kernels.follow.Follower | None = None
        self._placed = 0
        self._check_open: Callable[[], object] = lambda: None
        self._truncations = since
        self.position = offset

    def __iter__(self) -> Tail:
        return self

    def __next__(self) -> Record:
        if not self._ready:
            self._wait()
        record = self._ready.popleft()
        self.position = record.offset + 1
        return record

    def _wait(self) -> None:
        """Until there is something to hand out. Raises StopIteration when the timeout is over."""
        began = now = time.monotonic()
        left = self._left(0)
        while not self._look(began + self._spin - now, left):
            now = time.monotonic()
            left = self._left(now - began)
            if left <= 0:
                raise StopIteration
            if self._follower is None and self._placed >= _PLACINGS:
                self._placed = 0
                seen = self._log.signal()
                if self._fill():
                    return
                self._log.wait(seen, left)

    def _left(self, waited_s: float) -> float:
        return _SLICE_S if self._timeout is None else min(_SLICE_S, self._timeout - waited_s)

    def _look(self, spin_s: float = 0.0, wait_s: float = 0.0) -> bool:
        """Decode the next records that are visible, if any; a follower waits for them."""
        if self._follower is None:
            if self._next_chunk():
                return True
            if self._placed < _PLACINGS:
                self._placed += 1
                self._follower = self._place()
        if self._follower is not None:
            self._check_open()
            found = self._follower.follow(CHUNK, int(min(spin_s, wait_s) * 1e9), int(wait_s * 1e9))
            if found:  # from here on every call counts: somebody is waiting for it
                self._ready.extend(found)
                self._bound = self._follower.next_offset
                self._placed = 0
                return True
            if found is not None:
                return False
            self._follower = None
        return self._fill()

    def _place(self) -> kernels.follow.Follower | None:
        """A follower at `_bound`, which is the end of what is there, if it can stand there."""
        standing = self._log.standing()
        if standing is None or standing.generation % 2:
            return None
        self._check_open = standing.check_open
        segment = standing.segments.active
        mapping = segment.log.mapping
        if mapping is None or self._bound < segment.base_offset:
            return None
        word = tail.LAST_STABLE if self._committed else tail.HIGH_WATERMARK
        special = CODEC_MASK | CONTROL | (TRANSACTIONAL if self._committed else 0)
        with suppress(StorageError):  # it changes just now
            return kernels.follow.Follower(
                standing.page,
                mapping,
                word,
                segment.find(self._bound),
                self._bound,
                standing.generation,
                self._truncations,
                special,
            )
        return None

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> Record:
        loop = asyncio.get_running_loop()
        moved = asyncio.Event()
        unsubscribe: Callable[[], None] | None = None
        try:
            while not self._ready and not self._look():
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
        return next(self)

    def _fill(self) -> bool:
        """The slow way: decode the next records that are visible, if any."""
        while not self._next_chunk():
            if self._log.truncations() != self._truncations:
                self._after_truncation()
            end = self._log.end(self._committed)
            if end <= self._bound:
                return False
            self._chunks, self._bound = self._log.chunks(self._bound, end, self._committed, self._truncations), end
        return True

    def _next_chunk(self) -> bool:
        """Go on with what the slow way is at; False at its end, which is `_bound`."""
        try:
            for chunk in self._chunks:
                self._ready.extend(chunk)
                self._placed = 0
                return True
        except LogTruncated:
            self._after_truncation()
        self.position = self._bound
        return False

    def _after_truncation(self) -> None:
        """Go on if what was handed out still stands. Of several truncations only the last is known."""
        before, passed = self._truncations, self.position
        self._truncations, cut = latest_truncation(self._log)
        is_harmless = self._truncations == before + 1 and cut >= passed
        self.position = passed if is_harmless else min(passed, cut)
        self._chunks, self._bound = iter(()), self.position
        if not is_harmless:
            raise LogTruncated(f"the log was truncated to offset {cut}; {passed} was the next one to be read")


def latest_truncation(log: Truncatable) -> tuple[int, int]:
    """How often the log was truncated, and where the latest of these truncations made it end.

    A writer that dies while it says so leaves no place: then nothing may be left of what was read.
    """
    for _ in range(_GLANCES):
        count, cut = log.truncations(), log.truncated_to()
        if cut >= 0 and log.truncations() == count:
            return count, cut
        time.sleep(0)
    return log.truncations(), 0


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)

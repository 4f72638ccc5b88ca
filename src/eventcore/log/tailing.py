"""Follow a log for ever: records as they become visible, sleeping in between until something is published.

There are two ways to the next records. The slow way looks at the folder, takes the segments and reads them as any
reader does; it can do everything. Where it has come to its end, in the active segment, a `Follower` (a kernel) is
placed: in one call it waits, spinning or asleep, and decodes what was published. Whatever is not a plain batch behind
the last one (a roll, a truncation, a compressed batch, a marker, damage) it leaves to the slow way, and another
follower is placed behind it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
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
_TURN = 128
"""After so many records in a row other tasks of the loop get their turn."""
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

    With a `timeout` (seconds) it ends once nothing has come for that long; what has ended stays so, and another tail
    goes on from its `position`: the next offset that it would have looked at. A truncation below that raises
    LogTruncated, once: going on then reads from where the log was cut. After any other error, a cancellation or an
    interrupt, too, one goes on with what was not handed out yet. It can be used by one consumer at a time. `spin`: see
    `Partition.tail`.
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
        self._halfway = False
        """A look did not come to its end: nothing that it left counts but `position`, and what is ready."""
        self._aside: _Aside | None = None
        self._in_a_row = 0
        self._ended = False
        self.position = offset

    def __iter__(self) -> Tail:
        return self

    def __next__(self) -> Record:
        if not self._ready:
            self._wait()
        before = self.position
        try:
            record = self._ready.popleft()
            self.position = record.offset + 1
            return record
        except BaseException:  # an interrupt: nobody got it
            self._halfway, self.position = True, before
            self._ready.clear()
            raise

    def _wait(self) -> None:
        """Until there is something to hand out. Raises StopIteration when the timeout is over."""
        if self._ended:
            raise StopIteration
        if self._aside is not None:
            self._aside.wait()
            if self._settle():
                return
        began = now = time.monotonic()
        left = self._left(0)
        while not self._look(began + self._spin - now, left):
            now = time.monotonic()
            left = self._left(now - began)
            if left <= 0:
                self._ended = True
                raise StopIteration
            if self._follower is None and self._placed >= _PLACINGS:
                seen = self._log.signal()
                if self._look():
                    return
                self._placed = 0
                self._log.wait(seen, left)

    def _left(self, waited_s: float) -> float:
        return _SLICE_S if self._timeout is None else min(_SLICE_S, self._timeout - waited_s)

    def _look(self, spin_s: float = 0.0, wait_s: float = 0.0) -> bool:
        """Decode the next records that are visible, if any; a follower waits for them."""
        if self._halfway:
            self._chunks, self._bound, self._follower = iter(()), self.position, None
        self._halfway = True
        if self._follower is not None:
            found = self._follow(self._follower, spin_s, wait_s)
            if found is None:
                found = self._fill()
        else:
            found = self._begin(spin_s, wait_s)
        self._halfway = False
        return found

    def _begin(self, spin_s: float, wait_s: float) -> bool:
        if self._next_chunk():
            return True
        if self._placed < _PLACINGS:
            self._placed += 1
            self._follower = self._place()
            if self._follower is not None:
                found = self._follow(self._follower, spin_s, wait_s)
                if found is not None:
                    return found
        return self._fill()

    def _follow(self, follower: kernels.follow.Follower, spin_s: float, wait_s: float) -> bool | None:
        """Whether it found something; None if one has to look the slow way, and to place another one."""
        self._check_open()
        found = follower.follow(CHUNK, int(min(spin_s, wait_s) * 1e9), int(wait_s * 1e9))
        if found:  # from here on every call counts: somebody is waiting for it
            self._ready.extend(found)
            self._bound = follower.next_offset
            self._placed = 0
            return True
        if found is not None:
            return False
        self._follower = None
        return None

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
        passed, (count, cut) = self.position, latest_truncation(self._log)
        news = None
        if count != self._truncations + 1 or cut < passed:
            news = LogTruncated(f"the log was truncated to offset {cut}; {passed} was the next one to be read")
        start = passed if news is None else min(passed, cut)
        self._chunks, self._bound = iter(()), start
        self.position, self._truncations = start, count  # no call from here on: an interrupt must not take the news
        if news is not None:
            raise news

    # -- in a loop ---------------------------------------------------------------------------------------------

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> Record:
        self._in_a_row += 1
        if self._in_a_row >= _TURN:
            self._in_a_row = 0
            await asyncio.sleep(0)
        if not self._ready:
            await self._wait_in_loop(asyncio.get_running_loop())
        return next(self)

    async def _wait_in_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ended:
            raise StopAsyncIteration
        if self._aside is not None:
            await loop.run_in_executor(None, self._aside.wait)
            if self._settle():
                return
        moved, is_over = asyncio.Event(), asyncio.Event()
        with ExitStack() as leaving:
            if self._timeout is not None:
                leaving.callback(loop.call_later(self._timeout, _ring, moved, is_over).cancel)
            is_subscribed = False
            while not await self._look_in_loop(loop):
                if not is_subscribed:
                    leaving.callback(self._log.subscribe(lambda: _ring_soon(loop, moved)))
                    is_subscribed = True  # what came between the look and the subscription would not wake us
                elif is_over.is_set():
                    self._ended = True
                    raise StopAsyncIteration
                else:
                    await moved.wait()  # not `wait_for`, which in Python 3.11 may lose a cancellation
                    moved.clear()

    async def _look_in_loop(self, loop: asyncio.AbstractEventLoop) -> bool:
        """The follower tells at once. Whatever is slower, or waits for a writer, is done in another thread."""
        if self._follower is not None and not self._halfway:
            self._halfway = True
            found = self._follow(self._follower, 0.0, 0.0)
            self._halfway = False
            if found is not None:
                return found
        aside = self._aside = _Aside(self._look)
        await loop.run_in_executor(None, aside.run)
        return self._settle()

    def _settle(self) -> bool:
        """Take over what a look in another thread has come to; the task that asked for it may have been cancelled."""
        aside, self._aside = self._aside, None
        if aside is not None and aside.error is not None:
            raise aside.error
        return bool(self._ready)


class _Aside:
    """A look in another thread, which goes on when the task that waits for it is cancelled."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._begun, self._done = threading.Lock(), threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Look, unless somebody has taken over before it began."""
        if self._begun.acquire(blocking=False):
            try:
                self._look()
            except BaseException as error:
                self.error = error
            finally:
                self._done.set()

    def wait(self) -> None:
        """On return it has ended, or never begins."""
        if not self._begun.acquire(blocking=False):
            self._done.wait()


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


def _ring(*events: asyncio.Event) -> None:
    for event in events:
        event.set()


def _ring_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(event.set)

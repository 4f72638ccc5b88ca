"""SharedLog: a partition that another process may be writing, seen read-only.

The end of the log comes from the shared state page while a writer is alive; the bytes below it are in place by then.
Without a living writer the page says nothing, and the log is what the next writer would find: see `unattended`. Nothing
is created in the folder.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore import fork_safe
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import ClosedError, StorageError, UnsupportedFormat
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log import epoch_check, unattended
from eventcore.log.epochs import EpochCache
from eventcore.log.folder_lock import LOCK_NAME
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import RecoveryReport
from eventcore.log.segments import SegmentList
from eventcore.log.tailing import Standing
from eventcore.log.unattended import Unattended
from eventcore.log.watcher import Watcher

_POLL_S = 0.5
_SETTLE_S = 0.001
_PATIENCE = 500
_PATIENCE_NS = 50_000_000
"""A point read of a log that nobody writes looks at the folder when so long nobody did."""


class SharedLog:
    """A reader's view of a partition folder. Every property looks at what is there now."""

    acknowledges = False
    """See `PartitionLog`: here nothing is appended."""

    is_fenced = False
    """See `PartitionLog`."""

    def __init__(self, disk: Disk, folder: Path, config: LogConfig, *, log_start: int = 0) -> None:
        self.disk = disk
        self.folder = folder
        self.config = config
        self.report = RecoveryReport(clean=True)
        self._least_start = log_start
        self._lock = fork_safe.rlock()  # the collector may run a finalizer inside, which may read here
        self._closed = False
        self._pid = os.getpid()
        self._watcher = Watcher(self)
        self._is_known = False
        self._state: StateFile | None = None
        self._segments = SegmentList([])
        self._epochs: EpochCache | None = None
        self._static_start = self._static_end = 0
        self._found_producers = ProducerStore(disk, folder, write=False)
        self._told_producers = (-1, -1, self._found_producers)
        self.points = kernels.points.Points()
        self._left: StateFile | None = None
        self._left_generation = -1
        self._had_page = False
        self._load()

    def _load(self) -> None:
        """Look at the folder anew, until it does not change meanwhile: writer, segments, end.

        If it fails half-way, what was there before is not known any more: the next one has to look again.
        """
        self._is_known = False
        self.points.forget()
        while True:
            self._changed_ns = self.disk.changed_ns(self.folder)
            self._look_at_page()
            self._state = self._live_state()
            self._generation = self._settled_generation()
            try:
                self._load_segments()
            except StorageError:
                if self._still(self._generation):
                    raise
                continue
            if self._still(self._generation):
                self._is_known = True
                return

    def _settled_generation(self) -> int:
        """The generation once no change is under way. A writer that dies meanwhile leaves it odd: then it is gone."""
        while self._state is not None:
            generation = self._state.load(tail.GENERATION)
            if generation % 2 == 0:
                return generation
            if not self.disk.locked(self.folder / LOCK_NAME):
                self._state = None
            else:
                self._state.wait(self._state.signal(), _SETTLE_S)
        return -1

    def _still(self, generation: int) -> bool:
        return self._state is None or self._state.load(tail.GENERATION) == generation

    def _load_segments(self) -> None:
        self._epochs = None
        if self._state is None:
            self._take(unattended.look(self.disk, self.folder, self.config))
        else:
            segments = unattended.open_segments(self.disk, self.folder, self.config)
            segments.active.log.size = 0
            self._segments = segments

    def _take(self, found: Unattended) -> None:
        self._segments, self._static_end, self.report = found.segments, found.end, found.report
        self._static_start = max(found.start, min(self._least_start, found.end))
        self._found_producers, self._epochs = found.producer_store, found.epochs

    def _live_state(self) -> StateFile | None:
        """The state page of a living writer. One that is just opening the folder is given time to make it."""
        path = self.folder / STATE_NAME
        for _ in range(_PATIENCE):
            if not self.disk.locked(self.folder / LOCK_NAME):
                return None
            try:
                if self.disk.exists(path):
                    return StateFile(self.disk, path, create=False, write=os.access(path, os.W_OK))
            except UnsupportedFormat:
                pass  # not yet written
            time.sleep(_SETTLE_S)
        return None

    @property
    def segment_count(self) -> int:
        """How many segments are open."""
        return len(self._segments)

    def check_open(self) -> None:
        """Raise ClosedError once it was closed, and in a fork's child."""
        if self._closed:
            raise ClosedError("this partition is closed")
        if os.getpid() != self._pid:
            raise ClosedError("this partition was opened by the parent of this process")

    def _refresh(self) -> StateFile | None:
        """Follow the writer: a new one, a roll, a truncation, more batches."""
        return self._seen()[0]

    def _seen(self) -> tuple[StateFile | None, SegmentList]:
        """The page of the living writer, and the segments. Another thread may be at the next look already, which has
        segments whose end it does not know yet.
        """
        self.check_open()  # in a fork's child somebody may hold the lock for ever
        with self._lock:
            self.check_open()
            try:
                return self._follow(), self._segments
            except (IndexError, ValueError, StorageError):
                self.check_open()  # a finalizer that ran inside has closed it
                raise

    def _follow(self) -> StateFile | None:
        if not self._is_known or (self._state is None and self._has_changed()):
            self._load()
        while (state := self._state) is not None:
            if not self._still(self._generation):
                self._load()
                continue
            self._segments.active.refresh_end(state.load(tail.HIGH_WATERMARK))
            if self._still(self._generation):
                break
        return self._state

    def _last_page(self) -> StateFile | None:
        """The page of the living writer, or of the last one: whoever comes next writes it, too."""
        self.check_open()
        if self._state is None and self._left is None and self._has_changed():
            self._refresh()
        return self._state or self._left

    @property
    def page(self) -> memoryview | None:
        """The state page of the writer that was seen last, living or not; None where there never was one."""
        found = self._last_page()
        return None if found is None else found.page

    @property
    def segments(self) -> SegmentList:
        """The segments up to the high watermark."""
        return self._seen()[1]

    def standing(self) -> Standing | None:
        """See there; the generation is the one that the segments were found at."""
        self._refresh()
        with self._lock:
            self.check_open()
            state = self._state
            if state is None:
                return None
            return Standing(state.page, self._generation, self._segments, self.check_open)

    def watch_points(self) -> tuple[int, SegmentList]:
        """See `PartitionLog`. Where nobody writes, the page that the last writer left tells of the next one, which
        changes it before anything else; a broker does not, so the folder is looked at now and then, too.
        """
        self._refresh()
        with self._lock:
            self.check_open()
            state, segments = self._state, self._segments
            if state is not None:
                return self.points.watch(state.page, self._generation, state.load(tail.TRUNCATIONS)), segments
            ends = self._static_start, self._static_end
            left = self._page_left()
            if left is None:
                return self.points.watch(None, 0, 0, *ends), segments
            truncations = left.load(tail.TRUNCATIONS)
            return self.points.watch(left.page, self._left_generation, truncations, *ends, _PATIENCE_NS), segments

    def _look_at_page(self) -> None:
        """What the page of the last writer says, before one looks whether there is a living one: whoever comes later
        changes its generation. The time of the folder alone would not tell: it has the length of a clock's tick.
        """
        path = self.folder / STATE_NAME
        self._left, self._had_page = None, self.disk.exists(path)
        if self._had_page:
            with suppress(StorageError):  # of another version, or just being made
                self._left = StateFile(self.disk, path, create=False, write=False)
                self._left_generation = self._left.load(tail.GENERATION)

    def _has_changed(self) -> bool:
        """Whether somebody has written the folder since it was looked at without a writer."""
        left = self._left
        if left is None:
            has_come = not self._had_page and self.disk.exists(self.folder / STATE_NAME)
        else:
            has_come = left.load(tail.GENERATION) != self._left_generation
        return has_come or self.disk.changed_ns(self.folder) != self._changed_ns

    def _page_left(self) -> StateFile | None:
        """The page of the last writer, if no other one has come since the segments were looked up."""
        return None if self._left is None or self._left_generation % 2 or self._has_changed() else self._left

    def _word(self, word: int) -> int:
        state = self._refresh()  # before the end is taken that was found without a writer
        return state.load(word) if state else self._static_end

    @property
    def log_start_offset(self) -> int:
        """The first offset that may be read."""
        state, segments = self._state, self._segments
        self.check_open()
        if state is None:
            return self._static_start
        return max(state.load(tail.LOG_START), segments.first.base_offset)

    @property
    def log_end_offset(self) -> int:
        """The offset the next record will get."""
        return self._word(tail.LOG_END)

    @property
    def high_watermark(self) -> int:
        """The end of what may be read."""
        return self._word(tail.HIGH_WATERMARK)

    @property
    def durable_offset(self) -> int:
        """Everything below survives a power cut."""
        return self._word(tail.DURABLE)

    @property
    def last_stable_offset(self) -> int:
        """The end of what committed readers may read."""
        state = self._refresh()
        if state is not None:
            return state.load(tail.LAST_STABLE)
        unstable = self._found_producers.state.first_unstable_offset(self._static_end)
        return self._static_end if unstable is None else min(unstable, self._static_end)

    @property
    def producer_store(self) -> ProducerStore:
        """What is known of producers. Beside a writer it is made from the newest snapshot that he left and the batches
        behind that, so it costs a look at up to a segment's batches whenever there are new ones.
        """
        state = self._refresh()
        if state is None:
            return self._found_producers
        end, generation = state.load(tail.HIGH_WATERMARK), self._generation
        known_end, known_generation, known = self._told_producers
        if (known_end, known_generation) != (end, generation):
            known = ProducerStore(self.disk, self.folder, write=False)
            known.rebuild(self.segments, end, {})
            self._told_producers = (end, generation, known)
        return known

    @property
    def io(self) -> str:
        """See `StateFile.io`; nothing without a living writer."""
        state = self._refresh()
        return state.io if state else ""

    def truncations(self) -> int:
        """How often writers of ours have truncated the log, up to now, whether one lives or not."""
        found = self._last_page()
        return 0 if found is None else found.load(tail.TRUNCATIONS)

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end."""
        found = self._last_page()
        return 0 if found is None else found.load(tail.TRUNCATED_TO)

    @property
    def leader_epoch(self) -> int:
        """The newest leader epoch."""
        return max(self.epochs.latest, 0)

    @property
    def epochs(self) -> EpochCache:
        """The leader epochs, made anew in memory where the file does not fit the log."""
        recovered = self._epochs
        if recovered is not None:
            return recovered
        found = EpochCache(self.disk, self.folder, write=False)
        epoch_check.check(found, self.segments, self.log_start_offset)
        return found

    def signal(self) -> int:
        """See `StateFile.signal`."""
        state = self._refresh()
        return state.signal() if state else 0

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until something was published, at most `timeout_s`; without a writer look for one now and then."""
        state = self._refresh()
        if state is not None:
            return state.wait(seen, min(timeout_s, _POLL_S * 2))
        _sleep(timeout_s)
        return False

    def pause(self) -> Callable[[float], object]:
        """See `Watched`."""
        state = self._refresh()
        return _sleep if state is None else partial(state.wait, state.signal())

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` from a thread of this handle after the high watermark moves; returns what ends that."""
        self.check_open()
        return partial(self._unsubscribe, self._watcher.add(callback))  # who can leave keeps the log

    def _unsubscribe(self, leave: Callable[[], None]) -> None:
        leave()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or is the parent's."""
        return self._closed or os.getpid() != self._pid

    def abandon(self) -> None:
        """Nobody refers to it any more."""
        self.close()

    def close(self) -> None:
        """Let go of all files, and tell subscribers; records and buffers that are out stay valid."""
        if os.getpid() != self._pid:  # what it has is the parent's, and so are the locks
            return
        with self._lock:
            self._closed = True
            self.points.close()
            for segment in self._segments:
                segment.close()
            self._segments, self._epochs = SegmentList([]), None
            self._found_producers = ProducerStore(self.disk, self.folder, write=False)
            self._told_producers = (-1, -1, self._found_producers)
            for page in (self._state, self._left):
                if page is not None:
                    page.close()
        self._watcher.subscribers.notify()


def _sleep(timeout_s: float) -> None:
    threading.Event().wait(min(timeout_s, _POLL_S))

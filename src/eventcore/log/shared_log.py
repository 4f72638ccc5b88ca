"""SharedLog: a partition that another process may be writing, seen read-only.

The end of the log comes from the shared state page while a writer is alive; the bytes below it are in place by then.
Without a living writer the page says nothing: unless the folder was closed cleanly, the last segment is read, CRC and
all, and the log ends with its last good batch. Nothing is created in the folder.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import ClosedError, NotALog, StorageError, UnsupportedFormat
from eventcore.files import recovery_point
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log import epoch_check
from eventcore.log.epochs import EpochCache
from eventcore.log.folder_lock import LOCK_NAME
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import RecoveryReport
from eventcore.log.scan import Doubt, scan_segment
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.subscribers import Subscribers
from eventcore.log.swaps import list_bases

_POLL_S = 0.5
_SETTLE_S = 0.001
_PATIENCE = 500


class SharedLog:
    """A reader's view of a partition folder. Every property looks at what is there now."""

    def __init__(self, disk: Disk, folder: Path, config: LogConfig) -> None:
        self.disk = disk
        self.folder = folder
        self.config = config
        self.report = RecoveryReport(clean=True)
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._subscribers = Subscribers()
        self._watcher: threading.Thread | None = None
        self._state: StateFile | None = None
        self._segments = SegmentList([])
        self._static_start = self._static_end = 0
        self.producer_store = ProducerStore(disk, folder, write=False)
        self._load()

    def _load(self) -> None:
        """Look at the folder anew, until it does not change meanwhile: writer, segments, end."""
        while True:
            self._changed_ns = self.disk.changed_ns(self.folder)
            self._state = self._live_state()
            self._generation = self._settled_generation()
            try:
                self._load_segments()
            except StorageError:
                if self._still(self._generation):
                    raise
                continue
            if self._still(self._generation):
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
        bases = list_bases(self.disk, self.folder)
        if not bases:
            raise NotALog(
                "there is no segment in this folder", path=self.folder, hint="open it with mode='rw' to create a log"
            )
        segments = [Segment(self.disk, self.folder, base, self.config, active=False) for base in bases]
        for segment, next_base in zip(segments, bases[1:], strict=False):
            segment.next_offset = next_base
        segments[-1].sealed = False
        self._segments = SegmentList(segments)
        if self._state is None:
            self._find_end()
        else:
            segments[-1].log.size = 0

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

    def _find_end(self) -> None:
        """Without a writer: after a clean close believe the file, else read it."""
        active = self._segments.active
        point = recovery_point.read(self.disk, self.folder / recovery_point.NAME)
        if not (point.closed_as(active.base_offset, active.log.size) and self._believe_end(active, point)):
            self._scan_end(active)
        self._static_start = max(point.log_start_offset, self._segments.first.base_offset)
        self._static_end = active.next_offset
        scanned = {} if active.sealed else {active: self._keep_aborted(active, point)}
        self.producer_store.rebuild(self._segments, self._static_end, scanned, point)

    def _believe_end(self, active: Segment, point: RecoveryPoint) -> bool:
        """After a clean close the log ends where the close says; what lies below is checked as it is read."""
        active.sealed = True
        self.report = RecoveryReport(clean=True)
        try:
            active.walk_end()
        except StorageError:
            active.next_offset = -1
        if active.next_offset == point.recovery_point:
            return True
        active.next_offset = point.recovery_point
        active.inspect(0, active.log.size)
        active.sealed = bool(active.damage)
        return active.sealed

    def _scan_end(self, active: Segment) -> None:
        """Read the whole last segment: what lies behind damage must be found, too."""
        limit, active.log.size = self._data_end(active), 0
        active.next_offset = active.base_offset
        scan_segment(active, 0, limit, Doubt(), lambda row: active.extend_to(row.size, row.last_offset))
        active.indexes_hold = False
        damage = [(str(active.log.path), damaged) for damaged in active.damage]
        self.report = RecoveryReport(False, 1, limit, 0, damage)

    def _keep_aborted(self, active: Segment, point: RecoveryPoint) -> int:
        """Up to where the transaction index of an unclean segment is what the recovery point vouches for.

        What follows is replayed into memory.
        """
        start = point.recovery_point
        is_here = active.base_offset == point.base_offset and start <= active.next_offset
        with suppress(StorageError):
            if is_here and active.txn_index.crc(start) == point.index_crcs[2]:
                active.txn_index.keep_in_memory(start)
                return start
        active.txn_index.keep_in_memory(0)
        return active.base_offset

    def _data_end(self, segment: Segment) -> int:
        """Behind it the file has only holes, and on a full file system even looking at one may fail."""
        fd = self.disk.open(segment.log.path, write=False)
        try:
            return self.disk.data_end(fd, segment.log.size)
        finally:
            self.disk.close(fd)

    def _check_usable(self) -> None:
        if self._closed:
            raise ClosedError("this partition is closed")
        if os.getpid() != self._pid:
            raise ClosedError("this partition was opened by the parent of this process")

    def _refresh(self) -> StateFile | None:
        """Follow the writer: a new one, a roll, a truncation, more batches."""
        self._check_usable()  # in a fork's child somebody may hold the lock for ever
        with self._lock:
            self._check_usable()
            # A writer replaces files of the folder as it comes and goes.
            if self._state is None and self.disk.changed_ns(self.folder) != self._changed_ns:
                self._load()
            while self._state is not None:
                if not self._still(self._generation):
                    self._load()
                    continue
                self._segments.active.refresh_end(self._state.load(tail.HIGH_WATERMARK))
                if self._still(self._generation):
                    break
            return self._state

    @property
    def segments(self) -> SegmentList:
        """The segments up to the high watermark."""
        self._refresh()
        found = self._segments  # before the check: a close says so first, and lets go of them then
        self._check_usable()
        return found

    def _word(self, word: int, static: int) -> int:
        state = self._refresh()
        return state.load(word) if state else static

    @property
    def log_start_offset(self) -> int:
        """The first offset that may be read."""
        state, segments = self._state, self._segments
        self._check_usable()
        if state is None:
            return self._static_start
        return max(state.load(tail.LOG_START), segments.first.base_offset)

    @property
    def log_end_offset(self) -> int:
        """The offset the next record will get."""
        return self._word(tail.LOG_END, self._static_end)

    @property
    def high_watermark(self) -> int:
        """The end of what may be read."""
        return self._word(tail.HIGH_WATERMARK, self._static_end)

    @property
    def durable_offset(self) -> int:
        """Everything below survives a power cut."""
        return self._word(tail.DURABLE, self._static_end)

    @property
    def last_stable_offset(self) -> int:
        """The end of what committed readers may read."""
        state = self._refresh()
        if state is not None:
            return state.load(tail.LAST_STABLE)
        unstable = self.producer_store.state.first_unstable_offset(self._static_end)
        return self._static_end if unstable is None else min(unstable, self._static_end)

    @property
    def io(self) -> str:
        """See `StateFile.io`; nothing without a living writer."""
        state = self._refresh()
        return state.io if state else ""

    def truncations(self) -> int:
        """How often the living writer, or one before it, truncated the log; -1 without one."""
        state = self._state
        return -1 if state is None else state.load(tail.TRUNCATIONS)

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end."""
        state = self._state
        return self._static_end if state is None else state.load(tail.TRUNCATED_TO)

    @property
    def leader_epoch(self) -> int:
        """The newest leader epoch."""
        return max(self.epochs.latest, 0)

    @property
    def epochs(self) -> EpochCache:
        """The leader epochs, made anew in memory where the file does not fit the log."""
        found = EpochCache(self.disk, self.folder, write=False)
        epoch_check.check(found, self.segments)
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
        threading.Event().wait(min(timeout_s, _POLL_S))
        return False

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` from a thread of this handle after the high watermark moves; returns what ends that."""
        unsubscribe = self._subscribers.add(callback)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="eventcore-watch", daemon=True)
            self._watcher.start()
        return unsubscribe

    def _watch(self) -> None:
        seen_end = -1
        while not self._closed:
            try:
                signal, end = self.signal(), self.high_watermark
                if end != seen_end:
                    seen_end = end
                    self._subscribers.notify()
                self.wait(signal, _POLL_S * 2)
            except ClosedError:
                return

    def close(self) -> None:
        """Let go of all files; records and buffers that are out stay valid."""
        with self._lock:
            self._closed = True
            for segment in self._segments:
                segment.close()
            self._segments = SegmentList([])
            if self._state is not None:
                self._state.close()

"""PartitionLog: the one writer of a partition. It composes the log, producers, epochs and watermarks under a lock.

Invariants, checked by `check`:

  | name               | holds always                                                     |
  | offsets-ordered    | log_start ≤ last_stable ≤ high_watermark ≤ log_end               |
  | durable-behind-end | durable ≤ log_end                                                |
  | one-active         | only the last segment takes appends                              |
  | epochs-rising      | leader epochs and their start offsets rise                       |

Durability: `always` syncs before an append returns, and appends that wait share one sync; readers see only what is
durable. `interval` syncs every `flush.ms`; `never` leaves it to the system; readers see what is appended. A kill of
the process loses nothing acknowledged under any of them. A failed sync fences the partition for good: the kernel
reports such a failure once and then forgets the data, so a retry would lie.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import (
    ClosedError,
    EventCoreError,
    FencedLeaderEpoch,
    NotALog,
    OffsetMismatch,
    OffsetOutOfRange,
    StorageError,
    StorageFenced,
)
from eventcore.files import names, recovery_point
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.epochs import EpochCache
from eventcore.log.flusher import Flusher
from eventcore.log.ingest import Ingest
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import Recovery
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.writer import NO_PRODUCER, BatchWriter, Columns, Producer
from eventcore.types import BatchInfo

LOCK_NAME = "eventcore.lock"
_OWN_NAMES = {LOCK_NAME, STATE_NAME, recovery_point.NAME, EPOCHS_NAME, "partition.metadata"}
FSYNC_MODES = ("always", "interval", "never")


class PartitionLog:
    """Opens a partition folder for writing and holds its lock until `close`."""

    def __init__(self, disk: Disk, folder: Path, config: LogConfig, clock: Clock, fsync: str) -> None:
        self.disk = disk
        self.folder = folder
        self.config = config
        self.clock = clock
        self.fsync = fsync
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._failure: EventCoreError | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._refuse_foreign_folder()
        self._lock_fd = disk.lock(folder / LOCK_NAME, f"process {self._pid}")
        try:
            self._open()
        except BaseException:
            disk.close(self._lock_fd)
            raise

    def _refuse_foreign_folder(self) -> None:
        """A folder with things in it, none of them a log's, was probably not meant."""
        found = self.disk.entries(self.folder)
        ours = [name for name in found if name in _OWN_NAMES or names.parse_file_name(name)]
        if found and not ours:
            kind = "a whole log directory" if "meta.properties" in found else "something else"
            raise NotALog(
                f"the folder holds {kind}: {', '.join(sorted(found)[:3])}",
                path=self.folder,
                hint="give the folder of one partition, an empty folder, or a new name",
            )

    def _open(self) -> None:
        self.state = StateFile(self.disk, self.folder / STATE_NAME, create=True)
        with self.state.changing():
            self._recover()
            self._publish()
        self._flusher = Flusher(self, self.config.flush_ms) if self.fsync == "interval" else None

    def _recover(self) -> None:
        point = recovery_point.read(self.disk, self.folder / recovery_point.NAME)
        self.epochs = EpochCache(self.disk, self.folder, write=True)
        recovery = Recovery(self.disk, self.folder, self.config, self.clock, self.epochs)
        segments = recovery.run(point)
        self.report = recovery.report
        self._local = LocalLog(self.disk, self.folder, self.config, self.clock, segments, self)
        if point.log_start_offset > self.log_end_offset:  # rule S8: all that is left lies below the log start
            self._local.restart_at(point.log_start_offset)
            segments = self._local.segments
        self._writer = BatchWriter(self._local)
        self.log_start_offset = max(point.log_start_offset, segments.first.base_offset)
        self.producer_store = ProducerStore(self.disk, self.folder)
        self.producer_store.rebuild(segments, self.log_end_offset, recovery.recovered)
        self._ingest = Ingest(self.config, self.clock, self._writer, self.producer_store, self.epochs)
        self._leader_epoch = max(self.epochs.latest, 0)
        self.durable_offset = self.high_watermark = self.log_end_offset
        self._unsynced: list[Segment] = [segments.active]
        self._recovery_point = RecoveryPoint(self._trusted_end(segments), self.log_start_offset)
        recovery_point.write(self.disk, self.folder / recovery_point.NAME, self._recovery_point)
        self.state.store(tail.LOG_START, self.log_start_offset)

    def _trusted_end(self, segments: SegmentList) -> int:
        """A damaged segment is read again at each opening: only what lies before it may be trusted unread."""
        damaged = [segment.base_offset for segment in segments if segment.damage]
        return min([self.log_end_offset, *damaged])

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def segments(self) -> SegmentList:
        """The segments now; the list does not change under a reader. Raises ClosedError."""
        if isinstance(self._failure, ClosedError) or os.getpid() != self._pid:
            self._check_usable()
        return self._local.segments

    @property
    def log_end_offset(self) -> int:
        """The offset the next record gets."""
        return self._local.end_offset

    @property
    def last_stable_offset(self) -> int:
        """The end of what committed readers may read (rule H4)."""
        unstable = self.producer_store.state.first_unstable_offset(self.high_watermark)
        return (
            self.high_watermark if unstable is None else max(min(unstable, self.high_watermark), self.log_start_offset)
        )

    @property
    def leader_epoch(self) -> int:
        """The epoch that appends are stamped with."""
        return self._leader_epoch

    def set_leader_epoch(self, epoch: int) -> None:
        """Begin a new leader epoch at the log end, recorded at once (rule E4). Raises FencedLeaderEpoch."""
        with self._lock:
            self._check_usable()
            if epoch < self._leader_epoch:
                raise FencedLeaderEpoch(f"leader epoch {epoch} is below {self._leader_epoch}")
            self.epochs.assign(epoch, self.log_end_offset)
            self._leader_epoch = epoch

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if os.getpid() != self._pid:
            raise ClosedError("this partition was opened by the parent of this process")

    def check(self) -> None:
        """Assert the invariants of the table above."""
        assert self.log_start_offset <= self.last_stable_offset <= self.high_watermark <= self.log_end_offset
        assert self.durable_offset <= self.log_end_offset
        assert [segment for segment in self.segments if segment.active] == [self.segments.active]
        assert all(low < high for low, high in pairwise(self.epochs.entries))

    # -- append ------------------------------------------------------------------------------------------------

    def append(
        self,
        items: Sequence[Any] | Columns,
        *,
        atomic: bool = False,
        expected_offset: int | None = None,
        producer: Producer = NO_PRODUCER,
    ) -> range:
        """Append records as one batch or several; on return they are as durable as `fsync` says."""
        with self._lock:
            self._check_usable()
            first = self.log_end_offset
            if expected_offset is not None and expected_offset != first:
                raise OffsetMismatch(f"expected offset {expected_offset}, the log ends at {first}")
            if self.epochs.latest != self._leader_epoch:
                self.epochs.assign(self._leader_epoch, first)
            try:
                self._writer.write(items, self._leader_epoch, atomic=atomic, producer=producer)
            finally:
                self._publish()
            end = self.log_end_offset
        self._acknowledge(end)
        return range(first, end)

    def append_encoded(self, data: memoryview, origin: str) -> BatchInfo:
        """Append batches from a client (validated, deduplicated) or from a leader (offsets kept)."""
        with self._lock:
            self._check_usable()
            try:
                if origin == "client":
                    info = self._ingest.from_client(data, self._leader_epoch)
                else:
                    info = self._ingest.from_leader(data, self._local)
                    self._leader_epoch = max(self._leader_epoch, self.epochs.latest)
            finally:
                self._publish()
            end = self.log_end_offset
        self._acknowledge(end)
        return info

    def _publish(self) -> None:
        end = self.log_end_offset
        if self.fsync != "always":
            self.high_watermark = end
        self.state.publish(self.last_stable_offset, self.high_watermark, end, self.durable_offset)

    def _acknowledge(self, end: int) -> None:
        if self.fsync == "always" or end - self.durable_offset >= self.config.flush_messages:
            self.sync_to(end)
        self._notify()

    def _notify(self) -> None:
        for callback in tuple(self._subscribers):
            callback()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after the high watermark moves; returns what ends that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    # -- durability --------------------------------------------------------------------------------------------

    def sync_to(self, end: int) -> None:
        """On return every offset below `end` survives a power cut. Waiting callers share one sync."""
        with self._sync_lock:
            self._check_usable()
            if self.durable_offset >= end:
                return
            with self._lock:
                target, segments = self.log_end_offset, self._unsynced
                self._unsynced = [self._local.active]
            try:
                for segment in segments:
                    segment.sync()
            except StorageError as error:
                raise self._fence(error) from error
            with self._lock:
                self.durable_offset = min(target, self.log_end_offset)
                self.high_watermark = max(self.high_watermark, self.durable_offset)
                self._publish()

    def _fence(self, error: StorageError) -> StorageFenced:
        self._failure = StorageFenced(
            f"a sync failed ({error.message}); durable is everything below offset {self.durable_offset}",
            path=error.path or self.folder,
        )
        return self._failure

    def changing(self) -> AbstractContextManager[None]:
        """Tells readers in other processes that the set of segments changes."""
        return self.state.changing()

    def rolled(self, new: Segment) -> None:
        """Takes note of a new active segment."""
        self._unsynced.append(new)
        self.producer_store.take_snapshot(new.base_offset)
        if self.durable_offset > self._recovery_point.recovery_point and not any(s.damage for s in self.segments):
            self._write_recovery_point(RecoveryPoint(min(self.durable_offset, new.base_offset), self.log_start_offset))

    def _write_recovery_point(self, point: RecoveryPoint) -> None:
        self._recovery_point = point
        recovery_point.write(self.disk, self.folder / recovery_point.NAME, point)

    # -- changes of shape --------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Seal the active segment and start a new one."""
        with self._lock:
            self._check_usable()
            self._local.roll()

    def truncate(self, offset: int) -> None:
        """Make `offset` the log end (rules X1 to X4). Durable on return."""
        with self._lock:
            self._check_usable()
            if offset < 0:
                raise OffsetOutOfRange(f"cannot truncate to offset {offset}")
            self.epochs.truncate_from_end(offset)
            if offset >= self.log_end_offset:
                return
            self.high_watermark = min(self.high_watermark, offset)
            self.durable_offset = min(self.durable_offset, offset)
            self.log_start_offset = min(self.log_start_offset, offset)
            self._write_recovery_point(
                RecoveryPoint(min(self._recovery_point.recovery_point, offset), self.log_start_offset)
            )
            self.state.store(tail.LOG_START, self.log_start_offset)
            self._publish()
            self._local.truncate(offset)
            self._unsynced = [self._local.active]
            self.producer_store.truncate(offset)
            self.producer_store.rebuild(self.segments, offset, [])
            self.durable_offset = self.high_watermark = offset
            self._publish()

    def delete_records(self, before: int) -> int:
        """Move the log start up to `before` (rule H5); whole segments below it go. Durable on return."""
        with self._lock:
            self._check_usable()
            before = self.high_watermark if before == -1 else before
            if before > self.high_watermark or before < 0:
                raise OffsetOutOfRange(f"cannot delete up to {before}: the high watermark is {self.high_watermark}")
            if before > self.log_start_offset:
                self.log_start_offset = before
                self._write_recovery_point(RecoveryPoint(self._recovery_point.recovery_point, before))
                self.epochs.truncate_from_start(before)
                self.state.store(tail.LOG_START, before)
                self._publish()
                gone = [
                    s for s in self.segments if s is not self._local.active and self.segments.next_base(s) <= before
                ]
                if gone:
                    self._local.drop(gone)
                    self.producer_store.remove([segment.base_offset for segment in gone])
            return self.log_start_offset

    def close(self) -> None:
        """Sync everything, cut what was reserved, leave what Kafka expects of a clean shutdown, free the lock."""
        if self._flusher is not None and os.getpid() == self._pid:
            self._flusher.stop()
        with self._lock:
            if os.getpid() != self._pid or isinstance(self._failure, ClosedError):
                return
            try:
                if self._failure is None:
                    self._close_cleanly()
            finally:
                self._failure = ClosedError("this partition is closed")
                self.state.wake()
                self._local.close()
                self.state.close()
                self.disk.close(self._lock_fd)
        self._notify()

    def _close_cleanly(self) -> None:
        self.sync_to(self.log_end_offset)
        active = self._local.active
        active.seal()
        active.log.sync()
        self.producer_store.take_snapshot(self.log_end_offset)
        damaged = self._trusted_end(self.segments) < self.log_end_offset
        self._write_recovery_point(
            RecoveryPoint(
                self._trusted_end(self.segments),
                self.log_start_offset,
                clean=not damaged,
                active_base_offset=active.base_offset,
                active_size=active.log.size,
            )
        )
        self._publish()

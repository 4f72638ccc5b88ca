"""PartitionLog: the one writer of a partition. It composes the log, producers, epochs and watermarks under a lock.

Durability: `always` syncs before an append returns; readers see only what is durable. `interval` syncs every
`flush.ms`; `never` leaves it to the system; readers see what is appended. A kill of the process loses nothing
acknowledged under any of them. A failed sync fences the partition for good, see `_fence`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from eventcore import _kernels as kernels
from eventcore.clock import Clock
from eventcore.config import INT64_MAX, LogConfig
from eventcore.disk import Disk
from eventcore.errors import (
    ClosedError,
    EventCoreError,
    FencedLeaderEpoch,
    MappingFault,
    OffsetMismatch,
    OffsetOutOfRange,
    StorageError,
)
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log import clean_offset
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.column_input import Columns
from eventcore.log.compaction import Compaction
from eventcore.log.flusher import Flusher
from eventcore.log.folder_lock import FolderLocks, refuse_foreign_folder
from eventcore.log.group_commit import GroupCommit
from eventcore.log.ingest import Ingest
from eventcore.log.opening import recovered
from eventcore.log.pending_deletes import PendingDeletes
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.sequenced import Sequenced
from eventcore.log.subscribers import Subscribers
from eventcore.log.writer import NO_PRODUCER, BatchWriter, Producer
from eventcore.types import BatchInfo

logger = logging.getLogger("eventcore")

FSYNC_MODES = ("always", "interval", "never")


class PartitionLog(Sequenced, Compaction):
    """Opens a partition folder for writing and holds its lock until `close`; for `in_store` see `FolderLocks`."""

    def __init__(
        self, disk: Disk, folder: Path, config: LogConfig, clock: Clock, fsync: str, *, in_store: bool = False
    ) -> None:
        super().__init__()
        self.disk, self.folder, self.config, self.clock = disk, folder, config, clock
        self.fsync = fsync
        self.acknowledges = fsync == "always" or config.flush_messages < INT64_MAX
        """Whether an append has to be acknowledged: somebody waits for more than that it was stored."""
        self._pid = os.getpid()
        self._sync_lock = kernels.write_lock.WriteLock((EventCoreError,))
        self._lock = kernels.write_lock.WriteLock((EventCoreError,))
        self._commits = GroupCommit(self._sync, lambda: self.durable_offset)
        self._failure: EventCoreError | None = None
        self._faults = kernels.guard.faults()
        self._subscribers = Subscribers()
        self.points = kernels.points.Points()
        self._pending_deletes = PendingDeletes(disk, config.file_delete_delay_ms)
        refuse_foreign_folder(disk, folder)
        try:
            with ExitStack() as opened:
                opened.callback(FolderLocks(disk, folder, f"process {self._pid}", in_store=in_store).release)
                self._open(opened)
                self._opened = opened.pop_all()
        except BaseException:
            self.__dict__.clear()  # it is part of cycles: its maps would stay until the collector comes
            raise
        self._flusher = Flusher(self, config.flush_ms) if fsync == "interval" else None

    def _open(self, opened: ExitStack) -> None:
        self.state = StateFile(self.disk, self.folder / STATE_NAME, create=True)
        opened.callback(self.state.close)
        self._checkpoints = Checkpoints(self.disk, self.folder, self.clock)
        opened.callback(self._checkpoints.close)
        with self.state.taken_over(self._checkpoints.point.truncate_to):
            self._begin(opened)
            self._publish()

    def _begin(self, opened: ExitStack) -> None:
        self._local, self.epochs, self.producer_store, self.log_start_offset, self.report = recovered(
            self.disk, self.folder, self.config, self.clock, self._checkpoints, self.state.testament, self, opened
        )
        self._forget_producers()
        if not self.report.clean:
            logger.log(logging.WARNING if self.report.damage else logging.INFO, "%s: %s", self.folder, self.report)
        self._writer = BatchWriter(self._local, self.state.page, self._lock.whole)
        opened.callback(self._writer.detach)
        self.appender = self._writer.appender
        producers = self.producer_store.state
        self.appender.producers, self.appender.opened = producers.table, producers.opened
        self._lock.attach(self.appender)
        self._ingest = Ingest(self.config, self.clock, self._writer, self.producer_store, self.epochs)
        self._leader_epoch = max(self.epochs.latest, 0)
        self.durable_offset = self.log_end_offset
        self._cap: int | None = self.durable_offset
        if self.report.clean and self._checkpoints.point.base_offset == self._local.active.base_offset:
            # It has its checkpoint, which is void as soon as the log has another size.
            self._checkpoints.tidy(self._local, self.producer_store)
        else:
            self._checkpoint()
        self._local.tidy()
        self._untouched = self._checkpoints.point.clean
        self.state.io = "pwrite" if self._local.active.log.private else "mmap"
        self.state.begin(self._local.active.batches_end, self.log_end_offset)
        self.state.store(tail.LOG_START, self.log_start_offset)

    def _checkpoint(self) -> None:
        """Only where all of the log has been synced."""
        checkpoint = self._checkpoints.take(self._local, self.producer_store, self.log_start_offset)
        self._checkpoints.write(checkpoint, self.producer_store)

    def set_leader_epoch(self, epoch: int) -> None:
        """Begin a new leader epoch at the log end, written at once (rule E4). Raises FencedLeaderEpoch.

        An opening drops an epoch without a record, as Kafka does.
        """
        self._may_change()
        with self._lock:
            self._check_whole()
            if epoch < self._leader_epoch:
                raise FencedLeaderEpoch(f"leader epoch {epoch} is below {self._leader_epoch}")
            with self._lock.whole:
                self.epochs.assign(epoch, self.log_end_offset)
                self._leader_epoch = epoch
            self._arm()

    # -- append ------------------------------------------------------------------------------------------------

    def append(
        self,
        items: Sequence[Any] | Columns,
        *,
        atomic: bool = False,
        expected_offset: int | None = None,
        producer: Producer = NO_PRODUCER,
        wait: bool = True,
    ) -> range:
        """Append records as one batch or several; on return they are as durable as `fsync` says, if it is to `wait`.

        Where a later batch is refused the earlier ones stay, as durable; the error's `appended` names them.
        """
        self._may_change()
        first = end = 0
        try:
            with self._lock:
                self._check_whole()
                first = end = self._local.end_offset
                if expected_offset is not None and expected_offset != first:
                    raise OffsetMismatch(f"expected offset {expected_offset}, the log ends at {first}")
                self._begin_writing()
                if self.epochs.latest != self._leader_epoch:
                    self.epochs.assign(self._leader_epoch, first)
                shown = False
                try:
                    shown = self._writer.write(items, self._leader_epoch, atomic=atomic, producer=producer)
                finally:
                    if not shown:
                        self._publish()
                    end = self._local.end_offset
        except BaseException as refused:
            self._acknowledge_before(refused, range(first, end), wait)
            raise
        self.acknowledge(end, wait)
        return range(first, end)

    def append_encoded(self, data: memoryview, origin: str) -> BatchInfo:
        """See `Ingest.append`."""
        self._may_change()
        first = end = 0
        try:
            with self._lock:
                self._check_whole()
                self._begin_writing()
                first = end = self.log_end_offset
                try:
                    info = self._ingested(data, origin)
                finally:
                    self._publish()
                    end = self.log_end_offset
        except BaseException as refused:
            self._acknowledge_before(refused, range(first, end))
            raise
        self.acknowledge(end)
        return info

    def _ingested(self, data: memoryview, origin: str) -> BatchInfo:
        """Of a leader's batches some may have got in, with a new epoch, when a later one is refused.

        Until it is told of that the appender declines: an interrupt must not leave it with the old one.
        """
        self.appender.stamp(-1, False, 0, self._faults)
        with self._lock.attempt:
            try:
                return self._ingest.append(data, origin, self._leader_epoch, self._local)
            finally:
                self._leader_epoch = max(self._leader_epoch, self.epochs.latest)

    def _begin_writing(self) -> None:
        """Before the first change: if the log is not as it was closed, the next opening takes that for a stranger's."""
        if self._untouched:
            with self.fencing():
                self._checkpoints.begin_writing()
            self._untouched = False

    def _publish(self) -> None:
        if self._failure is not None or self._lock.unfinished:
            return  # nothing more becomes visible
        if kernels.guard.faults() != self._faults:
            self._look_for_faults()
        if self.fsync != "always":
            self._cap = None
        self._arm()
        self._show()

    def _arm(self) -> None:
        """Tell the appender all that it has to know; at the end of whatever was not its own doing."""
        known = self.epochs.latest == self._leader_epoch and not self._untouched
        epoch = self._leader_epoch if known else -1
        unstable = self.producer_store.state.first_unstable_offset(self.high_watermark)
        stable = kernels.append.NEVER if unstable is None else max(unstable, self.log_start_offset)
        self._writer.settle()
        self.appender.stamp(epoch, self._cap is None, stable, self._faults)

    def _show(self) -> None:
        stable = min(self._stable_end(), self.high_watermark)
        self.state.publish(stable, self.high_watermark, self.log_end_offset, self.durable_offset)

    def _look_for_faults(self) -> None:
        """A map broke somewhere in this process. If it is one of ours, nothing is published any more."""
        self._faults = kernels.guard.faults()
        if self.state.broken or self._local.active.broken:
            path = self.state.path if self.state.broken else self._local.active.log.path
            raise self._fence(MappingFault("a page of the file cannot be had", path=path))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Subscribers`: after the high watermark moves."""
        self.acknowledges = True
        return self._subscribers.add(callback)

    def watch_points(self) -> tuple[int, SegmentList]:
        """Have `points` give out what the log holds now: its token, -1 if there is none, and the segments."""
        generation, truncations = self.state.load(tail.GENERATION), self.truncations()
        segments = self.segments
        return -1 if generation % 2 else self.points.watch(self.state.page, generation, truncations), segments

    # -- what the others tell ------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Tells readers in other processes that the set of segments changes; `points` pins maps of those before."""
        with self.state.changing():
            yield
        self.points.forget()

    def rolled(self, new: Segment) -> None:
        """Takes note of a new active segment."""
        self._forget_producers()
        self.producer_store.take_snapshot(new.base_offset)

    def _forget_producers(self) -> None:
        """Those that were not heard of for long (rule P8)."""
        self.producer_store.state.expire(self.clock.now_ms(), self.config.producer_id_expiration_ms)

    # -- changes of shape --------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Seal the active segment and start a new one."""
        self._may_change()
        with self._lock:
            self._check_whole()
            self._begin_writing()
            self._local.roll()
            self._arm()
        self.close_sealed()

    def truncate(self, offset: int) -> None:
        """Make `offset` the log end (rules X1 to X4). Durable on return; a crash on the way is made good at opening."""
        self._may_change()
        with self._sync_lock, self._lock:
            self._check_whole()
            if offset < 0:
                raise OffsetOutOfRange(f"cannot truncate to offset {offset}")
            if offset >= self.log_end_offset:
                self.epochs.truncate_from_end(offset)
                return
            with self.fencing():
                for segment in self._local.segments.unsynced():
                    segment.sync()
                kept = self._local.segments.floor(offset).cut_at(offset)[1]  # a crash leaves no more of it
                clean_offset.lower(self.disk, self.folder, min(kept, offset))
                self._announce_truncation(offset)
                self._local.truncate(offset)
                self.epochs.truncate_from_end(offset)
                self.producer_store.truncate(offset)
                now = self.clock.now_ms()
                self.producer_store.rebuild(self._local.segments, offset, {}, self._checkpoints.point, now)
                self.durable_offset = self._cap = offset
                self._checkpoint()
            self.points.forget()
            self._publish()

    def _announce_truncation(self, offset: int) -> None:
        """First what the next opening must know, then what readers must know, before a byte is changed."""
        end = min(self._local.segments.floor(offset).cut_at(offset)[1], self.durable_offset, offset)
        self.state.set_mark(end)
        self.state.sync()
        self._checkpoints.announce_truncation(self._local, offset, min(self.log_start_offset, offset))
        self.log_start_offset = min(self.log_start_offset, offset)
        self._cap = self.durable_offset = max(end, self.log_start_offset)
        self.state.store(tail.LOG_START, self.log_start_offset)
        self._show()
        self.state.truncating(offset)  # last: who knows of it then has looked for the end since, and found the new one

    def retire(self) -> None:
        """Close it for another handle to be opened later: who reads just now goes on, who writes gets ClosedError."""
        self._local.keeps_segments = True
        self.close()

    def close(self) -> None:
        """Sync everything, cut what was reserved, leave what Kafka expects of a clean shutdown, free the lock."""
        if self.is_closed:
            return
        if self._flusher is not None:
            self._flusher.stop()
        with ExitStack() as telling, self._sync_lock, self._lock, ExitStack() as closing:
            telling.callback(self._subscribers.notify)
            closing.callback(self._release)
            closing.callback(self._pending_deletes.remove_all)
            if self._failure is None and (self._lock.unfinished or self._sync_lock.unfinished):
                self._cut_short()
            if self._failure is None:
                self._close_cleanly()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or is the parent's."""
        return isinstance(self._failure, ClosedError) or os.getpid() != self._pid

    def abandon(self) -> None:
        """Nobody refers to it any more. Let go of all as a kill would: without a sync, and without a lock, as it may be
        the collector that calls, in the midst of anything.
        """
        if self._flusher is not None:
            self._flusher.stop(wait=False)
        self._release()

    def _release(self) -> None:
        fenced, self._failure = self._failure is not None, ClosedError("this partition is closed")
        self._writer.detach()
        self.points.close()
        self.state.wake()
        with suppress(StorageError) if fenced else nullcontext():  # what went wrong first is what one needs to know
            self._opened.close()

    def _close_cleanly(self) -> None:
        if self.durable_offset < self.log_end_offset:
            self._sync()
        active = self._local.active
        with self.fencing():
            if self._checkpoints.still_clean(active, self.log_start_offset):
                self._local.put_back()
                return
            for segment in self._local.segments.unsynced():
                segment.sync()  # a roll has cut it, perhaps after its last record was synced
            active.seal()
            active.sync()
            checkpoint = self._checkpoints.take(self._local, self.producer_store, self.log_start_offset)
            self._checkpoints.write_if_possible(checkpoint, self.producer_store, clean=True)
        self._publish()

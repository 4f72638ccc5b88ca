"""PartitionLog: the one writer of a partition. It composes the log, producers, epochs and watermarks under a lock.

Invariants, checked by `check`:

  | name               | holds always                                                     |
  | offsets-ordered    | log_start ≤ last_stable ≤ high_watermark ≤ log_end               |
  | durable-behind-end | durable ≤ log_end                                                |
  | one-active         | only the last segment takes appends                              |
  | epochs-rising      | leader epochs and their start offsets rise                       |

Durability: `always` syncs before an append returns; readers see only what is durable. `interval` syncs every
`flush.ms`; `never` leaves it to the system; readers see what is appended. A kill of the process loses nothing
acknowledged under any of them. A failed sync fences the partition for good, see `_fence`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from eventcore import _kernels as kernels
from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import (
    ClosedError,
    EventCoreError,
    FencedLeaderEpoch,
    MappingFault,
    OffsetMismatch,
    OffsetOutOfRange,
    StorageError,
    StorageFenced,
)
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.epochs import EpochCache
from eventcore.log.flusher import Flusher
from eventcore.log.folder_lock import FolderLocks, refuse_foreign_folder
from eventcore.log.group_commit import GroupCommit
from eventcore.log.ingest import Ingest
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import Recovery
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.subscribers import Subscribers
from eventcore.log.writer import NO_PRODUCER, BatchWriter, Columns, Producer
from eventcore.types import BatchInfo

FSYNC_MODES = ("always", "interval", "never")


class PartitionLog:
    """Opens a partition folder for writing and holds its lock until `close`."""

    def __init__(self, disk: Disk, folder: Path, config: LogConfig, clock: Clock, fsync: str) -> None:
        self.disk, self.folder, self.config, self.clock = disk, folder, config, clock
        self.fsync = fsync
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._sync_lock = threading.RLock()
        self._commits = GroupCommit(self._sync, lambda: self.durable_offset)
        self._failure: EventCoreError | None = None
        self._faults = kernels.guard.faults()
        self._subscribers = Subscribers()
        refuse_foreign_folder(disk, folder)
        with ExitStack() as opened:
            opened.callback(FolderLocks(disk, folder, f"process {self._pid}").release)
            self._open(opened)
            self._opened = opened.pop_all()
        self._flusher = Flusher(self, config.flush_ms) if fsync == "interval" else None

    def _open(self, opened: ExitStack) -> None:
        self.state = StateFile(self.disk, self.folder / STATE_NAME, create=True)
        opened.callback(self.state.close)
        self._checkpoints = Checkpoints(self.disk, self.folder, self.clock)
        opened.callback(self._checkpoints.close)
        with self.state.changing():
            self._recover(opened)
            self._publish()

    def _recover(self, opened: ExitStack) -> None:
        self._checkpoints.before_recovery()
        point, testament = self._checkpoints.point, self.state.testament
        self.epochs = EpochCache(self.disk, self.folder, write=True)
        recovery = Recovery(self.disk, self.folder, self.config, self.clock, self.epochs, point, testament)
        segments, self.report = recovery.run(), recovery.report
        self._local = LocalLog(self.disk, self.folder, self.config, self.clock, segments, self)
        opened.callback(self._local.close)
        if point.log_start_offset > self.log_end_offset:  # rule S8: all that is left lies below the log start
            self._local.restart_at(point.log_start_offset)
        self._writer = BatchWriter(self._local)
        self.log_start_offset = max(point.log_start_offset, self._local.segments.first.base_offset)
        self.producer_store = ProducerStore(self.disk, self.folder)
        self.producer_store.rebuild(self._local.segments, self.log_end_offset, recovery.recovered, point)
        recovery.seal()
        self._ingest = Ingest(self.config, self.clock, self._writer, self.producer_store, self.epochs)
        self._leader_epoch = max(self.epochs.latest, 0)
        self.durable_offset = self.high_watermark = self.log_end_offset
        self._unsynced: list[Segment] = [self._local.active]
        self._checkpoint()
        self.state.io = "pwrite" if self._local.active.log.private else "mmap"
        self.state.begin(self._local.active.batches_end)
        self.state.store(tail.LOG_START, self.log_start_offset)

    def _checkpoint(self) -> None:
        """Only where all of the log has been synced."""
        checkpoint = self._checkpoints.take(self._local, self.producer_store, self.log_start_offset)
        self._checkpoints.write(checkpoint, self.producer_store)

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def segments(self) -> SegmentList:
        """The segments now; the list does not change under a reader. Raises ClosedError."""
        found = self._local.segments  # before the check: a close says so first, and lets go of them then
        if isinstance(self._failure, ClosedError) or os.getpid() != self._pid:
            self._check_usable()
        return found

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
    def io(self) -> str:
        """See `StateFile.io`."""
        return self.state.io

    def truncations(self) -> int:
        """How often the log was truncated."""
        return self.state.load(tail.TRUNCATIONS)

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end."""
        return self.state.load(tail.TRUNCATED_TO)

    @property
    def leader_epoch(self) -> int:
        """The epoch that appends are stamped with."""
        return self._leader_epoch

    def set_leader_epoch(self, epoch: int) -> None:
        """Begin a new leader epoch at the log end, written at once (rule E4). Raises FencedLeaderEpoch.

        An opening drops an epoch without a record, as Kafka does.
        """
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
        if self._failure is not None:
            return  # nothing more becomes visible
        if kernels.guard.faults() != self._faults:
            self._look_for_faults()
        if self.fsync != "always":
            self.high_watermark = self.log_end_offset
        self._show()

    def _show(self) -> None:
        stable = min(self.last_stable_offset, self.high_watermark)
        self.state.publish(stable, self.high_watermark, self.log_end_offset, self.durable_offset)

    def _look_for_faults(self) -> None:
        """A map broke somewhere in this process. If it is one of ours, nothing is published any more."""
        self._faults = kernels.guard.faults()
        if self.state.broken or self._local.active.broken:
            path = self.state.path if self.state.broken else self._local.active.log.path
            raise self._fence(MappingFault("a page of the file cannot be had", path=path))

    def _acknowledge(self, end: int) -> None:
        if self.fsync == "always" or end - self.durable_offset >= self.config.flush_messages:
            self.sync_to(end)
        if self._subscribers.callbacks:
            self._subscribers.notify()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Subscribers`: after the high watermark moves."""
        return self._subscribers.add(callback)

    # -- durability --------------------------------------------------------------------------------------------

    def sync_to(self, end: int) -> None:
        """On return every offset below `end` survives a power cut. Waiting callers share one sync."""
        self._check_usable()
        if self.durable_offset < end:
            self._commits.wait_for(end)

    def _sync(self) -> None:
        with self._sync_lock:
            self._check_usable()
            try:
                with self._lock:
                    target, segments = self.log_end_offset, self._unsynced
                    self._unsynced = [self._local.active]
                    checkpoint = self._checkpoints.take_if_due(self._local, self.producer_store, self.log_start_offset)
                for segment in segments:
                    segment.sync()
                if checkpoint:
                    self._checkpoints.write_if_possible(checkpoint, self.producer_store)
            except StorageError as error:
                raise self._fence(error) from error
            with self._lock:
                self.durable_offset = target
                self.high_watermark = max(self.high_watermark, target)
                self.state.set_mark(target)
                self._publish()

    def _fence(self, error: StorageError) -> StorageFenced:
        """No second try: the system reports a failed sync once, and then takes the lost pages for written."""
        with self._lock:
            text = f"the storage failed ({error.message}); durable is everything below offset {self.durable_offset}"
            self._failure = StorageFenced(text, path=error.path or self.folder)
            self.state.fence()
            self.high_watermark = min(self.high_watermark, self.durable_offset)
            self._show()
            return self._failure

    def changing(self) -> AbstractContextManager[None]:
        """Tells readers in other processes that the set of segments changes."""
        return self.state.changing()

    @contextmanager
    def fencing(self) -> Iterator[None]:
        """A change that fails half-way leaves what only an opening can put in order."""
        try:
            yield
        except StorageError as error:
            raise self._fence(error) from error

    def rolled(self, new: Segment) -> None:
        """Takes note of a new active segment."""
        self._unsynced.append(new)
        self.producer_store.take_snapshot(new.base_offset)

    # -- changes of shape --------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Seal the active segment and start a new one."""
        with self._lock:
            self._check_usable()
            self._local.roll()

    def truncate(self, offset: int) -> None:
        """Make `offset` the log end (rules X1 to X4). Durable on return; a crash on the way is made good at opening."""
        with self._sync_lock, self._lock:
            self._check_usable()
            if offset < 0:
                raise OffsetOutOfRange(f"cannot truncate to offset {offset}")
            if offset >= self.log_end_offset:
                self.epochs.truncate_from_end(offset)
                return
            with self.fencing():
                for segment in self._unsynced:
                    segment.sync()
                self._announce_truncation(offset)
                self._local.truncate(offset)
                self.epochs.truncate_from_end(offset)
                self._unsynced = [self._local.active]
                self.producer_store.truncate(offset)
                self.producer_store.rebuild(self._local.segments, offset, {}, self._checkpoints.point)
                self.durable_offset = self.high_watermark = offset
                self._checkpoint()
            self._publish()

    def _announce_truncation(self, offset: int) -> None:
        """First what the next opening must know, then what readers must know, before a byte is changed."""
        end = min(self._local.segments.floor(offset).cut_at(offset)[1], self.durable_offset, offset)
        self.state.set_mark(end)
        self.state.sync()
        self._checkpoints.announce_truncation(self._local, offset, min(self.log_start_offset, offset))
        self.log_start_offset = min(self.log_start_offset, offset)
        self.high_watermark = self.durable_offset = max(end, self.log_start_offset)
        self.state.store(tail.LOG_START, self.log_start_offset)
        self._show()
        self.state.truncating(offset)  # last: who knows of it then has looked for the end since, and found the new one

    def delete_records(self, before: int) -> int:
        """Move the log start up to `before` (rule H5); whole segments below it go. Durable on return."""
        with self._sync_lock, self._lock:
            self._check_usable()
            before = self.high_watermark if before == -1 else before
            if before > self.high_watermark or before < 0:
                raise OffsetOutOfRange(f"cannot delete up to {before}: the high watermark is {self.high_watermark}")
            if before > self.log_start_offset:
                with self.fencing():
                    self._checkpoints.move_log_start(before)
                self.log_start_offset = before
                self.epochs.truncate_from_start(before)
                self.state.store(tail.LOG_START, before)
                self._publish()
            gone = self._local.drop_below(before)
            self.producer_store.remove([segment.base_offset for segment in gone])
            return self.log_start_offset

    def close(self) -> None:
        """Sync everything, cut what was reserved, leave what Kafka expects of a clean shutdown, free the lock."""
        if os.getpid() != self._pid or isinstance(self._failure, ClosedError):
            return
        if self._flusher is not None:
            self._flusher.stop()
        with self._sync_lock, self._lock, ExitStack() as closing:
            closing.callback(self._release)
            if self._failure is None:
                self._close_cleanly()
        self._subscribers.notify()

    def _release(self) -> None:
        fenced, self._failure, self._unsynced = self._failure is not None, ClosedError("this partition is closed"), []
        self.state.wake()
        with suppress(StorageError) if fenced else nullcontext():  # what went wrong first is what one needs to know
            self._opened.close()

    def _close_cleanly(self) -> None:
        if self.durable_offset < self.log_end_offset:
            self._sync()
        active = self._local.active
        with self.fencing():
            for segment in self._unsynced[:-1]:
                segment.sync()  # a roll has cut it, perhaps after its last record was synced
            active.seal()
            active.log.sync()
            checkpoint = self._checkpoints.take(self._local, self.producer_store, self.log_start_offset)
            self._checkpoints.write_if_possible(checkpoint, self.producer_store, clean=True)
        self._publish()

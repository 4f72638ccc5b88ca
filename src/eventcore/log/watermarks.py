"""Where the log of a writer starts and ends, for whom. `PartitionLog` moves these marks; here they are told.

Invariants, checked by `check`:

  | name               | holds always                                                     |
  | offsets-ordered    | log_start ≤ last_stable ≤ high_watermark ≤ log_end               |
  | durable-behind-end | durable ≤ log_end                                                |
  | one-active         | only the last segment takes appends                              |
  | epochs-rising      | leader epochs and their start offsets rise                       |
"""

from __future__ import annotations

import os
from copy import copy
from itertools import pairwise

from eventcore import _kernels as kernels
from eventcore.errors import ClosedError, EventCoreError, StorageFenced, UsageError
from eventcore.files.state_file import StateFile, tail
from eventcore.log.epochs import EpochCache
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore
from eventcore.log.segments import SegmentList


class Watermarks:
    """The offsets and segments of a log that this process writes."""

    log_start_offset: int
    durable_offset: int
    epochs: EpochCache
    producer_store: ProducerStore
    state: StateFile
    _local: LocalLog
    _cap: int | None
    """The high watermark; None: it is the log end."""
    _leader_epoch: int
    _failure: EventCoreError | None
    _pid: int
    _lock: kernels.write_lock.WriteLock
    """Guards all that is here, and the active segment. Taken after `_sync_lock`, if both are."""
    _sync_lock: kernels.write_lock.WriteLock
    """Guards what is durable: one sync at a time, no truncation, deletion or swap of names meanwhile."""

    @property
    def segments(self) -> SegmentList:
        """The segments now; the list does not change under a reader. Raises ClosedError."""
        found = self._local.segments  # before the check: a close says so first, and lets go of them then
        self.check_open()
        return found

    def check_open(self) -> None:
        """Raise ClosedError once it was closed for good, and in a fork's child. A fenced log can still be read."""
        is_over = isinstance(self._failure, ClosedError) and not self._local.keeps_segments
        if is_over or os.getpid() != self._pid:
            self._check_usable()

    @property
    def log_end_offset(self) -> int:
        """The offset the next record gets."""
        return self._local.end_offset

    @property
    def high_watermark(self) -> int:
        """The end of what may be read."""
        return self.log_end_offset if self._cap is None else self._cap

    @property
    def last_stable_offset(self) -> int:
        """The end of what committed readers may read (rule H4), as it was shown. Within an append the log is longer
        already than what is known of its transactions, and a thread may ask then.
        """
        return min(self.state.load(tail.LAST_STABLE), self.high_watermark)  # a truncation lowers that one first

    def _stable_end(self) -> int:
        end = self.high_watermark
        unstable = self.producer_store.state.first_unstable_offset(end)
        return end if unstable is None else max(min(unstable, end), self.log_start_offset)

    @property
    def is_fenced(self) -> bool:
        """Whether its storage failed."""
        return isinstance(self._failure, StorageFenced)

    @property
    def segment_count(self) -> int:
        """How many segments are open."""
        return len(self._local.segments)

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

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise copy(self._failure)  # each gets an error of its own, with its own traceback
        if os.getpid() != self._pid:
            raise ClosedError("this partition was opened by the parent of this process")

    def _check_whole(self) -> None:
        """`_check_usable` for who has `_lock`: nobody may go on behind a change that did not come to its end."""
        if self._failure is not None:
            self._check_usable()
        if self._lock.unfinished or (self._sync_lock.unfinished and self._sync_lock.held()):
            raise self._cut_short()

    def _cut_short(self) -> EventCoreError:
        raise NotImplementedError

    def _may_change(self) -> None:
        """Asked before any lock is taken: a fork's child may find them held by threads that it does not have.

        A signal handler, a finalizer or a value with code of its own cannot change a log that is being changed.
        """
        if os.getpid() != self._pid:
            self._check_usable()
        if self._lock.held():
            raise UsageError(
                "a change of a partition from within a change of it, in one thread",
                hint="in a signal handler or finalizer only note what there is to append",
            )

    def check(self) -> None:
        """Assert the invariants of the table above."""
        assert self.log_start_offset <= self.last_stable_offset <= self.high_watermark <= self.log_end_offset
        assert self.durable_offset <= self.log_end_offset
        assert [segment for segment in self.segments if segment.active] == [self.segments.active]
        assert all(low < high for low, high in pairwise(self.epochs.entries))

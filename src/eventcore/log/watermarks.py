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
from itertools import pairwise

from eventcore.errors import ClosedError, EventCoreError
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
        return self.state.load(tail.LAST_STABLE)

    def _stable_end(self) -> int:
        end = self.high_watermark
        unstable = self.producer_store.state.first_unstable_offset(end)
        return end if unstable is None else max(min(unstable, end), self.log_start_offset)

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
            raise self._failure
        if os.getpid() != self._pid:
            raise ClosedError("this partition was opened by the parent of this process")

    def check(self) -> None:
        """Assert the invariants of the table above."""
        assert self.log_start_offset <= self.last_stable_offset <= self.high_watermark <= self.log_end_offset
        assert self.durable_offset <= self.log_end_offset
        assert [segment for segment in self.segments if segment.active] == [self.segments.active]
        assert all(low < high for low, high in pairwise(self.epochs.entries))

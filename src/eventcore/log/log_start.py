"""What moves the start of a log up: deletion by offset, and retention. `PartitionLog` has the rest of the writer."""

from __future__ import annotations

from eventcore.config import LogConfig
from eventcore.errors import OffsetOutOfRange
from eventcore.files.state_file import tail
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.durability import Durability
from eventcore.log.pending_deletes import PendingDeletes
from eventcore.log.retention import Retained, count_expired, facts_of


class LogStart(Durability):
    """The log start is durable before files below it go, so a crash brings nothing back."""

    config: LogConfig
    _checkpoints: Checkpoints
    _pending_deletes: PendingDeletes

    def _begin_writing(self) -> None:
        raise NotImplementedError

    def _forget_producers(self) -> None:
        raise NotImplementedError

    def delete_records(self, before: int) -> int:
        """Move the log start up to `before` (rule H5); whole segments below it go. Durable on return."""
        self._may_change()
        with self._sync_lock, self._lock:
            self._check_whole()
            before = self.high_watermark if before == -1 else before
            if before > self.high_watermark or before < 0:
                raise OffsetOutOfRange(f"cannot delete up to {before}: the high watermark is {self.high_watermark}")
            self._move_log_start(before)
            gone = self._local.drop_below(before)
            self.producer_store.remove([segment.base_offset for segment in gone])
            return self.log_start_offset

    def _move_log_start(self, offset: int) -> None:
        if offset > self.log_start_offset:
            with self.fencing():
                self._checkpoints.move_log_start(offset)
                self.log_start_offset = offset
                self.epochs.truncate_from_start(offset)
                self.state.store(tail.LOG_START, offset)
            self._publish()

    def retain(self, now: int) -> Retained:
        """Take out what retention has no use for (rules T1 to T8); durable on return. The files go later.

        Also removes files whose time has come, of those that were taken out before, and forgets producers that were
        not heard of for `producer.id.expiration.ms`.
        """
        self._may_change()
        with self._sync_lock, self._lock:
            self._check_whole()
            self._forget_producers()
            self._pending_deletes.remove_due(now)
            facts, marks = facts_of(self._local.segments, now), (self.log_start_offset, self.high_watermark)
            count = count_expired(facts, self.config, log_start=marks[0], high_watermark=marks[1], now=now)
            if count:
                if count == len(facts):
                    self._begin_writing()
                    self._local.roll()
                self._move_log_start(list(self._local.segments)[count].base_offset)
                gone = self._local.set_aside(count, self._pending_deletes)
                self.producer_store.remove([segment.base_offset for segment in gone])
            return Retained(count, sum(segment.size for segment in facts[:count]))

"""Partition: the public face of one log. It reads for everybody and writes if it was opened for that.

A partition is an append-only sequence: `append`, `extend`, `p[i]`, `p[i:j]`, `for`. Offsets are its indexes.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, Union

from eventcore.clock import Time, to_ms
from eventcore.errors import ReadOnly, StorageError, UsageError
from eventcore.format import control
from eventcore.log import column_input
from eventcore.log.compaction import MAP_BYTES, Cleanable, CompactionReport
from eventcore.log.ingest import TransactionEnd
from eventcore.log.partition_log import PartitionLog
from eventcore.log.reads import Reads
from eventcore.log.retention import Retained
from eventcore.log.sequenced import NEXT
from eventcore.log.shared_log import SharedLog
from eventcore.log.writer import Producer as BatchProducer
from eventcore.types import NO_TIMESTAMP, BatchInfo, Buffer, Header, Record

_ORIGINS = ("client", "replica")
Sequencer = Callable[[Any, int, int, int, bool], Union[BatchInfo, None]]


class Partition(Reads):
    """One partition of a topic. Get one from `open_partition`; close it, or use it in a `with` statement.

    Readers see whole batches below `high_watermark`. All methods may be called from several threads. One that nobody
    refers to any more is left as a kill would leave it, with a ResourceWarning: the next one recovers the log.
    """

    def __init__(self, log: PartitionLog | SharedLog) -> None:
        super().__init__(log)
        appender = log.appender if isinstance(log, PartitionLog) else None
        self._append: Callable[[Any, Any, Any], int] = appender.append if appender else decline
        self._append_all: Callable[[Any], int] = appender.append_all if appender else decline
        self._append_sequenced: Sequencer = appender.append_sequenced if appender else decline_sequenced
        self._commit: Callable[[Any, int, int, int, bool], int] = appender.commit if appender else decline

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Partition {str(self.path)!r} mode={self.mode!r}>"

    def close(self) -> None:
        """Close it. Opened for writing: everything appended is durable on return, and Kafka's tools accept the folder.

        What was read stays valid. From then on everything but `path`, `mode`, `config` and `recovery` raises
        ClosedError, a tail that waits and an iteration that goes on, too; subscribers are told. Closing twice is fine.
        """
        self._log.close()

    def __del__(self) -> None:
        """Nobody can close it any more."""
        log = self.__dict__.get("_log")
        if log is not None and not log.is_closed and not sys.is_finalizing():
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                with suppress(StorageError):  # nobody is there to be told
                    log.abandon()

    def _writer(self) -> PartitionLog:
        if not isinstance(self._log, PartitionLog):
            raise ReadOnly(f"{self.path} is open for reading only")
        return self._log

    # What the appender does not do alone. It may take a while, in which the log has to be there.

    def _write(self, items: Sequence[Any], atomic: bool, expected_offset: int | None, wait: bool = True) -> range:
        return self._writer().append(items, atomic=atomic, expected_offset=expected_offset, wait=wait)

    def _write_sequenced(self, records: Sequence[Any], who: BatchProducer, wait: bool) -> BatchInfo:
        return self._writer().append_sequenced(records, who, wait)

    def _write_end(self, end: TransactionEnd, wait: bool) -> int:
        return self._writer().end_transaction(end, wait)

    def _acknowledge(self, end: int, wait: bool = True) -> None:
        self._writer().acknowledge(end, wait)

    def append(
        self,
        value: Buffer | None,
        key: Buffer | None = None,
        headers: Sequence[Header] = (),
        timestamp: Time | None = None,
        *,
        expected_offset: int | None = None,
    ) -> int:
        """Append one record as one batch; returns its offset. On return it is as durable as `fsync` says.

        `timestamp` is ms since the epoch or an aware datetime; None means now. With `expected_offset` nothing is
        appended, and OffsetMismatch raised, unless the record would get that offset.
        """
        if expected_offset is None and not headers:
            offset = self._append(value, key, timestamp)
            if offset >= 0:
                if self._log.acknowledges:
                    self._acknowledge(offset + 1)
                return offset
        time = NO_TIMESTAMP if timestamp is None else to_ms(timestamp)
        record = Record(-1, time, key, value, headers)  # type: ignore[arg-type]
        return self._write([record], True, expected_offset).start

    def extend(
        self,
        records: Iterable[Any],
        *,
        atomic: bool = False,
        expected_offset: int | None = None,
        wait: bool = True,
    ) -> range:
        """Append values, (key, value) pairs or Records, cut into batches at `max.message.bytes`; returns the offsets.
        On return they are as durable as `fsync` says, unless it is not to `wait` for that: then a later `sync` does,
        and until then nobody sees them with `fsync="always"`.

        With `atomic` they become one batch, or RecordTooLarge is raised. Otherwise, if one is refused, the batches
        before it stay appended, visible and durable as if the call had returned, and the error is raised: `appended` of
        an EventCoreError, or a note of another one (Python 3.11), has their offsets.
        """
        if expected_offset is None:
            first = self._append_all(records)
            if first >= 0:
                end = first + len(records)  # type: ignore[arg-type]
                if self._log.acknowledges:
                    self._acknowledge(end, wait)
                return range(first, end)
        items = records if isinstance(records, (list, tuple)) and not isinstance(records, Record) else list(records)
        return self._write(items, atomic, expected_offset, wait)

    def extend_columns(
        self, values: Any = None, keys: Any = None, timestamps: Any = None, *, batch_records: int | None = None
    ) -> range:
        """Append records given as columns of equal length, without a Python object a record; returns the offsets.

        A column of keys or values is (data, offsets) or (data, offsets, nulls): bytes back to back, the rows + 1 int32
        or int64 offsets into them, and an array of bool that is True where a row is null. Or a 2-D uint8 array, a row
        each; or an Arrow array of (large_)binary or (large_)string, from whatever library. Timestamps are an array of
        int64 (ms since the epoch) or of datetime64. A column that is missing is null in every row; missing timestamps
        are now. Batches have `batch_records` records at most, and `max.message.bytes`.

        The columns are read in place, while other threads may run: what changes meanwhile may get into the log, but
        only as whole records. Raises UsageError for what is no column or of another length than the others, and
        ValueError for offsets that go backwards or out of their bytes; the batches before such a row stay appended.
        """
        if batch_records is not None and batch_records < 1:
            raise UsageError(f"batch_records is {batch_records}", hint="give 1 or more, or None")
        return self._writer().append(column_input.taken(values, keys, timestamps, batch_records or 0))

    def append_batches(self, data: Buffer, origin: Literal["client", "replica"] = "client") -> BatchInfo:
        """Append encoded RecordBatch v2 bytes.

        `client`: one batch as a producer sends it; it is checked whole (rules of Kafka's LogValidator), gets its
        offsets here, and a repeat of an idempotent producer's batch gets its first offsets again. `replica`: batches
        as a leader's Fetch response carries them; offsets and epochs are kept, a cut batch at the end is left out.
        """
        if origin not in _ORIGINS:
            raise UsageError(f"origin is {origin!r}", hint=f"allowed are {' and '.join(_ORIGINS)}")
        return self._writer().append_encoded(memoryview(data).cast("B"), origin)

    def append_sequenced(
        self,
        records: Sequence[Any],
        producer_id: int,
        epoch: int = 0,
        sequence: int | None = None,
        *,
        transactional: bool = False,
        wait: bool = True,
    ) -> BatchInfo:
        """Append records of an idempotent producer as one batch, once; see `extend` for what they may be.

        `sequence` counts the producer's records in this partition and epoch, from 0 on: it is that of the first one.
        None stands for the next. One of the last five batches again is not appended but answered with its offsets, and
        `duplicate` is set; that is so after a restart, too. On return the batch is as durable as `fsync` says, unless
        it is not to `wait` for that (see `extend`). A `transactional` batch begins a transaction of the producer, or
        goes on with it: until `end_transaction` readers of committed records do not see it, nor anything behind it.

        Raises OutOfOrderSequence for a sequence that does not follow, InvalidProducerEpoch for an older epoch than was
        seen, InvalidTxnState for a batch outside of the transaction that is open, RecordTooLarge for what does not fit
        into a batch; nothing is appended then (KIP-98). `store.producer` does it under a name.
        """
        sequence = NEXT if sequence is None else sequence
        info = self._append_sequenced(records, producer_id, epoch, sequence, transactional)
        if info is None:
            who = BatchProducer(producer_id, epoch, sequence, transactional)
            return self._write_sequenced(records, who, wait)
        if self._log.acknowledges:
            self._acknowledge(info.last_offset + 1, wait)
        return info

    def end_transaction(
        self,
        producer_id: int,
        epoch: int,
        *,
        commit: bool,
        coordinator_epoch: int = 0,
        raises_epoch: bool = False,
        wait: bool = True,
    ) -> int:
        """Append the marker that commits or aborts a producer's transaction in this partition; its offset.

        On return readers of committed records see the transaction, or never will, once all that began before it has
        ended; and it is as durable as `fsync` says, if it is to `wait` for that. With `raises_epoch` the coordinator
        ends each transaction under a new epoch: a marker of the same epoch then comes too late (KIP-890). Without an
        open transaction the marker ends nothing. Raises InvalidProducerEpoch and CoordinatorFenced for a marker that is
        older than what was seen.
        """
        if commit:
            marker = control.marker_record(control.COMMIT, coordinator_epoch)
            offset = self._commit(marker, producer_id, epoch, coordinator_epoch, raises_epoch)
            if offset >= 0:
                if self._log.acknowledges:
                    self._acknowledge(offset + 1, wait)
                return offset
        end = TransactionEnd(producer_id, epoch, commit, coordinator_epoch, raises_epoch)
        return self._write_end(end, wait)

    def next_sequence(self, producer_id: int, epoch: int = 0) -> int:
        """The sequence of the next record of an idempotent producer: 0 if nothing is known of it in that epoch."""
        return self._writer().next_sequence(producer_id, epoch)

    def set_leader_epoch(self, epoch: int) -> None:
        """Begin a new leader epoch at the log end; durable with its first record. Raises FencedLeaderEpoch if older."""
        self._writer().set_leader_epoch(epoch)

    def sync(self) -> None:
        """On return everything appended before the call survives a power cut."""
        log = self._writer()
        log.sync_to(log.log_end_offset)

    def roll(self) -> None:
        """Seal the active segment and begin a new one; nothing happens if the active one is empty."""
        self._writer().roll()

    def truncate(self, offset: int) -> None:
        """Drop every record at or above `offset`, as a follower does; durable on return."""
        self._writer().truncate(offset)

    def delete_records(self, before: int) -> int:
        """Move the log start to `before` (-1: the high watermark); returns it. Durable on return."""
        return self._writer().delete_records(before)

    def cleanable(self, now: Time | None = None) -> Cleanable:
        """What `compact` would clean now: offsets, bytes, the dirty ratio, and whether that is due.

        `now` is ms since the epoch or an aware datetime, None the clock's.
        """
        log = self._writer()
        return log.cleanable(log.clock.now_ms() if now is None else to_ms(now))

    def compact(
        self,
        *,
        map_bytes: int = MAP_BYTES,
        throttle: Callable[[int], None] | None = None,
        now: Time | None = None,
    ) -> CompactionReport | None:
        """Keep of each key only the latest record, in all closed segments; None if there was nothing to clean.

        Kafka's log compaction: records keep their offsets, a record without a value (a tombstone) goes, too, once
        `delete.retention.ms` has passed since it was first cleaned, records without a key go. Durable on return.
        Appends and reads go on meanwhile. `roll` first, if what was just appended is to be cleaned, too.

        Keys are compared, not only their hashes. When the offset map, of `map_bytes`, is full (16 bytes a key, 3 of 4
        slots in use) a pass ends and another one follows. `throttle` is called with the bytes of each step, read or
        written; it may sleep, or raise to end the compaction: what was not finished leaves nothing behind. Beyond the
        map it takes 64 MiB at most. A damaged batch is put into `quarantine/` and reported, and the rest cleaned.

        Raises LogTruncated if the log is cut meanwhile, DiskFull with nothing changed; one segment more than the log
        has is needed, until `file.delete.delay.ms` is over.
        """
        log = self._writer()
        return log.compact(map_bytes, throttle, log.clock.now_ms() if now is None else to_ms(now))

    def retain(self, now: Time | None = None) -> Retained:
        """Remove the oldest segments that `retention.ms`, `retention.bytes` and the log start have no use for, and move
        the log start up; returns how many, and their bytes. Durable on return.

        `now` is ms since the epoch or an aware datetime, None the clock's. A segment's age counts from its largest
        timestamp, or, where that lies in the future or there is none, from its last write. The files are called
        `.deleted` for `file.delete.delay.ms`, then the next call removes them. A store's housekeeping calls it.
        """
        log = self._writer()
        return log.retain(log.clock.now_ms() if now is None else to_ms(now))


def decline(*arguments: object) -> int:
    """What `Appender.append` and `append_all` do where they can do nothing."""
    return -1


def decline_sequenced(*arguments: object) -> None:
    """What `Appender.append_sequenced` does there."""

"""Partition: the public face of one log. It reads for everybody and writes if it was opened for that.

A partition is an append-only sequence: `append`, `extend`, `p[i]`, `p[i:j]`, `for`. Offsets are its indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

from eventcore.clock import Time, to_ms
from eventcore.config import LogConfig
from eventcore.errors import CorruptRecord, LogTruncated, OffsetOutOfRange, ReadOnly, StorageError, UsageError
from eventcore.log import columns, fetched, verify
from eventcore.log.batches import BatchEntry, walk_batches
from eventcore.log.partition_log import PartitionLog
from eventcore.log.producers import Producer
from eventcore.log.reader import LogReader
from eventcore.log.recovery import RecoveryReport
from eventcore.log.segments import SegmentList
from eventcore.log.shared_log import SharedLog
from eventcore.log.tailing import Tail
from eventcore.types import NO_TIMESTAMP, BatchInfo, Buffer, EpochEndOffset, Header, Record

Isolation = Literal["read_uncommitted", "read_committed"]
_ISOLATIONS = ("read_uncommitted", "read_committed")
_ORIGINS = ("client", "replica")


class Partition:
    """One partition of a topic. Get one from `open_partition`; close it, or use it in a `with` statement.

    Readers see whole batches below `high_watermark`. All methods may be called from several threads.
    """

    def __init__(self, log: PartitionLog | SharedLog) -> None:
        self._log = log

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Partition {str(self.path)!r} mode={self.mode!r}>"

    def close(self) -> None:
        """Close it. Opened for writing: everything appended is durable on return, and Kafka's tools accept the folder.

        What was read stays valid. Closing twice is fine.
        """
        self._log.close()

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The folder."""
        return self._log.folder

    @property
    def mode(self) -> str:
        """`rw` or `r`."""
        return "rw" if isinstance(self._log, PartitionLog) else "r"

    @property
    def config(self) -> LogConfig:
        """The configuration it was opened with."""
        return self._log.config

    @property
    def recovery(self) -> RecoveryReport:
        """What opening it found and did."""
        return self._log.report

    @property
    def io(self) -> str:
        """How the log is written: `mmap`, or `pwrite` where the file system cannot reserve blocks; "" by nobody now."""
        return self._log.io

    @property
    def log_start_offset(self) -> int:
        """The first offset that may be read."""
        return self._log.log_start_offset

    @property
    def log_end_offset(self) -> int:
        """The offset the next record gets; what lies between it and the high watermark is not yet readable."""
        return self._log.log_end_offset

    @property
    def high_watermark(self) -> int:
        """The end of what may be read: with `fsync="always"` what is durable, else the log end."""
        return self._log.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """The end of what readers of committed data may read: the first record of the oldest open transaction."""
        return self._log.last_stable_offset

    @property
    def durable_offset(self) -> int:
        """Everything below survives a power cut."""
        return self._log.durable_offset

    @property
    def leader_epoch(self) -> int:
        """The epoch that appended batches carry."""
        return self._log.leader_epoch

    def producers(self) -> list[Producer]:
        """The idempotent and transactional producers this partition knows."""
        return list(self._log.producer_store.state)

    @property
    def segments(self) -> SegmentList:
        """The segments now, for tools that look at files."""
        return self._log.segments

    # -- write -------------------------------------------------------------------------------------------------

    def _writer(self) -> PartitionLog:
        if not isinstance(self._log, PartitionLog):
            raise ReadOnly(f"{self.path} is open for reading only")
        return self._log

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
        time = NO_TIMESTAMP if timestamp is None else to_ms(timestamp)
        record = Record(-1, time, key, value, headers)  # type: ignore[arg-type]
        return self._writer().append([record], atomic=True, expected_offset=expected_offset).start

    def extend(self, records: Iterable[Any], *, atomic: bool = False, expected_offset: int | None = None) -> range:
        """Append values, (key, value) pairs or Records, cut into batches at `max.message.bytes`; returns the offsets.

        With `atomic` they become one batch, or RecordTooLarge is raised. Otherwise, if one is refused, the batches
        before it stay appended, and the error is raised.
        """
        items = records if isinstance(records, (list, tuple)) and not isinstance(records, Record) else list(records)
        return self._writer().append(items, atomic=atomic, expected_offset=expected_offset)

    def append_batches(self, data: Buffer, origin: Literal["client", "replica"] = "client") -> BatchInfo:
        """Append encoded RecordBatch v2 bytes.

        `client`: one batch as a producer sends it; it is checked whole (rules of Kafka's LogValidator), gets its
        offsets here, and a repeat of an idempotent producer's batch gets its first offsets again. `replica`: batches
        as a leader's Fetch response carries them; offsets and epochs are kept, a cut batch at the end is left out.
        """
        if origin not in _ORIGINS:
            raise UsageError(f"origin is {origin!r}", hint=f"allowed are {' and '.join(_ORIGINS)}")
        return self._writer().append_encoded(memoryview(data).cast("B"), origin)

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

    # -- read --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many offsets may be read; compaction and markers may leave fewer records.

        `list(partition)` makes room for as many; `list(partition.read())` only for what is there.
        """
        return max(self.high_watermark - self.log_start_offset, 0)

    def __iter__(self) -> Iterator[Record]:
        return self.read(self.log_start_offset)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """The record at an offset, or the records of a range of offsets. Negative ones count from the end."""
        since, start, end = self.since(), self.log_start_offset, self.high_watermark
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise UsageError("a range of offsets has no step", hint="slice the list that comes back")
            low = start if index.start is None else max(index.start + (end if index.start < 0 else 0), start)
            high = end if index.stop is None else index.stop + (end if index.stop < 0 else 0)
            low, high = max(low, start), min(high, end)
            return [record for chunk in self.chunks(low, high, since=since) for record in chunk] if low < high else []
        offset = index + end if index < 0 else index
        if not start <= offset < end:
            raise OffsetOutOfRange(f"offset {offset} is outside [{start}, {end})")
        for chunk in self.chunks(offset, offset + 1, since=since):
            for record in chunk:
                return record
        raise OffsetOutOfRange(f"no record at offset {offset}: it was compacted away or is a marker")

    def _check_start(self, offset: int | None, end: int) -> int:
        start = self.log_start_offset
        if offset is None:
            return start
        if not start <= offset <= end:
            raise OffsetOutOfRange(f"offset {offset} is outside [{start}, {end}]")
        return offset

    def read(self, offset: int | None = None, *, isolation: Isolation = "read_uncommitted") -> Iterator[Record]:
        """The records from `offset` (default: the log start) to the end known now. The end itself is empty; beyond
        it, or below the log start, raises OffsetOutOfRange.
        """
        committed, since = _committed(isolation), self.since()
        end = self.end(committed)
        start = self._check_start(offset, max(end, self.high_watermark))
        return (record for chunk in self.chunks(start, end, committed, since) for record in chunk)

    def since(self) -> int:
        """Truncations so far. Taken before the log's end is, it tells whether what is read up to there was there."""
        _ = self._log.segments  # a reader finds its writer first
        return self._log.truncations()

    def chunks(
        self, start: int, stop: int, committed: bool = False, since: int | None = None
    ) -> Iterator[list[Record]]:
        """The records of [start, stop) in lists, as they are decoded. Damaged bytes raise CorruptRecord; a
        truncation `since` (see there), in this process or another, raises LogTruncated.
        """
        with self._untruncated(self.since() if since is None else since) as check:
            for records in LogReader(self._segments_from(start), start, stop, committed=committed).records():
                check()
                yield records
            check()  # it may have ended too soon

    def _segments_from(self, start: int) -> SegmentList:
        """The segments now; OffsetOutOfRange if what is at `start` was deleted: reading would begin behind it."""
        segments, first = self._log.segments, self.log_start_offset
        if start < first:
            raise OffsetOutOfRange(f"offset {start} was deleted: the log starts at {first}")
        return segments

    @contextmanager
    def _untruncated(self, since: int) -> Iterator[Callable[[], None]]:
        """What is read inside is right only if the log was not truncated meanwhile: `check` before handing it out."""

        def check() -> None:
            if self._log.truncations() != since:
                raise LogTruncated("the log was truncated while it was read")

        try:
            yield check
        except StorageError:
            check()
            raise

    def tail(
        self, offset: int | None = None, timeout: float | None = None, *, isolation: Isolation = "read_uncommitted"
    ) -> Tail:
        """Follow the log from `offset` (default: its end now), waiting for more; for `for` and `async for`.

        It sleeps until something is published, in this process or another. With a `timeout` in seconds it ends
        once nothing has come for that long.
        """
        committed = _committed(isolation)
        end = self.end(committed)
        return Tail(self, end if offset is None else self._check_start(offset, end), timeout, committed)

    def end(self, committed: bool = False) -> int:
        """The end of what may be read now."""
        return self.last_stable_offset if committed else self.high_watermark

    def truncations(self) -> int:
        """How often the log was truncated; -1 for a reader without a living writer."""
        return self._log.truncations()

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end."""
        return self._log.truncated_to()

    def signal(self) -> int:
        """Read it, look at the log, then `wait` for it to change."""
        return self._log.state.signal() if isinstance(self._log, PartitionLog) else self._log.signal()

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until something was published since `signal` gave `seen`, at most `timeout_s` seconds."""
        log = self._log
        return log.state.wait(seen, timeout_s) if isinstance(log, PartitionLog) else log.wait(seen, timeout_s)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback()` after the high watermark moves, from the thread that moved it (or, for mode `r`, from a
        thread of this handle). It must not block. Returns a function that ends the subscription.
        """
        return self._log.subscribe(callback)

    def columns(
        self, start: int | None = None, stop: int | None = None, *, isolation: Isolation = "read_uncommitted"
    ) -> columns.ColumnBatch:
        """The records of [start, stop) as numpy columns over one pinned buffer; nothing is copied if they are
        uncompressed and lie in one segment.
        """
        committed, since = _committed(isolation), self.since()
        end = self.end(committed)
        first = self._check_start(start, end)
        stop = end if stop is None else min(stop, end)
        with self._untruncated(since) as check:
            reader = LogReader(self._segments_from(first), first, stop, committed=committed)
            found = columns.read_columns(reader, first, stop)
            check()
        return found

    def fetch(
        self, offset: int, max_bytes: int = 1 << 20, *, isolation: Isolation = "read_uncommitted"
    ) -> fetched.Fetched:
        """Whole batches from the one that holds `offset` on, without a copy: what a Fetch response carries.

        At least one batch comes, even above `max_bytes`; none at the end. They lie in one segment.
        """
        committed, since = _committed(isolation), self.since()
        stop = self.end(committed)
        self._check_start(offset, max(stop, self.log_end_offset))
        segments = self._segments_from(offset)
        with self._untruncated(since) as check:
            data, slices, next_offset = fetched.fetch_batches(segments, offset, stop, max_bytes)
            check()
        return fetched.Fetched(
            offset,
            next_offset,
            data,
            self.high_watermark,
            self.last_stable_offset,
            self.log_start_offset,
            fetched.aborted_in(segments, offset, next_offset) if committed else (),
            slices,
        )

    def batches(self, path: Path | None = None) -> Iterator[BatchEntry]:
        """Every batch as it stands on disk, markers and wrong CRCs included: what a dump shows. With `path`, only
        those of that `.log` file.
        """
        return walk_batches(self._log.segments, path)

    def offset_for_time(self, timestamp: Time) -> int | None:
        """The offset of the first record at or after `timestamp` (rule D7); None if there is none."""
        wanted, start, stop = to_ms(timestamp), self.log_start_offset, self.high_watermark
        segments = self._log.segments
        for segment in segments:
            if segments.next_base(segment) <= start or not segment.may_hold(wanted):
                continue
            position = segment.find_timestamp(wanted, start)
            while position < segment.log.size:
                header = segment.header_at(position)
                reader = LogReader(SegmentList([segment]), max(start, header.base_offset), stop)
                for record in [] if header.control else reader.decode(segment, position, header):
                    if record.timestamp >= wanted:
                        return record.offset
                position = segment.find_timestamp(wanted, header.next_offset)
        return None

    def end_offset_for_epoch(self, epoch: int) -> EpochEndOffset:
        """The largest known epoch ≤ `epoch`, and the offset where it ended (KIP-320); (-1, -1) if unknown."""
        return self._log.epochs.end_offset_for(epoch, self.log_end_offset)

    def verify(self) -> verify.VerifyReport:
        """Read and check every byte, index and CRC; problems are listed, not raised."""
        try:
            return verify.verify_log(self._log.segments, self._log.epochs, self.log_end_offset)
        except CorruptRecord as error:
            return verify.VerifyReport(problems=[verify.Problem(error.path or "", -1, -1, error.message)])


def _committed(isolation: str) -> bool:
    if isolation not in _ISOLATIONS:
        raise UsageError(f"isolation is {isolation!r}", hint=f"allowed are {' and '.join(_ISOLATIONS)}")
    return isolation == "read_committed"

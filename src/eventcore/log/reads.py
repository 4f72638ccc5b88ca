"""Reads: what one partition is, and everything that reads it. `Partition` adds what writes.

Nothing here takes a lock: a reader takes the immutable list of segments and an end, and the bytes below do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import overload

from eventcore.clock import Time, to_ms
from eventcore.config import LogConfig
from eventcore.errors import CorruptRecord, OffsetOutOfRange, UsageError
from eventcore.files.state_file import tail as state_words
from eventcore.log import fetched, verify
from eventcore.log.batches import BatchEntry, walk_batches
from eventcore.log.partition_log import PartitionLog
from eventcore.log.point_reads import read_point
from eventcore.log.ranges import Isolation, Ranges, is_committed
from eventcore.log.reader import LogReader
from eventcore.log.recovery import RecoveryReport
from eventcore.log.segments import SegmentList
from eventcore.log.shared_log import SharedLog
from eventcore.log.tailing import Standing, Tail
from eventcore.types import EpochEndOffset, Producer, Record


class Reads(Ranges):
    """The reading half of a `Partition`. Readers see whole batches below `high_watermark`."""

    def __init__(self, log: PartitionLog | SharedLog) -> None:
        super().__init__(log)
        self._point = log.points.get

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
        return self._opened.io

    @property
    def log_start_offset(self) -> int:
        """The first offset that may be read."""
        return self._opened.log_start_offset

    @property
    def log_end_offset(self) -> int:
        """The offset the next record gets; what lies between it and the high watermark is not yet readable."""
        return self._opened.log_end_offset

    @property
    def high_watermark(self) -> int:
        """The end of what may be read: with `fsync="always"` what is durable, else the log end."""
        return self._opened.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """The end of what readers of committed data may read: the first record of the oldest open transaction."""
        return self._opened.last_stable_offset

    @property
    def durable_offset(self) -> int:
        """Everything below survives a power cut."""
        return self._opened.durable_offset

    @property
    def leader_epoch(self) -> int:
        """The epoch that appended batches carry."""
        return self._opened.leader_epoch

    def producers(self) -> list[Producer]:
        """The idempotent and transactional producers this partition knows."""
        return list(self._opened.producer_store.state)

    def producer(self, producer_id: int) -> Producer | None:
        """What this partition knows of one producer."""
        return self._opened.producer_store.state.table.find(producer_id)

    @property
    def segments(self) -> SegmentList:
        """The segments now, for tools that look at files."""
        return self._log.segments

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
        """The record at an offset, or the records of a range of offsets. Negative ones count from the end.

        One record costs the same in batches of any size, by a table of places (`_kernels.points`) that is filled as
        records are asked for: 24 bytes for eight of them, at most 24 MiB, and 8 MiB of what was compressed.
        """
        found = self._point(index)
        if found is not None:
            return found
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
        found = read_point(self._log.points, *self._log.watch_points(), offset, end)
        if found is not None:
            return found
        for chunk in self.chunks(offset, offset + 1, since=since):
            for record in chunk:
                return record
        raise OffsetOutOfRange(f"no record at offset {offset}: it was compacted away or is a marker")

    def tail(
        self,
        offset: int | None = None,
        timeout: float | None = None,
        *,
        isolation: Isolation = "read_uncommitted",
        spin: float = 0.0,
    ) -> Tail:
        """Follow the log from `offset` (default: its end now), waiting for more; for `for` and `async for`.

        It sleeps until something is published, in this process or another. With a `timeout` in seconds it ends
        once nothing has come for that long, and stays so: another tail goes on from its `position`.

        `spin`: so many seconds of each wait it looks without a pause before it sleeps. A record then arrives in about a
        microsecond instead of the tens that a wake-up takes, at the price of a processor. `async for` never spins.
        """
        committed = is_committed(isolation)
        if not isinstance(spin, (int, float)) or not spin >= 0:
            raise UsageError(f"spin is {spin!r}", hint="give the seconds to look without a pause, 0 or more")
        since, end = self.since(), self.end(committed)
        start = end if offset is None else self._check_start(offset, end)
        return Tail(self, start, since, timeout, committed, spin)

    def standing(self) -> Standing | None:
        """What a waiting `Tail` watches; None while nobody writes."""
        log = self._log
        if isinstance(log, SharedLog):
            return log.standing()
        return Standing(log.state.page, log.state.load(state_words.GENERATION), log.segments, log.check_open)

    def truncated_to(self) -> int:
        """Where the latest truncation made the log end; -1 while that is just being written."""
        return self._opened.truncated_to()

    def signal(self) -> int:
        """Read it, look at the log, then `wait` for it to change."""
        log = self._opened
        return log.state.signal() if isinstance(log, PartitionLog) else log.signal()

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until something was published since `signal` gave `seen`, at most `timeout_s` seconds."""
        log = self._opened
        return log.state.wait(seen, timeout_s) if isinstance(log, PartitionLog) else log.wait(seen, timeout_s)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback()` after the high watermark moves, from the thread that moved it (or, for mode `r`, from a
        thread of this handle). It must not block. Returns a function that ends the subscription.
        """
        leave = self._opened.subscribe(callback)
        return partial(self._leave, leave)  # who can leave keeps the handle

    def _leave(self, leave: Callable[[], None]) -> None:
        leave()

    def fetch(
        self, offset: int, max_bytes: int = 1 << 20, *, isolation: Isolation = "read_uncommitted"
    ) -> fetched.Fetched:
        """Whole batches from the one that holds `offset` on, without a copy: what a Fetch response carries.

        At least one batch comes, even above `max_bytes`; none at the end. They lie in one segment.
        """
        committed, since = is_committed(isolation), self.since()
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
        return self._opened.epochs.end_offset_for(epoch, self.log_end_offset)

    def epoch_at(self, offset: int) -> int:
        """The leader epoch that wrote the record at `offset`; -1 if it is older than all known ones."""
        return self._opened.epochs.epoch_at(offset)

    def _verified(self) -> verify.VerifyReport:
        end = self.log_end_offset  # first: the segments that are looked up later have all that lies below it
        try:
            return verify.verify_log(self._log.segments, self._log.epochs, end)
        except CorruptRecord as error:
            return verify.VerifyReport(problems=[verify.Problem(error.path or "", -1, -1, error.message)])

    def verify(self) -> verify.VerifyReport:
        """Read and check every byte, index and CRC; problems are listed, not raised.

        The log is checked as it is when the call begins: who appends meanwhile adds to it above that. Where it is
        truncated meanwhile, it is checked again.
        """
        while True:
            truncations = self._log.truncations()
            report = self._verified()
            if report.ok or truncations == self._log.truncations():
                return report

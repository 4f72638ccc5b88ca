"""Compaction of one partition: which offsets, in which passes, and how what was cleaned takes its place.

A pass maps which record of each key is the latest, from where the last compaction ended (`Latest`), and writes all
closed segments up to there anew, group by group (`Cleaner`). It holds no lock while it does; a truncation meanwhile
makes all of it void. Only while names change no sync, truncation or deletion comes in between. Appends go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.config import INT32_MAX, LogConfig
from eventcore.disk import Disk
from eventcore.errors import LogTruncated, StorageError, UsageError
from eventcore.files.segment_file import MAX_SIZE
from eventcore.log import clean_offset, swaps
from eventcore.log.cleaned_segment import CleanedSegment
from eventcore.log.cleaned_transactions import CleanedTransactions
from eventcore.log.cleaner import ActiveProducers, Cleaner, Loss, Terms
from eventcore.log.freezing import Freezing
from eventcore.log.latest import Latest
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList

MAP_BYTES = 128 << 20
"""Of the offset map: Kafka's `log.cleaner.dedupe.buffer.size`."""
MAP_BYTES_MIN = 1 << 16
_INT64_MAX = (1 << 63) - 1


class Cleanable(NamedTuple):
    """What compaction may clean now. Offsets [first_dirty, end) were appended since the last one."""

    first_dirty: int
    end: int
    clean_bytes: int
    """Of the segments below `first_dirty`, which are read and written again with the others."""
    dirty_bytes: int
    earliest_ms: int
    """Timestamp of the first batch that was not cleaned yet; -1 if there is none."""

    @property
    def dirty_ratio(self) -> float:
        """The share of bytes that is dirty."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    def is_due(self, config: LogConfig, now: int) -> bool:
        """Whether it is time for it: the dirty ratio is above its minimum, or the oldest record waits for too long."""
        waited = self.earliest_ms >= 0 and self.earliest_ms < now - config.max_compaction_lag_ms
        return self.dirty_bytes > 0 and (waited or self.dirty_ratio > config.min_cleanable_dirty_ratio)


@dataclass
class CompactionReport:
    """What a compaction did. Sizes in bytes of the segments that were written anew."""

    first_dirty: int
    end: int
    passes: int = 0
    segments_before: int = 0
    segments_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    records_before: int = 0
    records_after: int = 0
    losses: list[Loss] = field(default_factory=list)
    """Damaged ranges that were put aside: they are not in the log any more."""

    @property
    def saved_bytes(self) -> int:
        """How much smaller the log became."""
        return self.bytes_before - self.bytes_after


class Compaction(Freezing):
    """The part of the writer that compacts."""

    disk: Disk
    folder: Path
    config: LogConfig
    clock: Clock
    _compacting: AbstractContextManager[Any]
    largest_segment = MAX_SIZE
    """Bytes of a segment that compaction writes."""

    def __init__(self) -> None:
        self._compacting = fork_safe.lock()
        self._has_cleaned = False
        """Whether it has compacted itself: then what a log directory's checkpoint says is older."""
        self.losses: list[Loss] = []
        """What compactions have put aside since the log was opened."""

    def changing(self) -> AbstractContextManager[None]:
        """See `Observer`."""
        raise NotImplementedError

    def cleanable(self, now: int) -> Cleanable:
        """See `Cleanable`. Only closed segments that are decided, and older than `min.compaction.lag.ms`."""
        segments = self.segments
        first = self._first_dirty(segments)
        closed = list(self._closed(segments, now))
        end = segments.next_base(closed[-1]) if closed else segments.first.base_offset
        dirty = [segment for segment in closed if segments.next_base(segment) > first]
        clean_bytes = sum(segment.log.size for segment in closed) - sum(segment.log.size for segment in dirty)
        times = (_first_time(segment) for segment in dirty if segment.log.size)
        return Cleanable(
            first, max(first, end), clean_bytes, sum(segment.log.size for segment in dirty), next(times, -1)
        )

    def _closed(self, segments: SegmentList, now: int) -> Iterator[Segment]:
        """The closed segments from the first on that may be cleaned."""
        bound = self.last_stable_offset
        for segment in segments:
            too_young = segment.max_timestamp > now - self.config.min_compaction_lag_ms
            if segment is segments.active or segments.next_base(segment) > bound:
                return
            if self.config.min_compaction_lag_ms and too_young:
                return
            yield segment

    def _first_dirty(self, segments: SegmentList) -> int:
        """Where the last compaction ended; the log's start if that is not in the log (rule C1)."""
        start = max(segments.first.base_offset, 0)
        known = (clean_offset.own if self._has_cleaned else clean_offset.read)(self.disk, self.folder)
        return known if start <= known <= self.log_end_offset else start

    def compact(self, map_bytes: int, throttle: Callable[[int], None] | None, now: int) -> CompactionReport | None:
        """See `Partition.compact`."""
        if map_bytes < MAP_BYTES_MIN:
            raise UsageError(f"an offset map of {map_bytes} bytes", hint=f"give it {MAP_BYTES_MIN} or more")
        with self._compacting:
            self._prepare(now)
            report: CompactionReport | None = None
            while True:
                found = self.cleanable(now)
                if not found.dirty_bytes:
                    return report
                if report is None:
                    report = CompactionReport(found.first_dirty, found.first_dirty)
                for careful in (False, True):
                    done = self._pass(found, map_bytes, throttle, now, report, careful)
                    if done:
                        break

    def _prepare(self, now: int) -> None:
        """Make durable what there is, and let no recovery point stand in a segment that is going to be another."""
        self._check_usable()
        with self._sync_lock, self._lock:
            self._check_whole()
            self._pending_deletes.remove_due(now)
        if (
            self.durable_offset < self.log_end_offset
            or self._checkpoints.point.base_offset != self._local.active.base_offset
        ):
            self._sync()

    def _pass(
        self,
        found: Cleanable,
        map_bytes: int,
        throttle: Callable[[int], None] | None,
        now: int,
        report: CompactionReport,
        careful: bool,
    ) -> bool:
        """One pass; False if two keys had one hash, and it has to be done again with care."""
        segments, truncations = self.segments, self.truncations()

        def pace(count: int) -> None:
            if throttle is not None:
                throttle(count)
            self._check_usable()
            if self.truncations() != truncations:
                raise LogTruncated("the log was truncated while it was compacted", hint="compact it again")

        aborted = [entry for segment in segments for entry in segment.txn_index.entries()]
        latest = Latest(found.first_dirty, map_bytes, careful, pace)
        # The active one may be empty, and end there; by the time it is read it need not be.
        closed = [s for s in segments if s is not segments.active and segments.next_base(s) <= found.end]
        dirty = [segment for segment in closed if segments.next_base(segment) > found.first_dirty]
        latest.map_segments(dirty, segments.next_base, CleanedTransactions(aborted))
        end = latest.map.end_offset
        if latest.map.collided:
            return False
        if end <= found.first_dirty:
            raise UsageError(
                f"the key at offset {end} does not fit into an offset map of {map_bytes} bytes", hint="give it more"
            )
        terms = Terms(self.disk, self.folder, self.config, now, pace, self.largest_segment)
        with self._lock:
            producers = ActiveProducers(list(self.producer_store.state))
        cleaner = Cleaner(terms, latest, producers, CleanedTransactions(aborted))
        counted = cleaner.records, cleaner.kept
        self.cleaned_to = max(self.cleaned_to, end)
        for group in self._groups([segment for segment in closed if segment.base_offset < end], segments):
            outputs = cleaner.clean(group, segments.next_base)
            if latest.map.collided:
                _discard(outputs)
                return False
            self._swap(group, outputs, truncations, now)
            report.segments_before += len(group)
            report.segments_after += len(outputs)
            report.bytes_before += sum(segment.log.size for segment in group)
            report.bytes_after += sum(output.size for output in outputs)
        report.passes += 1
        report.end = end
        report.records_before += cleaner.records - counted[0]
        report.records_after += cleaner.kept - counted[1]
        report.losses += terms.losses
        self.losses += terms.losses
        clean_offset.write(self.disk, self.folder, end)
        self._has_cleaned = True
        return True

    def _groups(self, segments: list[Segment], known: SegmentList) -> Iterator[list[Segment]]:
        """Neighbours that together are no larger than one segment may be (rule C6)."""
        group: list[Segment] = []
        for segment in segments:
            both = [*group, segment]
            fits = (
                sum(one.log.size for one in both) <= self.config.segment_bytes
                and sum(one.offset_index.count * 8 for one in both) <= self.config.segment_index_bytes
                and sum(one.time_index.count * 12 for one in both) <= self.config.segment_index_bytes
                and known.next_base(segment) - both[0].base_offset - 1 <= INT32_MAX
            )
            if group and not fits:
                yield group
                group = []
            group = [*group, segment]
        if group:
            yield group

    def _swap(self, old: list[Segment], outputs: list[CleanedSegment], truncations: int, now: int) -> None:
        """Let what was written take the place of what it was made of; durable on return."""
        bases = [output.base_offset for output in outputs]
        with self._sync_lock:
            try:
                with self._lock:
                    self._check_whole()
                if self.truncations() != truncations or not set(old) <= set(self._local.segments):
                    raise LogTruncated("the log was cut while it was compacted", hint="compact it again")
            except BaseException:
                _discard(outputs)
                raise
            with self.fencing():
                swaps.prepare(self.disk, self.folder, bases)
                with self.changing():
                    self._take_place(old, bases, now)
            self.producer_store.remove([segment.base_offset for segment in old[1:]])

    def _take_place(self, old: list[Segment], bases: list[int], now: int) -> None:
        end = self._local.segments.next_base(old[-1])
        for segment in old:
            segment.inspect(0, 0)  # what its seal says it has to know before somebody else has its name
            segment.txn_index.detach()
            self._pending_deletes.add(segment, now)
        self.disk.sync_dir(self.folder)  # else an old one might come back beside the new one
        swaps.take_place(self.disk, self.folder, bases)
        new = [Segment(self.disk, self.folder, base, self.config, active=False) for base in bases]
        for segment, next_base in zip(new, [*bases[1:], end], strict=True):
            segment.next_offset = segment.batches_end = next_base
        with self._lock:
            self._local.segments = SegmentList([*self._local.segments.without(old), *new])


def _discard(outputs: list[CleanedSegment]) -> None:
    for output in outputs:
        output.discard()


def _first_time(segment: Segment) -> int:
    try:
        return segment.header_at(0).max_timestamp
    except StorageError:
        return segment.max_timestamp

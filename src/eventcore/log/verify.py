"""Check every byte of a partition: batches, CRCs, records, offsets, indexes, epochs. Reads only, changes nothing.

One end is taken before anything is looked at, and all that lies below it is compared. What a writer adds meanwhile,
batches, index entries or a segment, lies above it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import StorageError
from eventcore.log.epochs import EpochCache
from eventcore.log.reader import LogReader
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList


class Problem(NamedTuple):
    """Something wrong, and where."""

    path: str
    position: int
    offset: int
    what: str


@dataclass
class VerifyReport:
    """The result of a check; `ok` if there are no problems."""

    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    index_entries: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class _SegmentCheck:
    def __init__(
        self, segment: Segment, report: VerifyReport, epochs: EpochCache, bounds: tuple[int, int], last: bool
    ) -> None:
        self._segment = segment
        self._grows = last  # it may have more than what lies below `stop`
        self._end = 0
        self._report = report
        self._epochs = epochs
        self._floor, self._stop = bounds
        segment.inspect(0, segment.log.size)  # it tells where a segment ends that was never sealed
        self._size = segment.log.size  # the batches below `stop` are there; it may grow
        self._ends: dict[int, tuple[int, int]] = {}
        self._max_timestamp = -1

    def _problem(self, position: int, offset: int, what: str) -> None:
        self._report.problems.append(Problem(str(self._segment.log.path), position, offset, what))

    def run(self) -> int:
        """Check the segment; returns the offset its successor must not start below."""
        self._report.segments += 1
        self._report.bytes += self._size
        next_offset = self._batches()
        self._offset_index()
        self._time_index()
        return next_offset

    def _batches(self) -> int:
        segment, next_offset, position = self._segment, self._floor, 0
        for damage in segment.damage:
            self._problem(damage.position, damage.first_offset, str(segment.damage_error(damage)))
        while position < self._size:
            damaged = segment.damage_at(position)
            if damaged is not None:
                position, next_offset = damaged.end_position, damaged.next_offset
                continue
            try:
                header = segment.header_at(position)
                if header.base_offset >= self._stop:
                    self._grows = True
                    break
                self._batch(position, header.base_offset, next_offset)
                next_offset = max(next_offset, header.next_offset)
                position += header.size
            except StorageError as error:
                self._problem(position, next_offset, error.message)
                break
        self._end = position
        return next_offset

    def _batch(self, position: int, base_offset: int, next_offset: int) -> None:
        segment = self._segment
        header = segment.header_at(position)
        self._report.batches += 1
        self._report.records += header.record_count
        self._ends[position] = (header.last_offset, header.max_timestamp)
        self._max_timestamp = max(self._max_timestamp, header.max_timestamp)
        if base_offset < next_offset:
            self._problem(position, base_offset, f"offset {base_offset} where {next_offset} is the lowest possible")
        epoch = self._epochs.epoch_at(base_offset)
        if epoch >= 0 and header.leader_epoch != epoch:
            self._problem(position, base_offset, f"leader epoch {header.leader_epoch} where {epoch} was writing")
        try:
            reader = LogReader(SegmentList([segment]), base_offset, header.next_offset, anew=True)
            kernels.decode.check_records(reader.area(segment, position, header), header)
        except StorageError as error:
            self._problem(position, base_offset, error.message)

    def _offset_index(self) -> None:
        index = self._segment.offset_index
        self._report.index_entries += index.count
        for slot in range(index.count):
            offset, position = index.entry(slot)
            if self._grows and offset >= self._stop and position >= self._end:
                break
            if self._ends.get(position, (-1, -1))[0] != offset and position < self._size:
                self._problem(position, offset, "an offset index entry that names no batch")

    def _time_index(self) -> None:
        index, previous = self._segment.time_index, -1
        self._report.index_entries += index.count
        known = dict(self._ends.values())
        for slot in range(index.count):
            timestamp, offset = index.entry(slot)
            if self._grows and offset >= self._stop:
                break
            if timestamp <= previous or known.get(offset, timestamp) != timestamp:
                self._problem(-1, offset, f"a time index entry of {timestamp} that its batch does not have")
            previous = timestamp
        if not self._grows and self._max_timestamp > previous and not self._segment.seal_is_void:
            self._problem(-1, self._segment.base_offset, "the time index lacks the segment's largest timestamp")


def verify_log(segments: SegmentList, epochs: EpochCache, end_offset: int) -> VerifyReport:
    """Check all segments up to `end_offset`, which was looked up before the segments were."""
    report = VerifyReport()
    floor = segments.first.base_offset
    for segment in segments:
        last = segment is segments.active
        floor = _SegmentCheck(segment, report, epochs, (floor, end_offset), last).run()
    return report

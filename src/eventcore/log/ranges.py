"""Ranges of records, in every shape: records, lazy records, tuples, values, columns.

What the four iterators read one by one was checked batch by batch; after each record the kernel looks whether the log
was truncated meanwhile. What comes in lists or columns is looked after here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, Literal, TypeVar

from eventcore import _kernels as kernels
from eventcore.errors import LogTruncated, OffsetOutOfRange, StorageError, UsageError
from eventcore.format.batch import BatchHeader
from eventcore.log.column_reader import ColumnReader
from eventcore.log.columns import ALL_NAMES, NAMES, ColumnBatch, checked_names
from eventcore.log.partition_log import PartitionLog
from eventcore.log.reader import CHUNK, LogReader, Shape, Watch, batches
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.shared_log import SharedLog
from eventcore.types import Record

Isolation = Literal["read_uncommitted", "read_committed"]
_ISOLATIONS = ("read_uncommitted", "read_committed")

rows = kernels.rows
LazyRecord = rows.LazyRecord
R = TypeVar("R", bound=Record)


class Ranges:
    """Reads [offset, stop) of a log. No lock: the end is taken once, and the bytes below it do not change."""

    def __init__(self, log: PartitionLog | SharedLog) -> None:
        self._log = log

    @property
    def _opened(self) -> PartitionLog | SharedLog:
        """The log. Raises ClosedError once it was closed, whichever kind it is."""
        log = self._log
        log.check_open()
        return log

    def read(
        self, offset: int | None = None, stop: int | None = None, *, isolation: Isolation = "read_uncommitted"
    ) -> Iterator[Record]:
        """The records from `offset` (default: the log start) to `stop` (default: the end known now). The end itself is
        empty; beyond it, or below the log start, raises OffsetOutOfRange.
        """
        return self._rows(offset, stop, isolation, Shape(rows.SHAPE_RECORD))

    def read_as(
        self,
        record: type[R],
        offset: int | None = None,
        stop: int | None = None,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> Iterator[R]:
        """`read` as a subclass of Record, which may have attributes of the class and methods, but none of an instance:
        it needs `__slots__ = ()`. It costs no more than a Record. Raises TypeError for another class.
        """
        return self._rows(offset, stop, isolation, Shape(rows.SHAPE_RECORD, (), record))

    def read_batches(
        self, offset: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[BatchHeader, list[Record]]]:
        """The batches of a range, markers of transactions, too, each as its header and its records: what one needs who
        replays a log of transactions himself.
        """
        since = self.since()
        segments, start, end = self._range(offset, stop, False)
        return self._batches(self._reader(segments, start, end, False, since), batches(segments, start, end), since)

    def _batches(
        self, reader: LogReader, found: Iterator[tuple[Segment, int, BatchHeader]], since: int
    ) -> Iterator[tuple[BatchHeader, list[Record]]]:
        with self._untruncated(since) as check:
            for segment, position, header in found:
                records = reader.decode(segment, position, header)
                segment.check()
                check()
                yield header, records

    def read_lazy(
        self, offset: int | None = None, stop: int | None = None, *, isolation: Isolation = "read_uncommitted"
    ) -> Iterator[LazyRecord]:
        """`read` as LazyRecords, which decode what is asked of them: many times faster where that is little."""
        return self._rows(offset, stop, isolation, Shape(rows.SHAPE_LAZY))

    def read_tuples(
        self,
        offset: int | None = None,
        stop: int | None = None,
        fields: Sequence[str] = ("offset", "timestamp", "key", "value"),
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> Iterator[tuple[Any, ...]]:
        """`read` as tuples of some of "offset", "timestamp", "key", "value", "headers", in the order asked for."""
        chosen = tuple(rows.FIELDS.index(name) for name in checked_names(fields, rows.FIELDS))
        return self._rows(offset, stop, isolation, Shape(rows.SHAPE_TUPLE, chosen))

    def read_values(
        self, offset: int | None = None, stop: int | None = None, *, isolation: Isolation = "read_uncommitted"
    ) -> Iterator[bytes | None]:
        """`read`, the values alone."""
        return self._rows(offset, stop, isolation, Shape(rows.SHAPE_VALUE, (rows.FIELDS.index("value"),)))

    def _rows(self, offset: int | None, stop: int | None, isolation: str, shape: Shape) -> Iterator[Any]:
        """Checks now what can be, and reads later. Nothing of Python's runs between two records of a batch."""
        committed, since = is_committed(isolation), self.since()
        reader = self._reader(*self._range(offset, stop, committed), committed, since)
        return chain.from_iterable(self._runs(reader, since, shape))

    def _runs(self, reader: LogReader, since: int, shape: Shape) -> Iterator[Iterator[Any]]:
        with self._untruncated(since) as check:
            for run in reader.rows(shape):
                check()
                yield from [run] if reader.is_watched else _pieces(run, check)
            check()  # it may have ended too soon

    def _range(self, offset: int | None, stop: int | None, committed: bool) -> tuple[SegmentList, int, int]:
        """What is to be read: segments, start and end. A committed reader's end may be below the `stop` it asked for.

        Segments and end are of one moment: later segments may have been compacted by records beyond that end.
        """
        while True:
            segments = self._log.segments
            found = self._bounds(offset, stop, committed)
            if self._log.segments is segments:
                return segments, *found

    def _bounds(self, offset: int | None, stop: int | None, committed: bool) -> tuple[int, int]:
        end, last = self.end(committed), self._log.high_watermark
        start = self._check_start(offset, max(end, last))
        if stop is None:
            return start, end
        if stop > max(end, last):
            raise OffsetOutOfRange(f"stop {stop} is beyond the end, {last}", hint="leave it out to read to the end")
        if stop < start:
            raise UsageError(f"stop {stop} is below the start, {start}", hint="a range goes up; stop is not in it")
        return start, min(stop, end)

    def _reader(self, segments: SegmentList, start: int, stop: int, committed: bool, since: int) -> LogReader:
        log = self._log
        page = log.state.page if isinstance(log, PartitionLog) else log.page
        return LogReader(segments, start, stop, committed=committed, watch=Watch(page, since))

    def since(self) -> int:
        """Truncations so far. Taken before the log's end is, it tells whether what is read up to there was there."""
        _ = self._log.segments  # a reader finds its writer first
        return self.truncations()

    def truncations(self) -> int:
        """How often the log was truncated, as far as the state page tells, which its writers leave to each other."""
        return self._opened.truncations()

    def chunks(
        self, start: int, stop: int, committed: bool = False, since: int | None = None
    ) -> Iterator[list[Record]]:
        """The records of [start, stop) in lists, as they are decoded. Damaged bytes raise CorruptRecord; a
        truncation `since` (see there), in this process or another, raises LogTruncated.
        """
        since = self.since() if since is None else since
        with self._untruncated(since) as check:
            for records in self._reader(self._segments_from(start), start, stop, committed, since).records():
                check()
                yield records
            check()  # it may have ended too soon

    def _segments_from(self, start: int) -> SegmentList:
        """The segments now; OffsetOutOfRange if what is at `start` was deleted: reading would begin behind it."""
        segments, first = self._log.segments, self._log.log_start_offset
        if start < first:
            raise OffsetOutOfRange(f"offset {start} was deleted: the log starts at {first}")
        return segments

    @contextmanager
    def _untruncated(self, since: int) -> Iterator[Callable[[], None]]:
        """What is read inside is right only if the log was not truncated meanwhile: `check` before handing it out."""

        def check() -> None:
            if self.truncations() != since:
                raise LogTruncated("the log was truncated while it was read")

        try:
            yield check
        except (StorageError, IndexError):  # of a kernel, where a segment was cut below what is read
            check()
            raise

    def _check_start(self, offset: int | None, end: int) -> int:
        start = self._log.log_start_offset
        if offset is None:
            return start
        if not start <= offset <= end:
            raise OffsetOutOfRange(f"offset {offset} is outside [{start}, {end}]")
        return offset

    def end(self, committed: bool = False) -> int:
        """The end of what may be read now."""
        log = self._opened
        return log.last_stable_offset if committed else log.high_watermark

    def columns(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        isolation: Isolation = "read_uncommitted",
        threads: int = 1,
    ) -> ColumnBatch:
        """The records of [start, stop) as numpy columns over one pinned buffer; nothing is copied if they are
        uncompressed and lie in one segment.

        `columns` are those wanted of "offset", "timestamp", "key", "value", "headers" (default: all but the headers);
        others are neither allocated nor filled. With `threads` as many decode at a time, without the GIL.
        """
        if not isinstance(threads, int) or threads < 1:
            raise UsageError(f"threads is {threads!r}", hint="use 1, or as many as there are processors to use")
        since = self.since()
        reader = self._column_reader(start, stop, columns, isolation, since)
        with self._untruncated(since) as check:
            found = reader.read(threads)
            check()
        return found

    def column_batches(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        isolation: Isolation = "read_uncommitted",
        batch_rows: int = 65_536,
    ) -> Iterator[ColumnBatch]:
        """`columns`, about `batch_rows` rows at a time, as they are decoded."""
        since = self.since()
        reader = self._column_reader(start, stop, columns, isolation, since)
        return self._column_batches(reader, batch_rows, since)

    def _column_reader(
        self, start: int | None, stop: int | None, columns: Sequence[str] | None, isolation: str, since: int
    ) -> ColumnReader:
        names = NAMES if columns is None else checked_names(columns, ALL_NAMES)
        committed = is_committed(isolation)
        return ColumnReader(self._reader(*self._range(start, stop, committed), committed, since), names)

    def _column_batches(self, reader: ColumnReader, rows: int, since: int) -> Iterator[ColumnBatch]:
        with self._untruncated(since) as check:
            for batch in reader.batches(rows):
                check()
                yield batch
            check()


def _pieces(run: Iterator[Any], check: Callable[[], None]) -> Iterator[Iterator[Any]]:
    """A run that has no state page to look at after each record: what was decoded is looked after piece by piece."""
    while piece := list(islice(run, CHUNK)):
        check()
        yield iter(piece)


def is_committed(isolation: str) -> bool:
    if isolation not in _ISOLATIONS:
        raise UsageError(f"isolation is {isolation!r}", hint=f"allowed are {' and '.join(_ISOLATIONS)}")
    return isolation == "read_committed"

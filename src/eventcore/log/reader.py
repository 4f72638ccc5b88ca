"""Read records and batches from a SegmentList between two offsets. No lock: the list and the bytes below the given
end do not change.

Uncompressed data batches are decoded by the kernel, many at a time. The kernel stops before whatever needs a decision:
a compressed batch is decompressed, a control batch is skipped, and for committed readers a batch of an aborted
transaction is skipped, too. Every batch's CRC is checked before its records are believed, once a mapping.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import CorruptRecord, StorageError
from eventcore.format.batch import CODEC_MASK, CONTROL, TRANSACTIONAL, BatchHeader, records_area
from eventcore.format.compression import Scratch
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.types import AbortedTransaction, Record

CHUNK = 4096
"""Records decoded at a time; a larger batch is one chunk."""
LARGEST_AREA = 1 << 31
"""No batch decompresses to more: positions inside it are signed 32-bit."""


class AbortedRange(NamedTuple):
    """Offsets [first_offset, last_offset] hold an aborted transaction of one producer; the last one is its marker."""

    producer_id: int
    first_offset: int
    last_offset: int


class Location(NamedTuple):
    """A run of whole batches in one segment."""

    segment: Segment
    position: int
    end: int


class Shape(NamedTuple):
    """What is made of a record, as the kernel `rows` has it: the kind, the fields of a tuple, the type of a record."""

    kind: int
    fields: tuple[int, ...] = ()
    record: type[Record] = Record


class Watch(NamedTuple):
    """What tells of a truncation: the state page, if a writer of ours has left one, and the count that it had."""

    page: memoryview | None = None
    truncations: int = 0


class LogReader:
    """Reads offsets [start, stop) of a snapshot of the log. `anew` checks every CRC, known or not."""

    def __init__(
        self,
        segments: SegmentList,
        start: int,
        stop: int,
        *,
        committed: bool = False,
        largest_area: int = LARGEST_AREA,
        watch: Watch = Watch(),  # noqa: B008 - immutable
        anew: bool = False,
    ) -> None:
        self._segments = segments
        self._start = start
        self._stop = stop
        self._largest_area = largest_area
        self._watch = watch
        self._anew = anew
        self._scratch = Scratch()
        self._aborted = aborted_ranges(segments, start, stop) if committed else []
        self._stop_mask = CODEC_MASK | CONTROL | (TRANSACTIONAL if self._aborted else 0)

    def part(self, start: int, stop: int) -> LogReader:
        """The same for a part of the range."""
        found = copy(self)
        found._start, found._stop, found._scratch = start, stop, Scratch()
        return found

    @property
    def start(self) -> int:
        """The first offset."""
        return self._start

    @property
    def stop(self) -> int:
        """One beyond the last offset."""
        return self._stop

    @property
    def is_watched(self) -> bool:
        """Whether kernels see by themselves that the log is truncated meanwhile."""
        return self._watch.page is not None

    def source(self, segment: Segment) -> kernels.source.Source:
        """The bytes of a segment, for kernels that look whether they still are what they were."""
        return kernels.source.Source(segment.log.view, *self._watch)

    def runs(self) -> Iterator[Location]:
        """The undamaged runs of batches that cover the range. Raises CorruptRecord where a damaged range is reached."""
        start = self._start
        for segment in self._segments.starting_at(self._start):
            if segment.base_offset >= self._stop:
                return
            position = segment.find(max(start, segment.base_offset))
            segment.inspect(position, segment.reach(self._stop))
            while True:
                end = segment.run_end(position)
                if end > position:
                    yield Location(segment, position, end)
                damage = segment.damage_at(end)
                if damage is None:
                    break
                if damage.first_offset < self._stop:
                    raise segment.damage_error(damage)
                return

    def records(self, chunk: int = CHUNK) -> Iterator[list[Record]]:
        """The records of the range, in lists."""
        for segment, position, end in self.runs():
            yield from self._run(segment, position, end, chunk)

    def _run(self, segment: Segment, position: int, end: int, chunk: int) -> Iterator[list[Record]]:
        view, known, read_records = segment.log.view, segment.verified, kernels.decode.read_records
        while position < end:
            try:
                start, generation, (piece, is_known) = position, known.generation, known.piece(position, end)
                records, position = read_records(
                    view, position, piece, self._start, self._stop, chunk, self._stop_mask, not is_known
                )
                segment.check()
                if not is_known:
                    known.add(generation, start, position)
                if records:
                    yield records
                if position == piece:
                    continue
                header = BatchHeader.read(view, position, end)
                if header.base_offset >= self._stop:
                    return
                if header.attributes & self._stop_mask:
                    records = self._special(segment, position, header)
                    position += header.size
                    segment.check()
                    if records:
                        yield records
            except StorageError as error:
                if chunk == 1:
                    raise segment.located(error) from None
                chunk = 1  # batch by batch now, so that the good ones before the bad one are read, too

    def rows(self, shape: Shape) -> Iterator[Iterator[Any]]:
        """The records of the range in a shape of the kernel's, as iterators to be used up one after the other."""
        for segment, position, end in self.runs():
            source, known = self.source(segment), segment.verified
            while position < end:
                generation, (piece, is_known) = known.generation, known.piece(position, end)
                rows = kernels.rows.read_rows(
                    source, position, piece, self._start, self._stop, self._stop_mask, not is_known, *shape
                )
                yield rows
                segment.check()
                if not is_known:
                    known.add(generation, position, rows.position)
                position = rows.position
                if position < piece:
                    header, special = self._stopped(segment, position, end, shape)
                    if header.base_offset >= self._stop:
                        return
                    yield special
                    position += header.size

    def _stopped(self, segment: Segment, position: int, end: int, shape: Shape) -> tuple[BatchHeader, Iterator[Any]]:
        """What the kernel stopped at: the end of the range, a batch that it does not read, or one that is not right."""
        view = segment.log.view
        try:
            header = BatchHeader.read(view, position, end)
            if header.base_offset >= self._stop or self.skips(header):
                return header, iter(())
            if header.attributes & self._stop_mask:
                pinned = shape.kind == kernels.rows.SHAPE_LAZY  # by records that may be kept
                source = kernels.source.Source(self.area(segment, position, header, pinned=pinned))
                return header, kernels.rows.decode_rows(source, header, self._start, self._stop, *shape)
            kernels.decode.read_records(view, position, end, self._start, self._stop, 1, 0, True)
            raise CorruptRecord("a batch changed while it was read", position=position, offset=header.base_offset)
        except StorageError as error:
            raise segment.located(error) from None

    def _special(self, segment: Segment, position: int, header: BatchHeader) -> list[Record]:
        return [] if self.skips(header) else self.decode(segment, position, header)

    def decode(self, segment: Segment, position: int, header: BatchHeader) -> list[Record]:
        """The records of one batch of any kind."""
        area = self.area(segment, position, header)
        return kernels.decode.decode_records(area, header, self._start, self._stop)

    def skips(self, header: BatchHeader) -> bool:
        """Whether the batch is nothing for this reader: a marker, or part of an aborted transaction."""
        return header.control or (header.transactional and self._is_aborted(header))

    def _is_aborted(self, header: BatchHeader) -> bool:
        return any(
            aborted.producer_id == header.producer_id
            and aborted.first_offset <= header.base_offset <= aborted.last_offset
            for aborted in self._aborted
        )

    def area(self, segment: Segment, position: int, header: BatchHeader, *, pinned: bool = False) -> memoryview:
        """The decompressed records of one batch, its CRC checked; unless `pinned`, they last until the next call."""
        known, generation = segment.verified, segment.verified.generation
        is_known = not self._anew and known.holds(position, position + header.size)
        if not is_known and not kernels.batch.crc_holds(segment.log.view, position, segment.log.size):
            raise CorruptRecord(
                "the CRC of a batch does not match its bytes",
                path=segment.log.path,
                position=position,
                offset=header.base_offset,
            )
        if not is_known:
            known.add(generation, position, position + header.size)
        scratch = None if pinned else self._scratch
        return records_area(segment.log.view, position, header, self._largest_area, scratch)

    @property
    def stop_mask(self) -> int:
        """The attributes of the batches that a kernel must leave to `area` and `skips`."""
        return self._stop_mask


def aborted_ranges(segments: SegmentList, start: int, stop: int) -> list[AbortedRange]:
    """The aborted transactions that may have records in [start, stop) (rule D9).

    An entry stands in the segment of its ABORT marker, which may lie far behind the records: the search goes on until
    an entry's last stable offset says that nothing before `stop` can be aborted later.
    """
    found = []
    for segment in segments.starting_at(start):
        segment.check_txn_index()
        for entry in segment.txn_index.entries():
            if entry.last_offset >= start and entry.first_offset < stop:
                found.append(AbortedRange(entry.producer_id, entry.first_offset, entry.last_offset))
            if entry.last_stable_offset >= stop:
                return found
    return found


def aborted_transactions(segments: SegmentList, start: int, stop: int) -> list[AbortedTransaction]:
    """What a Fetch response lists for [start, stop)."""
    return [
        AbortedTransaction(entry.producer_id, entry.first_offset) for entry in aborted_ranges(segments, start, stop)
    ]


def batches(segments: SegmentList, start: int, stop: int) -> Iterator[tuple[Segment, int, BatchHeader]]:
    """Every batch with an offset in [start, stop): its segment, position and header. CRCs are not checked."""
    for segment, position, end in LogReader(segments, start, stop).runs():
        while position < end:
            header = segment.header_at(position)
            if header.base_offset >= stop:
                return
            yield segment, position, header
            position += header.size

"""Decode ranges into columns: straight from the map where batches are plain, else out of one buffer of decompressed
areas; several at a time, or all at once in one table, with several threads if wanted.

What a header says of its number of records is believed only as far as its bytes can hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from eventcore import _kernels as kernels
from eventcore.errors import CorruptRecord, StorageError
from eventcore.format.batch import BatchHeader
from eventcore.log.columns import ColumnBatch, Int64Array, Table
from eventcore.log.reader import Location, LogReader, Shape
from eventcore.log.segment import Segment

_LEAST_RECORD = 7
"""Bytes of the smallest record: its length, attributes, time and offset deltas, key and value lengths, headers."""
_LEAST_SHARE = 1 << 20
"""Bytes of the log that are worth a thread."""
_ROWS = 1 << 20
_HEADERS_FIELD = kernels.rows.FIELDS.index("headers")

_P = TypeVar("_P")
_R = TypeVar("_R")


class _Piece(NamedTuple):
    """A ColumnBatch, and which bytes of its buffer it is about."""

    batch: ColumnBatch
    start: int
    end: int


class _Part(NamedTuple):
    """What one thread decodes: whole batches of a segment, into rows [low, high) of the table."""

    position: int
    end: int
    low: int
    high: int


class ColumnReader:
    """The records of a LogReader's range as columns of some names."""

    def __init__(self, reader: LogReader, names: Sequence[str]) -> None:
        self._reader = reader
        self._asked = names
        self._names = (*names, "offset") if "headers" in names else tuple(names)

    def batches(self, rows: int) -> Iterator[ColumnBatch]:
        """The range in order, about `rows` at a time; a record batch is never cut."""
        return (self._with_headers(piece.batch) for piece in self._pieces(rows))

    def _with_headers(self, batch: ColumnBatch) -> ColumnBatch:
        """The batch as it was asked for: headers are objects, and read by themselves."""
        if "headers" not in self._asked:
            return batch
        arrays, headers = batch.as_list(), []
        if len(batch):
            part = self._reader.part(int(batch.offset[0]), int(batch.offset[-1]) + 1)
            headers = list(chain.from_iterable(part.rows(Shape(kernels.rows.SHAPE_VALUE, (_HEADERS_FIELD,)))))
        arrays[0] = arrays[0] if "offset" in self._asked else None
        return ColumnBatch(arrays, batch.buffer, batch.source, headers)

    def _pieces(self, rows: int) -> Iterator[_Piece]:
        for segment, position, end in self._reader.runs():
            source = self._reader.source(segment)
            while position < end:
                table = Table(self._names, min(max(rows, self._next_count(segment, position)), _most(end - position)))
                count, after = self._fill(segment, position, end, table.buffers())
                if count:
                    view = segment.log.view.toreadonly()
                    yield _Piece(ColumnBatch(table.slices(count), view, source), position, after)
                if after == position:
                    header = segment.header_at(position)
                    if header.base_offset >= self._reader.stop:
                        return
                    piece, after = self._special(segment, position, end, rows)
                    if piece is not None:
                        yield piece
                position = after

    def _next_count(self, segment: Segment, position: int) -> int:
        header = segment.header_at(position)
        if not header.codec and header.record_count > _most(header.size):
            raise CorruptRecord(
                f"{header.record_count} records in {header.size} bytes", path=segment.log.path, position=position
            )
        return 0 if header.codec else header.record_count

    def _fill(self, segment: Segment, position: int, end: int, buffers: object) -> tuple[int, int]:
        """As many plain batches as fit: (rows, where the next one starts)."""
        reader, view, known, row = self._reader, segment.log.view, segment.verified, 0
        while position < end:
            generation, (piece, is_known) = known.generation, known.piece(position, end)
            try:
                row, after = kernels.decode.read_columns(
                    view, position, piece, reader.start, reader.stop, buffers, row, reader.stop_mask, not is_known  # type: ignore[arg-type]
                )  # fmt: skip
                segment.check()
            except StorageError as error:
                raise segment.located(error) from None
            if not is_known:
                known.add(generation, position, after)
            position = after
            if after < piece:
                break
        return row, position

    def _special(self, segment: Segment, position: int, end: int, rows: int) -> tuple[_Piece | None, int]:
        """Batches that a kernel does not read by itself, up to the next that it does; areas gathered in one buffer."""
        reader, gathered, parts, count, start = self._reader, bytearray(), [], 0, position
        while position < end and count < rows:
            header = segment.header_at(position)
            if header.base_offset >= reader.stop or not header.attributes & reader.stop_mask:
                break
            if not reader.skips(header):
                area = reader.area(segment, position, header)
                table = Table(self._names, _checked_count(header, area))
                buffers = table.buffers()
                done = kernels.decode.decode_columns(area, header, reader.start, reader.stop, buffers, 0, len(gathered))
                parts.append(table.slices(done))
                count += done
                gathered += area
            position += header.size
        segment.check()
        if position == start:
            raise CorruptRecord("a batch that cannot be read", path=segment.log.path, position=position)
        if not count:
            return None, position
        batch = ColumnBatch(_concatenated(parts), memoryview(gathered).toreadonly())
        return _Piece(batch, 0, len(gathered)), position

    def read(self, threads: int) -> ColumnBatch:
        """All of the range at once."""
        reader = self._reader
        runs = list(reader.runs()) if reader.start < reader.stop else []
        found = self._read_in_place(runs[0], threads) if len(runs) == 1 else None
        if found is None:
            edges = np.linspace(reader.start, reader.stop, threads + 1).astype(np.int64).tolist()
            parts = [reader.part(low, high) for low, high in pairwise(edges) if low < high]
            pieces = _each(lambda part: list(ColumnReader(part, self._names)._pieces(_ROWS)), parts)
            found = _joined([piece for part in pieces for piece in part], self._names)
        return self._with_headers(found)

    def _read_in_place(self, run: Location, threads: int) -> ColumnBatch | None:
        """Decode straight from the map into one table; None if a batch on the way needs more than that."""
        segment, reader = run.segment, self._reader
        parts = self._parts(run, threads)
        table = Table(self._names, parts[-1].high)

        def fill(part: _Part) -> tuple[int, int]:
            return self._fill(segment, part.position, part.end, table.buffers(part.low, part.high))

        rows = 0
        for part, (count, after) in zip(parts, _each(fill, parts), strict=True):
            if after < part.end and BatchHeader.read(segment.log.view, after, run.end).base_offset < reader.stop:
                return None
            table.move(part.low, part.low + count, rows)
            rows += count
        return ColumnBatch(table.slices(rows), segment.log.view.toreadonly(), reader.source(segment))

    def _parts(self, run: Location, threads: int) -> list[_Part]:
        """Cut a run at batches; a part's rows begin where they do if no offset is missing."""
        segment, reader = run.segment, self._reader
        first, last = segment.header_at(run.position), segment.find(reader.stop - 1)
        end, high = run.end, reader.stop
        if last < run.end:
            header = segment.header_at(last)
            end, high = last + header.size, max(header.next_offset, reader.stop)
        rows = high - min(first.base_offset, reader.start)
        if rows > _most(end - run.position):
            return [_Part(run.position, end, 0, _most(end - run.position))]
        cuts = {run.position: 0}
        count = min(threads, (end - run.position) // _LEAST_SHARE)
        for number in range(1, count):
            position = segment.find(reader.start + (reader.stop - reader.start) * number // count)
            if max(cuts) < position < end:
                cuts[position] = segment.header_at(position).base_offset - reader.start
        edges = [*cuts.items(), (end, rows)]
        return [_Part(at, to, low, high) for (at, low), (to, high) in pairwise(edges)]


def _most(size: int) -> int:
    """How many records so many bytes can hold."""
    return size // _LEAST_RECORD


def _checked_count(header: BatchHeader, area: memoryview) -> int:
    if header.record_count > _most(len(area)):
        raise CorruptRecord(f"{header.record_count} records in {len(area)} bytes", offset=header.base_offset)
    return header.record_count


def _each(call: Callable[[_P], _R], parts: list[_P]) -> list[_R]:
    """What `call` makes of each part, in order; of several in as many threads."""
    if len(parts) < 2:
        return [call(part) for part in parts]
    with ThreadPoolExecutor(len(parts), "eventcore-columns") as pool:
        return list(pool.map(call, parts))


def _concatenated(parts: list[list[Int64Array | None]]) -> list[Int64Array | None]:
    return [
        None if columns[0] is None else np.concatenate([column for column in columns if column is not None])
        for columns in zip(*parts, strict=True)
    ]


def _joined(pieces: list[_Piece], names: Sequence[str]) -> ColumnBatch:
    """One batch of several, the bytes they are about behind each other in one buffer."""
    if len(pieces) == 1:
        return pieces[0].batch
    buffer, parts = bytearray(), [Table(names, 0).arrays]
    for batch, start, end in pieces:
        arrays = batch.as_list()
        for positions in (arrays[2], arrays[4]):
            if positions is not None:
                positions += len(buffer) - start
        parts.append(arrays)
        if "key" in names or "value" in names:
            buffer += batch.buffer[start:end]
        batch.check()
    return ColumnBatch(_concatenated(parts), memoryview(buffer).toreadonly())

"""Records as columns: six int64 numpy arrays, and one buffer that the key and value positions point into.

Where the range is one run of uncompressed batches in one segment, that buffer is the mapped segment itself and nothing
is copied; the arrays pin the mapping. Otherwise the records areas are gathered into one buffer first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eventcore import _kernels as kernels
from eventcore.errors import CorruptRecord, StorageError, UsageError
from eventcore.format.batch import BatchHeader
from eventcore.log.reader import Location, LogReader

if TYPE_CHECKING:
    from collections.abc import Sequence

Int64Array = npt.NDArray[np.int64]
_LEAST_RECORD = 7
"""Bytes of the smallest record: its length, attributes, time and offset deltas, key and value lengths, headers."""
_NAMES = ("offset", "timestamp", "key_position", "key_length", "value_position", "value_length")


class ColumnBatch:
    """Columns of equal length. A length of -1 means null; positions count bytes in `buffer`.

    `buffer` and the arrays stay valid as long as they are referenced, whatever happens to the log.
    """

    offset: Int64Array
    timestamp: Int64Array
    key_position: Int64Array
    key_length: Int64Array
    value_position: Int64Array
    value_length: Int64Array

    def __init__(self, arrays: Sequence[Int64Array], buffer: memoryview) -> None:
        for name, array in zip(_NAMES, arrays, strict=True):
            setattr(self, name, array)
        self.buffer = buffer

    def __len__(self) -> int:
        return len(self.offset)

    def key(self, row: int) -> bytes | None:
        """The key of one row."""
        return self._bytes(self.key_position[row], self.key_length[row])

    def value(self, row: int) -> bytes | None:
        """The value of one row."""
        return self._bytes(self.value_position[row], self.value_length[row])

    def _bytes(self, position: int, length: int) -> bytes | None:
        return None if length < 0 else bytes(self.buffer[position : position + length])

    def _gathered(self, position: Int64Array, length: Int64Array) -> tuple[npt.NDArray[np.uint8], Int64Array]:
        """The column's bytes back to back, and the rows + 1 offsets into them."""
        sizes = np.maximum(length, 0)
        ends = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=ends[1:])
        source = np.frombuffer(self.buffer, dtype=np.uint8)
        index = np.arange(ends[-1], dtype=np.int64) + np.repeat(position - ends[:-1], sizes)
        return source[index], ends

    def to_arrow(self) -> Any:
        """The columns offset, timestamp, key, value as a nanoarrow array of structs (extra `arrow`)."""
        try:
            import nanoarrow as na
        except ImportError:
            raise UsageError("to_arrow needs nanoarrow", hint="pip install 'eventcore[arrow]'") from None
        children = [
            na.c_array(self.offset, na.int64()),
            na.c_array(self.timestamp, na.int64()),
            self._binary(na, self.key_position, self.key_length),
            self._binary(na, self.value_position, self.value_length),
        ]
        names = ("offset", "timestamp", "key", "value")
        schema = na.struct(
            dict(zip(names, (na.int64(), na.int64(), na.large_binary(), na.large_binary()), strict=True))
        )
        return na.Array(na.c_array_from_buffers(schema, len(self), [None], children=children))

    def _binary(self, na: Any, position: Int64Array, length: Int64Array) -> Any:
        data, ends = self._gathered(position, length)
        valid = np.packbits(length >= 0, bitorder="little")
        return na.c_array_from_buffers(na.large_binary(), len(self), [valid, ends, data])


def read_columns(reader: LogReader, start: int, stop: int) -> ColumnBatch:
    """The records of [start, stop) as columns."""
    runs = list(reader.runs()) if stop > start else []
    if len(runs) == 1:
        found = _read_in_place(reader, runs[0], start, stop)
        if found is not None:
            return found
    return _read_gathered(reader, runs, start, stop)


def _empty(rows: int) -> list[Int64Array]:
    return [np.empty(rows, dtype=np.int64) for _ in _NAMES]


def _buffers(arrays: list[Int64Array]) -> Any:
    return tuple(array.data.cast("B") for array in arrays)


def _read_in_place(reader: LogReader, run: Location, start: int, stop: int) -> ColumnBatch | None:
    """Decode straight from the map; None if a batch on the way needs more than that."""
    view = run.segment.log.view
    arrays = _empty(min(stop - start, (run.end - run.position) // _LEAST_RECORD))
    try:
        row, position = kernels.decode.read_columns(
            view, run.position, run.end, start, stop, _buffers(arrays), 0, reader.stop_mask, True
        )
        run.segment.check()
        done = position == run.end or BatchHeader.read(view, position, run.end).base_offset >= stop
    except StorageError as error:
        raise run.segment.located(error) from None
    return ColumnBatch([array[:row] for array in arrays], view.toreadonly()) if done else None


def _areas(reader: LogReader, runs: list[Location], stop: int) -> Iterator[tuple[BatchHeader, memoryview]]:
    for segment, position, end in runs:
        while position < end:
            header = segment.header_at(position)
            if header.base_offset >= stop:
                return
            if not reader.skips(header):
                yield header, reader.area(segment, position, header)
            position += header.size


def _read_gathered(reader: LogReader, runs: list[Location], start: int, stop: int) -> ColumnBatch:
    """Gather the (decompressed) records areas into one buffer and decode from there.

    What a header says of its number of records is believed only as far as its bytes can hold them.
    """
    gathered, parts = bytearray(), [_empty(0)]
    for header, area in _areas(reader, runs, stop):
        if header.record_count * _LEAST_RECORD > len(area):
            raise CorruptRecord(f"{header.record_count} records in {len(area)} bytes", offset=header.base_offset)
        table = _empty(header.record_count)
        count = kernels.decode.decode_columns(area, header, start, stop, _buffers(table), 0, len(gathered))
        parts.append([column[:count] for column in table])
        gathered += area
    for run in runs:
        run.segment.check()
    return ColumnBatch([np.concatenate(columns) for columns in zip(*parts, strict=True)], memoryview(bytes(gathered)))

"""Decode the records of batches into `Record`s or into columns, straight from the buffer of the log.

The `read_` functions walk uncompressed batches in the log; the `decode_` functions take one records area that the
caller has decompressed, with the 13 header fields that `batch.read_header` gave. Offset ranges are half open.
"""

from __future__ import annotations

from typing import Union

from eventcore._pure import records
from eventcore._pure.batch import (
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    BatchFields,
    as_bytes,
    batch_size,
    checked_range,
    checked_size,
)
from eventcore.types import Buffer, Record

__all__ = ["check_records", "decode_columns", "decode_records", "read_columns", "read_records"]

Column = Union[Buffer, None]
Columns = tuple[Column, Column, Column, Column, Column, Column]
"""int64 arrays: offset, timestamp, key position, key length, value position, value length (length -1: null).

None for a column that is not wanted.
"""


def _take(view: memoryview, position: int, length: int) -> bytes | None:
    return None if length < 0 else bytes(view[position : position + length])


def _decode(
    view: memoryview, start: int, end: int, fields: BatchFields, min_offset: int, max_offset: int, out: list[Record]
) -> None:
    base_offset, attributes, base_timestamp = fields[0], fields[5], fields[7]
    for parts, at in records.walk(view, start, end, fields[12], fields[6]):
        headers = records.read_headers(view, parts)
        if not min_offset <= base_offset + parts.offset_delta < max_offset:
            continue
        timestamp = (
            fields[8]
            if attributes & LOG_APPEND_TIME
            else records.timestamp_of(base_timestamp, parts.timestamp_delta, at)
        )
        key = _take(view, parts.key_position, parts.key_length)
        value = _take(view, parts.value_position, parts.value_length)
        out.append(Record(base_offset + parts.offset_delta, timestamp, key, value, headers))


def decode_records(data: Buffer, fields: BatchFields, min_offset: int, max_offset: int) -> list[Record]:
    """The records with min_offset ≤ offset < max_offset of a records area that is already decompressed."""
    view = as_bytes(data)
    out: list[Record] = []
    _decode(view, 0, len(view), fields, min_offset, max_offset, out)
    return out


def read_records(
    buf: Buffer, start: int, end: int, min_offset: int, max_offset: int, max_count: int, stop_mask: int,
    verify: bool = True,
) -> tuple[list[Record], int]:  # fmt: skip
    """Read whole batches from `start` on: (records with min_offset ≤ offset < max_offset, position after them).

    Stops before a batch with an attribute of `stop_mask` (the caller decompresses or skips it), before a batch whose
    first offset is ≥ `max_offset`, and after the batch that makes it `max_count` records or more.
    """
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    out: list[Record] = []
    while start < end and len(out) < max_count:
        size = batch_size(view, start, end)
        fields = HEADER.unpack_from(view, start)
        if fields[5] & stop_mask or fields[0] >= max_offset:
            break
        checked_size(view, start, end, verify)
        _decode(view, start + HEADER_SIZE, start + size, fields, min_offset, max_offset, out)
        start += size
    return out, start


def _table(columns: Columns, row: int) -> tuple[list[memoryview | None], int]:
    views = [None if column is None else as_bytes(column).cast("q") for column in columns]
    sizes = {len(view) for view in views if view is not None}
    if len(views) != 6 or row < 0 or len(sizes) > 1:
        raise ValueError("columns must be six int64 arrays of one length, or None")
    if not sizes:
        raise ValueError("at least one column must be there")
    return views, sizes.pop()


def _decode_columns(
    view: memoryview, start: int, end: int, fields: BatchFields, min_offset: int, max_offset: int,
    table: list[memoryview | None], row: int, base_position: int,
) -> int:  # fmt: skip
    for parts, at in records.walk(view, start, end, fields[12], fields[6]):
        records.read_headers(view, parts)
        offset = fields[0] + parts.offset_delta
        if not min_offset <= offset < max_offset:
            continue
        append_time = fields[5] & LOG_APPEND_TIME
        cells = (
            offset,
            fields[8] if append_time else records.timestamp_of(fields[7], parts.timestamp_delta, at),
            base_position + parts.key_position,
            parts.key_length,
            base_position + parts.value_position,
            parts.value_length,
        )
        for column, cell in zip(table, cells, strict=True):
            if column is not None:
                column[row] = cell
        row += 1
    return row


def decode_columns(
    data: Buffer, fields: BatchFields, min_offset: int, max_offset: int, columns: Columns, row: int, base_position: int
) -> int:
    """`decode_records` into columns from `row` on; positions count from `base_position`. Returns the next free row."""
    view = as_bytes(data)
    table, capacity = _table(columns, row)
    if fields[12] > capacity - row:
        raise ValueError(f"{fields[12]} records do not fit into the {capacity - row} rows left")
    return _decode_columns(view, 0, len(view), fields, min_offset, max_offset, table, row, base_position)


def read_columns(
    buf: Buffer, start: int, end: int, min_offset: int, max_offset: int, columns: Columns, row: int, stop_mask: int,
    verify: bool = True,
) -> tuple[int, int]:  # fmt: skip
    """`read_records` into columns: (next free row, position). Also stops before a batch that may not fit any more."""
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    table, capacity = _table(columns, row)
    while start < end:
        size = batch_size(view, start, end)
        fields = HEADER.unpack_from(view, start)
        if fields[5] & stop_mask or fields[0] >= max_offset or fields[12] > capacity - row:
            break
        checked_size(view, start, end, verify)
        row = _decode_columns(view, start + HEADER_SIZE, start + size, fields, min_offset, max_offset, table, row, 0)
        start += size
    return row, start


def check_records(data: Buffer, fields: BatchFields) -> tuple[int, int, int]:
    """Check every byte of a decompressed records area: (min timestamp, max timestamp, number of null keys).

    An empty area gives (-1, -1, 0).
    """
    view = as_bytes(data)
    timestamps, null_keys = [], 0
    for parts, at in records.walk(view, 0, len(view), fields[12], fields[6]):
        records.read_headers(view, parts)
        timestamps.append(records.timestamp_of(fields[7], parts.timestamp_delta, at))
        null_keys += parts.key_length < 0
    return (min(timestamps), max(timestamps), null_keys) if timestamps else (-1, -1, 0)

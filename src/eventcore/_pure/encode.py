"""Encode records into a batch, from Python values or from columns, straight into the buffer of the log.

The batch is uncompressed; the records stand behind the 61 bytes of the header, which is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventcore._pure import records
from eventcore._pure.batch import HEADER_SIZE, LOG_APPEND_TIME, PREFIX_SIZE, as_bytes, checked_range, write_header
from eventcore.types import Buffer

__all__ = ["encode", "encode_columns", "plain_size"]

_SIZE_MAX = PREFIX_SIZE + (1 << 31) - 1


def encode(
    buf: Buffer,
    pos: int,
    end: int,
    items: Sequence[Any],
    first: int,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    now: int,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> tuple[int, int, int]:
    """Write one uncompressed batch of `items[first:]` at `pos`, as many as fit before `end`.

    An item is a value, a (key, value) pair (exactly two) or a Record, in a list or tuple. Returns (position after the
    batch, how many records it has, its max timestamp); (pos, 0, -1) if not even the first fits. With LogAppendTime in
    `attributes` all timestamps are `now`. Until it returns, the 61 header bytes at `pos` are untouched.
    """
    if type(items) not in (list, tuple):
        raise TypeError(f"items must be a list or a tuple, not {type(items).__name__}")
    if not 0 <= first <= len(items):
        raise IndexError(f"item {first} of {len(items)}")
    if now < 0:  # -1 and the largest timestamp would be more than 64 bits apart
        raise ValueError(f"now must be ms since the epoch, not {now}")
    view = as_bytes(buf)
    end = min(checked_range(view, pos, end), pos + _SIZE_MAX)
    at, base_timestamp, max_timestamp, count = pos + HEADER_SIZE, 0, -1, 0
    while first + count < len(items):
        timestamp, key, value, headers = records.parts_of(items[first + count], now)
        timestamp = now if attributes & LOG_APPEND_TIME else timestamp
        base_timestamp = timestamp if count == 0 else base_timestamp
        record = records.encode_record(timestamp - base_timestamp, count, key, value, headers)
        if len(record) > end - at:
            break
        view[at : at + len(record)] = record
        at += len(record)
        max_timestamp = max(max_timestamp, timestamp)
        count += 1
    if count == 0:
        return pos, 0, -1
    write_header(
        view, pos, at - pos, base_offset, leader_epoch, attributes, count - 1, base_timestamp, max_timestamp,
        producer_id, producer_epoch, base_sequence, count,
    )  # fmt: skip
    return at, count, max_timestamp


def _column(data: Buffer | None, offsets_: Buffer | None, nulls: Buffer | None, row: int) -> memoryview | None:
    if data is None or offsets_ is None or (nulls is not None and as_bytes(nulls)[row]):
        return None
    view, starts = as_bytes(data), as_bytes(offsets_).cast("q")
    if not 0 <= starts[row] <= starts[row + 1] <= len(view):
        raise ValueError(f"the column's offsets of row {row} leave its {len(view)} bytes or go backwards")
    return view[starts[row] : starts[row + 1]]


def _check_columns(rows: int, *columns: tuple[str, Buffer | None, int, int]) -> None:
    for name, column, item_size, extra in columns:
        if column is not None and len(as_bytes(column)) != (rows + extra) * item_size:
            raise ValueError(f"{name} must have {rows + extra} items of {item_size} bytes for {rows} rows")


def encode_columns(
    buf: Buffer,
    pos: int,
    end: int,
    rows: int,
    first: int,
    keys: Buffer | None,
    key_offsets: Buffer | None,
    key_nulls: Buffer | None,
    values: Buffer | None,
    value_offsets: Buffer | None,
    value_nulls: Buffer | None,
    timestamps: Buffer | None,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    now: int,
) -> tuple[int, int, int]:
    """`encode` for rows `first:rows` of columns: bytes, rows + 1 int64 offsets into them, a byte per null (1 = null).

    A missing column (None) is null in every row; missing timestamps are `now`.
    """
    _check_columns(
        rows, ("key_offsets", key_offsets, 8, 1), ("key_nulls", key_nulls, 1, 0),
        ("value_offsets", value_offsets, 8, 1), ("value_nulls", value_nulls, 1, 0), ("timestamps", timestamps, 8, 0),
    )  # fmt: skip
    if not 0 <= first <= rows:
        raise IndexError(f"row {first} of {rows}")
    view = as_bytes(buf)
    end = min(checked_range(view, pos, end), pos + _SIZE_MAX)
    times = None if timestamps is None or attributes & LOG_APPEND_TIME else as_bytes(timestamps).cast("q")
    at, base_timestamp, max_timestamp, count = pos + HEADER_SIZE, 0, -1, 0
    for row in range(first, rows):
        timestamp = now if times is None else times[row]
        if timestamp < 0:
            raise ValueError(f"the timestamp of row {row} is negative")
        base_timestamp = timestamp if count == 0 else base_timestamp
        key = _column(keys, key_offsets, key_nulls, row)
        value = _column(values, value_offsets, value_nulls, row)
        record = records.encode_record(timestamp - base_timestamp, count, key, value, ())
        if len(record) > end - at:
            break
        view[at : at + len(record)] = record
        at += len(record)
        max_timestamp = max(max_timestamp, timestamp)
        count += 1
    if count == 0:
        return pos, 0, -1
    write_header(
        view, pos, at - pos, base_offset, leader_epoch, attributes, count - 1, base_timestamp, max_timestamp,
        -1, -1, -1, count,
    )  # fmt: skip
    return at, count, max_timestamp


def plain_size(items: Any) -> int:
    """The bytes of keys and values of a list or tuple of plain items: bytes or None, or exact pairs of these.

    -1 if it is something else, or holds something else.
    """
    if type(items) not in (list, tuple):
        return -1
    size = 0
    for item in items:
        parts = item if type(item) is tuple else (None, item)
        if len(parts) != 2 or any(part is not None and type(part) is not bytes for part in parts):
            return -1
        size += sum(len(part) for part in parts if part is not None)
    return size

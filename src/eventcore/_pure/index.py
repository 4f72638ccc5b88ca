"""Search in the sorted big-endian entries of an offset index (8 bytes) and a time index (12 bytes).

Offset index entry: int32 last offset of a batch relative to the segment's base, int32 position of that batch.
Time index entry: int64 timestamp, int32 relative offset. `count` says how many leading entries are valid; it must
fit the buffer. A wrong index gives a wrong starting place, never a wrong answer: callers verify what they find.
"""

from __future__ import annotations

import struct

from eventcore.types import Buffer

__all__ = ["OFFSET_ENTRY_SIZE", "TIME_ENTRY_SIZE", "count_entries", "find_offset", "find_offsets", "find_timestamp"]

OFFSET_ENTRY_SIZE = 8
TIME_ENTRY_SIZE = 12

_OFFSET_ENTRY = struct.Struct(">ii")
_TIME_ENTRY = struct.Struct(">qi")


def _entries(buf: Buffer, count: int, entry_size: int) -> memoryview:
    view = memoryview(buf).cast("B")
    if not 0 <= count <= len(view) // entry_size:
        raise ValueError(f"{count} entries do not fit into {len(view)} bytes")
    return view


def count_entries(buf: Buffer, entry_size: int) -> int:
    """How many leading entries of `entry_size` bytes are not all zero (an active index ends in reserved zeros)."""
    if entry_size not in (OFFSET_ENTRY_SIZE, TIME_ENTRY_SIZE):
        raise ValueError(f"entry_size must be {OFFSET_ENTRY_SIZE} or {TIME_ENTRY_SIZE}")
    view = memoryview(buf).cast("B")
    low, high = 0, len(view) // entry_size
    while low < high:
        middle = (low + high) // 2
        if any(view[middle * entry_size : (middle + 1) * entry_size]):
            low = middle + 1
        else:
            high = middle
    return low


def find_offset(buf: Buffer, count: int, relative_offset: int) -> tuple[int, int] | None:
    """The last entry (relative offset, position) whose offset is at most `relative_offset`; None if there is none."""
    view = _entries(buf, count, OFFSET_ENTRY_SIZE)
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if _OFFSET_ENTRY.unpack_from(view, middle * OFFSET_ENTRY_SIZE)[0] <= relative_offset:
            low = middle + 1
        else:
            high = middle
    return _OFFSET_ENTRY.unpack_from(view, (low - 1) * OFFSET_ENTRY_SIZE) if low else None


def find_timestamp(buf: Buffer, count: int, timestamp: int) -> tuple[int, int] | None:
    """The last entry (timestamp, relative offset) whose timestamp is at most `timestamp`; None if there is none."""
    view = _entries(buf, count, TIME_ENTRY_SIZE)
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if _TIME_ENTRY.unpack_from(view, middle * TIME_ENTRY_SIZE)[0] <= timestamp:
            low = middle + 1
        else:
            high = middle
    return _TIME_ENTRY.unpack_from(view, (low - 1) * TIME_ENTRY_SIZE) if low else None


def find_offsets(buf: Buffer, count: int, relative_offsets: Buffer, positions: Buffer) -> None:
    """`find_offset` for a whole int64 array: writes each position (0 where there is no entry) into the int64 array."""
    targets = memoryview(relative_offsets).cast("B").cast("q")
    out = memoryview(positions).cast("B").cast("q")
    if len(targets) != len(out):
        raise ValueError(f"{len(targets)} offsets but room for {len(out)} positions")
    _entries(buf, count, OFFSET_ENTRY_SIZE)
    for row, target in enumerate(targets):
        entry = find_offset(buf, count, target)
        out[row] = entry[1] if entry else 0

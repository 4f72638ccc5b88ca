"""Copy a log without the records that an offset map says are superseded.

Kafka's rules (LogCleaner, MemoryRecords.filterTo): of the offsets that the map covers, a record stays if it has a key,
is the latest of that key, and is no tombstone whose batch has a delete horizon that has passed. Records behind the
map's end stay. A batch with a tombstone that stays, and no horizon, gets one (KIP-534). A batch of which nothing stays
goes, unless it is to be kept for its header's sake. A batch keeps its first and last offset, producer, sequence, epoch
and codec, so offsets never change.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from eventcore._pure.batch import (
    CODEC_MASK,
    DELETE_HORIZON,
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    BatchFields,
    as_bytes,
    batch_size,
    checked_range,
    checked_size,
    write_header,
)
from eventcore._pure.offset_map import OffsetMap, key_of, listed
from eventcore._pure.records import INT64_MAX, INT64_MIN, Slices
from eventcore._pure.transfer import writable
from eventcore._pure.varint import write_varint
from eventcore.errors import CorruptRecord
from eventcore.types import Buffer

__all__ = [
    "ALL",
    "ENDED",
    "FULL",
    "NONE",
    "NO_ROOM",
    "SOME",
    "STOPPED",
    "Cleaner",
]

ENDED, STOPPED, NO_ROOM, FULL = range(4)
"""Why `clean` stopped: at `end` or `until`, before a batch with an attribute of the mask; no room in
the buffer; the segment is full."""
NONE, SOME, ALL = range(3)
"""What stays of a batch. ALL also says that it can stay as it is."""
_INT32_MAX = (1 << 31) - 1
_WIDER = 14
"""A record whose time is relative to something else may need so many bytes more."""
_OFFSET_ENTRY, _TIME_ENTRY = struct.Struct(">ii"), struct.Struct(">qi")


class _Plan(NamedTuple):
    verdict: int
    kept: list[tuple[Slices, int]]
    """What stays, and where each record starts."""
    max_timestamp: int
    sets_horizon: bool

    @property
    def most_bytes(self) -> int:
        """More than the records that stay can need."""
        size = sum(parts.end - start for parts, start in self.kept)
        return size + (_WIDER * len(self.kept) if self.sets_horizon else 0)


def _checked_time(base: int, delta: int, position: int) -> int:
    if not INT64_MIN <= base + delta <= INT64_MAX:
        raise CorruptRecord("a timestamp leaves the 64 bits", position=position)
    return base + delta


def _record(parts: Slices, rest: memoryview, timestamp_delta: int) -> bytes:
    body = bytearray(b"\0")
    write_varint(body, timestamp_delta)
    write_varint(body, parts.offset_delta)
    out = bytearray()
    write_varint(out, len(body) + len(rest))
    return bytes(out + body + rest)


class Cleaner:
    """Copies batches, one output segment after the other, and keeps the indexes of the one it is at.

    `now` decides which tombstones have expired; batches that get a delete horizon get `horizon`. `kept_ends`, a sorted
    int64 array, are the last offsets of batches that stay even if they are empty. `records` and `kept` count what went
    through; `position` is that of the batch looked at last, and `needed` the room that it lacked.
    """

    def __init__(self, offset_map: OffsetMap, now: int, horizon: int, kept_ends: Buffer) -> None:
        self._map, self._now, self._horizon = offset_map, now, horizon
        self._ends = set(as_bytes(kept_ends).cast("q"))
        if horizon < 0:
            raise ValueError(f"a delete horizon of {horizon}")
        self.records = self.kept = self.position = self.needed = 0
        self._interval = self._limit = self._unindexed = 0
        self.base_offset = self.size = self.next_offset = self.max_timestamp_offset = self.max_timestamp = 0
        self._indexed_timestamp = 0
        self._offset_index, self._time_index = bytearray(), bytearray()

    def begin(self, base_offset: int, interval: int, limit: int) -> None:
        """Begin a segment of at most `limit` bytes, indexed every `interval` bytes."""
        if not 0 <= limit <= _INT32_MAX or base_offset < 0:
            raise ValueError(f"a segment of {limit} bytes at offset {base_offset}")
        self.base_offset, self._interval, self._limit = base_offset, interval, limit
        self.size = self._unindexed = 0
        self.next_offset = self.max_timestamp_offset = base_offset
        self.max_timestamp = self._indexed_timestamp = -1
        self._offset_index, self._time_index = bytearray(), bytearray()

    def clean(
        self,
        log: Buffer,
        ordinal: int,
        start: int,
        end: int,
        out: Buffer,
        at: int,
        stop_mask: int,
        until: int = _INT32_MAX,
    ) -> tuple[int, int, int]:
        """Copy what stays of the batches of `log[start:end]` to `out` from `at` on: (position, where it ends, reason).

        `ordinal` is the log's in the map, 0 if it is not there. It stops at or behind position `until`. Raises
        CorruptRecord at a batch that is not right; what was copied before it is counted.
        """
        view = as_bytes(log)
        end = checked_range(view, start, end)
        if len(view) > _INT32_MAX:
            raise ValueError("a log has less than 2 GiB")
        if not self._map._knows(ordinal, log):
            raise ValueError(f"this is not log {ordinal} of the map")
        room = writable(out)
        checked_range(room, at, len(room))
        while start < min(end, until):
            self.position = start
            size = batch_size(view, start, end)
            fields = HEADER.unpack_from(view, start)
            if fields[5] & stop_mask:
                return start, at, STOPPED
            checked_size(view, start, end, True)
            plan = self._plan(view, start + HEADER_SIZE, start + size, fields, ordinal, -1, False)
            if plan.verdict != NONE or self.keeps_empty(fields[0] + fields[6]):
                most = size if plan.verdict == ALL else HEADER_SIZE + plan.most_bytes
                if not self.fits(most, fields[0] + fields[6]):
                    return start, at, FULL
                if most > len(room) - at:
                    self.needed = most
                    return start, at, NO_ROOM
                at += self._put(view, start, size, fields, plan, room, at)
            self.records += fields[12]
            self.kept += len(plan.kept)
            start += size
        return start, at, ENDED

    def filter(
        self, data: Buffer, fields: BatchFields, ordinal: int, position: int, out: Buffer, keep_all: bool
    ) -> tuple[int, int, int, int, bool]:
        """Filter one batch at `position` of a log whose area is decompressed: (what stays, bytes, records, their
        largest timestamp, whether the times are relative to the delete horizon).

        If SOME stay they are in `out`, which must have 14 bytes a record more than `data`. With `keep_all`, for
        markers, all stay, and the batch gets a horizon. The batch has to be `add`ed once it was written.
        """
        view, room = as_bytes(data), writable(out)
        if (
            not self._map._knows(ordinal, self._map._logs[ordinal] if ordinal else b"")
            or not 0 <= position <= _INT32_MAX
        ):
            raise ValueError(f"there is no log {ordinal} with a position {position}")
        plan = self._plan(view, 0, len(view), fields, ordinal, position, keep_all)
        encoded = b""
        if plan.verdict == SOME:
            if len(room) < plan.most_bytes:
                raise ValueError(f"{len(room)} bytes are less than the {plan.most_bytes} that the records may need")
            encoded = self._encoded(view, fields, plan)
            room[: len(encoded)] = encoded
        self.records += fields[12]
        self.kept += len(plan.kept)
        return plan.verdict, len(encoded), len(plan.kept), plan.max_timestamp, plan.sets_horizon

    def _plan(
        self, view: memoryview, start: int, end: int, fields: BatchFields, ordinal: int, batch_at: int, keep_all: bool
    ) -> _Plan:
        base_offset, attributes, base_timestamp = fields[0], fields[5], fields[7]
        has_horizon = bool(attributes & DELETE_HORIZON)
        is_expired = has_horizon and self._now >= base_timestamp
        kept, largest, has_tombstones = [], -1, keep_all
        for parts in listed(view, start, end, fields):
            at, start = start, parts.end
            if not (keep_all or self._stays(view, parts, base_offset, ordinal, batch_at, is_expired)):
                continue
            kept.append((parts, at))
            has_tombstones |= parts.value_length < 0
            if not attributes & LOG_APPEND_TIME:
                largest = max(largest, _checked_time(base_timestamp, parts.timestamp_delta, at))
        if attributes & LOG_APPEND_TIME:
            largest = fields[8]
        sets_horizon = bool(kept) and has_tombstones and not has_horizon
        if not kept:
            return _Plan(NONE, kept, largest, False)
        if len(kept) == fields[12] and not sets_horizon:
            return _Plan(ALL, kept, fields[8], False)
        return _Plan(SOME, kept, largest, sets_horizon)

    def _stays(
        self, view: memoryview, parts: Slices, base_offset: int, ordinal: int, batch_at: int, is_expired: bool
    ) -> bool:
        offset = base_offset + parts.offset_delta
        if offset >= self._map.end_offset:
            return True
        if parts.key_length < 0 or (is_expired and parts.value_length < 0):
            return False
        position = parts.key_at if batch_at < 0 else batch_at
        return self._map.is_latest(key_of(view, parts), ordinal, position, offset)

    def _encoded(self, view: memoryview, fields: BatchFields, plan: _Plan) -> bytes:
        if not plan.sets_horizon:
            return b"".join(bytes(view[at : parts.end]) for parts, at in plan.kept)
        out = []
        for parts, at in plan.kept:
            time = fields[8] if fields[5] & LOG_APPEND_TIME else fields[7] + parts.timestamp_delta
            out.append(_record(parts, view[parts.key_at : parts.end], _checked_time(time, -self._horizon, at)))
        return b"".join(out)

    def _put(
        self, view: memoryview, pos: int, size: int, fields: BatchFields, plan: _Plan, room: memoryview, at: int
    ) -> int:
        attributes, base_timestamp, largest = fields[5], fields[7], plan.max_timestamp
        if plan.verdict == ALL:
            room[at : at + size] = view[pos : pos + size]
        else:
            encoded = self._encoded(view, fields, plan)
            if plan.verdict == NONE:
                attributes, base_timestamp, largest = attributes & ~(CODEC_MASK | DELETE_HORIZON), -1, fields[8]
            elif plan.sets_horizon:
                attributes, base_timestamp = attributes | DELETE_HORIZON, self._horizon
            size = HEADER_SIZE + len(encoded)
            room[at + HEADER_SIZE : at + size] = encoded
            last_delta, producer = fields[6], fields[9:12]
            write_header(
                room, at, size, fields[0], fields[2], attributes, last_delta, base_timestamp, largest, *producer,
                len(plan.kept),
            )  # fmt: skip
        self.add(size, fields[0] + fields[6], largest)
        return size

    def keeps_empty(self, last_offset: int) -> bool:
        """Whether a batch that ends at `last_offset` stays although it is empty."""
        return last_offset in self._ends

    def fits(self, size: int, last_offset: int) -> bool:
        """Whether the segment may take so many bytes more, up to an offset."""
        return self.size + size <= self._limit and last_offset - self.base_offset <= _INT32_MAX

    def add(self, size: int, last_offset: int, max_timestamp: int) -> None:
        """Take in a batch that was written behind all others: indexes, size, marks."""
        if max_timestamp > self.max_timestamp:
            self.max_timestamp, self.max_timestamp_offset = max_timestamp, last_offset
        if self._unindexed > self._interval:
            self._add_time()
            self._offset_index += _OFFSET_ENTRY.pack(last_offset - self.base_offset, self.size)
            self._unindexed = 0
        self._unindexed += size
        self.size += size
        self.next_offset = last_offset + 1

    def _add_time(self) -> None:
        if self.max_timestamp > self._indexed_timestamp:
            self._time_index += _TIME_ENTRY.pack(self.max_timestamp, self.max_timestamp_offset - self.base_offset)
            self._indexed_timestamp = self.max_timestamp

    def offset_entries(self) -> bytes:
        """The segment's `.index`."""
        return bytes(self._offset_index)

    def time_entries(self) -> bytes:
        """The segment's `.timeindex`, the entry of its largest timestamp included."""
        self._add_time()
        return bytes(self._time_index)

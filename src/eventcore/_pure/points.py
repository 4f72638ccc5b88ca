"""Single records by their offset, at the same cost in batches of any size.

A large batch has no index of its own: to get at its last record, all before it are passed over. So every eighth offset
(a stride) that somebody asked for, or that lies near, has an entry in a table: where the first record of the stride
lies. From there at most seven records, or batches, are passed over. Batches are plain ones in a buffer: the map of a
segment, or copies that were decompressed.

The table is a cache of bounded size, and only believed while the log is what it was: it watches the state page of the
log. Where that says that the log has changed, or where the table does not know, the caller looks the slow way.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, final

from eventcore._pure import records, tail
from eventcore._pure.batch import (
    CODEC_MASK,
    CONTROL,
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    BatchFields,
    as_bytes,
    batch_size,
    crc_holds,
)
from eventcore.errors import StorageError
from eventcore.types import Buffer, Record

__all__ = ["MOST_ENTRIES", "MOST_UNPACKED", "STRIDE", "Points"]

STRIDE = 8
"""Offsets that share an entry."""
MOST_ENTRIES = 1 << 20
"""Entries of a table, 24 bytes each in the native twin: 24 MiB for eight million records."""
MOST_UNPACKED = 8 << 20
"""Bytes of decompressed batches that a table keeps."""
_PLACES = 256
_FIRST_ENTRIES = 256
_ENTRY_SIZE = 24


class _Place(NamedTuple):
    number: int
    view: memoryview
    unpacked: bool


class _Entry(NamedTuple):
    """Where the records of a stride begin; those of its offsets in [low, high) were checked."""

    stride: int
    place: int
    batch: int
    record: int
    low: int
    high: int


class _Watch(NamedTuple):
    """What the table is believed for. A `start` below 0: the page has the ends of the log, too."""

    state: memoryview | None
    generation: int
    truncations: int
    start: int
    end: int

    def is_same(self, other: _Watch) -> bool:
        states = self.state, other.state
        return self[1:] == other[1:] and (states == (None, None) or (None not in states and _same(*states)))

    def range(self) -> tuple[int, int]:
        if self.state is None or self.start >= 0:
            return self.start, self.end
        end = tail.load(self.state, tail.HIGH_WATERMARK)
        return tail.load(self.state, tail.LOG_START), end

    def holds(self) -> bool:
        """Whether what was copied until now can be believed."""
        if self.state is None:
            return True
        now = tail.load(self.state, tail.GENERATION), tail.load(self.state, tail.TRUNCATIONS)
        return now == (self.generation, self.truncations)


_NOTHING = _Watch(None, 0, 0, 0, 0)


def _same(one: Any, other: Any) -> bool:
    """Whether two buffers are the same memory, as far as Python tells."""
    return one.obj is other.obj and len(one) == len(other)


def _batches(view: memoryview, position: int, end: int) -> Iterator[tuple[int, int, BatchFields]]:
    """(position, end, header fields) of the batches that can be read."""
    while position < end:
        try:
            size = batch_size(view, position, end)
        except StorageError:
            return
        yield position, position + size, HEADER.unpack_from(view, position)
        position += size


@final
class Points:
    """A table of at most `most_entries` entries (a power of two), with at most `most_unpacked` bytes of copies; at most
    256 buffers are pinned. May be used from several threads. A fork's child finds nothing.
    """

    def __init__(self, most_entries: int = MOST_ENTRIES, most_unpacked: int = MOST_UNPACKED) -> None:
        if most_entries < 1 or most_entries & (most_entries - 1):
            raise ValueError(f"{most_entries} is no power of two")
        self._most_entries, self._most_unpacked = most_entries, most_unpacked
        self._lock = threading.RLock()
        self._token = 0
        self._closed = False
        self._pid = os.getpid()
        self._patience_ns = self._watched_ns = 0
        self._clear()

    def _clear(self) -> None:
        self._watch = _NOTHING
        self._entries: dict[int, _Entry] = {}
        self._size = 0
        self._places: dict[int, _Place] = {}
        self._last = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the table, and of what was decompressed."""
        return self._size * _ENTRY_SIZE + self._unpacked_bytes()

    def _unpacked_bytes(self) -> int:
        return sum(len(place.view) for place in self._places.values() if place.unpacked)

    def forget(self) -> None:
        """Find nothing until the next `watch`; every token is void."""
        with self._lock:
            self._token += 1
            self._clear()

    def close(self) -> None:
        """`forget`, for good."""
        with self._lock:
            self._closed = True
            self.forget()

    def watch(
        self,
        state: Buffer | None,
        generation: int,
        truncations: int,
        start: int = -1,
        end: int = -1,
        patience_ns: int = -1,
    ) -> int:
        """Give out what is in the table for as long as the page says `generation` and `truncations`: a token for `add`.

        The offsets are those that the page says are there, or [start, end). If something else was watched before,
        all is forgotten. `get` finds nothing later than `patience_ns` after the call; with -1 it does for ever, and
        without a page never. -1 instead of a token: it is closed.
        """
        view = None if state is None else as_bytes(state)
        if view is not None:
            tail.load(view, tail.GENERATION)
        wanted = _Watch(view, generation if view is not None else 0, truncations if view is not None else 0, start, end)
        with self._lock:
            if self._closed:
                return -1
            if not wanted.is_same(self._watch):
                self.forget()
                self._watch = wanted
            self._patience_ns = patience_ns if view is not None else 0
            self._watched_ns = time.monotonic_ns()
            return self._token

    def add(
        self,
        token: int,
        buf: Buffer,
        position: int,
        end: int,
        stop: int,
        verify: bool,
        unpacked: bool = False,
    ) -> int:
        """Take in the batches at `position`: where the last one of them ends.

        They end at or below `end`, and below offset `stop`. It stops before one that is compressed, or not right; its
        CRC is looked at with `verify`. With a token that is void it has looked at them, and keeps nothing. `unpacked`:
        the buffer is a copy, which lives for the table.
        """
        view = as_bytes(buf)
        if not 0 <= position <= end <= len(view) or len(view) >= 1 << 32:
            raise IndexError(f"[{position}:{end}] is outside a buffer of {len(view)} bytes")
        reached = position
        for at, batch_end, fields in _batches(view, position, end):
            if not _is_right(view, at, batch_end, fields, stop, verify):
                break
            reached = batch_end
        with self._lock:
            if reached > position and token == self._token and (not unpacked or len(view) <= self._most_unpacked):
                with suppress(StorageError):  # it changes just now
                    self._put_window(self._place_for(view, unpacked), position, reached)
        return reached

    def _place_for(self, view: memoryview, unpacked: bool) -> _Place:
        for place in self._places.values():
            if _same(place.view, view):
                return place
        if unpacked:
            self._make_room(len(view))
        self._last += 1
        self._places.pop(self._last - _PLACES, None)
        place = self._places[self._last] = _Place(self._last, view, unpacked)
        return place

    def _make_room(self, size: int) -> None:
        for number in [number for number, place in self._places.items() if place.unpacked]:
            if self._unpacked_bytes() + size <= self._most_unpacked:
                return
            del self._places[number]

    def _put_window(self, place: _Place, position: int, end: int) -> None:
        """Entries for all batches in [position, end). A stride's is at the first batch that has a record of it."""
        stride, next_offset = -1, 0
        before = last = None
        for at, batch_end, fields in _batches(place.view, position, end):
            base, next_offset = fields[0], fields[0] + fields[6] + 1
            area = (at + HEADER_SIZE, batch_end, fields[12], fields[6])
            for parts, record in () if fields[5] & CONTROL else records.walk(place.view, *area):
                if (base + parts.offset_delta) // STRIDE > stride:
                    stride = (base + parts.offset_delta) // STRIDE
                    entry = _Entry(stride, place.number, at, record - at, max(base - stride * STRIDE, 0), STRIDE)
                    before = self._known(entry)
                    last = _joined(place.view, before, entry)
                    if last is not None:
                        self._put(last)
        left = next_offset - stride * STRIDE
        if last is not None and left < STRIDE:
            last = last._replace(high=left)
            adjoins = before is not None and before.place == place.number and before.low == left
            if before is not None and adjoins and _reaches(place.view, last, next_offset, before.batch):
                last = last._replace(high=before.high)
            self._put(last)

    def _known(self, entry: _Entry) -> _Entry | None:
        """What is known of a stride already."""
        old = self._entries.get(entry.stride & (self._size - 1)) if self._size else None
        return old if old is not None and old.stride == entry.stride and old.place in self._places else None

    def _put(self, entry: _Entry) -> None:
        if not self._size:
            self._size = min(_FIRST_ENTRIES, self._most_entries)
        while self._is_taken(entry) and self._size < self._most_entries:
            self._size *= 2
            entries = [old for old in self._entries.values() if old.place in self._places]
            self._entries = {old.stride & (self._size - 1): old for old in entries}
        self._entries[entry.stride & (self._size - 1)] = entry

    def _is_taken(self, entry: _Entry) -> bool:
        old = self._entries.get(entry.stride & (self._size - 1))
        return old is not None and old.stride != entry.stride and old.place in self._places

    def get(self, index: object) -> Record | None:
        """The record at offset `index`, an int, negative from the end; None: look the slow way. Never raises."""
        if type(index) is not int or not -(1 << 63) <= index < 1 << 63:
            return None
        if 0 <= self._patience_ns <= time.monotonic_ns() - self._watched_ns:
            return None
        return self.find(index)

    def find(self, offset: int) -> Record | None:
        """`get` for one who has just called `watch`."""
        if os.getpid() != self._pid:  # before the lock: somebody may hold it for ever
            return None
        with self._lock:
            watch = self._watch
            start, end = watch.range()
            offset += end if offset < 0 else 0
            if not start <= offset < end or not self._size:
                return None
            entry = self._entries.get(offset // STRIDE & (self._size - 1))
            place = self._places.get(entry.place) if entry is not None else None
        if entry is None or place is None or entry.stride != offset // STRIDE:
            return None
        if not entry.low <= offset % STRIDE < entry.high:
            return None
        try:
            found = _find(place.view, entry, offset)
        except StorageError:
            return None
        return found if watch.holds() else None


def _joined(view: memoryview, old: _Entry | None, new: _Entry) -> _Entry | None:
    """What is to be known of a stride from now on; None: what is known is enough. A batch may begin inside of a stride
    whose other batches were there before.
    """
    if old is not None and old.low <= new.low and old.high == STRIDE:
        return None
    adjoins = old is not None and old.place == new.place and old.high == new.low
    if old is not None and adjoins and _reaches(view, old, new.stride * STRIDE + new.low, new.batch):
        return old._replace(high=STRIDE)
    return new


def _reaches(view: memoryview, entry: _Entry, offset: int, batch: int) -> bool:
    """Whether the way from an entry to `offset` leads to the batch that stands at `batch`."""
    for at, _, fields in _batches(view, entry.batch, len(view)):
        if fields[0] + fields[6] >= offset:
            return at == batch
    return False


def _is_right(view: memoryview, at: int, end: int, fields: BatchFields, stop: int, verify: bool) -> bool:
    if fields[5] & CODEC_MASK or fields[0] + fields[6] >= stop or (verify and not crc_holds(view, at, end)):
        return False
    try:
        if not fields[5] & CONTROL:
            for parts, _ in records.walk(view, at + HEADER_SIZE, end, fields[12], fields[6]):
                records.read_headers(view, parts)
    except StorageError:
        return False
    return True


def _find(view: memoryview, entry: _Entry, offset: int) -> Record | None:
    """The record, looked for from the entry on. The bytes may be others by now."""
    record = entry.record
    for at, end, fields in _batches(view, entry.batch, len(view)):
        if fields[0] + fields[6] >= offset:
            return (
                None if fields[5] & (CODEC_MASK | CONTROL) else _find_in_batch(view, at + record, end, fields, offset)
            )
        record = HEADER_SIZE
    return None


def _find_in_batch(view: memoryview, position: int, end: int, fields: BatchFields, offset: int) -> Record | None:
    while position < end:
        parts = records.slice_record(view, position, end)
        if fields[0] + parts.offset_delta == offset:
            return _record(view, parts, fields, offset, position)
        if fields[0] + parts.offset_delta > offset:
            return None
        position = parts.end
    return None


def _record(view: memoryview, parts: records.Slices, fields: BatchFields, offset: int, position: int) -> Record:
    timestamp = fields[8] if fields[5] & LOG_APPEND_TIME else None
    if timestamp is None:
        timestamp = records.timestamp_of(fields[7], parts.timestamp_delta, position)
    return Record(
        offset,
        timestamp,
        None if parts.key_length < 0 else bytes(view[parts.key_position : parts.key_position + parts.key_length]),
        None
        if parts.value_length < 0
        else bytes(view[parts.value_position : parts.value_position + parts.value_length]),
        records.read_headers(view, parts),
    )

"""The tail of a log: batches go to the end of the active segment, are indexed, and become visible, in one call.

An appender never rolls, reserves or syncs. Where one of these is due, or anything else is out of the ordinary, it says
so, changes nothing, and leaves the batch to its owner.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from eventcore._pure import encode as encoder
from eventcore._pure import guard, tail
from eventcore._pure.batch import HEADER_SIZE
from eventcore._pure.marks import NOT_KNOWN, End, Entries, Marks
from eventcore._pure.producers import SEQUENCES, ProducerTable
from eventcore._pure.transfer import big_endian, writable
from eventcore._pure.write_lock import WriteLock
from eventcore.types import BatchInfo, Buffer, Record

__all__ = ["NEVER", "Appender"]

NEVER = (1 << 63) - 1
"""`stable_limit` where no transaction is open."""
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_LAST_EPOCH = (1 << 15) - 1
_TIME_RESERVE = 2
"""Time-index slots that must be there: the entry of this batch, and the one that seals the segment."""


_Arguments = tuple[Any, Any, Any, Any, Any, Any, Any]


def _is_plain(item: Any) -> bool:
    parts = item if type(item) is tuple else (None, item)
    return len(parts) == 2 and all(part is None or type(part) is bytes for part in parts)


class Appender:
    """Appends to the segment it is attached to. Its owner has a lock; `append` alone may be called without it.

    With `wall_clock` it may look at the machine's clock, which only `append` does. Who holds the owner's lock has
    paused the appender: then `append` declines.
    """

    producers: ProducerTable | None = None
    """Of the log; None: there are none to look after."""
    opened: dict[int, int] | None = None
    """Producer id: first offset, of the transactions that are open; None: they are not known."""
    _lock: WriteLock | None = None
    """The owner's. The native twin takes none: nothing runs while its `append` does."""

    def __init__(self, max_bytes: int, interval: int, roll_ms: int, attributes: int, wall_clock: bool) -> None:
        self._max_bytes = max_bytes
        self._interval = interval
        self._roll_ms = roll_ms
        self._attributes = attributes
        self._wall_clock = wall_clock
        self._paused = 0
        self._busy = False
        self._pid = os.getpid()
        self.detach()
        self._faults = 0
        self._leader_epoch, self._visible, self._stable_limit = -1, False, NEVER

    def attach(
        self,
        state: Buffer,
        marks: Marks,
        base_offset: int,
        created_ms: int,
        log: End,
        log_view: Buffer,
        offset_index: Entries,
        index_view: Buffer,
        time_index: Entries,
        time_view: Buffer,
    ) -> None:
        """Go on at the end of this segment. Its buffers, and `state`, the shared page of the log (see `tail`), stay
        pinned until `detach`. Nothing is allowed there until the limits are set.
        """
        self.detach()
        self._state = writable(state)
        self._marks, self._base_offset, self._created_ms = marks, base_offset, created_ms
        self._log, self._offset_index, self._time_index = log, offset_index, time_index
        self._view, self._index_view = writable(log_view), writable(index_view)
        self._time_view = writable(time_view)
        self._attached = True

    def detach(self) -> None:
        """Let go of the segment; every call declines."""
        self._attached = self._busy = False
        self._view = self._index_view = self._time_view = self._state = memoryview(b"")
        self._marks, self._log, self._offset_index, self._time_index = Marks(), End(), Entries(), Entries()
        self._limit = self._index_slots = self._time_slots = 0

    def allow(self, limit: int, index_slots: int, time_slots: int) -> None:
        """Bytes of the log below `limit`, and so many entries of each index, have their place: reserved, populated."""
        if not self._attached:
            raise ValueError("not attached")
        room = (len(self._view), len(self._index_view) // 8, len(self._time_view) // 12)
        if not all(0 <= wanted <= there for wanted, there in zip((limit, index_slots, time_slots), room, strict=True)):
            raise ValueError(f"{limit} bytes, {index_slots} and {time_slots} entries are more than the maps have")
        self._limit, self._index_slots, self._time_slots = limit, index_slots, time_slots

    def stamp(self, leader_epoch: int, visible: bool, stable_limit: int, faults: int) -> None:
        """What batches get as leader epoch (-1: nothing may be appended); whether they are at once below the high
        watermark; the first offset that is not stable; `guard.faults()` when the owner last looked.
        """
        self._leader_epoch, self._visible = leader_epoch, visible
        self._stable_limit, self._faults = stable_limit, faults

    def pause(self) -> None:
        """Make `append` decline, until `resume` was called as often."""
        self._paused += 1

    def resume(self) -> None:
        """See `pause`."""
        self._paused -= 1

    def append(self, value: Any, key: Any, timestamp: Any) -> int:
        """Append one record as one batch, and show it: its offset, or -1 with nothing done.

        Only bytes and None, and an int or None for now, go this way.
        """
        if self._declines():
            return -1
        if not all(part is None or type(part) is bytes for part in (value, key)):
            return -1
        if timestamp is not None and not (type(timestamp) is int and 0 <= timestamp <= NEVER):
            return -1
        with self._lock or nullcontext():
            now = time.time_ns() // 1_000_000
            record = Record(-1, now if timestamp is None else timestamp, key, value)
            return self._marks.next_offset - 1 if not self._halted() and self.extend([record], 0, now, True) else -1

    def append_all(self, items: Any) -> int:
        """Append a list or tuple of plain items as one batch, and show it: its first offset, or -1 with nothing done.

        A plain item is bytes or None, or an exact pair of these. What does not fit is declined, too.
        """
        if not self._takes(items):
            return -1
        with self._lock or nullcontext():
            count = 0 if self._halted() else self.extend(items, 0, time.time_ns() // 1_000_000, True)
            return self._marks.next_offset - count if count else -1

    def append_sequenced(
        self, items: Any, producer_id: int, epoch: int, sequence: int, transactional: bool = False
    ) -> BatchInfo | None:
        """`append_all` for a producer that is known, of whose records here `sequence` (-1: whichever it is) is next.

        If they are `transactional` they go on with its open transaction, or begin one, which is in `opened` then. None,
        with nothing done, for all others.
        """
        table = self.producers
        if table is None or not self._takes(items):
            return None
        with self._lock or nullcontext():
            known, following = table.find(producer_id), table.next_sequence(producer_id, epoch)
            if known is None or known.epoch != epoch or sequence not in (-1, following):
                return None
            is_open, stable = known.txn_first_offset >= 0, self._stable_limit
            opens = transactional and not is_open
            if (is_open and not transactional) or (opens and self.opened is None):
                return None
            if opens:
                self._stable_limit = min(stable, self._marks.next_offset)
            now, bits = time.time_ns() // 1_000_000, _TRANSACTIONAL if transactional else 0
            count = 0 if self._halted() else self._extend(items, 0, now, True, producer_id, epoch, following, bits)
            if not count:
                self._stable_limit = stable
                return None
            last = self._marks.next_offset - 1
            last_sequence = (following + count - 1) % SEQUENCES
            table.note(producer_id, epoch, last_sequence, count - 1, last, now, transactional, known.timestamp)
            if opens and self.opened is not None:
                self.opened[producer_id] = last - count + 1
            return BatchInfo(last - count + 1, last, now)

    def commit(
        self, marker: tuple[bytes, bytes], producer_id: int, epoch: int, coordinator_epoch: int, raises_epoch: bool
    ) -> int:
        """Append the marker, a control record, that commits the one transaction that is open; its offset, or -1 with
        nothing done: where it is not the only one, or too late, or readers are not shown at once what is appended.
        """
        table, opened = self.producers, self.opened
        if table is None or opened is None or not self._visible or not self._takes((marker,)):
            return -1
        with self._lock or nullcontext():
            known = table.find(producer_id)
            if known is None or len(opened) != 1 or known.txn_first_offset < 0 or self._halted():
                return -1
            if not known.epoch + raises_epoch <= epoch < _LAST_EPOCH:
                return -1
            if not known.coordinator_epoch <= coordinator_epoch < 1 << 31:
                return -1
            now, stable, own = time.time_ns() // 1_000_000, self._stable_limit, self._attributes
            self._stable_limit, self._attributes = NEVER, 0
            count = self._extend((marker,), 0, now, True, producer_id, epoch, -1, _TRANSACTIONAL | _CONTROL)
            self._attributes = own
            if not count:
                self._stable_limit = stable
                return -1
            table.note_marker(producer_id, epoch, coordinator_epoch, now, now)
            opened.clear()
            return self._marks.next_offset - 1

    def _takes(self, items: Any) -> bool:
        return not self._declines() and type(items) in (list, tuple) and all(map(_is_plain, items))

    def _declines(self) -> bool:
        held = self._lock is not None and self._lock.held()
        return held or self._halted() or not self._wall_clock or self._pid != os.getpid()

    def _halted(self) -> bool:
        return self._paused > 0 or (self._lock is not None and self._lock.unfinished > 0)

    def extend(
        self,
        items: Sequence[Any],
        first: int,
        now: int,
        whole: bool,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
    ) -> int:
        """Append `items[first:]` (see `encode.encode`) as one batch, and show it: how many; 0 with nothing done.

        All of them if `whole`; else as many as a batch of the largest size has room for.
        """
        return self._extend(items, first, now, whole, producer_id, producer_epoch, base_sequence, 0)

    def _extend(
        self,
        items: Sequence[Any],
        first: int,
        now: int,
        whole: bool,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        bits: int,
    ) -> int:
        start, end = self._room()
        if start < 0:
            return 0
        self._busy = True  # the items may have code of their own: it may want to append, or attach another segment
        try:
            position, count, max_timestamp = encoder.encode(
                self._view, start, end, items, first, self._marks.next_offset, self._leader_epoch,
                self._attributes | bits, now, producer_id, producer_epoch, base_sequence,
            )  # fmt: skip
            if not self._busy:
                return 0
        finally:
            self._busy = False
        return self._finish(
            start, position, count, self._least(start, end, len(items) - first, whole), max_timestamp, now
        )

    def extend_columns(
        self, rows: int, first: int, now: int, whole: bool, columns: tuple[Any, Any, Any, Any, Any, Any, Any]
    ) -> int:
        """`extend` for the rows `first:rows` of columns, in the order of `encode.encode_columns`."""
        start, end = self._room()
        if start < 0:
            return 0
        self._busy = True
        try:
            position, count, max_timestamp = encoder.encode_columns(
                self._view, start, end, rows, first, *columns, self._marks.next_offset, self._leader_epoch,
                self._attributes, now,
            )  # fmt: skip
            if not self._busy:
                return 0
        finally:
            self._busy = False
        least = self._least(start, end, rows - first, whole)
        return self._finish(start, position, count, least, max_timestamp, now)

    def _room(self) -> tuple[int, int]:
        """Where a batch may start and must end; (-1, -1) if nothing may be appended here now."""
        full = (
            not self._attached
            or self._busy
            or self._leader_epoch < 0
            or self._pid != os.getpid()
            or self._faults != guard.faults()
            or not self._has_slots()
            or not 0 <= self._log.size <= self._limit - HEADER_SIZE
        )
        return (-1, -1) if full else (self._log.size, min(self._limit, self._log.size + self._max_bytes))

    def _has_slots(self) -> bool:
        """Whether the index entries of a batch have their place."""
        most = self._time_slots - _TIME_RESERVE
        return 0 <= self._offset_index.count < self._index_slots and 0 <= self._time_index.count <= most

    def _least(self, start: int, end: int, wanted: int, whole: bool) -> int:
        """How many records a batch must have to stay. One that ends where the segment or what is reserved of it does
        might have had more in another place.
        """
        return 1 if not whole and end - start == self._max_bytes else max(wanted, 1)

    def _finish(self, start: int, end: int, count: int, least: int, max_timestamp: int, now: int) -> int:
        """Keep the batch that stands in [start, end) if it may stay there, else unmake it. Code of the caller's may
        have run since it was begun, so that everything may have changed.
        """
        if self._log.size != start:
            return 0
        last_offset = self._marks.next_offset + count - 1
        keep = (
            count >= least
            and self._has_slots()
            and last_offset - self._base_offset < 1 << 31
            and not self._is_due(max_timestamp, now)
            and self._faults == guard.faults()
        )
        if keep:
            with self._lock.whole if self._lock is not None else nullcontext():
                self._take_in(end - start, last_offset, max_timestamp)
                self._show()
            return count
        if count:
            self._view[start:end] = bytes(end - start)  # values may be batches: nothing of them is left behind the log
        return 0

    def _is_due(self, max_timestamp: int, now: int) -> bool:
        """Whether the segment has to roll first (rule R2: by record time, else by clock)."""
        if self._log.size == 0:
            return False
        first = self._marks.first_timestamp
        waited = max_timestamp - first if first >= 0 else -1
        return (waited if waited >= 0 else now - self._created_ms) > self._roll_ms

    def _take_in(self, size: int, last_offset: int, max_timestamp: int) -> None:
        """Indexes and marks. An index entry is due when more than the interval was written since the last one's batch
        began, so the first batch of a segment never has one.
        """
        marks, position = self._marks, self._log.size
        newer = max_timestamp > marks.max_timestamp
        if marks.unindexed > self._interval:
            self._add_entries(last_offset, position, newer, max_timestamp)
            marks.unindexed = 0
        if newer:
            marks.max_timestamp, marks.max_timestamp_offset = max_timestamp, last_offset
        if marks.first_timestamp == NOT_KNOWN:
            marks.first_timestamp = max_timestamp
        marks.unindexed += size
        self._log.size = position + size
        marks.next_offset = marks.batches_end = last_offset + 1

    def _add_entries(self, last_offset: int, position: int, newer: bool, max_timestamp: int) -> None:
        marks, at = self._marks, self._offset_index.count * 8
        self._index_view[at : at + 8] = big_endian(last_offset - self._base_offset, 4) + big_endian(position, 4)
        self._offset_index.count += 1
        largest = (max_timestamp, last_offset) if newer else (marks.max_timestamp, marks.max_timestamp_offset)
        at = self._time_index.count * 12
        if largest[0] > (int.from_bytes(self._time_view[at - 12 : at - 4], "big", signed=True) if at else -1):
            self._time_view[at : at + 12] = big_endian(largest[0], 8) + big_endian(largest[1] - self._base_offset, 4)
            self._time_index.count += 1

    def _show(self) -> None:
        """Readers in all processes see it, if they may."""
        end = self._marks.next_offset
        if self._visible:
            stable = min(end, self._stable_limit)
            tail.publish(self._state, stable, end, end, tail.load(self._state, tail.DURABLE))
        else:
            tail.store(self._state, tail.LOG_END, end)

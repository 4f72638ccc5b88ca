"""The tail of a log: batches go to the end of the active segment, are indexed, and become visible, in one call.

Twin of `_pure.append`, which says what it is all about. `append` runs no Python code and does not let go of the GIL, so
it needs no lock: what it finds is what the last call left.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int16_t, int32_t, int64_t, uint64_t
from libc.string cimport memset

from eventcore._native.batch cimport APPEND_TIME_BIT, CONTROL_BIT, HEADER_BYTES, TRANSACTIONAL_BIT, Header
from eventcore._native.builder cimport Batch, Part, Row, add_row, close_batch, open_batch
from eventcore._native.cursor cimport take_buffer
from eventcore._native.guard cimport fault_count
from eventcore._native.index_entries cimport OFFSET_ENTRY, TIME_ENTRY, add_offset, add_time
from eventcore._native.marks cimport End, Entries, Marks
from eventcore._native.plain cimport add_plain_items, take_plain, take_time, wall_ms
from eventcore._native.producer_entry cimport NONE, Entry
from eventcore._native.producers cimport ProducerTable, may_end, next_of, note_end, note_next, place_of
from eventcore._native.tail cimport show, show_end, take_state

from eventcore._native.encode import encode as _encode
from eventcore._native.encode import encode_columns as _encode_columns
from eventcore.types import BatchInfo as _BatchInfo

cdef extern from "forks.h":
    unsigned long forks_seen
    int forks_watch()

__all__ = ["NEVER", "Appender"]

NEVER = INT64_MAX

cdef enum:
    TIME_RESERVE = 2  # the entry of this batch, and the one that seals the segment
    BUFFERS = 4

if forks_watch():
    raise MemoryError("cannot watch for forks")

cdef object encode = _encode
cdef object encode_columns = _encode_columns
cdef object BatchInfo = _BatchInfo


cdef class Appender:
    """Appends to the segment it is attached to. See the twin."""

    cdef Py_ssize_t limit, index_slots, time_slots
    cdef int32_t leader_epoch
    cdef bint visible, wall_clock, attached
    cdef int64_t stable_limit
    cdef uint64_t faults
    cdef Py_ssize_t max_bytes
    cdef int64_t interval, roll_ms
    cdef int attributes
    cdef int paused
    cdef bint busy  # items are being encoded for this segment: their code may want to append, or attach another one
    cdef unsigned long forks
    cdef Marks marks
    cdef int64_t base_offset, created_ms
    cdef End log
    cdef Entries offset_index, time_index
    cdef object log_view
    cdef Py_buffer views[BUFFERS]
    cdef int held
    cdef unsigned char* at
    cdef unsigned char* index_at
    cdef unsigned char* time_at
    cdef char* state
    cdef public ProducerTable producers  # of the log; None: there are none to look after
    cdef public dict opened  # producer id: first offset, of the transactions that are open; None: they are not known

    def __init__(self, Py_ssize_t max_bytes, int64_t interval, int64_t roll_ms, int attributes, bint wall_clock):
        self.max_bytes, self.interval, self.roll_ms = max_bytes, interval, roll_ms
        self.attributes, self.wall_clock = attributes, wall_clock
        self.paused, self.busy, self.forks = 0, False, forks_seen
        self.limit = self.index_slots = self.time_slots = 0
        self.faults = 0
        self.leader_epoch, self.visible, self.stable_limit = -1, False, INT64_MAX

    def __dealloc__(self):
        self._release()

    cdef void _release(self) noexcept:
        self.attached = False
        while self.held:
            self.held -= 1
            PyBuffer_Release(&self.views[self.held])

    cdef unsigned char* _take(self, object buf) except NULL:
        take_buffer(buf, &self.views[self.held], PyBUF_WRITABLE)
        self.held += 1
        return <unsigned char*>self.views[self.held - 1].buf

    def attach(
        self, object state, Marks marks not None, int64_t base_offset, int64_t created_ms, End log not None,
        object log_view, Entries offset_index not None, object index_view, Entries time_index not None,
        object time_view,
    ):
        """Go on at the end of this segment. Its buffers, and `state`, the shared page of the log (see `tail`), stay
        pinned until `detach`. Nothing is allowed there until the limits are set.
        """
        self.detach()
        take_state(state, &self.views[0], PyBUF_WRITABLE)
        self.held = 1
        self.state = <char*>self.views[0].buf
        self.at = self._take(log_view)
        self.index_at = self._take(index_view)
        self.time_at = self._take(time_view)
        self.marks, self.base_offset, self.created_ms = marks, base_offset, created_ms
        self.log, self.offset_index, self.time_index, self.log_view = log, offset_index, time_index, log_view
        self.attached = True

    def detach(self):
        """Let go of the segment; every call declines."""
        self._release()
        self.busy = False
        self.limit = self.index_slots = self.time_slots = 0
        self.marks = self.log = self.offset_index = self.time_index = self.log_view = None

    def allow(self, Py_ssize_t limit, Py_ssize_t index_slots, Py_ssize_t time_slots):
        """Bytes of the log below `limit`, and so many entries of each index, have their place: reserved, populated."""
        if not self.attached:
            raise ValueError("not attached")
        if not (
            0 <= limit <= self.views[1].len
            and 0 <= index_slots <= self.views[2].len // OFFSET_ENTRY
            and 0 <= time_slots <= self.views[3].len // TIME_ENTRY
        ):
            raise ValueError(f"{limit} bytes, {index_slots} and {time_slots} entries are more than the maps have")
        self.limit, self.index_slots, self.time_slots = limit, index_slots, time_slots

    def stamp(self, int32_t leader_epoch, bint visible, int64_t stable_limit, uint64_t faults):
        """What batches get as leader epoch (-1: nothing may be appended); whether they are at once below the high
        watermark; the first offset that is not stable; `guard.faults()` when the owner last looked.
        """
        self.leader_epoch, self.visible = leader_epoch, visible
        self.stable_limit, self.faults = stable_limit, faults

    def pause(self):
        """Make `append` decline, until `resume` was called as often."""
        self.paused += 1

    def resume(self):
        """See `pause`."""
        self.paused -= 1

    def append(self, object value, object key, object timestamp):
        """Append one record as one batch, and show it: its offset, or -1 with nothing done.

        Only bytes and None, and an int or None for now, go this way.
        """
        cdef Batch batch
        cdef Row row
        cdef Header header
        cdef int64_t now
        cdef Py_ssize_t start
        if self.paused or not self.wall_clock or not self._has_room():
            return -1
        now = wall_ms()
        if not take_plain(<PyObject*>value, &row.value) or not take_plain(<PyObject*>key, &row.key):
            return -1
        if not take_time(timestamp, now, &row.timestamp):
            return -1
        if self.attributes & APPEND_TIME_BIT:
            row.timestamp = now
        row.headers.data, row.headers.size = b"\0", 1
        header.base_offset, header.leader_epoch, header.attributes = (
            self.marks.next_offset, self.leader_epoch, self.attributes
        )
        header.producer_id = header.producer_epoch = header.base_sequence = -1
        start = self.log.size
        open_batch(&batch, &self.views[1], start, self._end())
        if not add_row(&batch, &row):
            return -1
        close_batch(&batch, &header)
        if not self._finish(start, start + batch.used, 1, 1, row.timestamp, now):
            return -1
        return header.base_offset

    def append_all(self, object items):
        """Append a list or tuple of plain items as one batch, and show it: its first offset, or -1 with nothing done.

        A plain item is bytes or None, or an exact pair of these. What does not fit is declined, too.
        """
        cdef Header header
        header.producer_id = header.producer_epoch = header.base_sequence = -1
        header.attributes = self.attributes
        return self._append_plain(items, &header)

    def append_sequenced(
        self, object items, int64_t producer_id, int64_t epoch, int64_t sequence, bint transactional=False
    ):
        """`append_all` for a producer that is known, of whose records here `sequence` (-1: whichever it is) is next.

        If they are `transactional` they go on with its open transaction, or begin one, which is in `opened` then. None,
        with nothing done, for all others.
        """
        cdef Header header
        cdef Entry* entry = self._entry_of(producer_id)
        cdef int64_t first, stable = self.stable_limit
        cdef bint opens
        if entry == NULL or entry.epoch != epoch or sequence not in (-1, next_of(entry, entry.epoch)):
            return None
        opens = transactional and entry.txn_first_offset < 0
        if (entry.txn_first_offset >= 0) != (transactional and not opens) or (opens and self.opened is None):
            return None
        header.producer_id, header.producer_epoch = producer_id, entry.epoch
        header.base_sequence = next_of(entry, entry.epoch)
        header.attributes = self.attributes | (TRANSACTIONAL_BIT if transactional else 0)
        if opens and self.attached:
            self.stable_limit = min(stable, self.marks.next_offset)
        first = self._append_plain(items, &header)
        if first < 0:
            self.stable_limit = stable
            return None
        note_next(entry, first, self.marks.next_offset - 1, header.max_timestamp)
        if opens:
            entry.txn_first_offset = first
            self.opened[producer_id] = first
        return BatchInfo(first, self.marks.next_offset - 1, header.max_timestamp)

    def commit(
        self, tuple marker, int64_t producer_id, int64_t epoch, int64_t coordinator_epoch, bint raises_epoch
    ):
        """Append the marker, a control record, that commits the one transaction that is open; its offset, or -1 with
        nothing done: where it is not the only one, or too late, or readers are not shown at once what is appended.
        """
        cdef Header header
        cdef Entry* entry = self._entry_of(producer_id)
        if entry == NULL or not self.visible or self.opened is None or len(self.opened) != 1:
            return -1
        if not may_end(entry, epoch, coordinator_epoch, raises_epoch):
            return -1
        header.producer_id, header.producer_epoch, header.base_sequence = producer_id, <int16_t>epoch, -1
        header.attributes = TRANSACTIONAL_BIT | CONTROL_BIT
        cdef int64_t stable = self.stable_limit
        self.stable_limit = INT64_MAX
        if self._append_plain((marker,), &header) < 0:
            self.stable_limit = stable
            return -1
        note_end(entry, <int16_t>epoch, <int32_t>coordinator_epoch, header.max_timestamp)
        self.opened.clear()
        return header.base_offset

    cdef Entry* _entry_of(self, int64_t producer_id) noexcept:
        cdef int64_t place = NONE if self.producers is None else place_of(self.producers, producer_id)
        return NULL if place < 0 else &self.producers.entries[place]

    cdef int64_t _append_plain(self, object items, Header* header):
        # See `append_all`; the header has the attributes and the producer's fields.
        cdef Batch batch
        cdef int64_t now
        cdef Py_ssize_t start, count
        if self.paused or not self.wall_clock or not self._has_room():
            return -1
        if PyList_CheckExact(items):
            count = PyList_GET_SIZE(items)
        elif PyTuple_CheckExact(items):
            count = PyTuple_GET_SIZE(items)
        else:
            return -1
        if count == 0:
            return -1
        now = wall_ms()
        header.base_offset, header.leader_epoch = self.marks.next_offset, self.leader_epoch
        start = self.log.size
        open_batch(&batch, &self.views[1], start, self._end())
        if add_plain_items(&batch, items, 0, now) < count:
            memset(batch.at + HEADER_BYTES, 0, batch.used - HEADER_BYTES)
            return -1
        close_batch(&batch, header)
        if not self._finish(start, start + batch.used, batch.count, count, batch.max_timestamp, now):
            return -1
        return header.base_offset

    def extend(
        self, object items, Py_ssize_t first, int64_t now, bint whole, int64_t producer_id=-1,
        int16_t producer_epoch=-1, int32_t base_sequence=-1,
    ):
        """Append `items[first:]` (see `encode.encode`) as one batch, and show it: how many; 0 with nothing done.

        All of them if `whole`; else as many as a batch of the largest size has room for.
        """
        cdef Py_ssize_t start, end
        if not self._has_room():
            return 0
        start, end, self.busy = self.log.size, self._end(), True
        try:
            found = encode(
                self.log_view, start, end, items, first, self.marks.next_offset, self.leader_epoch,
                self.attributes, now, producer_id, producer_epoch, base_sequence,
            )
        except BaseException:
            self.busy = False
            raise
        return self._keep(start, end, found, len(items) - first, now, whole)

    def extend_columns(self, Py_ssize_t rows, Py_ssize_t first, int64_t now, bint whole, tuple columns):
        """`extend` for the rows `first:rows` of columns, in the order of `encode.encode_columns`."""
        cdef Py_ssize_t start, end
        if not self._has_room():
            return 0
        start, end, self.busy = self.log.size, self._end(), True
        try:
            found = encode_columns(
                self.log_view, start, end, rows, first, *columns, self.marks.next_offset, self.leader_epoch,
                self.attributes, now,
            )
        except BaseException:
            self.busy = False
            raise
        return self._keep(start, end, found, rows - first, now, whole)

    cdef int64_t _keep(
        self, Py_ssize_t start, Py_ssize_t end, tuple found, Py_ssize_t left, int64_t now, bint whole
    ) except? -1:
        # What was encoded, unless code of the caller's has attached another segment meanwhile.
        cdef bint same = self.busy
        cdef int64_t count = found[1]
        self.busy = False
        if not same:
            return 0
        left = self._least(start, end, left, whole)
        return count if self._finish(start, found[0], count, left, found[2], now) else 0

    cdef inline bint _has_room(self) noexcept:
        return (
            self.attached
            and not self.busy
            and self.leader_epoch >= 0
            and self.forks == forks_seen
            and self.faults == fault_count()
            and self._has_slots()
            and 0 <= self.log.size <= self.limit - HEADER_BYTES
        )

    cdef inline bint _has_slots(self) noexcept:
        cdef Py_ssize_t most = self.time_slots - TIME_RESERVE
        return 0 <= self.offset_index.count < self.index_slots and 0 <= self.time_index.count <= most

    cdef inline Py_ssize_t _end(self) noexcept:
        return self.log.size + min(self.limit - self.log.size, self.max_bytes)

    cdef inline int64_t _least(self, Py_ssize_t start, Py_ssize_t end, int64_t wanted, bint whole) noexcept:
        # How many records a batch must have to stay. One that ends where the segment or what is reserved of it does
        # might have had more in another place.
        return 1 if not whole and end - start == self.max_bytes else max(wanted, 1)

    cdef bint _finish(
        self, Py_ssize_t start, Py_ssize_t end, int64_t count, int64_t least, int64_t max_timestamp, int64_t now
    ) noexcept:
        # Keeps the batch that stands in [start, end) if it may stay there, else unmakes it. Code of the caller's may
        # have run since it was begun, so that everything may have changed.
        cdef int64_t last_offset
        if self.log.size != start:
            return False
        last_offset = self.marks.next_offset + count - 1
        if (
            count >= least
            and self._has_slots()
            and last_offset - self.base_offset <= INT32_MAX
            and not self._is_due(max_timestamp, now)
            and self.faults == fault_count()
        ):
            self._take_in(end - start, last_offset, max_timestamp)
            if self.visible:
                show(self.state, min(last_offset + 1, self.stable_limit), last_offset + 1)
            else:
                show_end(self.state, last_offset + 1)
            return True
        memset(self.at + start, 0, end - start)  # values may be batches: nothing of them is left behind the log
        return False

    cdef inline bint _is_due(self, int64_t max_timestamp, int64_t now) noexcept:
        # Whether the segment has to roll first (rule R2: by record time, else by clock).
        cdef int64_t first = self.marks.first_timestamp
        if self.log.size == 0:
            return False
        if first >= 0 and max_timestamp >= first:
            return max_timestamp - first > self.roll_ms
        return now - self.created_ms > self.roll_ms

    cdef inline void _take_in(self, Py_ssize_t size, int64_t last_offset, int64_t max_timestamp) noexcept:
        cdef Marks marks = self.marks
        if marks.unindexed > self.interval:
            add_offset(self.offset_index, self.index_at, last_offset - self.base_offset, self.log.size)
            add_time(self.time_index, self.time_at, marks, self.base_offset, last_offset, max_timestamp)
            marks.unindexed = 0
        if max_timestamp > marks.max_timestamp:
            marks.max_timestamp, marks.max_timestamp_offset = max_timestamp, last_offset
        if marks.first_timestamp == INT64_MIN:
            marks.first_timestamp = max_timestamp
        marks.unindexed += size
        self.log.size += size
        marks.next_offset = marks.batches_end = last_offset + 1

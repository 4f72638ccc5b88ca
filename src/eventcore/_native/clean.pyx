"""Copy a log without the records that an offset map says are superseded. Twin of `_pure.clean`.

A batch whose records all stay is copied as it is. Of any other the records that stay are copied as they are, in runs:
their offsets and times are relative to a batch that keeps its first offset and base time. Only a batch that gets a
delete horizon, which takes the place of its base time, has its records encoded anew.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cython cimport final, no_gc
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from eventcore._native.batch cimport HEADER_BYTES, PREFIX_BYTES, Header, check_crc, read_batch, seal_batch
from eventcore._native.clean cimport KEEP_ALL, KEEP_NONE, KEEP_SOME, Entries, Plan
from eventcore._native.cursor cimport checked_range, load_item, store_be32, store_be64, take_buffer
from eventcore._native.key_list cimport list_records, make_room
from eventcore._native.offset_map cimport OffsetMap, mark_latest, take_area, take_fields
from eventcore._native.records cimport Area, open_area
from eventcore._native.rewrite cimport HORIZON_BIT, most_bytes, plan_batch, put_empty, put_records
from eventcore._native.status cimport OK, Fault, Status, raise_fault

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

cdef enum:
    OFFSET_ENTRY = 8
    TIME_ENTRY = 12

cdef enum Reason:
    AT_END = 0
    AT_SPECIAL = 1
    OUT_OF_ROOM = 2
    TOO_LARGE = 3
    OUT_OF_MEMORY = 4

ENDED, STOPPED, NO_ROOM, FULL = AT_END, AT_SPECIAL, OUT_OF_ROOM, TOO_LARGE
NONE, SOME, ALL = KEEP_NONE, KEEP_SOME, KEEP_ALL


cdef bint more_entries(Entries* entries, Py_ssize_t size) noexcept nogil:
    cdef unsigned char* grown
    if entries.used + size <= entries.room:
        return True
    grown = <unsigned char*>realloc(entries.at, max(2 * entries.room, <Py_ssize_t>4096))
    if grown == NULL:
        return False
    entries.at, entries.room = grown, max(2 * entries.room, <Py_ssize_t>4096)
    return True


@final
@no_gc  # it can be in no cycle, and the collector would take its buffer without giving it back
cdef class Cleaner:
    """See the twin."""

    def __cinit__(self, OffsetMap offset_map not None, int64_t now, int64_t horizon, kept_ends):
        self.map, self.now, self.horizon = offset_map, now, horizon
        take_buffer(kept_ends, &self.ends, PyBUF_SIMPLE)
        self.has_ends = True
        if self.ends.len % 8:
            raise TypeError("kept_ends must be an int64 array")
        if horizon < 0:
            raise ValueError(f"a delete horizon of {horizon}")

    def __dealloc__(self):
        if self.has_ends:
            PyBuffer_Release(&self.ends)
        free(self.offset_index.at)
        free(self.time_index.at)

    def begin(self, int64_t base_offset, int64_t interval, int64_t limit):
        """Begin a segment; see the twin."""
        if not 0 <= limit <= INT32_MAX or base_offset < 0:
            raise ValueError(f"a segment of {limit} bytes at offset {base_offset}")
        self.base_offset, self.interval, self.limit = base_offset, interval, limit
        self.size = self.unindexed = 0
        self.next_offset = self.max_timestamp_offset = base_offset
        self.max_timestamp = self.indexed_timestamp = -1
        self.offset_index.used = self.time_index.used = 0

    def clean(
        self, object log, int64_t ordinal, Py_ssize_t start, Py_ssize_t end, object out, Py_ssize_t at, int stop_mask,
        Py_ssize_t until=INT32_MAX,
    ):
        """Copy what stays of the batches of `log[start:end]` to `out` from `at` on; see the twin."""
        cdef Py_buffer view, room
        cdef Fault fault
        cdef Status status = OK
        cdef Reason reason
        take_buffer(log, &view, PyBUF_SIMPLE)
        try:
            end = checked_range(&view, start, end)
            check_log(self.map, &view, ordinal)
            take_buffer(out, &room, PyBUF_WRITABLE)
            try:
                checked_range(&room, at, room.len)
                with nogil:
                    reason = clean_run(self, &view, ordinal, &start, end, until, &room, &at, stop_mask, &status, &fault)
            finally:
                PyBuffer_Release(&room)
        finally:
            PyBuffer_Release(&view)
        if status != OK:
            raise_fault(&fault)
        if reason == OUT_OF_MEMORY:
            raise MemoryError("no memory for the records of a batch")
        return start, at, <int>reason

    def filter(self, object data, object fields, int64_t ordinal, int64_t position, object out, bint keep_all):
        """Filter one batch whose area is decompressed; see the twin."""
        cdef Py_buffer view, room
        cdef Header header
        cdef Plan plan
        cdef Py_ssize_t size
        take_fields(&header, fields)
        take_buffer(data, &view, PyBUF_SIMPLE)
        try:
            take_buffer(out, &room, PyBUF_WRITABLE)
            try:
                size = filter_data(self, &view, &header, ordinal, position, &room, keep_all, &plan)
            finally:
                PyBuffer_Release(&room)
        finally:
            PyBuffer_Release(&view)
        self.records += self.map.records.count
        self.kept += plan.kept
        return <int>plan.verdict, size, plan.kept, plan.max_timestamp, plan.sets_horizon

    def keeps_empty(self, int64_t last_offset):
        """Whether a batch that ends at `last_offset` stays although it is empty."""
        return is_kept_end(self, last_offset)

    def fits(self, int64_t size, int64_t last_offset):
        """Whether the segment may take so many bytes more, up to an offset."""
        return self.size + size <= self.limit and last_offset - self.base_offset <= INT32_MAX

    def add(self, int64_t size, int64_t last_offset, int64_t max_timestamp):
        """Take in a batch that was written behind all others: indexes, size, marks."""
        if not note_batch(self, size, last_offset, max_timestamp):
            raise MemoryError("no memory for the index")

    def offset_entries(self):
        """The segment's `.index`."""
        return PyBytes_FromStringAndSize(<char*>self.offset_index.at, self.offset_index.used)

    def time_entries(self):
        """The segment's `.timeindex`, the entry of its largest timestamp included."""
        if not time_entry(self):
            raise MemoryError("no memory for the index")
        return PyBytes_FromStringAndSize(<char*>self.time_index.at, self.time_index.used)


cdef int check_log(OffsetMap map, const Py_buffer* view, int64_t ordinal) except -1:
    if view.len > INT32_MAX:
        raise ValueError("a log has less than 2 GiB")
    if ordinal and not (0 < ordinal < map.log_count and map.logs[ordinal].len == view.len):
        raise ValueError(f"this is not log {ordinal} of the map")
    return 0


cdef bint is_kept_end(Cleaner self, int64_t last_offset) noexcept nogil:
    cdef Py_ssize_t low = 0, high = self.ends.len // 8, middle
    cdef const unsigned char* ends = <const unsigned char*>self.ends.buf
    while low < high:
        middle = low + (high - low) // 2
        if load_item(ends, middle) < last_offset:
            low = middle + 1
        else:
            high = middle
    return low < self.ends.len // 8 and load_item(ends, low) == last_offset


cdef bint time_entry(Cleaner self) noexcept nogil:
    cdef unsigned char* at
    if self.max_timestamp <= self.indexed_timestamp:
        return True
    if not more_entries(&self.time_index, TIME_ENTRY):
        return False
    at = self.time_index.at + self.time_index.used
    store_be64(at, self.max_timestamp)
    store_be32(at + 8, <int32_t>(self.max_timestamp_offset - self.base_offset))
    self.time_index.used += TIME_ENTRY
    self.indexed_timestamp = self.max_timestamp
    return True


cdef bint note_batch(Cleaner self, int64_t size, int64_t last_offset, int64_t max_timestamp) noexcept nogil:
    # As a segment's own: an entry is due once more than `interval` bytes were written since the last indexed batch.
    cdef unsigned char* at
    cdef bint is_indexed = self.unindexed > self.interval
    if max_timestamp > self.max_timestamp:
        self.max_timestamp, self.max_timestamp_offset = max_timestamp, last_offset
    if is_indexed:
        if not more_entries(&self.offset_index, OFFSET_ENTRY) or not time_entry(self):
            return False
        at = self.offset_index.at + self.offset_index.used
        store_be32(at, <int32_t>(last_offset - self.base_offset))
        store_be32(at + 4, <int32_t>self.size)
        self.offset_index.used += OFFSET_ENTRY
        self.unindexed = 0
    self.unindexed += size
    self.size += size
    self.next_offset = last_offset + 1
    return True


cdef Status plan_area(
    Cleaner self, Area* area, const Header* header, int64_t ordinal, int64_t batch_at, bint keep_all, Plan* plan,
    Fault* fault,
) noexcept nogil:
    cdef Status status = list_records(self.map, area, fault)
    if status == OK:
        mark_latest(self.map, area.cursor.base, header.base_offset, <uint64_t>ordinal, batch_at)
        status = plan_batch(self, header, keep_all, plan, fault)
    return status


cdef Py_ssize_t filter_data(
    Cleaner self, const Py_buffer* view, const Header* header, int64_t ordinal, int64_t position, Py_buffer* room,
    bint keep_all, Plan* plan,
) except -1:
    cdef Area area
    cdef Fault fault
    cdef Status status
    cdef Py_ssize_t size = 0
    if not 0 <= ordinal < self.map.log_count or not 0 <= position <= INT32_MAX:
        raise ValueError(f"there is no log {ordinal} with a position {position}")
    take_area(&area, self.map, view, header)
    with nogil:
        status = plan_area(self, &area, header, ordinal, position, keep_all, plan, &fault)
    if status == OK and plan.verdict == KEEP_SOME:
        if room.len < most_bytes(plan):
            raise ValueError(f"{room.len} bytes are less than the {most_bytes(plan)} that the records may need")
        with nogil:
            status = put_records(self, <const unsigned char*>view.buf, header, plan, <unsigned char*>room.buf, &size,
                                 &fault)
    if status != OK:
        raise_fault(&fault)
    return size


cdef Status put_batch(
    Cleaner self, const unsigned char* base, Py_ssize_t pos, Header* header, const Plan* plan, unsigned char* at,
    Py_ssize_t* size, Fault* fault,
) noexcept nogil:
    cdef Status status
    if plan.verdict == KEEP_ALL:
        memcpy(at, base + pos, size[0])
        return OK
    if plan.verdict == KEEP_NONE:
        size[0] = put_empty(at, header)
        return OK
    status = put_records(self, base, header, plan, at + HEADER_BYTES, size, fault)
    size[0] += HEADER_BYTES
    if plan.sets_horizon:
        header.attributes |= HORIZON_BIT
        header.base_timestamp = self.horizon
    header.max_timestamp, header.record_count = plan.max_timestamp, plan.kept
    if status == OK:
        seal_batch(at, size[0], header)
    return status


cdef Reason clean_batch(
    Cleaner self, const unsigned char* base, int64_t ordinal, Py_ssize_t pos, Header* header, Py_buffer* room,
    Py_ssize_t* at, Status* status, Fault* fault,
) noexcept nogil:
    cdef Area area
    cdef Plan plan
    cdef Py_ssize_t size = <Py_ssize_t>header.length + PREFIX_BYTES, most
    cdef int64_t last_offset = header.base_offset + header.last_offset_delta
    status[0] = check_crc(base, pos, header, fault)
    if status[0] != OK:
        return AT_END
    if not make_room(&self.map.records, header.record_count, size):
        return OUT_OF_MEMORY
    open_area(&area, base, pos + HEADER_BYTES, pos + size, header, -INT64_MAX - 1, INT64_MAX)
    status[0] = plan_area(self, &area, header, ordinal, -1, False, &plan, fault)
    if status[0] != OK:
        return AT_END
    if plan.verdict != KEEP_NONE or is_kept_end(self, last_offset):
        most = size if plan.verdict == KEEP_ALL else HEADER_BYTES + most_bytes(&plan)
        if self.size + most > self.limit or last_offset - self.base_offset > INT32_MAX:
            return TOO_LARGE
        if most > room.len - at[0]:
            self.needed = most
            return OUT_OF_ROOM
        status[0] = put_batch(self, base, pos, header, &plan, <unsigned char*>room.buf + at[0], &size, fault)
        if status[0] != OK:
            return AT_END
        if not note_batch(self, size, last_offset, header.max_timestamp):
            return OUT_OF_MEMORY
        at[0] += size
    self.records += self.map.records.count
    self.kept += plan.kept
    return AT_END


cdef Reason clean_run(
    Cleaner self, const Py_buffer* view, int64_t ordinal, Py_ssize_t* pos, Py_ssize_t end, Py_ssize_t until,
    Py_buffer* room, Py_ssize_t* at, int stop_mask, Status* status, Fault* fault,
) noexcept nogil:
    cdef const unsigned char* base = <const unsigned char*>view.buf
    cdef Header header
    cdef Reason reason
    cdef Py_ssize_t size
    while pos[0] < min(end, until):
        self.position = pos[0]
        status[0] = read_batch(base, pos[0], end, &header, fault)
        if status[0] != OK:
            return AT_END
        if header.attributes & stop_mask:
            return AT_SPECIAL
        size = <Py_ssize_t>header.length + PREFIX_BYTES
        reason = clean_batch(self, base, ordinal, pos[0], &header, room, at, status, fault)
        if reason != AT_END or status[0] != OK:
            return reason
        pos[0] += size
    return AT_END

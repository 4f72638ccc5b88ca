# Records into six int64 columns. Nothing here touches a Python object, so that other threads may run meanwhile.

from libc.stdint cimport int64_t

from eventcore._native.cursor cimport add_overflows, prefetch, store_item, take_short
from eventcore._native.records cimport LEAST_RECORD_BODY, Area, Slices, check_end, next_record, read_timestamp, wanted
from eventcore._native.status cimport OK, Fault, Status


cdef enum:
    COLUMN_COUNT = 6
    AHEAD_BYTES = 2048  # what is that far ahead is asked for: each record's start depends on the one before
    LONGEST_PLAIN_START = 9  # length, attributes, two deltas and a length; all but the attributes of two bytes


cdef struct Columns:
    # Offset, timestamp, key position, key length, value position, value length; NULL for what is not wanted.
    unsigned char* at[COLUMN_COUNT]


cdef struct PlainRecord:
    int64_t timestamp_delta
    int64_t offset_delta
    const unsigned char* key_at  # where the key's length stands
    const unsigned char* key
    int64_t key_length
    const unsigned char* value
    int64_t value_length


cdef inline const unsigned char* read_plain(
    const unsigned char* at, const unsigned char* end, PlainRecord* out
) noexcept nogil:
    # The record at `at` if it is like nearly every one of a log: no number takes more than two bytes, and there are no
    # headers. Returns where it ends; NULL if it is another one, or broken: `next_record` finds out which.
    cdef int64_t size = 0
    if end - at < LONGEST_PLAIN_START or not take_short(&at, &size) or not LEAST_RECORD_BODY <= size <= end - at:
        return NULL
    end = at + size - 1  # where the header count must stand
    at += 1  # attributes
    if not (take_short(&at, &out.timestamp_delta) and take_short(&at, &out.offset_delta)):
        return NULL
    out.key_at = at
    if not take_short(&at, &out.key_length) or not -1 <= out.key_length <= end - at:
        return NULL
    out.key = at
    at += out.key_length if out.key_length > 0 else 0
    if at >= end or not take_short(&at, &out.value_length) or not -1 <= out.value_length <= end - at:
        return NULL
    out.value = at
    at += out.value_length if out.value_length > 0 else 0
    return end + 1 if at == end and at[0] == 0 else NULL


cdef inline void store_row(
    const Columns* columns, Py_ssize_t row, int64_t offset, int64_t timestamp, int64_t key_position,
    int64_t key_length, int64_t value_position, int64_t value_length,
) noexcept nogil:
    if columns.at[0] != NULL:
        store_item(columns.at[0], row, offset)
    if columns.at[1] != NULL:
        store_item(columns.at[1], row, timestamp)
    if columns.at[2] != NULL:
        store_item(columns.at[2], row, key_position)
    if columns.at[3] != NULL:
        store_item(columns.at[3], row, key_length)
    if columns.at[4] != NULL:
        store_item(columns.at[4], row, value_position)
    if columns.at[5] != NULL:
        store_item(columns.at[5], row, value_length)


cdef inline void fill_plain_rows(
    Area* area, const Columns* shared, Py_ssize_t* next_row, int64_t base_position
) noexcept nogil:
    # As many records as are plain and right; `area` is left before the first that is not. What the loop needs stands in
    # variables of its own, which the compiler keeps in registers: a store through a pointer may change all others.
    cdef Columns columns = shared[0]
    cdef PlainRecord record
    cdef const unsigned char* base = area.cursor.base
    cdef const unsigned char* at = base + area.cursor.pos
    cdef const unsigned char* end = base + area.cursor.end
    cdef const unsigned char* after
    cdef int64_t left = area.count - area.done, previous = area.previous_delta, last = area.last_offset_delta
    cdef int64_t base_offset = area.base_offset, min_offset = area.min_offset, max_offset = area.max_offset
    cdef int64_t base_timestamp = area.base_timestamp, timestamp = area.max_timestamp, offset = 0
    cdef bint append_time = area.append_time
    cdef Py_ssize_t row = next_row[0]
    while left > 0:
        prefetch(at + AHEAD_BYTES)
        prefetch(at + AHEAD_BYTES + 64)
        after = read_plain(at, end, &record)
        if after == NULL or not previous < record.offset_delta <= last:
            break
        if add_overflows(base_offset, record.offset_delta, &offset):
            break
        if not append_time and add_overflows(base_timestamp, record.timestamp_delta, &timestamp):
            break
        if min_offset <= offset < max_offset:
            store_row(
                &columns, row, offset, timestamp, base_position + (record.key - base), record.key_length,
                base_position + (record.value - base), record.value_length,
            )
            row += 1
        previous = record.offset_delta
        at = after
        left -= 1
    area.done = area.count - left
    area.previous_delta = previous
    area.cursor.pos = at - base
    next_row[0] = row


cdef inline Status fill_row(
    Area* area, const Columns* columns, Py_ssize_t* row, int64_t base_position, Fault* fault
) noexcept nogil:
    # The next record, of whatever kind.
    cdef Slices parts
    cdef int64_t offset = 0, timestamp = area.max_timestamp
    cdef Status status = next_record(area, &parts, fault)
    if status != OK or not wanted(area, &parts, &offset):
        return status
    if not area.append_time:
        status = read_timestamp(area, &parts, &timestamp, fault)
        if status != OK:
            return status
    store_row(
        columns, row[0], offset, timestamp, base_position + parts.key_position, parts.key_length,
        base_position + parts.value_position, parts.value_length,
    )
    row[0] += 1
    return OK


cdef inline Status fill_rows(
    Area* area, const Columns* columns, Py_ssize_t* row, int64_t base_position, Fault* fault
) noexcept nogil:
    # All records of the area that are wanted. The caller has seen that area.count rows are free.
    cdef Status status
    while True:
        fill_plain_rows(area, columns, row, base_position)
        if area.done >= area.count:
            return check_end(area, fault)
        status = fill_row(area, columns, row, base_position, fault)
        if status != OK:
            return status

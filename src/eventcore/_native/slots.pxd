# Where the parts of a batch's records lie, found in one pass before anything is made of them.

from libc.stdint cimport int32_t, int64_t, uint32_t

from eventcore._native.columns cimport AHEAD_BYTES, PlainRecord, read_plain
from eventcore._native.cursor cimport add_overflows, prefetch
from eventcore._native.records cimport Area, Slices, check_end, next_record, read_timestamp, wanted
from eventcore._native.status cimport OK, Fault, Status


cdef struct Slot:
    # One record; positions count from the start of its batch, a length of -1 means null.
    int64_t offset
    int64_t timestamp
    uint32_t key_position
    uint32_t value_position
    uint32_t headers_position
    uint32_t end
    int32_t key_length
    int32_t value_length
    int32_t header_count


cdef inline void fill_plain_slots(Area* area, Slot* slots, Py_ssize_t* count) noexcept nogil:
    # As `columns.fill_plain_rows`: as many records as are plain and right.
    cdef PlainRecord record
    cdef Slot* slot = slots + count[0]
    cdef const unsigned char* base = area.cursor.base
    cdef const unsigned char* at = base + area.cursor.pos
    cdef const unsigned char* end = base + area.cursor.end
    cdef const unsigned char* after
    cdef int64_t left = area.count - area.done, previous = area.previous_delta, last = area.last_offset_delta
    cdef int64_t base_offset = area.base_offset, min_offset = area.min_offset, max_offset = area.max_offset
    cdef int64_t base_timestamp = area.base_timestamp, timestamp = area.max_timestamp, offset = 0
    cdef bint append_time = area.append_time
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
            slot.offset, slot.timestamp = offset, timestamp
            slot.key_position, slot.key_length = <uint32_t>(record.key - base), <int32_t>record.key_length
            slot.value_position, slot.value_length = <uint32_t>(record.value - base), <int32_t>record.value_length
            slot.header_count = 0
            slot += 1
        previous = record.offset_delta
        at = after
        left -= 1
    area.done = area.count - left
    area.previous_delta = previous
    area.cursor.pos = at - base
    count[0] = slot - slots


cdef inline Status fill_slot(Area* area, Slot* slots, Py_ssize_t* count, Fault* fault) noexcept nogil:
    # The next record, of whatever kind.
    cdef Slices parts
    cdef Slot* slot = slots + count[0]
    cdef int64_t offset = 0, timestamp = area.max_timestamp
    cdef Status status = next_record(area, &parts, fault)
    if status != OK or not wanted(area, &parts, &offset):
        return status
    if not area.append_time:
        status = read_timestamp(area, &parts, &timestamp, fault)
        if status != OK:
            return status
    slot.offset, slot.timestamp = offset, timestamp
    slot.key_position, slot.key_length = <uint32_t>parts.key_position, <int32_t>parts.key_length
    slot.value_position, slot.value_length = <uint32_t>parts.value_position, <int32_t>parts.value_length
    slot.headers_position, slot.end = <uint32_t>parts.headers_position, <uint32_t>parts.end
    slot.header_count = <int32_t>parts.header_count
    count[0] += 1
    return OK


cdef inline Status fill_slots(Area* area, Slot* slots, Py_ssize_t* count, Fault* fault) noexcept nogil:
    # All wanted records of the area, for area.count of which there is room.
    cdef Status status
    while True:
        fill_plain_slots(area, slots, count)
        if area.done >= area.count:
            return check_end(area, fault)
        status = fill_slot(area, slots, count, fault)
        if status != OK:
            return status

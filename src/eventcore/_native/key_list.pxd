# The records of one batch, listed with the hashes of their keys, before anything is looked up.

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport realloc

from eventcore._native.columns cimport AHEAD_BYTES, PlainRecord, read_plain
from eventcore._native.cursor cimport prefetch
from eventcore._native.offset_map cimport Keyed, KeyedList, OffsetMap
from eventcore._native.records cimport Area, Slices, check_end, next_record
from eventcore._native.status cimport OK, Fault, Status

cdef extern from "siphash.h" nogil:
    uint64_t siphash13(uint64_t k0, uint64_t k1, const unsigned char* data, size_t size)

cdef enum:
    LEAST_RECORD = 7


cdef inline bint make_room(KeyedList* records, int64_t count, Py_ssize_t size) noexcept nogil:
    # For the records of an area of `size` bytes; to be called before `list_records`, with the GIL or without.
    cdef int64_t wanted = min(count, <int64_t>(size // LEAST_RECORD + 1))  # a count that is larger is found out
    cdef Keyed* grown
    if wanted <= records.room:
        return True
    wanted = max(wanted, 2 * records.room)
    grown = <Keyed*>realloc(records.at, wanted * sizeof(Keyed))
    if grown == NULL:
        return False
    records.at, records.room = grown, wanted
    return True


cdef inline void list_plain(OffsetMap map, Area* area) noexcept nogil:
    # As many records as are plain and right; `area` is left before the first that is not. In variables of its own, as
    # in `fill_plain_rows`.
    cdef PlainRecord record
    cdef const unsigned char* base = area.cursor.base
    cdef const unsigned char* at = base + area.cursor.pos
    cdef const unsigned char* end = base + area.cursor.end
    cdef const unsigned char* after
    cdef int64_t left = area.count - area.done, previous = area.previous_delta, last = area.last_offset_delta
    cdef uint64_t k0 = map.k0, k1 = map.k1
    cdef Keyed* one = &map.records.at[map.records.count]
    while left > 0:
        prefetch(at + AHEAD_BYTES)
        after = read_plain(at, end, &record)
        if after == NULL or not previous < record.offset_delta <= last:
            break
        one.hash = siphash13(k0, k1, record.key, max(record.key_length, <int64_t>0))
        one.timestamp_delta = record.timestamp_delta
        one.start, one.end = <int32_t>(at - base), <int32_t>(after - base)
        one.key_at, one.key_position = <int32_t>(record.key_at - base), <int32_t>(record.key - base)
        one.key_length, one.offset_delta = <int32_t>record.key_length, <int32_t>record.offset_delta
        one.is_tombstone, one.keep = record.value_length < 0, False
        previous = record.offset_delta
        at = after
        one += 1
        left -= 1
    map.records.count += area.count - area.done - left
    area.done = area.count - left
    area.previous_delta = previous
    area.cursor.pos = at - base


cdef inline Status list_records(OffsetMap map, Area* area, Fault* fault) noexcept nogil:
    # The records of an area, checked whole.
    cdef KeyedList* records = &map.records
    cdef const unsigned char* base = area.cursor.base
    cdef Slices parts
    cdef Keyed* one
    cdef Status status
    records.count = 0
    list_plain(map, area)
    while area.done < area.count:
        status = next_record(area, &parts, fault)
        if status != OK:
            return status
        one = &records.at[records.count]  # `make_room` was there: there are no more records than bytes / 7
        records.count += 1
        one.start, one.end = <int32_t>area.record_position, <int32_t>parts.end
        one.key_at, one.key_position = <int32_t>parts.key_at, <int32_t>parts.key_position
        one.key_length = <int32_t>parts.key_length
        one.offset_delta, one.timestamp_delta = <int32_t>parts.offset_delta, parts.timestamp_delta
        one.is_tombstone = parts.value_length < 0
        one.keep = False
        one.hash = siphash13(map.k0, map.k1, base + parts.key_position, max(parts.key_length, 0))
        list_plain(map, area)
    return check_end(area, fault)

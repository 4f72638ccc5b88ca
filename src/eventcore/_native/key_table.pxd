# The slots of an offset map: looked up, asked for ahead of time; and keys compared where they stand.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from eventcore._native.cursor cimport Cursor, prefetch, read_varint
from eventcore._native.offset_map cimport POSITION_BITS, Keyed, OffsetMap, Slot
from eventcore._native.status cimport OK, Fault

cdef extern from "siphash.h" nogil:
    uint64_t scale_hash(uint64_t hash, uint64_t n)

cdef extern from "table.h" nogil:
    void* table_new(size_t size)
    void table_free(void* table, size_t size)


cdef enum:
    COPY_HEAD = 12        # of a copied key: offset i64, length i32
    COPY_UNIT = 8         # copies are numbered by their place in units of so many bytes
    SLOTS_A_LINE = 4
    SLOT_BYTES = 16


cdef inline const unsigned char* copy_at(OffsetMap map, uint64_t place) noexcept nogil:
    return map.copies + place * COPY_UNIT


cdef inline bint is_copy(uint64_t place) noexcept nogil:
    return place >> POSITION_BITS == 0


cdef inline bint same_key(OffsetMap map, uint64_t place, const unsigned char* key, int64_t length) noexcept nogil:
    cdef const unsigned char* copy
    cdef Py_buffer* log
    cdef Cursor c
    cdef Fault fault
    cdef int64_t found = 0
    cdef int32_t copied = 0
    if is_copy(place):
        copy = copy_at(map, place)
        memcpy(&copied, copy + 8, 4)
        return copied == length and memcmp(copy + COPY_HEAD, key, length) == 0
    log = &map.logs[place >> POSITION_BITS]
    c = Cursor(<const unsigned char*>log.buf, <Py_ssize_t>(place & <uint64_t>0xFFFFFFFF), log.len)
    if read_varint(&c, 32, &found, &fault) != OK or found != length or length > c.end - c.pos:
        return False  # somebody has changed the log: then it is not this key
    return memcmp(c.base + c.pos, key, length) == 0


cdef inline int64_t home(OffsetMap map, uint64_t hash) noexcept nogil:
    return <int64_t>scale_hash(hash, map.capacity)


cdef inline int64_t next_match(OffsetMap map, uint64_t hash, int64_t at) noexcept nogil:
    # From slot `at` on the first with this hash, or the first empty one: one is always empty.
    while map.slots[at].place and map.slots[at].hash != hash:
        at += 1
        if at == map.capacity:
            at = 0
    return at


cdef inline int64_t find_slot(
    OffsetMap map, uint64_t hash, int64_t at, const unsigned char* key, int64_t length
) noexcept nogil:
    # From slot `at` on the one that names the key, or the empty one where it belongs.
    at = next_match(map, hash, at)
    while map.careful and map.slots[at].place and not same_key(map, map.slots[at].place, key, length):
        at += 1
        at = next_match(map, hash, 0 if at == map.capacity else at)
    return at


cdef inline void ask_for_slot(OffsetMap map, int64_t i) noexcept nogil:
    cdef Keyed* one
    if i < map.records.count:
        one = &map.records.at[i]
        one.slot = home(map, one.hash)
        prefetch(&map.slots[one.slot])
        prefetch(&map.slots[one.slot + SLOTS_A_LINE // 2])  # a run that begins late in a line may go on in the next


cdef inline const unsigned char* key_at(OffsetMap map, uint64_t place) noexcept nogil:
    if is_copy(place):
        return copy_at(map, place)
    return <const unsigned char*>map.logs[place >> POSITION_BITS].buf + (place & <uint64_t>0xFFFFFFFF)


cdef inline void ask_for_key(OffsetMap map, int64_t i) noexcept nogil:
    # What a look-up compares in a careful map, or has to see of a key that was copied.
    cdef uint64_t place
    cdef Keyed* one
    if i < map.records.count:
        one = &map.records.at[i]
        one.slot = next_match(map, one.hash, one.slot)
        place = map.slots[one.slot].place
        if place:
            prefetch(key_at(map, place))


cdef inline int64_t most_keys(int64_t slots) noexcept nogil:
    return slots - max(slots // 4, <int64_t>1)


cdef inline void make_slots(OffsetMap map, int64_t more) noexcept nogil:
    # Room for so many more keys, if it may grow: a small table is nearer at hand than a large one.
    cdef int64_t capacity = map.capacity, i, at
    cdef Slot* grown
    while capacity < map.most_slots and most_keys(capacity) - map.count < more:
        capacity = min(2 * capacity, map.most_slots)
    if capacity == map.capacity:
        return
    grown = <Slot*>table_new(capacity * SLOT_BYTES)
    if grown == NULL:
        return
    for i in range(map.capacity):
        if map.slots[i].place:
            at = <int64_t>scale_hash(map.slots[i].hash, capacity)
            while grown[at].place:
                at = at + 1 if at + 1 < capacity else 0
            grown[at] = map.slots[i]
    table_free(map.slots, map.capacity * SLOT_BYTES)
    map.slots, map.capacity, map.limit = grown, capacity, most_keys(capacity)


cdef inline bint is_superseded(
    OffsetMap map, uint64_t slot_place, uint64_t place, int64_t offset
) noexcept nogil:
    cdef int64_t known = 0
    if slot_place and is_copy(slot_place):
        memcpy(&known, copy_at(map, slot_place), 8)
        return offset < known
    return place < slot_place

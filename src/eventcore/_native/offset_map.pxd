# Where the latest record of each key stands; and the records of one batch, listed with the hashes of their keys.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, int64_t, uint64_t

from eventcore._native.batch cimport Header
from eventcore._native.records cimport Area


cdef enum:
    POSITION_BITS = 32


cdef struct Slot:
    uint64_t hash
    uint64_t place           # of the key: ordinal of a log, position in it


cdef struct Keyed:
    # One record; positions count from the area's base. `key_at` is where the key's length stands.
    uint64_t hash
    int64_t slot             # no slot before it, from the hash's own on, is this key's
    int64_t timestamp_delta
    int32_t start
    int32_t end
    int32_t key_at
    int32_t key_position
    int32_t key_length       # -1: null
    int32_t offset_delta
    bint is_tombstone
    bint keep


cdef struct KeyedList:
    Keyed* at
    int64_t count
    int64_t room


cdef class OffsetMap:
    cdef Slot* slots
    cdef bint careful
    cdef readonly bint collided
    cdef int64_t capacity
    cdef int64_t most_slots
    cdef int64_t limit
    cdef int64_t count
    cdef uint64_t k0
    cdef uint64_t k1
    cdef Py_buffer* logs         # by ordinal; the first one is empty, so that no place is 0
    cdef int64_t log_count
    cdef int64_t log_room
    cdef unsigned char* copies   # keys of compressed records: offset, length, bytes
    cdef int64_t copies_used
    cdef int64_t copies_room
    cdef int64_t copies_limit
    cdef KeyedList records
    cdef bint is_full
    cdef public int64_t end_offset
    cdef readonly Py_ssize_t position


# Sets `keep` of each listed record: whether nothing later is mapped for its key. Records without a key are not kept
# below the map's end. `ordinal` is 0 for a log that is not in the map; `batch_at` -1 where the records lie in the log.
cdef void mark_latest(
    OffsetMap map, const unsigned char* base, int64_t base_offset, uint64_t ordinal, int64_t batch_at
) noexcept nogil
cdef int take_fields(Header* header, object fields) except -1
# Opens a decompressed area, with room for its records.
cdef int take_area(Area* area, OffsetMap map, const Py_buffer* view, const Header* header) except -1

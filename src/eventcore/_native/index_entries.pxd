# The index entries of a batch at the end of a segment: see `_pure.append`.

from libc.stdint cimport int32_t, int64_t

from eventcore._native.cursor cimport load_be64, store_be32, store_be64
from eventcore._native.marks cimport Entries, Marks


cdef enum:
    OFFSET_ENTRY = 8
    TIME_ENTRY = 12


cdef inline void add_offset(Entries index, unsigned char* at, int64_t relative_offset, Py_ssize_t position) noexcept:
    at += index.count * OFFSET_ENTRY
    store_be32(at, <int32_t>relative_offset)
    store_be32(at + 4, <int32_t>position)
    index.count += 1


cdef inline void add_time(
    Entries index, unsigned char* at, Marks marks, int64_t base_offset, int64_t last_offset, int64_t max_timestamp
) noexcept:
    # The largest timestamp so far, if it is larger than that of the last entry.
    cdef int64_t largest = marks.max_timestamp, largest_offset = marks.max_timestamp_offset
    if max_timestamp > largest:
        largest, largest_offset = max_timestamp, last_offset
    at += index.count * TIME_ENTRY
    if largest > (load_be64(at - TIME_ENTRY) if index.count else -1):
        store_be64(at, largest)
        store_be32(at + 8, <int32_t>(largest_offset - base_offset))
        index.count += 1

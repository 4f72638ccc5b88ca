# A cleaner: the pass it belongs to, and the segment it is at.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, int64_t

from eventcore._native.offset_map cimport OffsetMap


cdef enum Verdict:
    KEEP_NONE = 0
    KEEP_SOME = 1
    KEEP_ALL = 2


cdef struct Entries:
    unsigned char* at
    Py_ssize_t used
    Py_ssize_t room


cdef struct Plan:
    # What is to be done with the listed records of one batch.
    Verdict verdict
    bint sets_horizon
    int32_t kept
    int64_t bytes            # of the records that stay
    int64_t max_timestamp


cdef class Cleaner:
    cdef OffsetMap map
    cdef int64_t now
    cdef int64_t horizon
    cdef Py_buffer ends
    cdef bint has_ends
    cdef Entries offset_index
    cdef Entries time_index
    cdef int64_t interval
    cdef int64_t unindexed
    cdef int64_t limit
    cdef int64_t indexed_timestamp
    cdef readonly int64_t base_offset
    cdef readonly int64_t size
    cdef readonly int64_t next_offset
    cdef readonly int64_t max_timestamp
    cdef readonly int64_t max_timestamp_offset
    cdef readonly int64_t records
    cdef readonly int64_t kept
    cdef readonly Py_ssize_t position
    cdef readonly Py_ssize_t needed

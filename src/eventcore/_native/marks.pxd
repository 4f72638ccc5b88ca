from libc.stdint cimport int64_t


cdef class End:
    cdef public Py_ssize_t size


cdef class Entries:
    cdef public Py_ssize_t count


cdef class Marks:
    cdef public int64_t next_offset
    cdef public int64_t batches_end
    cdef public int64_t max_timestamp
    cdef public int64_t max_timestamp_offset
    cdef public int64_t first_timestamp
    cdef public int64_t unindexed

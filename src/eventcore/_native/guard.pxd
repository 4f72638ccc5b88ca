from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef class Mapping:
    cdef char* base
    cdef Py_ssize_t size
    cdef public Py_ssize_t populated
    cdef int32_t slot
    cdef bint writable
    cdef bint private
    cdef const uint32_t* faults  # of this map; it is broken above 0
    cdef int _map(self, int fd) except -1
    cdef int _check(self, Py_ssize_t start, Py_ssize_t end) except -1


# How many faults were absorbed in this process.
cdef uint64_t fault_count() noexcept nogil

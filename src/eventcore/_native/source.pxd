from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint32_t

from eventcore._native.guard cimport Mapping

cdef extern from "watch.h" nogil:
    void acquire_fence()
    int64_t load_word(const int64_t* word)
    uint32_t load_half(const uint32_t* word)


cdef class Source:
    cdef Py_buffer view
    cdef Py_buffer state_view
    cdef bint has_view
    cdef bint has_state
    cdef const int64_t* word
    cdef int64_t truncations
    cdef Mapping mapping


cdef inline bint holds(Source source) noexcept:
    # Whether what was copied until now can be believed.
    acquire_fence()
    if source.has_state and load_word(source.word) != source.truncations:
        return False
    return source.mapping is None or load_half(source.mapping.faults) == 0

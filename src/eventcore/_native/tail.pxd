# The state page: its words, their atomics, and what kernels that watch it share. `tail.pyx` has the reasons.

from libc.stdint cimport int64_t, uint32_t


cdef extern from "futex.h" nogil:
    int64_t load_acquire(const int64_t* word)
    void store_release(int64_t* word, int64_t value)
    uint32_t load_ordered(const uint32_t* word)
    void store_ordered(uint32_t* word, uint32_t value)
    void add_ordered(uint32_t* word)
    int64_t monotonic_ns()
    void sleep_on(const uint32_t* word, uint32_t seen, int64_t timeout_ns)
    void wake_all(uint32_t* word)
    void pause_briefly()


cdef enum:
    STATE_BYTES = 4096
    LOG_START_AT = 64
    LAST_STABLE_AT = 72
    HIGH_WATERMARK_AT = 80
    LOG_END_AT = 88
    DURABLE_AT = 96
    GENERATION_AT = 104
    SIGNAL_AT = 112
    WAITERS_AT = 116
    TRUNCATIONS_AT = 120
    TRUNCATED_TO_AT = 128


cdef inline int64_t* word_at(const Py_buffer* view, Py_ssize_t at) noexcept nogil:
    return <int64_t*>(<char*>view.buf + at)


cdef inline uint32_t* half_at(const Py_buffer* view, Py_ssize_t at) noexcept nogil:
    return <uint32_t*>(<char*>view.buf + at)


# Pins the page; it must be whole and aligned.
cdef int take_state(object state, Py_buffer* view, int flags) except -1
cdef int check_word(Py_ssize_t at) except -1
# Returns when the signal differs from `seen`, when `left_ns` are over, or early.
cdef void sleep_once(const Py_buffer* view, uint32_t seen, int64_t left_ns) noexcept nogil
# `state` is such a page. Everything below `end` is there now; with `show_end` not for readers.
cdef void show(char* state, int64_t last_stable, int64_t end) noexcept nogil
cdef void show_end(char* state, int64_t end) noexcept nogil

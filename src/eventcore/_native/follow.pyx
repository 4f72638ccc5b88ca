"""Follow the end of a log: wait until a batch is published behind a known position, and decode it, in one call.

Twin of `_pure.follow`. Order makes what is given out right. The word is loaded before the generation: a roll comes
before the publication of what is behind it, so with an unchanged generation everything below the word lies in this
map. The truncation count is loaded again after the bytes were read: a truncation counts before it changes a byte.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cpython.exc cimport PyErr_CheckSignals
from cython cimport final, no_gc
from libc.stdint cimport INT64_MAX, int64_t, uint32_t

from eventcore._native.batch cimport HEADER_BYTES, PREFIX_BYTES, Header, read_batch
from eventcore._native.cursor cimport take_buffer
from eventcore._native.decode cimport read_area, verify_batch
from eventcore._native.records cimport Area, open_area
from eventcore._native.status cimport OK, Fault
from eventcore._native.tail cimport (
    GENERATION_AT,
    SIGNAL_AT,
    TRUNCATIONS_AT,
    check_word,
    half_at,
    load_acquire,
    load_ordered,
    monotonic_ns,
    pause_briefly,
    sleep_once,
    take_state,
    word_at,
)

from eventcore.errors import StorageError

__all__ = ["Follower"]

cdef enum:
    LOOKS = 16                   # between two looks at the clock, which takes as long as one of them
    LONGEST_SPIN_NS = 2_000_000  # until Ctrl-C is looked for


@final
@no_gc  # a memoryview that the collector has cleared crashes when its buffer is given back; nothing here refers back
cdef class Follower:
    """One reader's place at `position` of a segment's map, where the batch with `next_offset` begins or will begin.

    `word` of the state page is the end of what it may give out; `generation` and `truncations` are what the page said
    before the place was looked up, and `stop_mask` the attributes of the batches that it leaves to the slow way. It
    pins the page and the map. One thread at a time.
    """

    cdef Py_buffer state
    cdef Py_buffer log
    cdef int held
    cdef object mapping
    cdef const int64_t* word
    cdef const int64_t* generation_word
    cdef const int64_t* truncations_word
    cdef int64_t generation
    cdef int64_t truncations
    cdef int stop_mask
    cdef readonly Py_ssize_t position
    cdef readonly int64_t next_offset

    def __cinit__(
        self,
        object state,
        object log,
        Py_ssize_t word,
        Py_ssize_t position,
        int64_t next_offset,
        int64_t generation,
        int64_t truncations,
        int stop_mask,
    ):
        check_word(word)
        take_state(state, &self.state, PyBUF_SIMPLE)
        self.held = 1
        take_buffer(log, &self.log, PyBUF_SIMPLE)
        self.held = 2
        if not 0 <= position <= self.log.len:
            raise IndexError(f"position {position} is outside a map of {self.log.len} bytes")
        self.mapping = log
        self.word = word_at(&self.state, word)
        self.generation_word = word_at(&self.state, GENERATION_AT)
        self.truncations_word = word_at(&self.state, TRUNCATIONS_AT)
        self.generation, self.truncations = generation, truncations
        self.position, self.next_offset = position, next_offset
        self.stop_mask = stop_mask

    def __dealloc__(self):
        if self.held > 0:
            PyBuffer_Release(&self.state)
        if self.held > 1:
            PyBuffer_Release(&self.log)

    def follow(self, Py_ssize_t max_count, int64_t spin_ns, int64_t timeout_ns):
        """Wait for records, decode them, stand behind them; [] if none came in `timeout_ns`, None: look the slow way.

        The first `spin_ns` of the wait are spent looking without a pause. Batches are whole, their CRC is checked; no
        more begin once `max_count` records were decoded.
        """
        cdef list found = []
        cdef int64_t limit
        cdef Py_ssize_t position = self.position
        cdef int64_t next_offset = self.next_offset
        if not self.has_moved() and not self.wait(spin_ns, timeout_ns):
            return found
        limit = load_acquire(self.word)
        if self.is_stale():
            return None
        while next_offset < limit and len(found) < max_count:
            if not self.read_one(found, limit, &position, &next_offset):
                break
        if not found or self.mapping.broken or self.is_stale():
            return None
        self.position, self.next_offset = position, next_offset
        return found

    cdef bint is_stale(self) noexcept nogil:
        return (
            load_acquire(self.generation_word) != self.generation
            or load_acquire(self.truncations_word) != self.truncations
        )

    cdef bint has_moved(self) noexcept nogil:
        return load_acquire(self.word) > self.next_offset or self.is_stale()

    cdef bint spin(self, int64_t until_ns) noexcept nogil:
        cdef int look
        while True:
            for look in range(LOOKS):
                if self.has_moved():
                    return True
                pause_briefly()
            if monotonic_ns() >= until_ns:
                return False

    cdef bint wait(self, int64_t spin_ns, int64_t timeout_ns) except -1:
        cdef int64_t now_ns, end_ns, spin_end_ns
        cdef uint32_t seen
        if timeout_ns <= 0:
            return False
        now_ns = monotonic_ns()
        end_ns = now_ns + min(timeout_ns, INT64_MAX - now_ns)
        spin_end_ns = min(end_ns, now_ns + min(spin_ns, INT64_MAX - now_ns))
        while now_ns < spin_end_ns:
            with nogil:
                moved = self.spin(min(spin_end_ns, now_ns + LONGEST_SPIN_NS))
            if moved:
                return True
            PyErr_CheckSignals()
            now_ns = monotonic_ns()
        while True:
            seen = load_ordered(half_at(&self.state, SIGNAL_AT))
            if self.has_moved():
                return True
            now_ns = monotonic_ns()
            if now_ns >= end_ns:
                return False
            with nogil:
                sleep_once(&self.state, seen, end_ns - now_ns)
            PyErr_CheckSignals()

    cdef bint read_one(self, list found, int64_t limit, Py_ssize_t* position, int64_t* next_offset) except -1:
        # Whether a whole batch was read. One that is not for us, or not as it should be, leaves everything as it was.
        cdef const unsigned char* base = <const unsigned char*>self.log.buf
        cdef Py_ssize_t start = position[0], end, count = len(found)
        cdef int64_t batch_end
        cdef Header header
        cdef Area area
        cdef Fault fault
        if read_batch(base, start, self.log.len, &header, &fault) != OK or header.attributes & self.stop_mask:
            return False
        batch_end = header.base_offset + header.last_offset_delta + 1
        if not next_offset[0] < batch_end <= limit:
            return False
        end = start + PREFIX_BYTES + <Py_ssize_t>header.length
        try:
            verify_batch(base, start, &header)
            open_area(&area, base, start + HEADER_BYTES, end, &header, next_offset[0], batch_end)
            read_area(&area, found)
        except StorageError:
            del found[count:]
            return False
        position[0], next_offset[0] = end, batch_end
        return True

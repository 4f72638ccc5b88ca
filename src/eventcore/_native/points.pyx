"""Single records by their offset, at the same cost in batches of any size. Twin of `_pure.points`.

Every eighth offset has an entry in a table (point_table.pxd): where its record lies. From there at most seven records,
or batches, are passed over. What is given out was below the published end, and neither truncated nor in a broken map
by the time it was copied: the words that tell so are looked at after the copy.

`get` lets go of the GIL nowhere. It may run the garbage collector, hence anybody's code, which may empty the table:
only when the last object is made, and then it does not look at the table any more.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t

from eventcore._native.batch cimport APPEND_TIME_BIT, LENGTH_AT, PREFIX_BYTES, UNLOCK_SIZE
from eventcore._native.columns cimport PlainRecord, read_plain
from eventcore._native.cursor cimport add_overflows, load_be32, take_buffer
from eventcore._native.decode cimport read_area
from eventcore._native.guard cimport Mapping
from eventcore._native.point_fill cimport check_window, put_window
from eventcore._native.point_table cimport (
    STRIDE_OFFSETS,
    Entry,
    Place,
    Table,
    clear_table,
    entry_of,
    place_of,
    put_place,
)
from eventcore._native.point_walk cimport Found, find_record
from eventcore._native.records cimport Area, open_area
from eventcore._native.source cimport acquire_fence, load_half
from eventcore._native.tail cimport (
    GENERATION_AT,
    HIGH_WATERMARK_AT,
    LOG_START_AT,
    TRUNCATIONS_AT,
    load_acquire,
    take_state,
    word_at,
)

from eventcore.errors import StorageError
from eventcore.types import Record as _Record

cdef extern from "Python.h":
    PyObject* new_int "PyLong_FromLongLong"(long long)
    PyObject* share "Py_NewRef"(object)
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1

cdef extern from "record.h":
    object make_record(
        PyTypeObject*, PyObject* offset, PyObject* timestamp, PyObject* key, PyObject* value, PyObject* headers
    )

cdef extern from "watch.h":
    object bytes_of "copied_bytes"(const unsigned char* data, Py_ssize_t size)

cdef extern from "forks.h":
    unsigned long forks_seen
    int forks_watch()

cdef extern from "coarse_clock.h" nogil:
    int64_t coarse_ns()

__all__ = ["MOST_ENTRIES", "MOST_UNPACKED", "STRIDE", "Points"]

cdef enum:
    WORDS = 4

MOST_ENTRIES = 1 << 20
MOST_UNPACKED = 8 << 20
STRIDE = STRIDE_OFFSETS

if forks_watch():
    raise MemoryError("cannot watch for forks")

cdef type Record = _Record


cdef object decode_piece(const unsigned char* data, const Found* found, int64_t offset):
    # The one record of which `data` has the bytes; None if it is not right.
    cdef Area area
    cdef list records = []
    open_area(&area, data, 0, found.end - found.position, &found.header, offset, offset + 1)
    area.count = 1
    try:
        read_area(&area, records)
    except StorageError:
        return None
    return records[0] if records else None


@cython.final
@cython.no_gc  # what it holds are buffers, which refer to nothing; the collector must not empty it under a reader
cdef class Points:
    """See the twin."""

    cdef Table table
    cdef Py_buffer state
    cdef bint has_state
    cdef int64_t token
    cdef bint closed
    cdef unsigned long forks
    cdef const int64_t* start_word
    cdef const int64_t* end_word
    cdef const int64_t* generation_word
    cdef const int64_t* truncations_word
    cdef int64_t generation
    cdef int64_t truncations
    cdef int64_t own[WORDS]  # what the words point to where there is no page
    cdef int64_t watched_ns
    cdef int64_t patience_ns

    def __cinit__(self, int64_t most_entries=MOST_ENTRIES, Py_ssize_t most_unpacked=MOST_UNPACKED):
        if most_entries < 1 or most_entries & (most_entries - 1):
            raise ValueError(f"{most_entries} is no power of two")
        self.table.most, self.table.most_unpacked = most_entries, most_unpacked
        self.forks = forks_seen
        self.point_to_own()

    def __dealloc__(self):
        clear_table(&self.table)
        if self.has_state:
            PyBuffer_Release(&self.state)

    cdef void point_to_own(self) noexcept:
        # An empty range of offsets: nothing is found.
        self.own[0] = self.own[1] = self.own[2] = self.own[3] = 0
        self.start_word, self.end_word = &self.own[0], &self.own[1]
        self.generation_word, self.truncations_word = &self.own[2], &self.own[3]
        self.generation = self.truncations = 0

    @property
    def nbytes(self):
        """Bytes of the table, and of what was decompressed."""
        return self.table.size * <Py_ssize_t>sizeof(Entry) + self.table.unpacked_bytes

    def forget(self):
        """Find nothing until the next `watch`; every token is void."""
        cdef Py_buffer state = self.state
        cdef bint had_state = self.has_state
        self.token += 1
        self.point_to_own()
        self.has_state = False
        clear_table(&self.table)
        if had_state:
            PyBuffer_Release(&state)

    def close(self):
        """`forget`, for good."""
        self.closed = True
        self.forget()

    def watch(
        self,
        object state,
        int64_t generation,
        int64_t truncations,
        int64_t start=-1,
        int64_t end=-1,
        int64_t patience_ns=-1,
    ):
        """Give out what is in the table for as long as the page says `generation` and `truncations`: a token for `add`.

        See the twin.
        """
        cdef Py_buffer view
        if self.closed:
            return -1
        if state is not None:
            take_state(state, &view, PyBUF_SIMPLE)
            if self.watches(&view, generation, truncations, start, end):
                PyBuffer_Release(&view)
            else:
                self.forget()
                self.state, self.has_state = view, True
                self.point_to_page(start < 0)
        elif self.has_state or start != self.own[0] or end != self.own[1]:
            self.forget()
        self.own[0], self.own[1] = start, end
        if state is not None:
            self.generation, self.truncations = generation, truncations
        self.patience_ns = patience_ns if state is not None else 0
        self.watched_ns = coarse_ns()
        return self.token

    cdef bint watches(
        self, const Py_buffer* view, int64_t generation, int64_t truncations, int64_t start, int64_t end
    ) noexcept:
        return (
            self.has_state
            and self.state.buf == view.buf
            and self.generation == generation
            and self.truncations == truncations
            and self.own[0] == start
            and self.own[1] == end
        )

    cdef void point_to_page(self, bint with_ends) noexcept:
        if with_ends:
            self.start_word, self.end_word = word_at(&self.state, LOG_START_AT), word_at(&self.state, HIGH_WATERMARK_AT)
        self.generation_word = word_at(&self.state, GENERATION_AT)
        self.truncations_word = word_at(&self.state, TRUNCATIONS_AT)

    cdef inline bint holds(self, const Place* place) noexcept:
        # Whether what was copied until now can be believed.
        acquire_fence()
        return (
            load_acquire(self.generation_word) == self.generation
            and load_acquire(self.truncations_word) == self.truncations
            and (place.faults == NULL or load_half(place.faults) == 0)
        )

    def add(
        self,
        int64_t token,
        object buf,
        Py_ssize_t position,
        Py_ssize_t end,
        int64_t stop,
        bint verify,
        bint unpacked=False,
    ):
        """Take in the batches at `position`: where the last one of them ends. See the twin."""
        cdef Py_buffer view
        cdef const uint32_t* faults = NULL
        cdef const unsigned char* base
        cdef Py_ssize_t reached = position
        cdef Place* place = NULL
        cdef object exporter = memoryview(buf).obj
        take_buffer(buf, &view, PyBUF_SIMPLE)
        if not 0 <= position <= end <= view.len or view.len > UINT32_MAX:
            PyBuffer_Release(&view)
            raise IndexError(f"[{position}:{end}] is outside a buffer of {view.len} bytes")
        if isinstance(exporter, Mapping):
            faults = (<Mapping>exporter).faults
        base = <const unsigned char*>view.buf
        if end - position >= PREFIX_BYTES and load_be32(base + position + LENGTH_AT) < UNLOCK_SIZE:
            reached = check_window(base, position, end, stop, verify)
        else:
            with nogil:  # `view` is pinned, and the table is not looked at
                reached = check_window(base, position, end, stop, verify)
        if reached == position or token != self.token or (unpacked and view.len > self.table.most_unpacked):
            PyBuffer_Release(&view)
            return reached
        place = put_place(&self.table, &view, faults, unpacked)
        if place != NULL:
            put_window(&self.table, place, position, reached)
        return reached

    def get(self, object index):
        """The record at offset `index`, an int, negative from the end; None: look the slow way. Never raises."""
        cdef int64_t offset
        cdef int overflow = 0
        if not PyLong_CheckExact(index):
            return None
        if self.patience_ns >= 0 and coarse_ns() - self.watched_ns >= self.patience_ns:
            return None
        offset = PyLong_AsLongLongAndOverflow(index, &overflow)
        return None if overflow else self.look(offset)

    def find(self, int64_t offset):
        """`get` for one who has just called `watch`."""
        return self.look(offset)

    cdef object look(self, int64_t offset):
        cdef int64_t end = load_acquire(self.end_word)
        cdef Entry* entry
        cdef Place* place
        cdef Found found
        if self.forks != forks_seen:
            return None
        if offset < 0:
            offset += end
        if not load_acquire(self.start_word) <= offset < end:
            return None
        entry = entry_of(&self.table, offset)
        place = place_of(&self.table, entry) if entry != NULL else NULL
        if place == NULL or not find_record(place, entry, offset, &found):
            return None
        return self.take(place, &found, offset)

    cdef object take(self, const Place* place, const Found* found, int64_t offset):
        # The record that was found, its bytes copied, and then looked after.
        cdef PlainRecord plain
        cdef const unsigned char* base = <const unsigned char*>place.view.buf
        cdef int64_t timestamp = found.header.max_timestamp
        cdef object key, value
        if read_plain(base + found.position, base + found.end, &plain) == NULL:
            key = bytes_of(base + found.position, found.end - found.position)
            return decode_piece(<const unsigned char*>PyBytes_AS_STRING(key), found, offset) if self.holds(place) else None
        if not found.header.attributes & APPEND_TIME_BIT:
            if add_overflows(found.header.base_timestamp, plain.timestamp_delta, &timestamp):
                return None
        key = None if plain.key_length < 0 else bytes_of(plain.key, plain.key_length)
        value = None if plain.value_length < 0 else bytes_of(plain.value, plain.value_length)
        if not self.holds(place):
            return None
        return make_record(
            <PyTypeObject*>Record, new_int(offset), new_int(timestamp), share(key), share(value), share(())
        )

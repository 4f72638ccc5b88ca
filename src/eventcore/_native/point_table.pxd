# Where the strides of a log are found: a ring of entries by stride, and the pinned buffers that these lie in.
#
# Consecutive strides have consecutive entries, so a log of no more strides than the ring has entries has no conflicts.
# The ring doubles while two strides want one entry; at its bound the newer one gets it. No Python code runs in here but
# what the release of a buffer leads to, and by then the table no longer has it.

from cpython.buffer cimport PyBuffer_Release
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free


cdef enum:
    SHIFT = 3
    STRIDE_OFFSETS = 1 << SHIFT
    PLACES = 256  # buffers at a time; a new one takes the place of the oldest
    FIRST_ENTRIES = 1 << 8


cdef struct Place:
    # A buffer with plain batches back to back: the map of a segment, or batches that were decompressed.
    uint32_t number  # 0: none
    bint unpacked
    const uint32_t* faults  # of the map; NULL if it is none
    Py_buffer view


cdef struct Entry:
    # Where the records of a stride begin; those of its offsets in [low, high) were checked.
    int64_t stride
    uint32_t place  # the number of one; 0: none. A place that is gone had another number.
    uint32_t batch  # position of the batch in its place
    uint32_t record  # position of the stride's first record in its batch
    uint8_t low
    uint8_t high


cdef struct Table:
    Entry* entries
    int64_t size  # a power of two; 0 until there is one
    int64_t most
    Place* places
    uint32_t last  # number of the newest place
    Py_ssize_t unpacked_bytes
    Py_ssize_t most_unpacked


cdef inline Place* place_of(const Table* table, const Entry* entry) noexcept nogil:
    # NULL if it is gone.
    cdef Place* place
    if entry.place == 0:
        return NULL
    place = &table.places[entry.place % PLACES]
    return place if place.number == entry.place else NULL


cdef inline Entry* entry_of(const Table* table, int64_t offset) noexcept nogil:
    # The entry that has `offset` among those that were checked; NULL if there is none.
    cdef Entry* entry
    cdef int at = offset & (STRIDE_OFFSETS - 1)
    if table.size == 0:
        return NULL
    entry = &table.entries[(offset >> SHIFT) & (table.size - 1)]
    return entry if entry.stride == offset >> SHIFT and entry.low <= at < entry.high else NULL


cdef inline bint grow(Table* table) noexcept nogil:
    # Whether the ring has twice as many entries now.
    cdef int64_t size = table.size * 2 if table.size else min(<int64_t>FIRST_ENTRIES, table.most), at
    cdef Entry* entries
    if size > table.most:
        return False
    entries = <Entry*>calloc(size, sizeof(Entry))
    if entries == NULL:
        return False
    for at in range(table.size):
        if place_of(table, &table.entries[at]) != NULL:
            entries[table.entries[at].stride & (size - 1)] = table.entries[at]
    free(table.entries)
    table.entries, table.size = entries, size
    return True


cdef inline Entry* put_entry(Table* table, int64_t stride) noexcept nogil:
    # An entry to be filled in for a stride, in place of what is there; NULL without memory.
    cdef Entry* entry
    if table.size == 0 and not grow(table):
        return NULL
    while True:
        entry = &table.entries[stride & (table.size - 1)]
        if entry.stride == stride or place_of(table, entry) == NULL or not grow(table):
            return entry


cdef inline int drop_place(Table* table, Place* place) except -1:
    cdef Py_buffer view = place.view
    if place.number:
        place.number = 0
        if place.unpacked:
            table.unpacked_bytes -= view.len
        PyBuffer_Release(&view)
    return 0


cdef inline int clear_table(Table* table) except -1:
    # Lets go of everything.
    cdef Place* places = table.places
    cdef int at
    free(table.entries)
    table.entries, table.size = NULL, 0
    table.places, table.last, table.unpacked_bytes = NULL, 0, 0
    if places != NULL:
        for at in range(PLACES):
            if places[at].number:
                PyBuffer_Release(&places[at].view)
        free(places)
    return 0


cdef inline int make_room(Table* table, Py_ssize_t size) except -1:
    # For a copy of `size` bytes, which is less than `most_unpacked`: the oldest ones go.
    cdef uint32_t age
    cdef Place* place
    for age in range(1, PLACES + 1):
        if table.unpacked_bytes + size <= table.most_unpacked:
            break
        place = &table.places[(table.last + age) % PLACES]
        if place.number and place.unpacked:
            drop_place(table, place)
    return 0


cdef inline Place* put_place(Table* table, Py_buffer* view, const uint32_t* faults, bint unpacked) except? NULL:
    # Takes over a buffer, or lets go of it: where it is there already, and without memory (then NULL).
    cdef Place* place
    cdef int at
    if table.places == NULL or table.last == UINT32_MAX:
        clear_table(table)
        table.places = <Place*>calloc(PLACES, sizeof(Place))
    if table.places == NULL:
        PyBuffer_Release(view)
        return NULL
    for at in range(PLACES):
        place = &table.places[at]
        if place.number and place.view.buf == view.buf and place.view.len == view.len:
            PyBuffer_Release(view)  # the place pins it, so what is at the same address is the same
            return place
    if unpacked:
        make_room(table, view.len)
    table.last += 1
    place = &table.places[table.last % PLACES]
    drop_place(table, place)
    place.number, place.unpacked, place.faults, place.view = table.last, unpacked, faults, view[0]
    if unpacked:
        table.unpacked_bytes += view.len
    return place

"""Search in the sorted big-endian entries of offset and time indexes. Twin of `_pure.index`.

The search has no branch that depends on the data: halving `size` always takes log2(count) steps, and the comparison
only decides how far `low` moves. A mispredicted branch would cost more than the step. Entries that are not yet cached
are asked for one step ahead, on both sides.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport int32_t, int64_t

from eventcore._native.cursor cimport all_zero, load_be32, load_be64, load_item, prefetch, store_item, take_buffer

__all__ = ["OFFSET_ENTRY_SIZE", "TIME_ENTRY_SIZE", "count_entries", "find_offset", "find_offsets", "find_timestamp"]

cdef enum:
    OFFSET_ENTRY = 8
    TIME_ENTRY = 12
    GROUP = 16           # searches that run in step: their cache misses overlap
    UNLOCK_TARGETS = 256

OFFSET_ENTRY_SIZE = OFFSET_ENTRY
TIME_ENTRY_SIZE = TIME_ENTRY


cdef int check_count(const Py_buffer* view, Py_ssize_t count, Py_ssize_t entry_size) except -1:
    if not 0 <= count <= view.len // entry_size:
        raise ValueError(f"{count} entries do not fit into {view.len} bytes")
    return 0


def count_entries(object buf, Py_ssize_t entry_size):
    """How many leading entries of `entry_size` bytes are not all zero (an active index ends in reserved zeros)."""
    cdef Py_buffer view
    cdef Py_ssize_t low = 0, high, middle
    if entry_size != OFFSET_ENTRY and entry_size != TIME_ENTRY:
        raise ValueError(f"entry_size must be {OFFSET_ENTRY} or {TIME_ENTRY}")
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        high = view.len // entry_size
        while low < high:
            middle = low + (high - low) // 2
            if all_zero(<const unsigned char*>view.buf + middle * entry_size, entry_size):
                high = middle
            else:
                low = middle + 1
    finally:
        PyBuffer_Release(&view)
    return low


cdef inline Py_ssize_t last_offset_entry(const unsigned char* entries, Py_ssize_t count, int64_t target) noexcept nogil:
    # The last of `count` > 0 entries with an offset of at most `target`, or entry 0.
    cdef Py_ssize_t low = 0, size = count, half
    while size > 1:
        half = size >> 1
        prefetch(entries + (low + (half >> 1)) * OFFSET_ENTRY)
        prefetch(entries + (low + half + (half >> 1)) * OFFSET_ENTRY)
        low += half & -<Py_ssize_t>(load_be32(entries + (low + half) * OFFSET_ENTRY) <= target)
        size -= half
    return low


cdef inline Py_ssize_t last_time_entry(const unsigned char* entries, Py_ssize_t count, int64_t target) noexcept nogil:
    cdef Py_ssize_t low = 0, size = count, half
    while size > 1:
        half = size >> 1
        prefetch(entries + (low + (half >> 1)) * TIME_ENTRY)
        prefetch(entries + (low + half + (half >> 1)) * TIME_ENTRY)
        low += half & -<Py_ssize_t>(load_be64(entries + (low + half) * TIME_ENTRY) <= target)
        size -= half
    return low


def find_offset(object buf, Py_ssize_t count, int64_t relative_offset):
    """The last entry (relative offset, position) whose offset is at most `relative_offset`; None if there is none."""
    cdef Py_buffer view
    cdef const unsigned char* entry
    cdef int32_t offset = 0, position = 0
    cdef bint found = False
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        check_count(&view, count, OFFSET_ENTRY)
        if count:
            entry = <const unsigned char*>view.buf
            entry += last_offset_entry(entry, count, relative_offset) * OFFSET_ENTRY
            offset, position = load_be32(entry), load_be32(entry + 4)
            found = offset <= relative_offset
    finally:
        PyBuffer_Release(&view)
    return (offset, position) if found else None


def find_timestamp(object buf, Py_ssize_t count, int64_t timestamp):
    """The last entry (timestamp, relative offset) whose timestamp is at most `timestamp`; None if there is none."""
    cdef Py_buffer view
    cdef const unsigned char* entry
    cdef int64_t found_timestamp = 0
    cdef int32_t offset = 0
    cdef bint found = False
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        check_count(&view, count, TIME_ENTRY)
        if count:
            entry = <const unsigned char*>view.buf
            entry += last_time_entry(entry, count, timestamp) * TIME_ENTRY
            found_timestamp, offset = load_be64(entry), load_be32(entry + 8)
            found = found_timestamp <= timestamp
    finally:
        PyBuffer_Release(&view)
    return (found_timestamp, offset) if found else None


cdef inline int32_t position_of(const unsigned char* entry, int64_t target) noexcept nogil:
    return load_be32(entry + 4) if load_be32(entry) <= target else 0


cdef inline void find_group(
    const unsigned char* entries, Py_ssize_t count, const unsigned char* targets, unsigned char* out, Py_ssize_t row
) noexcept nogil:
    cdef Py_ssize_t low[GROUP]
    cdef int64_t target[GROUP]
    cdef Py_ssize_t size = count, half
    cdef int i
    for i in range(GROUP):
        low[i], target[i] = 0, load_item(targets, row + i)
    while size > 1:
        half = size >> 1
        for i in range(GROUP):
            low[i] += half & -<Py_ssize_t>(load_be32(entries + (low[i] + half) * OFFSET_ENTRY) <= target[i])
        size -= half
    for i in range(GROUP):
        store_item(out, row + i, position_of(entries + low[i] * OFFSET_ENTRY, target[i]))


cdef void find_all(
    const unsigned char* entries, Py_ssize_t count, const unsigned char* targets, unsigned char* out, Py_ssize_t rows
) noexcept nogil:
    cdef Py_ssize_t row = 0
    cdef int64_t target
    if count:
        while rows - row >= GROUP:
            find_group(entries, count, targets, out, row)
            row += GROUP
    while row < rows:
        target = load_item(targets, row)
        store_item(
            out, row,
            position_of(entries + last_offset_entry(entries, count, target) * OFFSET_ENTRY, target) if count else 0,
        )
        row += 1


cdef int find_in_arrays(const Py_buffer* view, Py_ssize_t count, const Py_buffer* targets, Py_buffer* out) except -1:
    cdef Py_ssize_t rows = targets.len // 8
    if targets.len % 8 or out.len % 8:
        raise TypeError("relative_offsets and positions must be int64 arrays")
    if targets.len != out.len:
        raise ValueError(f"{rows} offsets but room for {out.len // 8} positions")
    check_count(view, count, OFFSET_ENTRY)
    if rows < UNLOCK_TARGETS:
        find_all(
            <const unsigned char*>view.buf, count, <const unsigned char*>targets.buf, <unsigned char*>out.buf, rows
        )
    else:
        with nogil:
            find_all(
                <const unsigned char*>view.buf, count, <const unsigned char*>targets.buf, <unsigned char*>out.buf, rows
            )
    return 0


def find_offsets(object buf, Py_ssize_t count, object relative_offsets, object positions):
    """`find_offset` for a whole int64 array: writes each position (0 where there is no entry) into the int64 array."""
    cdef Py_buffer view, targets, out
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        take_buffer(relative_offsets, &targets, PyBUF_SIMPLE)
        try:
            take_buffer(positions, &out, PyBUF_WRITABLE)
            try:
                find_in_arrays(&view, count, &targets, &out)
            finally:
                PyBuffer_Release(&out)
        finally:
            PyBuffer_Release(&targets)
    finally:
        PyBuffer_Release(&view)

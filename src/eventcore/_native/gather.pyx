"""Keys or values of a column back to back in a buffer of their own, as Arrow has them. Twin of `_pure.gather`."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport int64_t
from libc.string cimport memset

from eventcore._native.cursor cimport copy_bytes, load_item, prefetch, store_item, take_buffer

__all__ = ["copy_parts", "measure_parts"]

cdef enum:
    MOST_BUFFERS = 4
    AHEAD = 8  # rows whose bytes are on their way while one is copied

cdef int64_t LARGEST = <int64_t>1 << 62


cdef struct Held:
    Py_buffer views[MOST_BUFFERS]
    int count


cdef inline void release(Held* held) noexcept:
    while held.count:
        held.count -= 1
        PyBuffer_Release(&held.views[held.count])


cdef Py_buffer* take(Held* held, object buf, int flags) except NULL:
    cdef Py_buffer* view = &held.views[held.count]
    take_buffer(buf, view, flags)
    held.count += 1
    return view


cdef Py_buffer* take_items(Held* held, object buf, int flags) except NULL:
    cdef Py_buffer* view = take(held, buf, flags)
    if view.len % 8:
        raise TypeError("a column must be an int64 array")
    return view


cdef bint measure(
    const unsigned char* lengths, Py_ssize_t rows, unsigned char* ends, unsigned char* valid, int64_t* total,
    int64_t* nulls,
) noexcept nogil:
    cdef Py_ssize_t row
    cdef int64_t size
    memset(valid, 0, (rows + 7) // 8)
    total[0] = nulls[0] = 0
    store_item(ends, 0, 0)
    for row in range(rows):
        size = load_item(lengths, row)
        if size > LARGEST - total[0]:
            return False
        if size >= 0:
            valid[row >> 3] |= 1 << (row & 7)
            total[0] += size
        else:
            nulls[0] += 1
        store_item(ends, row + 1, total[0])
    return True


def measure_parts(object lengths, object ends, object valid):
    """From int64 `lengths` (-1: null) make the rows + 1 int64 offsets of the parts in `ends`, and a bit a row in
    `valid`, lowest first. Returns the bytes of all parts, and how many are null.
    """
    cdef Held held
    cdef Py_buffer* sizes
    cdef Py_buffer* offsets
    cdef Py_buffer* bits
    cdef Py_ssize_t rows
    cdef int64_t total = 0, nulls = 0
    cdef bint done
    held.count = 0
    try:
        sizes = take_items(&held, lengths, PyBUF_SIMPLE)
        offsets = take_items(&held, ends, PyBUF_WRITABLE)
        bits = take(&held, valid, PyBUF_WRITABLE)
        rows = sizes.len // 8
        if offsets.len // 8 != rows + 1 or bits.len != (rows + 7) // 8:
            raise ValueError(f"the results of {rows} rows need {rows + 1} offsets and {(rows + 7) // 8} bytes of bits")
        with nogil:
            done = measure(
                <unsigned char*>sizes.buf, rows, <unsigned char*>offsets.buf, <unsigned char*>bits.buf, &total, &nulls
            )
        if not done:
            raise ValueError("the parts are too large")
    finally:
        release(&held)
    return total, nulls


cdef Py_ssize_t copy_rows(
    const Py_buffer* data, const unsigned char* positions, const unsigned char* lengths, Py_ssize_t rows,
    const Py_buffer* out, Py_ssize_t* bad_row,
) noexcept nogil:
    # Where the parts end; -1 if the part of `bad_row` is not in the data, -2 if there is no room for it.
    cdef const unsigned char* base = <const unsigned char*>data.buf
    cdef unsigned char* to = <unsigned char*>out.buf
    cdef Py_ssize_t row, end = 0
    cdef int64_t start, size
    for row in range(rows):
        if row + AHEAD < rows:
            start = load_item(positions, row + AHEAD)
            if 0 <= start < data.len:
                prefetch(base + start)
        start, size = load_item(positions, row), load_item(lengths, row)
        if size <= 0:
            continue
        bad_row[0] = row
        if size > data.len or not 0 <= start <= data.len - size:
            return -1
        if size > out.len - end:
            return -2
        copy_bytes(to + end, base + start, size)
        end += size
    return end


def copy_parts(object data, object positions, object lengths, object out):
    """Copy the parts of `data` to `out`, one behind the other; returns where they end. Nulls have no bytes.

    Raises IndexError for a part that is not in `data`, ValueError if `out` is too small.
    """
    cdef Held held
    cdef Py_buffer* view
    cdef Py_buffer* starts
    cdef Py_buffer* sizes
    cdef Py_buffer* target
    cdef Py_ssize_t end, bad_row = 0
    held.count = 0
    try:
        view = take(&held, data, PyBUF_SIMPLE)
        starts = take_items(&held, positions, PyBUF_SIMPLE)
        sizes = take_items(&held, lengths, PyBUF_SIMPLE)
        target = take(&held, out, PyBUF_WRITABLE)
        if starts.len != sizes.len:
            raise ValueError("there must be as many positions as lengths")
        with nogil:
            end = copy_rows(
                view, <unsigned char*>starts.buf, <unsigned char*>sizes.buf, starts.len // 8, target, &bad_row
            )
        if end == -1:
            raise IndexError(f"the part of row {bad_row} is outside a buffer of {view.len} bytes")
        if end == -2:
            raise ValueError(f"the parts do not fit into {target.len} bytes")
    finally:
        release(&held)
    return end

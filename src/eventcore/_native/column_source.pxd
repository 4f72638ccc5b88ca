# Rows out of Arrow-style columns into a batch. Nothing here touches a Python object.

from libc.stdint cimport int32_t, int64_t, uint64_t

from eventcore._native.builder cimport Batch, Part, Row, add_row, put_plain
from eventcore._native.cursor cimport load_item, zigzag


cdef struct Column:
    const unsigned char* data
    Py_ssize_t size
    const unsigned char* offsets  # NULL: the column is missing
    const unsigned char* nulls    # NULL: no row is null


cdef enum Trouble:
    NO_TROUBLE, NEGATIVE_TIMESTAMP, BAD_OFFSETS


cdef inline bint take_cell(const Column* column, Py_ssize_t row, Part* part) noexcept nogil:
    # False if the column's offsets leave its data or go backwards.
    cdef int64_t start, end
    if column.offsets == NULL or (column.nulls != NULL and column.nulls[row]):
        part.data, part.size = NULL, -1
        return True
    start, end = load_item(column.offsets, row), load_item(column.offsets, row + 1)
    if not 0 <= start <= end <= column.size:
        return False
    part.data, part.size = column.data + start, end - start
    return True


cdef inline Py_ssize_t add_plain_rows(
    Batch* batch, Py_ssize_t at, Py_ssize_t rows, const Column* shared_keys, const Column* shared_values,
    const unsigned char* timestamps, int64_t now,
) noexcept nogil:
    # As many as are plain and right, from row `at` on; returns the first that is not. What the loop needs stands in
    # variables of its own, as in `columns.fill_plain_rows`.
    cdef Column keys = shared_keys[0], values = shared_values[0]
    cdef Part key, value
    cdef int64_t timestamp = now, base_timestamp = batch.base_timestamp, max_timestamp = batch.max_timestamp
    cdef int64_t count = batch.count
    cdef Py_ssize_t size = 0, room = batch.limit - batch.used
    cdef unsigned char* to = batch.at + batch.used
    while at < rows:
        if timestamps != NULL:
            timestamp = load_item(timestamps, at)
        if timestamp < 0 or not take_cell(&keys, at, &key) or not take_cell(&values, at, &value):
            break
        if count == 0:
            base_timestamp = timestamp
        size = put_plain(to, room, key, value, zigzag(timestamp - base_timestamp), <uint64_t>count << 1)
        if size == 0:
            break
        to += size
        room -= size
        max_timestamp = max(max_timestamp, timestamp)
        count += 1
        at += 1
    batch.used = to - batch.at
    batch.count = <int32_t>count
    batch.base_timestamp, batch.max_timestamp = base_timestamp, max_timestamp
    return at


cdef inline Trouble add_rows(
    Batch* batch, Py_ssize_t* at, Py_ssize_t rows, const Column* keys, const Column* values,
    const unsigned char* timestamps, int64_t now,
) noexcept nogil:
    cdef Row row
    row.headers.data, row.headers.size = b"\0", 1
    while True:
        at[0] = add_plain_rows(batch, at[0], rows, keys, values, timestamps, now)
        if at[0] == rows:
            return NO_TROUBLE
        row.timestamp = now if timestamps == NULL else load_item(timestamps, at[0])
        if row.timestamp < 0:
            return NEGATIVE_TIMESTAMP
        if not take_cell(keys, at[0], &row.key) or not take_cell(values, at[0], &row.value):
            return BAD_OFFSETS
        if not add_row(batch, &row):
            return NO_TROUBLE
        at[0] += 1

"""Encode records into a batch, straight into the buffer of the log. Twin of `_pure.encode`.

A record is measured, compared with the room that is left, and only then written, so nothing is ever undone. A value
may be any object with a buffer, whose code can do anything, even change the list of items: each item is held while it
is encoded, and its buffers are pinned.
"""

from cpython.buffer cimport (
    PyBUF_FULL_RO,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_IsContiguous,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.pystate cimport PyThreadState
from cpython.tuple cimport PyTuple_Check, PyTuple_CheckExact, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport INT32_MAX, int16_t, int32_t, int64_t, uint64_t

from eventcore._native.batch cimport APPEND_TIME_BIT, Header
from eventcore._native.builder cimport Batch, Part, Row, add_row, close_batch, open_batch
from eventcore._native.column_source cimport BAD_OFFSETS, NEGATIVE_TIMESTAMP, NO_TROUBLE, Column, Trouble, add_rows
from eventcore._native.cursor cimport checked_range, put_varint, take_buffer, zigzag
from eventcore._native.plain cimport add_plain_items, list_item, take_plain_item, tuple_item

from eventcore.types import Record as _Record

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    PyObject* borrow_item "PyTuple_GET_ITEM"(object, Py_ssize_t)
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

__all__ = ["encode", "encode_columns", "plain_size"]

cdef type Record = _Record

cdef enum:
    UNLOCK_ROWS = 256  # from so many rows on, other threads may run while columns are encoded
    COLUMN_BUFFERS = 7


cdef struct Held:
    # The buffers of one item, to be released when it is written.
    Py_buffer views[2]
    int count


cdef inline void release(Held* held) noexcept:
    while held.count:
        held.count -= 1
        PyBuffer_Release(&held.views[held.count])


cdef int take_part(PyObject* borrowed, Part* part, Held* held, str what) except -1:
    cdef object value = <object>borrowed
    cdef Py_buffer* view
    if PyBytes_CheckExact(value):
        part.data = <const unsigned char*>PyBytes_AS_STRING(value)
        part.size = PyBytes_GET_SIZE(value)
    elif value is None:
        part.data, part.size = NULL, -1
    else:
        view = &held.views[held.count]
        view_bytes(value, view, what)
        held.count += 1
        part.data, part.size = <const unsigned char*>view.buf, view.len
    return 0


cdef int view_bytes(object value, Py_buffer* view, str what) except -1:
    cdef bint whole
    try:
        PyObject_GetBuffer(value, view, PyBUF_FULL_RO)
        whole = PyBuffer_IsContiguous(view, b"C")
        if not whole:
            PyBuffer_Release(view)
    except TypeError:
        whole = False
    if not whole:
        raise TypeError(
            f"a {what} must be bytes-like or None, not {type(value).__name__}"
            + ("; encode it first, e.g. text.encode()" if isinstance(value, str) else "")
        )
    return 0


cdef int64_t take_timestamp(object timestamp, int64_t now) except -2:
    cdef int overflow = 0
    cdef int64_t value
    if not PyLong_Check(timestamp):
        raise TypeError(f"a timestamp must be an int (ms since the epoch), not {type(timestamp).__name__}")
    value = PyLong_AsLongLongAndOverflow(timestamp, &overflow)
    if overflow or value < -1:
        raise ValueError(f"a timestamp must be ms since the epoch or -1 for now, not {timestamp}")
    return now if value == -1 else value


cdef bytearray encode_varint(bytearray out, int64_t value):
    cdef unsigned char encoded[10]
    cdef unsigned char* end = put_varint(encoded, zigzag(value))
    out += encoded[:end - encoded]
    return out


cdef int encode_header(bytearray out, object header) except -1:
    cdef const char* key
    cdef Py_ssize_t size
    cdef Part part
    cdef Held held
    if not (
        PyTuple_Check(header) and PyTuple_GET_SIZE(header) == 2 and PyUnicode_Check(<object>borrow_item(header, 0))
    ):
        raise TypeError("a header must be a (str, bytes-like or None) pair")
    key = PyUnicode_AsUTF8AndSize(<object>borrow_item(header, 0), &size)
    encode_varint(out, size)
    out += key[:size]
    held.count = 0
    take_part(borrow_item(header, 1), &part, &held, "header value")
    try:
        encode_varint(out, part.size)
        if part.size > 0:
            out += (<const char*>part.data)[:part.size]
    finally:
        release(&held)
    return 0


cdef bytes encode_headers(object headers):
    # The header count and the headers. A snapshot is taken: the sequence may be anything, and count and content agree.
    cdef tuple snapshot = tuple(headers)
    cdef bytearray out = bytearray()
    encode_varint(out, len(snapshot))
    for header in snapshot:
        encode_header(out, header)
    return bytes(out)


cdef object take_record(object item, int64_t now, Row* row, Held* held):
    cdef object headers
    if PyTuple_GET_SIZE(item) != 5:
        raise ValueError(f"a Record has 5 fields, not {PyTuple_GET_SIZE(item)}")
    row.timestamp = take_timestamp(<object>borrow_item(item, 1), now)
    take_part(borrow_item(item, 2), &row.key, held, "key")
    take_part(borrow_item(item, 3), &row.value, held, "value")
    headers = <object>borrow_item(item, 4)
    return encode_headers(headers) if headers else None


cdef object take_item(object item, int64_t now, Row* row, Held* held):
    # Fills `row` from an item that the caller holds; returns the encoded headers, to be held as well, or None.
    row.timestamp = now
    if not PyTuple_Check(item):
        row.key.data, row.key.size = NULL, -1
        take_part(<PyObject*>item, &row.value, held, "value")
        return None
    if not PyTuple_CheckExact(item) and isinstance(item, Record):
        return take_record(item, now, row, held)
    if PyTuple_GET_SIZE(item) != 2:
        raise TypeError(f"a tuple must be (key, value), not of length {PyTuple_GET_SIZE(item)}")
    take_part(borrow_item(item, 0), &row.key, held, "key")
    take_part(borrow_item(item, 1), &row.value, held, "value")
    return None


cdef int add_items(Batch* batch, object items, Py_ssize_t first, int64_t now, bint append_time) except -1:
    cdef bint is_list = isinstance(items, list)
    cdef Row row
    cdef Held held
    cdef object item, headers
    cdef bint fits = True
    held.count = 0
    try:
        while fits:
            first = add_plain_items(batch, items, first, now)
            if first >= (len(<list>items) if is_list else len(<tuple>items)):
                break
            item = (<list>items)[first] if is_list else (<tuple>items)[first]
            row.headers.data, row.headers.size = b"\0", 1
            headers = take_item(item, now, &row, &held)
            if headers is not None:
                row.headers.data = <const unsigned char*>PyBytes_AS_STRING(headers)
                row.headers.size = PyBytes_GET_SIZE(headers)
            if append_time:
                row.timestamp = now
            fits = add_row(batch, &row)
            release(&held)
            first += 1
    finally:
        release(&held)
    return 0


def plain_size(object items):
    """The bytes of keys and values of a list or tuple of plain items: bytes or None, or exact pairs of these.

    -1 if it is something else, or holds something else.
    """
    cdef Py_ssize_t at, count, size = 0
    cdef bint is_list = PyList_CheckExact(items)
    cdef Part key, value
    if not is_list and not PyTuple_CheckExact(items):
        return -1
    count = PyList_GET_SIZE(items) if is_list else PyTuple_GET_SIZE(items)
    for at in range(count):
        if not take_plain_item(list_item(items, at) if is_list else tuple_item(items, at), &key, &value):
            return -1
        size += max(key.size, 0) + max(value.size, 0)
    return size


def encode(
    object buf,
    Py_ssize_t pos,
    Py_ssize_t end,
    object items,
    Py_ssize_t first,
    int64_t base_offset,
    int32_t leader_epoch,
    int16_t attributes,
    int64_t now,
    int64_t producer_id=-1,
    int16_t producer_epoch=-1,
    int32_t base_sequence=-1,
):
    """Write one uncompressed batch of `items[first:]` at `pos`, as many as fit before `end`.

    An item is a value, a (key, value) pair (exactly two) or a Record, in a list or tuple. Returns (position after the
    batch, how many records it has, its max timestamp); (pos, 0, -1) if not even the first fits. With LogAppendTime in
    `attributes` all timestamps are `now`. Until it returns, the 61 header bytes at `pos` are untouched.
    """
    cdef Py_buffer view
    cdef Batch batch
    cdef Header header
    if type(items) is not list and type(items) is not tuple:
        raise TypeError(f"items must be a list or a tuple, not {type(items).__name__}")
    if not 0 <= first <= len(items):
        raise IndexError(f"item {first} of {len(items)}")
    if now < 0:  # -1 and the largest timestamp would be more than 64 bits apart
        raise ValueError(f"now must be ms since the epoch, not {now}")
    header.base_offset, header.leader_epoch, header.attributes = base_offset, leader_epoch, attributes
    header.producer_id, header.producer_epoch, header.base_sequence = producer_id, producer_epoch, base_sequence
    take_buffer(buf, &view, PyBUF_WRITABLE)
    try:
        end = checked_range(&view, pos, end)
        open_batch(&batch, &view, pos, end)
        add_items(&batch, items, first, now, attributes & APPEND_TIME_BIT)
        close_batch(&batch, &header)
    finally:
        PyBuffer_Release(&view)
    return pos + batch.used, batch.count, batch.max_timestamp


cdef struct Buffers:
    Py_buffer views[COLUMN_BUFFERS]
    int count


cdef const Py_buffer* take_column(Buffers* held, object column, str name, Py_ssize_t items, int item_size) except? NULL:
    # NULL for a missing one. `item_size` 0: of any size.
    cdef Py_buffer* view = &held.views[held.count]
    if column is None:
        return NULL
    take_buffer(column, view, PyBUF_SIMPLE)
    held.count += 1
    if item_size and (view.len % item_size or view.len // item_size != items):
        raise ValueError(f"{name} must have {items} items of {item_size} bytes")
    return view


cdef int take_columns(Column* column, Buffers* held, tuple objects, tuple names, Py_ssize_t rows) except -1:
    cdef const Py_buffer* data
    cdef const Py_buffer* offsets
    cdef const Py_buffer* nulls
    offsets = take_column(held, objects[1], names[1], rows + 1, 8)
    nulls = take_column(held, objects[2], names[2], rows, 1)
    data = take_column(held, objects[0], names[0], 0, 0)
    column.data = column.offsets = column.nulls = NULL
    column.size = 0
    if data != NULL and offsets != NULL:
        column.data, column.size = <const unsigned char*>data.buf, data.len
        column.offsets = <const unsigned char*>offsets.buf
    if nulls != NULL:
        column.nulls = <const unsigned char*>nulls.buf
    return 0


cdef Trouble fill_batch(
    Batch* batch, Header* header, Py_ssize_t* at, Py_ssize_t rows, const Column* keys, const Column* values,
    const unsigned char* timestamps, int64_t now,
) noexcept:
    cdef PyThreadState* thread = PyEval_SaveThread() if rows - at[0] >= UNLOCK_ROWS else NULL
    cdef Trouble trouble = add_rows(batch, at, rows, keys, values, timestamps, now)
    if trouble == NO_TROUBLE:
        close_batch(batch, header)
    if thread != NULL:
        PyEval_RestoreThread(thread)
    return trouble


def encode_columns(
    object buf,
    Py_ssize_t pos,
    Py_ssize_t end,
    Py_ssize_t rows,
    Py_ssize_t first,
    object keys,
    object key_offsets,
    object key_nulls,
    object values,
    object value_offsets,
    object value_nulls,
    object timestamps,
    int64_t base_offset,
    int32_t leader_epoch,
    int16_t attributes,
    int64_t now,
):
    """`encode` for rows `first:rows` of columns: bytes, rows + 1 int64 offsets into them, a byte per null (1 = null).

    A missing column (None) is null in every row; missing timestamps are `now`.
    """
    cdef Py_buffer view
    cdef Buffers held
    cdef Column key_column, value_column
    cdef const Py_buffer* times
    cdef const unsigned char* time_items = NULL
    cdef Batch batch
    cdef Header header
    cdef Trouble trouble
    header.base_offset, header.leader_epoch, header.attributes = base_offset, leader_epoch, attributes
    header.producer_id = header.producer_epoch = header.base_sequence = -1
    held.count = 0
    take_buffer(buf, &view, PyBUF_WRITABLE)
    try:
        take_columns(
            &key_column, &held, (keys, key_offsets, key_nulls), ("keys", "key_offsets", "key_nulls"), rows
        )
        take_columns(
            &value_column, &held, (values, value_offsets, value_nulls), ("values", "value_offsets", "value_nulls"), rows
        )
        times = take_column(&held, timestamps, "timestamps", rows, 8)
        if times != NULL and not attributes & APPEND_TIME_BIT:
            time_items = <const unsigned char*>times.buf
        if not 0 <= first <= rows:
            raise IndexError(f"row {first} of {rows}")
        end = checked_range(&view, pos, end)
        open_batch(&batch, &view, pos, end)
        trouble = fill_batch(&batch, &header, &first, rows, &key_column, &value_column, time_items, now)
        if trouble == NEGATIVE_TIMESTAMP:
            raise ValueError(f"the timestamp of row {first} is negative")
        if trouble == BAD_OFFSETS:
            raise ValueError(f"a column's offsets of row {first} leave its bytes or go backwards")
    finally:
        while held.count:
            held.count -= 1
            PyBuffer_Release(&held.views[held.count])
        PyBuffer_Release(&view)
    return pos + batch.used, batch.count, batch.max_timestamp

"""Decode the records of batches into `Record`s or into columns, straight from the buffer of the log.

Twin of `_pure.decode` and `_pure.records`. Every length is compared with what is left of its record before it is used,
and nothing is read twice, so bytes that change underneath give a wrong record at worst.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cython cimport boundscheck
from libc.stdint cimport INT64_MAX, int32_t, int64_t

from eventcore._native.batch cimport HEADER_BYTES, PREFIX_BYTES, UNLOCK_SIZE, Header, check_crc, read_batch
from eventcore._native.columns cimport COLUMN_COUNT, Columns, fill_rows
from eventcore._native.cursor cimport Cursor, checked_range, take_buffer
from eventcore._native.records cimport (
    Area,
    Slices,
    check_end,
    next_record,
    open_area,
    read_bytes,
    read_length,
    read_timestamp,
    wanted,
)
from eventcore._native.status cimport OK, Fault, Status, raise_fault

from eventcore.types import Record as _Record

cdef extern from "Python.h":
    PyObject* new_int "PyLong_FromLongLong"(long long)
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t)
    PyObject* share "Py_NewRef"(object)
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)

cdef extern from "record.h":
    object make_record(
        PyTypeObject*, PyObject* offset, PyObject* timestamp, PyObject* key, PyObject* value, PyObject* headers
    )

__all__ = ["check_records", "decode_columns", "decode_records", "read_columns", "read_records"]

cdef type Record = _Record


@boundscheck(True)  # whoever calls made them up
cdef int take_fields(Header* header, object fields) except -1:
    header.base_offset = fields[0]
    header.attributes = fields[5]
    header.last_offset_delta = fields[6]
    header.base_timestamp = fields[7]
    header.max_timestamp = fields[8]
    header.record_count = fields[12]
    return 0


cdef inline PyObject* take_bytes(const unsigned char* base, int64_t position, int64_t length) noexcept:
    return share(None) if length < 0 else new_bytes(<const char*>base + position, length)


cdef tuple read_headers(const unsigned char* base, const Slices* parts):
    # `check_headers` has been there, so the count is not larger than the bytes.
    cdef Cursor c = Cursor(base, parts.headers_position, parts.end)
    cdef int64_t position = 0, length = 0, i
    cdef Fault fault
    cdef tuple headers = PyTuple_New(parts.header_count)
    for i in range(parts.header_count):
        if read_length(&c, b"a header key of length {0} where {1} bytes are left", 0, &length, &fault) != OK:
            raise_fault(&fault)
        key = PyUnicode_DecodeUTF8(<const char*>base + c.pos, length, NULL)
        c.pos += length
        if read_bytes(&c, b"a header value of length {0} where {1} bytes are left", &position, &length, &fault) != OK:
            raise_fault(&fault)
        header = (key, None if length < 0 else PyBytes_FromStringAndSize(<const char*>base + position, length))
        Py_INCREF(header)
        PyTuple_SET_ITEM(headers, i, header)
    return headers


cdef int read_area(Area* area, list out) except -1:
    # Append the wanted records. Batches mostly have one timestamp, whose int is then shared.
    cdef const unsigned char* base = area.cursor.base
    cdef Slices parts
    cdef Fault fault
    cdef int64_t offset = 0, timestamp = area.max_timestamp, shared = timestamp
    cdef object timestamp_object = timestamp
    cdef object headers
    while area.done < area.count:
        if next_record(area, &parts, &fault) != OK:
            raise_fault(&fault)
        if not wanted(area, &parts, &offset):
            continue
        if not area.append_time and read_timestamp(area, &parts, &timestamp, &fault) != OK:
            raise_fault(&fault)
        if timestamp != shared:
            timestamp_object, shared = timestamp, timestamp
        headers = read_headers(base, &parts) if parts.header_count else ()
        out.append(
            make_record(
                <PyTypeObject*>Record, new_int(offset), share(timestamp_object),
                take_bytes(base, parts.key_position, parts.key_length),
                take_bytes(base, parts.value_position, parts.value_length), share(headers),
            )
        )
    if check_end(area, &fault) != OK:
        raise_fault(&fault)
    return 0


def decode_records(object data, object fields, int64_t min_offset, int64_t max_offset):
    """The records with min_offset ≤ offset < max_offset of a records area that is already decompressed."""
    cdef Py_buffer view
    cdef Header header
    cdef Area area
    cdef list out = []
    take_fields(&header, fields)
    take_buffer(data, &view, PyBUF_SIMPLE)
    try:
        open_area(&area, <const unsigned char*>view.buf, 0, view.len, &header, min_offset, max_offset)
        read_area(&area, out)
    finally:
        PyBuffer_Release(&view)
    return out


cdef int verify_batch(const unsigned char* base, Py_ssize_t pos, const Header* header) except -1:
    cdef Fault fault
    cdef Status status
    if header.length < UNLOCK_SIZE:
        status = check_crc(base, pos, header, &fault)
    else:
        with nogil:
            status = check_crc(base, pos, header, &fault)
    if status != OK:
        raise_fault(&fault)
    return 0


def read_records(
    object buf,
    Py_ssize_t start,
    Py_ssize_t end,
    int64_t min_offset,
    int64_t max_offset,
    Py_ssize_t max_count,
    int stop_mask,
    bint verify=True,
):
    """Read whole batches from `start` on: (records with min_offset ≤ offset < max_offset, position after them).

    Stops before a batch with an attribute of `stop_mask` (the caller decompresses or skips it), before a batch whose
    first offset is ≥ `max_offset`, and after the batch that makes it `max_count` records or more.
    """
    cdef Py_buffer view
    cdef const unsigned char* base
    cdef Header header
    cdef Area area
    cdef Fault fault
    cdef Py_ssize_t next_start
    cdef list out = []
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        base = <const unsigned char*>view.buf
        end = checked_range(&view, start, end)
        while start < end and len(out) < max_count:
            if read_batch(base, start, end, &header, &fault) != OK:
                raise_fault(&fault)
            if header.attributes & stop_mask or header.base_offset >= max_offset:
                break
            if verify:
                verify_batch(base, start, &header)
            next_start = start + PREFIX_BYTES + <Py_ssize_t>header.length
            open_area(&area, base, start + HEADER_BYTES, next_start, &header, min_offset, max_offset)
            read_area(&area, out)
            start = next_start
    finally:
        PyBuffer_Release(&view)
    return out, start


cdef struct Table:
    # The caller's columns of `capacity` rows, and the buffers that they are.
    Columns columns
    Py_buffer views[COLUMN_COUNT]
    int held
    Py_ssize_t capacity


cdef inline void release_table(Table* table) noexcept:
    while table.held:
        table.held -= 1
        PyBuffer_Release(&table.views[table.held])


cdef int take_table(Table* table, object columns, Py_ssize_t row) except -1:
    cdef tuple buffers = tuple(columns)
    cdef Py_buffer* view
    cdef int at
    if len(buffers) != COLUMN_COUNT or row < 0:
        raise ValueError("columns must be six int64 arrays of one length, or None")
    for at in range(COLUMN_COUNT):
        table.columns.at[at] = NULL
        if buffers[at] is None:
            continue
        view = &table.views[table.held]
        take_buffer(buffers[at], view, PyBUF_WRITABLE)
        table.columns.at[at] = <unsigned char*>view.buf
        table.held += 1
        if view.len % 8:
            raise TypeError("a column must be an int64 array")
        if view.len != table.views[0].len:
            raise ValueError("columns must be six int64 arrays of one length, or None")
    if not table.held:
        raise ValueError("at least one column must be there")
    table.capacity = table.views[0].len // 8
    return 0


def decode_columns(
    object data,
    object fields,
    int64_t min_offset,
    int64_t max_offset,
    object columns,
    Py_ssize_t row,
    int64_t base_position,
):
    """`decode_records` into columns from `row` on; positions count from `base_position`. Returns the next free row."""
    cdef Py_buffer view
    cdef Table table
    cdef Header header
    cdef Area area
    cdef Fault fault
    cdef Status status
    take_fields(&header, fields)
    take_buffer(data, &view, PyBUF_SIMPLE)
    table.held = 0
    try:
        take_table(&table, columns, row)
        if header.record_count > table.capacity - row:
            raise ValueError(f"{header.record_count} records do not fit into the {table.capacity - row} rows left")
        open_area(&area, <const unsigned char*>view.buf, 0, view.len, &header, min_offset, max_offset)
        with nogil:
            status = fill_rows(&area, &table.columns, &row, base_position, &fault)
        if status != OK:
            raise_fault(&fault)
    finally:
        release_table(&table)
        PyBuffer_Release(&view)
    return row


cdef Status fill_batches(
    const unsigned char* base, Py_ssize_t* start, Py_ssize_t end, int64_t min_offset, int64_t max_offset, Table* table,
    Py_ssize_t* row, int stop_mask, bint verify, Fault* fault,
) noexcept nogil:
    cdef Header header
    cdef Area area
    cdef Py_ssize_t next_start
    cdef Status status
    while start[0] < end:
        status = read_batch(base, start[0], end, &header, fault)
        if status != OK:
            return status
        if header.attributes & stop_mask or header.base_offset >= max_offset:
            return OK
        if header.record_count > table.capacity - row[0]:
            return OK
        if verify:
            status = check_crc(base, start[0], &header, fault)
            if status != OK:
                return status
        next_start = start[0] + PREFIX_BYTES + <Py_ssize_t>header.length
        open_area(&area, base, start[0] + HEADER_BYTES, next_start, &header, min_offset, max_offset)
        status = fill_rows(&area, &table.columns, row, 0, fault)
        if status != OK:
            return status
        start[0] = next_start
    return OK


def read_columns(
    object buf,
    Py_ssize_t start,
    Py_ssize_t end,
    int64_t min_offset,
    int64_t max_offset,
    object columns,
    Py_ssize_t row,
    int stop_mask,
    bint verify=True,
):
    """`read_records` into columns: (next free row, position). Also stops before a batch that may not fit any more."""
    cdef Py_buffer view
    cdef Table table
    cdef Fault fault
    cdef Status status
    take_buffer(buf, &view, PyBUF_SIMPLE)
    table.held = 0
    try:
        end = checked_range(&view, start, end)
        take_table(&table, columns, row)
        with nogil:
            status = fill_batches(
                <const unsigned char*>view.buf, &start, end, min_offset, max_offset, &table, &row, stop_mask, verify,
                &fault,
            )
        if status != OK:
            raise_fault(&fault)
    finally:
        release_table(&table)
        PyBuffer_Release(&view)
    return row, start


cdef Status check_area(
    Area* area, int64_t* min_timestamp, int64_t* max_timestamp, int64_t* null_keys, Fault* fault
) noexcept nogil:
    cdef Slices parts
    cdef int64_t timestamp = 0
    cdef Status status
    while area.done < area.count:
        status = next_record(area, &parts, fault)
        if status == OK:
            status = read_timestamp(area, &parts, &timestamp, fault)
        if status != OK:
            return status
        if area.done == 1:
            min_timestamp[0] = max_timestamp[0] = timestamp
        min_timestamp[0] = min(min_timestamp[0], timestamp)
        max_timestamp[0] = max(max_timestamp[0], timestamp)
        null_keys[0] += parts.key_length < 0
    return check_end(area, fault)


def check_records(object data, object fields):
    """Check every byte of a decompressed records area: (min timestamp, max timestamp, number of null keys).

    An empty area gives (-1, -1, 0).
    """
    cdef Py_buffer view
    cdef Header header
    cdef Area area
    cdef Fault fault
    cdef Status status
    cdef int64_t min_timestamp = -1, max_timestamp = -1, null_keys = 0
    take_fields(&header, fields)
    take_buffer(data, &view, PyBUF_SIMPLE)
    try:
        open_area(&area, <const unsigned char*>view.buf, 0, view.len, &header, -INT64_MAX - 1, INT64_MAX)
        with nogil:
            status = check_area(&area, &min_timestamp, &max_timestamp, &null_keys, &fault)
        if status != OK:
            raise_fault(&fault)
    finally:
        PyBuffer_Release(&view)
    return min_timestamp, max_timestamp, null_keys

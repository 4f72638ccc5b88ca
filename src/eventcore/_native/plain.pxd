# Items that are appended as they are: bytes or None, or exact pairs of these. To look at one runs no Python code, so
# nobody changes the items meanwhile.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from eventcore._native.builder cimport Batch, Part, Row, add_row, put_plain
from eventcore._native.cursor cimport zigzag

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1
    PyObject* list_item "PyList_GET_ITEM"(object, Py_ssize_t)
    PyObject* tuple_item "PyTuple_GET_ITEM"(object, Py_ssize_t)


cdef inline bint take_plain(PyObject* borrowed, Part* part) noexcept:
    # False if it is neither bytes nor None.
    cdef object value = <object>borrowed
    if PyBytes_CheckExact(value):
        part.data, part.size = <const unsigned char*>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        return True
    part.data, part.size = NULL, -1
    return value is None


cdef inline bint take_plain_item(PyObject* borrowed, Part* key, Part* value) noexcept:
    cdef object item = <object>borrowed
    if not PyTuple_CheckExact(item):
        key.data, key.size = NULL, -1
        return take_plain(borrowed, value)
    if PyTuple_GET_SIZE(item) != 2:
        return False
    return take_plain(tuple_item(item, 0), key) and take_plain(tuple_item(item, 1), value)


cdef inline Py_ssize_t add_short_items(Batch* batch, object items, Py_ssize_t at, Py_ssize_t end, int64_t now) noexcept:
    # As many as `put_plain` takes, from item `at` on; returns the first that it does not.
    cdef bint is_list = PyList_CheckExact(items)
    cdef int64_t base_timestamp = batch.base_timestamp if batch.count else now
    cdef uint64_t time_delta = zigzag(now - base_timestamp), count = batch.count
    cdef Py_ssize_t size, room = batch.limit - batch.used, first = at
    cdef unsigned char* to = batch.at + batch.used
    cdef Part key, value
    while at < end:
        if not take_plain_item(list_item(items, at) if is_list else tuple_item(items, at), &key, &value):
            break
        size = put_plain(to, room, key, value, time_delta, count << 1)
        if size == 0:
            break
        to += size
        room -= size
        count += 1
        at += 1
    if at > first:
        batch.base_timestamp, batch.max_timestamp = base_timestamp, max(batch.max_timestamp, now)
        batch.used, batch.count = to - batch.at, <int32_t>count
    return at


cdef inline Py_ssize_t add_plain_items(Batch* batch, object items, Py_ssize_t at, int64_t now) noexcept:
    # As many items of a list or tuple as are plain and fit, from item `at` on; returns the first that is not.
    cdef bint is_list = PyList_CheckExact(items)
    cdef Py_ssize_t end = PyList_GET_SIZE(items) if is_list else PyTuple_GET_SIZE(items)
    cdef Row row
    row.timestamp = now
    row.headers.data, row.headers.size = b"\0", 1
    while True:
        at = add_short_items(batch, items, at, end, now)
        if at >= end:
            return at
        if not take_plain_item(list_item(items, at) if is_list else tuple_item(items, at), &row.key, &row.value):
            return at
        if not add_row(batch, &row):
            return at
        at += 1


cdef inline int64_t wall_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1_000_000


cdef inline bint take_time(object timestamp, int64_t now, int64_t* out) noexcept:
    # False if it is neither None, for now, nor an int that is a time.
    cdef int overflow = 0
    if timestamp is None:
        out[0] = now
        return True
    if not PyLong_CheckExact(timestamp):
        return False
    out[0] = PyLong_AsLongLongAndOverflow(timestamp, &overflow)
    return not overflow and out[0] >= 0

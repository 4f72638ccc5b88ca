"""A stream of Arrow arrays that are made when the consumer asks for them. Twin of `_pure.arrow`.

The arrays themselves are made elsewhere: this only hands on what their `__arrow_c_array__` gives, one at a time, from
whatever thread the consumer calls.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO
from libc.stdlib cimport free, malloc

cdef extern from "Python.h":
    bint Py_IsInitialized() nogil

cdef extern from "arrow_abi.h":
    cdef struct ArrowSchema:
        void (*release)(ArrowSchema*) noexcept

    cdef struct ArrowArray:
        void (*release)(ArrowArray*) noexcept

    cdef struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream*, ArrowSchema*) noexcept
        int (*get_next)(ArrowArrayStream*, ArrowArray*) noexcept
        const char* (*get_last_error)(ArrowArrayStream*) noexcept
        void (*release)(ArrowArrayStream*) noexcept nogil
        void* private_data

__all__ = ["export_stream"]


cdef class Producer:
    # What a stream owns.
    cdef object schema
    cdef object arrays
    cdef bytes error


cdef bytes told(object error):
    # An error's words may be no UTF-8, as those about a path, or there may be none to be had. A consumer that is told
    # nothing takes what it was not given.
    cdef str name = type(error).__name__
    try:
        return f"{name}: {error}".encode("utf-8", "backslashreplace")
    except BaseException:
        return name.encode("utf-8", "backslashreplace")


cdef int give_schema(ArrowArrayStream* stream, ArrowSchema* out) noexcept with gil:
    cdef Producer producer = <Producer>stream.private_data
    cdef ArrowSchema* found
    try:
        capsule = producer.schema.__arrow_c_schema__()
        found = <ArrowSchema*>PyCapsule_GetPointer(capsule, b"arrow_schema")
        out[0] = found[0]
        found.release = NULL  # it is the consumer's now
        return 0
    except BaseException as error:
        producer.error = told(error)
        return EIO


cdef int give_next(ArrowArrayStream* stream, ArrowArray* out) noexcept with gil:
    cdef Producer producer = <Producer>stream.private_data
    cdef ArrowArray* found
    try:
        for array in producer.arrays:
            _, capsule = array.__arrow_c_array__()  # unlike an index this is checked
            found = <ArrowArray*>PyCapsule_GetPointer(capsule, b"arrow_array")
            out[0] = found[0]
            found.release = NULL
            return 0
        out.release = NULL  # the end
        return 0
    except BaseException as error:
        producer.error = told(error)
        return EIO


cdef const char* give_error(ArrowArrayStream* stream) noexcept with gil:
    cdef Producer producer = <Producer>stream.private_data
    return NULL if producer.error is None else <char*>producer.error


cdef void drop_producer(void* producer) noexcept with gil:
    Py_DECREF(<object>producer)


cdef void release_stream(ArrowArrayStream* stream) noexcept nogil:
    # A consumer may keep a stream beyond the interpreter, and release it when the process ends.
    stream.release = NULL
    if Py_IsInitialized():
        drop_producer(stream.private_data)


cdef void free_capsule(object capsule) noexcept:
    cdef ArrowArrayStream* stream = <ArrowArrayStream*>PyCapsule_GetPointer(capsule, b"arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


def export_stream(object schema, object arrays, object collect):
    """The capsule of an Arrow stream over the iterator `arrays`, of what has `__arrow_c_array__`.

    `schema` has `__arrow_c_schema__`. `collect(list of arrays, schema)` makes such a capsule of arrays that all are
    there: the twin, which cannot make one of its own, calls it.
    """
    cdef ArrowArrayStream* stream
    cdef Producer producer = Producer.__new__(Producer)
    producer.schema, producer.arrays = schema, iter(arrays)
    stream = <ArrowArrayStream*>malloc(sizeof(ArrowArrayStream))
    if stream == NULL:
        raise MemoryError
    stream.get_schema, stream.get_next = give_schema, give_next
    stream.get_last_error, stream.release = give_error, release_stream
    Py_INCREF(producer)
    stream.private_data = <void*>producer
    return PyCapsule_New(stream, b"arrow_array_stream", free_capsule)

"""CRC-32C (Castagnoli): the checksum of every Kafka v2 batch. Twin of `_pure.crc32c`.

The kernels and the choice among them are in crc32c_impl.h; the choice is made once, when this module is imported.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from eventcore.errors import UsageError


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1


cdef extern from "crc32c_impl.h" nogil:
    ctypedef uint32_t (*crc32c_kernel)(uint32_t crc, const unsigned char* data, size_t size) noexcept
    struct Available "crc32c_available":
        const char* name
        crc32c_kernel kernel
    Available* crc32c_available
    int crc32c_available_count
    crc32c_kernel crc32c_best
    void crc32c_setup()
    uint32_t crc32c_run(crc32c_kernel kernel, uint32_t value, const unsigned char* data, size_t size)


# Below this, giving up the GIL and taking it back costs more than the CRC does (64 KiB: about 1.5 us).
cdef enum: RELEASE_GIL_FROM = 65536

crc32c_setup()


cdef uint32_t crc32c_update(uint32_t value, const unsigned char* data, size_t size) noexcept nogil:
    return crc32c_run(crc32c_best, value, data, size)


cdef uint32_t _checked(object value) except? 1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not 0 <= number <= 0xFFFFFFFF:
        raise ValueError("value must be a CRC, 0 <= value < 2**32")
    return <uint32_t>number


cdef uint32_t _of_memory(crc32c_kernel kernel, uint32_t value, const unsigned char* data, size_t size) noexcept:
    if size < RELEASE_GIL_FROM:
        return crc32c_run(kernel, value, data, size)
    with nogil:
        return crc32c_run(kernel, value, data, size)


cdef uint32_t _of_buffer(crc32c_kernel kernel, object data, uint32_t value) except? 1:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_STRIDES)
    try:
        if not PyBuffer_IsContiguous(&view, b"C"):
            raise BufferError("crc32c needs a C-contiguous buffer")
        return _of_memory(kernel, value, <const unsigned char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef inline uint32_t _of_object(crc32c_kernel kernel, object data, object value) except? 1:
    cdef uint32_t before = _checked(value)
    # Exact bytes, by far the most frequent, cannot move or change: no buffer need be taken.
    if PyBytes_CheckExact(data):
        return _of_memory(kernel, before, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return _of_buffer(kernel, data, before)


def crc32c(data, value=0):
    """The CRC-32C of `data`, any C-contiguous bytes-like object; `value` is the CRC of what came before it.

    Raises TypeError if `data` is no buffer, BufferError if it is not C-contiguous, ValueError if `value` is not in
    0 .. 2**32 - 1. From 64 KiB on other threads run meanwhile.
    """
    return _of_object(crc32c_best, data, value)


def implementation():
    """The name of the kernel in use."""
    return crc32c_available[0].name.decode("ascii")


def available():
    """The names of the kernels this machine can run, fastest first."""
    return tuple([crc32c_available[i].name.decode("ascii") for i in range(crc32c_available_count)])


def crc32c_with(name, data, value=0):
    """`crc32c` by the kernel `name`, for tests and benchmarks. UsageError: not among `available()`."""
    cdef int i
    for i in range(crc32c_available_count):
        if crc32c_available[i].name.decode("ascii") == name:
            return _of_object(crc32c_available[i].kernel, data, value)
    raise UsageError(f"no CRC-32C implementation {name!r} here", hint=f"use one of {', '.join(available())}")

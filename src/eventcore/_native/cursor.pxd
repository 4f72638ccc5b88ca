# The only way to read untrusted bytes: base[pos:end] may be read, nothing else may.
# Also the callers' buffers, held for as long as a pointer into them is used.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t

from eventcore._native.status cimport CORRUPT, OK, Fault, Status, blame


cdef extern from "bytes.h" nogil:
    int16_t load_be16(const unsigned char* at)
    int32_t load_be32(const unsigned char* at)
    int64_t load_be64(const unsigned char* at)
    void store_be16(unsigned char* at, int16_t value)
    void store_be32(unsigned char* at, int32_t value)
    void store_be64(unsigned char* at, int64_t value)
    int64_t load_item(const unsigned char* column, int64_t row)
    void store_item(unsigned char* column, int64_t row, int64_t value)
    bint add_overflows(int64_t a, int64_t b, int64_t* out)
    void release_fence()
    void prefetch(const void* at)
    void fetch(const void* at)
    void copy_bytes(unsigned char* to, const unsigned char* data, size_t size)
    uint64_t zigzag(int64_t value)
    int64_t unzigzag(uint64_t value)
    int varint_size(uint64_t value)
    unsigned char* put_short(unsigned char* at, uint64_t value)
    unsigned char* put_varint(unsigned char* at, uint64_t value)
    bint take_short(const unsigned char** at, int64_t* out)
    bint all_zero(const unsigned char* at, Py_ssize_t size)
    bint is_utf8(const unsigned char* at, Py_ssize_t size)


cdef struct Cursor:
    const unsigned char* base
    Py_ssize_t pos
    Py_ssize_t end


cdef inline Status read_any_varint(Cursor* c, int bits, int64_t* out, Fault* fault) noexcept nogil:
    cdef uint64_t value = 0
    cdef unsigned char byte
    cdef int shift = 0
    while c.pos < c.end:
        byte = c.base[c.pos]
        c.pos += 1
        if bits - shift < 7 and byte >> (bits - shift):
            return blame(fault, CORRUPT, c.pos - 1, b"a varint exceeds {0} bits", bits, 0)
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            out[0] = unzigzag(value)
            return OK
        shift += 7
    return blame(fault, CORRUPT, c.pos, b"a varint runs past the end of its record", 0, 0)


cdef inline Status read_varint(Cursor* c, int bits, int64_t* out, Fault* fault) noexcept nogil:
    # Nearly every varint of a log has one or two bytes: those are read without a loop.
    cdef const unsigned char* at = c.base + c.pos
    if c.end - c.pos >= 2:
        if at[0] < 0x80:
            c.pos += 1
            out[0] = unzigzag(at[0])
            return OK
        if at[1] < 0x80:
            c.pos += 2
            out[0] = unzigzag((at[0] & 0x7F) | (<uint64_t>at[1] << 7))
            return OK
    return read_any_varint(c, bits, out, fault)


cdef inline int take_buffer(object buf, Py_buffer* view, int flags) except -1:
    # Pins the buffer: a bytearray cannot be resized nor a mmap be closed until it is released.
    try:
        PyObject_GetBuffer(buf, view, flags)
    except BufferError as error:
        raise TypeError(str(error)) from None
    return 0


cdef inline Py_ssize_t checked_range(const Py_buffer* view, Py_ssize_t pos, Py_ssize_t end) except -1:
    if end < 0:
        end = view.len
    if not 0 <= pos <= end <= view.len:
        raise IndexError(f"[{pos}:{end}] is outside a buffer of {view.len} bytes")
    return end

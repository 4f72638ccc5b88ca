"""Copy encoded batches into the log and check them on the way, so that their bytes are fetched from memory once.

Twin of `_pure.transfer`.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy

from eventcore._native.batch cimport (
    ATTRIBUTES_AT,
    BASE_OFFSET_AT,
    LEADER_EPOCH_AT,
    LENGTH_AT,
    PREFIX_BYTES,
    UNLOCK_SIZE,
    Header,
    read_batch,
)
from eventcore._native.crc32c cimport crc32c_update
from eventcore._native.cursor cimport checked_range, release_fence, store_be32, store_be64, take_buffer
from eventcore._native.status cimport OK, Fault, raise_fault

__all__ = ["copy_batch"]

cdef enum:
    BLOCK = 1 << 13  # copied, and read again while it is in the nearest cache


cdef bint copy_checked(unsigned char* at, const unsigned char* source, Py_ssize_t size, Header* header) noexcept nogil:
    # Copies all but the first 12 bytes, with the header's leader epoch; whether the CRC of the copy is the header's.
    cdef uint32_t crc = 0
    cdef Py_ssize_t done = ATTRIBUTES_AT, step
    memcpy(at + PREFIX_BYTES, source + PREFIX_BYTES, ATTRIBUTES_AT - PREFIX_BYTES)
    store_be32(at + LEADER_EPOCH_AT, header.leader_epoch)
    while done < size:
        step = min(size - done, <Py_ssize_t>BLOCK)
        memcpy(at + done, source + done, step)
        crc = crc32c_update(crc, at + done, step)
        done += step
    return crc == header.crc


def copy_batch(object buf, Py_ssize_t at, object data, Py_ssize_t pos, int64_t base_offset, int32_t leader_epoch):
    """Copy the batch at `pos` of `data` to `at`, with another base offset and leader epoch; whether its CRC holds.

    It is computed over what was copied. If it does not hold, the first 12 bytes at `at` are untouched: no batch.
    """
    cdef Py_buffer view, source
    cdef Header header
    cdef Fault fault
    cdef Py_ssize_t size
    cdef unsigned char* start
    cdef bint holds
    take_buffer(buf, &view, PyBUF_WRITABLE)
    try:
        take_buffer(data, &source, PyBUF_SIMPLE)
        try:
            checked_range(&source, pos, source.len)
            if read_batch(<const unsigned char*>source.buf, pos, source.len, &header, &fault) != OK:
                raise_fault(&fault)
            size = PREFIX_BYTES + <Py_ssize_t>header.length
            checked_range(&view, at, at + size)
            header.leader_epoch = leader_epoch
            start = <unsigned char*>view.buf + at
            if size < UNLOCK_SIZE:
                holds = copy_checked(start, <const unsigned char*>source.buf + pos, size, &header)
            else:
                with nogil:
                    holds = copy_checked(start, <const unsigned char*>source.buf + pos, size, &header)
            if holds:
                release_fence()
                store_be64(start + BASE_OFFSET_AT, base_offset)
                release_fence()
                store_be32(start + LENGTH_AT, header.length)
        finally:
            PyBuffer_Release(&source)
    finally:
        PyBuffer_Release(&view)
    return holds

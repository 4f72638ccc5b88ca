"""MurmurHash2 as Kafka's producers hash keys: which partition a keyed record belongs to. Twin of `_pure.murmur2`."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy

from eventcore._native.cursor cimport take_buffer

from eventcore.errors import UsageError

__all__ = ["group", "murmur2"]

cdef enum:
    PAIR_SIZE = 2
    RECORD_SIZE = 5
    KEY_OF_RECORD = 2

cdef uint32_t SEED = 0x9747B28C
cdef uint32_t M = 0x5BD1E995


cdef uint32_t hashed(const unsigned char* data, Py_ssize_t size) noexcept nogil:
    cdef uint32_t h = SEED ^ <uint32_t>size, k
    cdef Py_ssize_t at = 0
    while size - at >= 4:
        k = data[at] | <uint32_t>data[at + 1] << 8 | <uint32_t>data[at + 2] << 16 | <uint32_t>data[at + 3] << 24
        k *= M
        k ^= k >> 24
        k *= M
        h *= M
        h ^= k
        at += 4
    if at < size:
        k = data[at]
        if size - at > 1:
            k |= <uint32_t>data[at + 1] << 8
        if size - at > 2:
            k |= <uint32_t>data[at + 2] << 16
        h ^= k
        h *= M
    h ^= h >> 13
    h *= M
    h ^= h >> 15
    return h


cdef uint32_t hash_of(object data) except? 0:
    cdef Py_buffer view
    cdef uint32_t h
    take_buffer(data, &view, PyBUF_SIMPLE)
    try:
        h = hashed(<const unsigned char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return h


def murmur2(object data):
    """The hash of some bytes, from -2^31 to 2^31 - 1."""
    return <int32_t>hash_of(data)


def group(object items, Py_ssize_t count, Py_ssize_t keyless):
    """The items of each of `count` partitions, in order: those with a key where it belongs, others in `keyless`.

    An item is a value, a (key, value) pair, or a Record. Raises UsageError for partitions that cannot be, TypeError for
    a key that is no bytes.
    """
    cdef list found
    cdef object item, key
    cdef Py_ssize_t size, slot
    if not 0 <= keyless < count:
        raise UsageError(f"partition {keyless} of {count}")
    found = [[] for _ in range(count)]
    for item in items:
        slot = keyless
        if isinstance(item, tuple):
            size = PyTuple_GET_SIZE(item)
            key = (<tuple>item)[0] if size == PAIR_SIZE else (<tuple>item)[KEY_OF_RECORD] if size == RECORD_SIZE else None
            if key is not None:
                slot = (hash_of(key) & 0x7FFFFFFF) % count
        (<list>found[slot]).append(item)
    return found

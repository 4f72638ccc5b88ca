# From an entry of the table to a record: what lies before it in its stride is passed over.
#
# The bytes may change meanwhile. Nothing outside of the place is touched, whatever they say, and whoever copies what was
# found looks afterwards whether it can be believed.

from libc.stdint cimport int64_t, uint32_t

from eventcore._native.batch cimport (
    CODEC_BITS,
    HEADER_BYTES,
    LAST_OFFSET_DELTA_AT,
    LENGTH_AT,
    PREFIX_BYTES,
    Header,
    read_batch,
)
from eventcore._native.cursor cimport Cursor, add_overflows, load_be32, load_be64, read_varint
from eventcore._native.point_table cimport Entry, Place
from eventcore._native.records cimport LEAST_RECORD_BODY, read_length
from eventcore._native.status cimport OK, Fault


cdef enum:
    CONTROL_BIT = 0x20


cdef struct Found:
    # One record: [position, end) of its buffer, and its batch.
    Py_ssize_t position
    Py_ssize_t end
    Header header


cdef inline bint next_in_batch(Cursor* c, Py_ssize_t* end, int64_t* delta) noexcept nogil:
    # The offset delta and the end of the record at the cursor, which does not move; False if there is no record.
    cdef Cursor at = c[0]
    cdef int64_t size = 0, skipped = 0
    cdef Fault fault
    if read_length(&at, b"", LEAST_RECORD_BODY, &size, &fault) != OK:
        return False
    at.end = end[0] = at.pos + size
    at.pos += 1  # attributes
    return read_varint(&at, 64, &skipped, &fault) == OK and read_varint(&at, 32, delta, &fault) == OK


cdef inline bint find_batch(const unsigned char* base, Py_ssize_t size, Entry* entry, int64_t offset) noexcept nogil:
    # Moves the entry, a copy of one, to the batch that may hold `offset`: the first that does not end below it.
    cdef Py_ssize_t length
    cdef int64_t last = 0
    while HEADER_BYTES <= size - entry.batch:
        length = load_be32(base + entry.batch + LENGTH_AT)
        if not HEADER_BYTES - PREFIX_BYTES <= length <= size - entry.batch - PREFIX_BYTES:
            return False
        if add_overflows(
            load_be64(base + entry.batch), load_be32(base + entry.batch + LAST_OFFSET_DELTA_AT), &last
        ):
            return False
        if last >= offset:
            return True
        entry.batch, entry.record = <uint32_t>(entry.batch + PREFIX_BYTES + length), HEADER_BYTES
    return False


cdef inline bint find_record(const Place* place, const Entry* entry, int64_t offset, Found* found) noexcept nogil:
    # Bytes may change meanwhile: nothing outside of the place is touched, whatever they say.
    cdef const unsigned char* base = <const unsigned char*>place.view.buf
    cdef Entry at = entry[0]
    cdef Cursor c
    cdef int64_t delta = -1, wanted
    cdef Fault fault
    if not find_batch(base, place.view.len, &at, offset):
        return False
    if read_batch(base, at.batch, place.view.len, &found.header, &fault) != OK:
        return False
    if found.header.attributes & (CODEC_BITS | CONTROL_BIT):
        return False
    c = Cursor(base, at.batch + at.record, at.batch + PREFIX_BYTES + found.header.length)
    wanted = offset - found.header.base_offset
    while next_in_batch(&c, &found.end, &delta):
        if delta >= wanted:
            found.position = c.pos
            return delta == wanted
        c.pos = found.end
    return False

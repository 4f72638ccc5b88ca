# A batch being written: a record is measured, compared with the room that is left, and only then written.

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint64_t

from eventcore._native.batch cimport HEADER_BYTES, PREFIX_BYTES, Header, seal_batch
from eventcore._native.cursor cimport copy_bytes, put_short, put_varint, varint_size, zigzag


cdef struct Part:
    # A key or a value: `size` bytes at `data`; a size of -1 means null.
    const unsigned char* data
    Py_ssize_t size


cdef struct Row:
    int64_t timestamp
    Part key
    Part value
    Part headers  # the encoded headers with their count in front


cdef inline Py_ssize_t part_size(const Part* part) noexcept nogil:
    return varint_size(zigzag(part.size)) + (part.size if part.size > 0 else 0)


cdef inline unsigned char* put_part(unsigned char* at, const Part* part) noexcept nogil:
    at = put_varint(at, zigzag(part.size))
    if part.size > 0:
        copy_bytes(at, part.data, part.size)
        at += part.size
    return at


cdef enum:
    SHORT = 0x4000  # numbers below take two bytes at most
    PLAIN_DELTA = 0x200000  # three bytes: a batch may have many small records
    PLAIN_PART = 2048  # a record of two parts below this size has a size below SHORT / 2


cdef inline unsigned char* put_plain_part(unsigned char* at, Part part) noexcept nogil:
    if part.size < 0:
        at[0] = 1
        return at + 1
    at = put_short(at, part.size << 1)
    copy_bytes(at, part.data, part.size)
    return at + part.size


cdef inline Py_ssize_t put_plain(
    unsigned char* at, Py_ssize_t room, Part key, Part value, uint64_t time_delta, uint64_t delta
) noexcept nogil:
    # `put_record` of nearly every record: no headers, short numbers; both deltas are zigzag already. 0, and nothing
    # written, if it is another one or has no room. Its instructions are what an append costs: a size takes one byte
    # below 64.
    cdef unsigned char* start = at
    cdef Py_ssize_t body = (
        6 + (time_delta > 0x7F) + (delta > 0x7F) + (delta >= SHORT) + (key.size > 0x3F) + (value.size > 0x3F)
        + max(key.size, 0) + max(value.size, 0)
    )
    if time_delta >= SHORT or delta >= PLAIN_DELTA or key.size >= PLAIN_PART or value.size >= PLAIN_PART:
        return 0
    if body + 2 > room:
        return 0
    at = put_short(at, body << 1)
    at[0] = 0  # attributes: no bit is in use
    at = put_short(at + 1, time_delta)
    at = put_varint(at, delta)
    at = put_plain_part(at, key)
    at = put_plain_part(at, value)
    at[0] = 0  # headers
    return at + 1 - start


cdef inline Py_ssize_t put_record(
    unsigned char* at, Py_ssize_t room, const Row* row, int64_t timestamp_delta, int64_t offset_delta
) noexcept nogil:
    # Returns the size of the record; 0, and nothing written, if there is no room for it.
    cdef uint64_t time_delta = zigzag(timestamp_delta)
    cdef uint64_t delta = zigzag(offset_delta)
    cdef Py_ssize_t body = (
        1 + varint_size(time_delta) + varint_size(delta) + part_size(&row.key) + part_size(&row.value)
        + row.headers.size
    )
    cdef Py_ssize_t size = varint_size(zigzag(body)) + body
    if size > room:
        return 0
    at = put_varint(at, zigzag(body))
    at[0] = 0  # attributes: no bit is in use
    at = put_varint(at + 1, time_delta)
    at = put_varint(at, delta)
    at = put_part(at, &row.key)
    at = put_part(at, &row.value)
    copy_bytes(at, row.headers.data, row.headers.size)
    return size


cdef struct Batch:
    # The batch being written: records stand in at[HEADER_BYTES:used], of `limit` bytes in all.
    unsigned char* at
    Py_ssize_t used
    Py_ssize_t limit
    int64_t base_timestamp
    int64_t max_timestamp
    int32_t count


cdef inline void open_batch(Batch* batch, const Py_buffer* view, Py_ssize_t pos, Py_ssize_t end) noexcept nogil:
    batch.at = <unsigned char*>view.buf + pos
    batch.used = HEADER_BYTES
    batch.limit = min(end - pos, <Py_ssize_t>INT32_MAX + PREFIX_BYTES)
    batch.base_timestamp = 0
    batch.max_timestamp = -1
    batch.count = 0


cdef inline bint add_row(Batch* batch, const Row* row) noexcept nogil:
    # False if the row does not fit. Timestamps are -1 or more, so that no delta leaves the 64 bits.
    cdef int64_t base_timestamp = batch.base_timestamp if batch.count else row.timestamp
    cdef Py_ssize_t size = put_record(
        batch.at + batch.used, batch.limit - batch.used, row, row.timestamp - base_timestamp, batch.count
    )
    if size == 0:
        return False
    batch.base_timestamp = base_timestamp
    batch.max_timestamp = max(batch.max_timestamp, row.timestamp)
    batch.used += size
    batch.count += 1
    return True


cdef inline void close_batch(Batch* batch, Header* header) noexcept nogil:
    if batch.count:
        header.last_offset_delta = batch.count - 1
        header.base_timestamp = batch.base_timestamp
        header.max_timestamp = batch.max_timestamp
        header.record_count = batch.count
        seal_batch(batch.at, batch.used, header)
    else:
        batch.used = 0

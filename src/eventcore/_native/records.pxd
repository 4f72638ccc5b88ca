# The records area of a batch, parsed: where the parts of each record lie. Nothing here touches a Python object.

from libc.stdint cimport int64_t

from eventcore._native.batch cimport APPEND_TIME_BIT, Header
from eventcore._native.cursor cimport Cursor, add_overflows, is_utf8, read_varint
from eventcore._native.status cimport CORRUPT, OK, Fault, Status, blame


cdef enum:
    LEAST_RECORD_BODY = 6  # attributes, two deltas, two lengths and a count of a byte each


cdef struct Slices:
    # Where the parts of one record lie; a length of -1 means null.
    int64_t timestamp_delta
    int64_t offset_delta
    int64_t key_at  # where the key's length stands
    int64_t key_position
    int64_t key_length
    int64_t value_position
    int64_t value_length
    int64_t headers_position
    int64_t header_count
    int64_t end


cdef struct Area:
    # The records area of one batch, the header fields that its records lean on, and the offsets that are wanted.
    Cursor cursor
    int64_t base_offset
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t last_offset_delta
    int64_t count
    bint append_time
    int64_t min_offset
    int64_t max_offset
    int64_t previous_delta
    int64_t done
    Py_ssize_t record_position


cdef inline Status read_length(Cursor* c, const char* what, int64_t least, int64_t* out, Fault* fault) noexcept nogil:
    cdef Status status = read_varint(c, 32, out, fault)
    if status != OK:
        return status
    if out[0] < least or out[0] > c.end - c.pos:
        return blame(fault, CORRUPT, c.pos, what, out[0], c.end - c.pos)
    return OK


cdef inline Status read_bytes(
    Cursor* c, const char* what, int64_t* position, int64_t* length, Fault* fault
) noexcept nogil:
    cdef Status status = read_length(c, what, -1, length, fault)
    position[0] = c.pos
    if status == OK and length[0] > 0:
        c.pos += length[0]
    return status


cdef inline Status slice_record(Area* area, Slices* out, Fault* fault) noexcept nogil:
    # Finds the parts of the record at the cursor, and moves the cursor behind it.
    cdef Cursor c = area.cursor
    cdef int64_t size = 0
    cdef Status status
    status = read_length(&c, b"a record of length {0} where {1} bytes are left", LEAST_RECORD_BODY, &size, fault)
    if status != OK:
        return status
    c.end = c.pos + size
    out.end = area.cursor.pos = c.end
    c.pos += 1  # attributes: no bit is in use
    status = read_varint(&c, 64, &out.timestamp_delta, fault)
    if status == OK:
        status = read_varint(&c, 32, &out.offset_delta, fault)
    out.key_at = c.pos
    if status == OK:
        status = read_bytes(
            &c, b"a key of length {0} where {1} bytes are left", &out.key_position, &out.key_length, fault
        )
    if status == OK:
        status = read_bytes(
            &c, b"a value of length {0} where {1} bytes are left", &out.value_position, &out.value_length, fault
        )
    if status == OK:
        status = read_length(
            &c, b"a header count of length {0} where {1} bytes are left", 0, &out.header_count, fault
        )
    out.headers_position = c.pos
    return status


cdef inline Status check_headers(const unsigned char* base, const Slices* parts, Fault* fault) noexcept nogil:
    # Every header is well-formed, and the record ends where it said.
    cdef Cursor c = Cursor(base, parts.headers_position, parts.end)
    cdef int64_t position = 0, length = 0, left = parts.header_count
    cdef Status status
    while left > 0:
        left -= 1
        status = read_length(&c, b"a header key of length {0} where {1} bytes are left", 0, &length, fault)
        if status != OK:
            return status
        if not is_utf8(base + c.pos, length):
            return blame(fault, CORRUPT, c.pos, b"a header key is not UTF-8", 0, 0)
        c.pos += length
        status = read_bytes(
            &c, b"a header value of length {0} where {1} bytes are left", &position, &length, fault
        )
        if status != OK:
            return status
    if c.pos != parts.end:
        return blame(
            fault, CORRUPT, c.pos, b"a record says it is {0} bytes longer than its fields", parts.end - c.pos, 0
        )
    return OK


cdef inline Status next_record(Area* area, Slices* parts, Fault* fault) noexcept nogil:
    # The next of the records, checked whole but for its timestamp; offsets must rise.
    cdef Status status
    area.record_position = area.cursor.pos
    status = slice_record(area, parts, fault)
    if status != OK:
        return status
    if not area.previous_delta < parts.offset_delta <= area.last_offset_delta:
        return blame(
            fault, CORRUPT, area.record_position, b"an offset delta of {0} after {1}", parts.offset_delta,
            area.previous_delta,
        )
    area.previous_delta = parts.offset_delta
    area.done += 1
    if parts.header_count == 0 and parts.headers_position == parts.end:
        return OK
    return check_headers(area.cursor.base, parts, fault)


cdef inline Status check_end(const Area* area, Fault* fault) noexcept nogil:
    cdef Py_ssize_t left = area.cursor.end - area.cursor.pos
    if left:
        return blame(
            fault, CORRUPT, area.cursor.pos, b"{0} bytes are left after the last of {1} records", left, area.count
        )
    return OK


cdef inline Status read_timestamp(const Area* area, const Slices* parts, int64_t* out, Fault* fault) noexcept nogil:
    if add_overflows(area.base_timestamp, parts.timestamp_delta, out):
        return blame(fault, CORRUPT, area.record_position, b"a timestamp leaves the 64 bits", 0, 0)
    return OK


cdef inline bint wanted(const Area* area, const Slices* parts, int64_t* offset) noexcept nogil:
    return (
        not add_overflows(area.base_offset, parts.offset_delta, offset)
        and area.min_offset <= offset[0] < area.max_offset
    )


cdef inline void open_area(
    Area* area, const unsigned char* base, Py_ssize_t pos, Py_ssize_t end, const Header* header, int64_t min_offset,
    int64_t max_offset,
) noexcept nogil:
    area.cursor = Cursor(base, pos, end)
    area.base_offset, area.last_offset_delta = header.base_offset, header.last_offset_delta
    area.base_timestamp, area.max_timestamp = header.base_timestamp, header.max_timestamp
    area.count = header.record_count
    area.append_time = header.attributes & APPEND_TIME_BIT
    area.min_offset, area.max_offset = min_offset, max_offset
    area.previous_delta = -1
    area.done = 0

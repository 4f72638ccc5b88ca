"""Batch headers (Kafka RecordBatch v2, magic 2): read, write, walk from one to the next. Twin of `_pure.batch`.

A mapped log may be written by another process while it is read here, so every field is loaded once, into a `Header`,
and what was checked is what is used.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport INT32_MAX, INT64_MAX, int16_t, int32_t, int64_t, uint32_t

from eventcore._native.crc32c cimport crc32c_update
from eventcore._native.cursor cimport (
    all_zero,
    checked_range,
    copy_bytes,
    load_be16,
    load_be32,
    load_be64,
    release_fence,
    store_be16,
    store_be32,
    store_be64,
    store_item,
    take_buffer,
)
from eventcore._native.status cimport (
    BAD_CRC,
    CORRUPT,
    ENDED,
    OK,
    TRUNCATED,
    UNSUPPORTED,
    Fault,
    Status,
    blame,
    raise_fault,
)

__all__ = [
    "CODEC_MASK",
    "CONTROL",
    "CORRUPT",
    "DELETE_HORIZON",
    "ENDED",
    "HEADER_SIZE",
    "KNOWN_ATTRIBUTES",
    "LAST_CODEC",
    "LOG_APPEND_TIME",
    "MAGIC",
    "OK",
    "PREFIX_SIZE",
    "ROW_SIZE",
    "TRANSACTIONAL",
    "TRUNCATED",
    "UNSUPPORTED",
    "crc_holds",
    "digest_headers",
    "find_offset",
    "find_timestamp",
    "offsets",
    "read_header",
    "scan",
    "write_header",
]

HEADER_SIZE = HEADER_BYTES
PREFIX_SIZE = PREFIX_BYTES
MAGIC = MAGIC_2
CODEC_MASK = CODEC_BITS
LOG_APPEND_TIME = APPEND_TIME_BIT
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40
KNOWN_ATTRIBUTES = KNOWN_BITS
LAST_CODEC = HIGHEST_CODEC
ROW_SIZE = ROW_ITEMS
globals().update(OK=OK, ENDED=ENDED, TRUNCATED=TRUNCATED, CORRUPT=CORRUPT, UNSUPPORTED=UNSUPPORTED)

cdef enum:
    ROW_ITEMS = 8


def offsets():
    """Where each header field starts, for the test that compares the kernels with the documented layout."""
    return {
        "base_offset": BASE_OFFSET_AT,
        "length": LENGTH_AT,
        "leader_epoch": LEADER_EPOCH_AT,
        "magic": MAGIC_AT,
        "crc": CRC_AT,
        "attributes": ATTRIBUTES_AT,
        "last_offset_delta": LAST_OFFSET_DELTA_AT,
        "base_timestamp": BASE_TIMESTAMP_AT,
        "max_timestamp": MAX_TIMESTAMP_AT,
        "producer_id": PRODUCER_ID_AT,
        "producer_epoch": PRODUCER_EPOCH_AT,
        "base_sequence": BASE_SEQUENCE_AT,
        "record_count": RECORD_COUNT_AT,
    }


cdef inline void load_header(const unsigned char* at, Header* header) noexcept nogil:
    header.base_offset = load_be64(at + BASE_OFFSET_AT)
    header.length = load_be32(at + LENGTH_AT)
    header.leader_epoch = load_be32(at + LEADER_EPOCH_AT)
    header.magic = <signed char>at[MAGIC_AT]
    header.crc = <uint32_t>load_be32(at + CRC_AT)
    header.attributes = load_be16(at + ATTRIBUTES_AT)
    header.last_offset_delta = load_be32(at + LAST_OFFSET_DELTA_AT)
    header.base_timestamp = load_be64(at + BASE_TIMESTAMP_AT)
    header.max_timestamp = load_be64(at + MAX_TIMESTAMP_AT)
    header.producer_id = load_be64(at + PRODUCER_ID_AT)
    header.producer_epoch = load_be16(at + PRODUCER_EPOCH_AT)
    header.base_sequence = load_be32(at + BASE_SEQUENCE_AT)
    header.record_count = load_be32(at + RECORD_COUNT_AT)


cdef inline Status check_plausible(const Header* header, Py_ssize_t pos, Fault* fault) noexcept nogil:
    cdef int attributes = header.attributes
    cdef int64_t delta = header.last_offset_delta
    cdef int64_t count = header.record_count
    cdef int64_t area = header.length - (HEADER_BYTES - PREFIX_BYTES)
    if attributes & ~KNOWN_BITS or attributes & CODEC_BITS > HIGHEST_CODEC:
        return blame(
            fault, CORRUPT, pos, b"unknown attributes 0x{0:04x} instead of a record batch", attributes & 0xFFFF, 0
        )
    if header.base_offset < 0 or delta < 0 or header.base_offset > INT64_MAX - 1 - delta:
        return blame(fault, CORRUPT, pos, b"offsets {0} + {1} instead of a record batch", header.base_offset, delta)
    if not 0 <= count <= delta + 1:
        return blame(fault, CORRUPT, pos, b"{0} records in {1} offsets instead of a record batch", count, delta + 1)
    if not attributes & CODEC_BITS and count > area:
        return blame(fault, CORRUPT, pos, b"{0} records in {1} bytes instead of a record batch", count, area)
    return OK


cdef Status read_batch(
    const unsigned char* base, Py_ssize_t pos, Py_ssize_t end, Header* header, Fault* fault
) noexcept nogil:
    cdef Py_ssize_t left = end - pos
    cdef int64_t length
    cdef int magic
    if left < PREFIX_BYTES + 5:
        if all_zero(base + pos, left):
            return blame(fault, ENDED, pos, b"zeros instead of a record batch", 0, 0)
        return blame(fault, TRUNCATED, pos, b"a batch header is cut off instead of a record batch", 0, 0)
    length = load_be32(base + pos + LENGTH_AT)
    magic = <signed char>base[pos + MAGIC_AT]
    if length == 0 and load_be64(base + pos) == 0:
        return blame(fault, ENDED, pos, b"zeros instead of a record batch", 0, 0)
    if magic != MAGIC_2:
        return blame(fault, UNSUPPORTED, pos, b"a batch of magic {0} instead of a record batch", magic, 0)
    if length < HEADER_BYTES - PREFIX_BYTES:
        return blame(fault, CORRUPT, pos, b"a batch of length {0} instead of a record batch", length, 0)
    if length > left - PREFIX_BYTES:
        return blame(
            fault, TRUNCATED, pos, b"a batch of length {0} where {1} bytes are left instead of a record batch", length,
            left - PREFIX_BYTES,
        )
    load_header(base + pos, header)
    header.length = <int32_t>length  # the one that was compared, whatever is there by now
    return check_plausible(header, pos, fault)


cdef Status check_crc(const unsigned char* base, Py_ssize_t pos, const Header* header, Fault* fault) noexcept nogil:
    cdef size_t size = <size_t>header.length + PREFIX_BYTES - ATTRIBUTES_AT
    if crc32c_update(0, base + pos + ATTRIBUTES_AT, size) == header.crc:
        return OK
    return blame(fault, BAD_CRC, pos, b"the CRC of a batch does not match its bytes", header.base_offset, 0)


cdef void seal_batch(unsigned char* at, Py_ssize_t size, const Header* header) noexcept nogil:
    at[MAGIC_AT] = MAGIC_2
    store_be32(at + LEADER_EPOCH_AT, header.leader_epoch)
    store_be16(at + ATTRIBUTES_AT, <int16_t>header.attributes)
    store_be32(at + LAST_OFFSET_DELTA_AT, header.last_offset_delta)
    store_be64(at + BASE_TIMESTAMP_AT, header.base_timestamp)
    store_be64(at + MAX_TIMESTAMP_AT, header.max_timestamp)
    store_be64(at + PRODUCER_ID_AT, header.producer_id)
    store_be16(at + PRODUCER_EPOCH_AT, header.producer_epoch)
    store_be32(at + BASE_SEQUENCE_AT, header.base_sequence)
    store_be32(at + RECORD_COUNT_AT, header.record_count)
    store_be32(at + CRC_AT, <int32_t>crc32c_update(0, at + ATTRIBUTES_AT, size - ATTRIBUTES_AT))
    release_fence()
    store_be64(at + BASE_OFFSET_AT, header.base_offset)
    release_fence()
    store_be32(at + LENGTH_AT, <int32_t>(size - PREFIX_BYTES))


cdef inline tuple header_fields(const Header* h):
    return (
        h.base_offset, h.length, h.leader_epoch, h.magic, h.crc, h.attributes, h.last_offset_delta, h.base_timestamp,
        h.max_timestamp, h.producer_id, h.producer_epoch, h.base_sequence, h.record_count,
    )  # fmt: skip


def read_header(object buf, Py_ssize_t pos=0, Py_ssize_t end=-1):
    """The 13 header fields of the batch at `pos`, which must end before `end` (-1: the end of the buffer)."""
    cdef Py_buffer view
    cdef Header header
    cdef Fault fault
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        end = checked_range(&view, pos, end)
        if read_batch(<const unsigned char*>view.buf, pos, end, &header, &fault) != OK:
            raise_fault(&fault)
    finally:
        PyBuffer_Release(&view)
    return header_fields(&header)


def crc_holds(object buf, Py_ssize_t pos=0, Py_ssize_t end=-1):
    """Whether the CRC of the batch at `pos` matches its bytes."""
    cdef Py_buffer view
    cdef Header header
    cdef Fault fault
    cdef Status status
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        end = checked_range(&view, pos, end)
        if read_batch(<const unsigned char*>view.buf, pos, end, &header, &fault) != OK:
            raise_fault(&fault)
        if header.length < UNLOCK_SIZE:
            status = check_crc(<const unsigned char*>view.buf, pos, &header, &fault)
        else:
            with nogil:
                status = check_crc(<const unsigned char*>view.buf, pos, &header, &fault)
    finally:
        PyBuffer_Release(&view)
    return status == OK


def write_header(
    object buf,
    Py_ssize_t pos,
    Py_ssize_t size,
    int64_t base_offset,
    int32_t leader_epoch,
    int16_t attributes,
    int32_t last_offset_delta,
    int64_t base_timestamp,
    int64_t max_timestamp,
    int64_t producer_id,
    int16_t producer_epoch,
    int32_t base_sequence,
    int32_t record_count,
):
    """Write the header of a batch of `size` bytes whose records stand at `pos + 61`, with the CRC over them.

    The first 12 bytes go last: until then the batch has no length, and so does not exist.
    """
    cdef Py_buffer view
    cdef Header header
    if size < HEADER_BYTES or size - PREFIX_BYTES > INT32_MAX:
        raise ValueError(f"a batch cannot have {size} bytes")
    header.base_offset, header.leader_epoch, header.attributes = base_offset, leader_epoch, attributes
    header.last_offset_delta, header.base_timestamp = last_offset_delta, base_timestamp
    header.max_timestamp, header.producer_id, header.producer_epoch = max_timestamp, producer_id, producer_epoch
    header.base_sequence, header.record_count = base_sequence, record_count
    take_buffer(buf, &view, PyBUF_WRITABLE)
    try:
        if pos < 0 or size > view.len or pos > view.len - size:
            raise IndexError(f"{size} bytes at {pos} are outside a buffer of {view.len} bytes")
        seal_batch(<unsigned char*>view.buf + pos, size, &header)
    finally:
        PyBuffer_Release(&view)


cdef inline void store_row(unsigned char* rows, int64_t row, Py_ssize_t pos, const Header* header) noexcept nogil:
    cdef unsigned char* at = rows + row * ROW_ITEMS * 8
    store_item(at, 0, pos)
    store_item(at, 1, <int64_t>header.length + PREFIX_BYTES)
    store_item(at, 2, header.base_offset)
    store_item(at, 3, header.base_offset + header.last_offset_delta)
    store_item(at, 4, header.max_timestamp)
    store_item(at, 5, header.leader_epoch)
    store_item(at, 6, header.producer_id)
    store_item(at, 7, header.attributes)


cdef Status scan_batches(
    const unsigned char* base, Py_ssize_t* pos, Py_ssize_t end, unsigned char* rows, Py_ssize_t capacity, bint verify,
    Py_ssize_t* count,
) noexcept nogil:
    cdef Header header
    cdef Fault fault
    cdef Status status
    while pos[0] < end and count[0] < capacity:
        status = read_batch(base, pos[0], end, &header, &fault)
        if status == OK and verify and check_crc(base, pos[0], &header, &fault) != OK:
            status = CORRUPT
        if status != OK:
            return status
        store_row(rows, count[0], pos[0], &header)
        count[0] += 1
        pos[0] += <Py_ssize_t>header.length + PREFIX_BYTES
    return OK


def scan(object buf, Py_ssize_t start, Py_ssize_t end, object rows, bint verify=True):
    """List the batches of `buf[start:end]` in the int64 table `rows` (ROW_SIZE a batch) until something stops it.

    Returns (number of batches, position where it stopped, status). Never raises for bad bytes: recovery decides.
    Other threads run meanwhile.
    """
    cdef Py_buffer view, table
    cdef Py_ssize_t count = 0, capacity
    cdef Status status
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        end = checked_range(&view, start, end)
        take_buffer(rows, &table, PyBUF_WRITABLE)
        try:
            if table.len % 8:
                raise TypeError("rows must be an int64 array")
            capacity = table.len // (ROW_ITEMS * 8)
            with nogil:
                status = scan_batches(
                    <const unsigned char*>view.buf, &start, end, <unsigned char*>table.buf, capacity, verify, &count
                )
        finally:
            PyBuffer_Release(&table)
    finally:
        PyBuffer_Release(&view)
    return count, start, <int>status


cdef void fold_headers(const unsigned char* base, Py_ssize_t* pos, Py_ssize_t end, uint32_t* crcs) noexcept nogil:
    cdef unsigned char header[HEADER_BYTES]  # a copy: what is digested is what is hopped by
    cdef int64_t length
    while end - pos[0] >= HEADER_BYTES:
        copy_bytes(header, base + pos[0], HEADER_BYTES)
        length = load_be32(header + LENGTH_AT)
        if not HEADER_BYTES - PREFIX_BYTES <= length <= end - pos[0] - PREFIX_BYTES:
            break
        crcs[0] = crc32c_update(crcs[0], header, ATTRIBUTES_AT)
        crcs[1] = crc32c_update(crcs[1], header + ATTRIBUTES_AT, HEADER_BYTES - ATTRIBUTES_AT)
        pos[0] += <Py_ssize_t>length + PREFIX_BYTES


def digest_headers(object buf, Py_ssize_t start, Py_ssize_t end, object outer=0, object inner=0):
    """The CRC-32Cs, continued, of the first 21 bytes of each whole batch, and of the other 40 of its header.

    Returns (where it stopped, outer, inner): at `end`, or at a batch whose length cannot be. Takes no lock meanwhile.
    """
    cdef Py_buffer view
    cdef uint32_t crcs[2]
    if not (0 <= outer <= 0xFFFFFFFF and 0 <= inner <= 0xFFFFFFFF):
        raise ValueError("outer and inner must be CRCs, 0 <= value < 2**32")
    crcs[0], crcs[1] = outer, inner
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        end = checked_range(&view, start, end)
        with nogil:
            fold_headers(<const unsigned char*>view.buf, &start, end, crcs)
    finally:
        PyBuffer_Release(&view)
    return start, crcs[0], crcs[1]


cdef Status find_batch(
    const unsigned char* base, Py_ssize_t* pos, Py_ssize_t end, int64_t timestamp, int64_t offset, Fault* fault
) noexcept nogil:
    cdef Header header
    cdef Status status
    while pos[0] < end:
        status = read_batch(base, pos[0], end, &header, fault)
        if status != OK:
            return status
        if header.max_timestamp >= timestamp and header.base_offset + header.last_offset_delta >= offset:
            return OK
        pos[0] += <Py_ssize_t>header.length + PREFIX_BYTES
    pos[0] = end
    return OK


cdef Py_ssize_t find_in_buffer(
    object buf, Py_ssize_t pos, Py_ssize_t end, int64_t timestamp, int64_t offset
) except -1:
    cdef Py_buffer view
    cdef Fault fault
    cdef Status status
    take_buffer(buf, &view, PyBUF_SIMPLE)
    try:
        end = checked_range(&view, pos, end)
        with nogil:
            status = find_batch(<const unsigned char*>view.buf, &pos, end, timestamp, offset, &fault)
        if status != OK:
            raise_fault(&fault)
    finally:
        PyBuffer_Release(&view)
    return pos


def find_offset(object buf, Py_ssize_t start, Py_ssize_t end, int64_t offset):
    """The position of the first batch in `buf[start:end]` whose last offset is at least `offset`; `end` if none."""
    return find_in_buffer(buf, start, end, -INT64_MAX - 1, offset)


def find_timestamp(object buf, Py_ssize_t start, Py_ssize_t end, int64_t timestamp, int64_t min_offset):
    """The first batch with a max timestamp of at least `timestamp` and a last offset of at least `min_offset`."""
    return find_in_buffer(buf, start, end, timestamp, min_offset)

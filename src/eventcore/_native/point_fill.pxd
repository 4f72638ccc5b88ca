# Batches that are taken into the table: checked first, as any reader checks them, then an entry for each stride.

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t

from eventcore._native.batch cimport CODEC_BITS, HEADER_BYTES, PREFIX_BYTES, Header, check_crc, read_batch
from eventcore._native.cursor cimport Cursor
from eventcore._native.point_table cimport SHIFT, STRIDE_OFFSETS, Entry, Place, Table, place_of, put_entry
from eventcore._native.point_walk cimport CONTROL_BIT, find_batch, next_in_batch
from eventcore._native.records cimport Area, Slices, check_end, next_record, open_area
from eventcore._native.status cimport OK, Fault, Status


cdef inline Status check_batch(
    const unsigned char* base, Py_ssize_t position, const Header* header, bint verify, Fault* fault
) noexcept nogil:
    # Whether the CRC of the batch and all of its records are right. Of records that are compressed nothing is known.
    cdef Area area
    cdef Slices parts
    cdef Status status = check_crc(base, position, header, fault) if verify else OK
    if status != OK or header.attributes & CONTROL_BIT:
        return status
    open_area(
        &area, base, position + HEADER_BYTES, position + PREFIX_BYTES + header.length, header, INT64_MIN, INT64_MAX
    )
    while status == OK and area.done < area.count:
        status = next_record(&area, &parts, fault)
    return check_end(&area, fault) if status == OK else status


cdef inline Py_ssize_t check_window(
    const unsigned char* base, Py_ssize_t position, Py_ssize_t end, int64_t stop, bint verify
) noexcept nogil:
    # Where the batches end that are plain, right and below offset `stop`.
    cdef Header header
    cdef Fault fault
    cdef Py_ssize_t at = position
    while at < end and read_batch(base, at, end, &header, &fault) == OK:
        if header.attributes & CODEC_BITS or header.base_offset + header.last_offset_delta >= stop:
            break
        if check_batch(base, at, &header, verify, &fault) != OK:
            break
        at += PREFIX_BYTES + header.length
    return at


cdef struct Filling:
    # A place that is being filled in: the stride reached, its entry if it is a new one, and what that one replaced.
    const Place* place
    int64_t stride
    Entry* entry
    Entry before


cdef inline bint reaches(const Place* place, const Entry* entry, int64_t offset, uint32_t batch) noexcept nogil:
    # Whether the way from an entry to `offset` leads to the batch that stands at `batch`.
    cdef Entry at = entry[0]
    return find_batch(<const unsigned char*>place.view.buf, place.view.len, &at, offset) and at.batch == batch


cdef inline void put_stride(Table* table, Filling* filling, Entry entry) noexcept nogil:
    # Keeps what is known of the stride already: a batch may begin inside of one whose other batches were there before.
    cdef Entry* old = put_entry(table, entry.stride)
    filling.entry = NULL
    filling.before.place = 0
    if old == NULL:
        return
    if old.stride == entry.stride and place_of(table, old) != NULL:
        if old.low <= entry.low and old.high == STRIDE_OFFSETS:
            return
        if old.place == entry.place:
            filling.before = old[0]
            if old.high == entry.low and reaches(filling.place, old, (entry.stride << SHIFT) + entry.low, entry.batch):
                entry = old[0]
                entry.high = STRIDE_OFFSETS
    old[0] = entry
    filling.entry = old


cdef inline void put_batch(Table* table, Filling* filling, Py_ssize_t position, const Header* header) noexcept nogil:
    # Entries for the strides that begin in a batch: those above the one reached.
    cdef const unsigned char* base = <const unsigned char*>filling.place.view.buf
    cdef Cursor c = Cursor(base, position + HEADER_BYTES, position + PREFIX_BYTES + header.length)
    cdef Py_ssize_t end = 0
    cdef int64_t delta = 0, stride, low
    while next_in_batch(&c, &end, &delta) and 0 <= delta <= header.last_offset_delta:
        stride = header.base_offset + delta >> SHIFT
        if stride > filling.stride:
            low = max(header.base_offset - (stride << SHIFT), <int64_t>0)
            filling.stride = stride
            put_stride(
                table, filling,
                Entry(
                    stride, filling.place.number, <uint32_t>position, <uint32_t>(c.pos - position), <uint8_t>low,
                    STRIDE_OFFSETS,
                ),
            )
        c.pos = end


cdef inline void end_stride(Filling* filling, int64_t next_offset) noexcept nogil:
    # The last entry knows the offsets below `next_offset` only, and what the one that it replaced knew of the rest.
    cdef int64_t left = next_offset - (filling.stride << SHIFT)
    cdef Entry* entry = filling.entry
    if entry == NULL or left >= STRIDE_OFFSETS:
        return
    entry.high = <uint8_t>left
    if filling.before.place and filling.before.low == left:
        if reaches(filling.place, entry, next_offset, filling.before.batch):
            entry.high = filling.before.high


cdef inline void put_window(Table* table, const Place* place, Py_ssize_t position, Py_ssize_t end) noexcept nogil:
    # Entries for all batches in [position, end). A stride's entry is at the first batch that has a record of it.
    cdef Filling filling
    cdef Header header
    cdef Fault fault
    cdef int64_t next_offset = 0
    filling.place, filling.stride, filling.entry = place, -1, NULL
    filling.before = Entry(-1, 0, 0, 0, 0, 0)
    while position < end and read_batch(
        <const unsigned char*>place.view.buf, position, end, &header, &fault
    ) == OK:
        if not header.attributes & CONTROL_BIT:
            put_batch(table, &filling, position, &header)
        next_offset = header.base_offset + header.last_offset_delta + 1
        position += PREFIX_BYTES + header.length
    end_stride(&filling, next_offset)

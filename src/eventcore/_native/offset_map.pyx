"""Which record of each key is the latest: the table that compaction goes by. Twin of `_pure.offset_map`.

Open addressing with linear probing in one flat array of 16 bytes a slot: the 64-bit hash of a key, and the place of its
latest record: in the upper half the ordinal of a log, from 1 on, in the lower the position of the key's length in it.
Places rise with offsets, so a place also tells which of two records is the later one; 0 is an empty slot. A key of a
compressed batch is not in the log as it is: it is copied, behind its offset, and has ordinal 0 and the copy's number.

Keys are compared, by reading them back from the mapped log. That costs more than all the rest: it is a miss, and the
walk to a page that nobody has been at, for every record. So it is done where something hangs on it, and that is where a
record is to be dropped: `mark_latest` compares its key with the one that is said to supersede it, many at a time, so
that the misses overlap. Were they two keys of one hash the map says that it `collided`, and whoever uses it begins anew
with a `careful` one, which compares every key at once and keeps both.

The hash (SipHash-1-3) has a secret of its own in each map: nobody can write keys that fall together.

A batch is listed first, all of it checked, then its keys are looked up, their slots asked for well ahead.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cython cimport final
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from eventcore._native.batch cimport HEADER_BYTES, PREFIX_BYTES, Header, check_crc, read_batch
from eventcore._native.cursor cimport checked_range, fetch, prefetch, take_buffer
from eventcore._native.key_list cimport list_records, make_room
from eventcore._native.key_table cimport (
    COPY_HEAD,
    COPY_UNIT,
    SLOT_BYTES,
    ask_for_key,
    ask_for_slot,
    copy_at,
    find_slot,
    home,
    is_copy,
    is_superseded,
    key_at,
    make_slots,
    most_keys,
    same_key,
)
from eventcore._native.records cimport Area, open_area
from eventcore._native.status cimport OK, Fault, Status, raise_fault

cdef extern from "siphash.h" nogil:
    uint64_t siphash13(uint64_t k0, uint64_t k1, const unsigned char* data, size_t size)

cdef extern from "table.h" nogil:
    void* table_new(size_t size)
    void table_free(void* table, size_t size)

__all__ = ["SLOT_SIZE", "OffsetMap", "hash_key"]

cdef enum:
    CONTROL_BIT = 0x20
    AHEAD = 48            # a key's slots are asked for so many keys before it is looked up,
    NEAR = 24             # what they name so many before, where a look-up goes there
    GROUP = 64            # keys in the log that are fetched before the first of them is compared
    SECRET_BYTES = 16

SLOT_SIZE = SLOT_BYTES


cdef inline uint64_t place_of(const Keyed* one, uint64_t ordinal, int64_t batch_at) noexcept nogil:
    return ordinal << POSITION_BITS | <uint64_t>(one.key_at if batch_at < 0 else batch_at)


cdef struct Rival:
    # Of a record: another one with the same hash, and where its key is.
    Keyed* record
    uint64_t place
    const unsigned char* at


cdef bint is_latest_of(
    OffsetMap map, uint64_t hash, const unsigned char* key, int64_t length, uint64_t place, int64_t offset
) noexcept nogil:
    cdef uint64_t rival = map.slots[find_slot(map, hash, home(map, hash), key, length)].place
    return not is_superseded(map, rival, place, offset) or not is_rival(map, rival, key, length)


cdef inline bint is_rival(OffsetMap map, uint64_t rival, const unsigned char* key, int64_t length) noexcept nogil:
    # Whether the record that has the hash of a key has that key, too.
    if map.careful or same_key(map, rival, key, length):
        return True
    map.collided = True
    return False


cdef inline int64_t find_rivals(
    OffsetMap map, int64_t first, int64_t last, const unsigned char* base, int64_t base_offset, uint64_t ordinal,
    int64_t batch_at, Rival* found
) noexcept nogil:
    # Those of the records that another is said to supersede; how many. Without a branch on that: nobody can foretell it.
    cdef int64_t i, count = 0, offset
    cdef uint64_t place
    cdef bint is_beyond, looks_there = map.careful or map.copies != NULL
    cdef Keyed* one
    for i in range(first, last):
        ask_for_slot(map, i + AHEAD)
        if looks_there:
            ask_for_key(map, i + NEAR)
        one = &map.records.at[i]
        offset = base_offset + one.offset_delta
        is_beyond = offset >= map.end_offset
        one.keep = is_beyond
        if is_beyond or one.key_length < 0:
            continue
        place = map.slots[find_slot(map, one.hash, one.slot, base + one.key_position, one.key_length)].place
        one.keep = not is_superseded(map, place, place_of(one, ordinal, batch_at), offset)
        found[count] = Rival(one, place, key_at(map, place))
        count += not one.keep
    return count


cdef void mark_latest(
    OffsetMap map, const unsigned char* base, int64_t base_offset, uint64_t ordinal, int64_t batch_at
) noexcept nogil:
    cdef Rival found[GROUP]
    cdef int64_t first = 0, last, i, count
    cdef Keyed* one
    for i in range(min(map.records.count, <int64_t>AHEAD)):
        ask_for_slot(map, i)
    while first < map.records.count:
        last = min(first + GROUP, map.records.count)
        count = find_rivals(map, first, last, base, base_offset, ordinal, batch_at, found)
        for i in range(count):
            fetch(found[i].at)
            prefetch(found[i].at + found[i].record.key_length)  # where its end may be in the next line, which may be none
        for i in range(count):
            one = found[i].record
            one.keep = not is_rival(map, found[i].place, base + one.key_position, one.key_length)
        first = last


cdef bint copy_key(OffsetMap map, int64_t at, const Keyed* one, const unsigned char* key, int64_t offset) noexcept nogil:
    # Into the key's copy, if it has one, or a new one; False if there is no room.
    cdef uint64_t place = map.slots[at].place
    cdef int64_t size = (COPY_HEAD + one.key_length + COPY_UNIT - 1) // COPY_UNIT * COPY_UNIT, room
    cdef unsigned char* grown
    if place and is_copy(place):
        map.collided |= not same_key(map, place, key, one.key_length)
        memcpy(map.copies + place * COPY_UNIT, &offset, 8)
        return True
    if size > map.copies_limit - map.copies_used:
        return False
    if size > map.copies_room - map.copies_used:
        room = min(max(2 * map.copies_room, map.copies_used + size), map.copies_limit)
        grown = <unsigned char*>realloc(map.copies, room)
        if grown == NULL:
            return False
        map.copies, map.copies_room = grown, room
    memcpy(map.copies + map.copies_used, &offset, 8)
    memcpy(map.copies + map.copies_used + 8, &one.key_length, 4)
    memcpy(map.copies + map.copies_used + COPY_HEAD, key, one.key_length)
    map.slots[at] = Slot(one.hash, <uint64_t>(map.copies_used // COPY_UNIT))
    map.copies_used += size
    return True


cdef void map_listed(
    OffsetMap map, const unsigned char* base, int64_t base_offset, int64_t min_offset, uint64_t ordinal
) noexcept nogil:
    # The keys of the listed records; ordinal 0: of records that are not in a log as they are.
    cdef int64_t i, at, offset, records = map.records.count, count = map.count, end_offset = map.end_offset
    cdef bint is_new, compares = map.careful or not ordinal
    cdef Keyed* one
    make_slots(map, records)
    for i in range(min(records, <int64_t>AHEAD)):
        ask_for_slot(map, i)
    for i in range(min(records, <int64_t>NEAR) if compares else 0):
        ask_for_key(map, i)
    for i in range(records):
        ask_for_slot(map, i + AHEAD)
        if compares:
            ask_for_key(map, i + NEAR)
        one = &map.records.at[i]
        offset = base_offset + one.offset_delta
        if one.key_length < 0 or offset < min_offset:
            continue
        at = find_slot(map, one.hash, one.slot, base + one.key_position, one.key_length)
        is_new = map.slots[at].place == 0
        if is_new and count == map.limit:
            map.is_full = True
        elif ordinal:
            map.slots[at] = Slot(one.hash, place_of(one, ordinal, -1))
        else:
            map.is_full = not copy_key(map, at, one, base + one.key_position, offset)
        if map.is_full:
            break
        count += is_new
        end_offset = max(end_offset, offset + 1)
    map.count, map.end_offset = count, end_offset


cdef Status map_batch(
    OffsetMap map, const unsigned char* base, Py_ssize_t pos, const Header* header, int64_t min_offset,
    uint64_t ordinal, bint* has_room, Fault* fault,
) noexcept nogil:
    cdef Area area
    cdef Py_ssize_t size = <Py_ssize_t>header.length - (HEADER_BYTES - PREFIX_BYTES)
    cdef Status status = check_crc(base, pos, header, fault)
    if status != OK:
        return status
    has_room[0] = make_room(&map.records, header.record_count, size)
    if not has_room[0]:
        return OK
    open_area(
        &area, base, pos + HEADER_BYTES, pos + HEADER_BYTES + size, header, -INT64_MAX - 1, INT64_MAX
    )
    status = list_records(map, &area, fault)
    if status == OK:
        map_listed(map, base, header.base_offset, min_offset, ordinal)
    return status


cdef inline void pass_batch(OffsetMap map, const Header* header, int64_t min_offset) noexcept nogil:
    cdef int64_t next_offset = header.base_offset + header.last_offset_delta + 1
    if next_offset > min_offset:
        map.end_offset = max(map.end_offset, next_offset)


cdef Status map_run(
    OffsetMap map, uint64_t ordinal, Py_ssize_t* pos, Py_ssize_t end, Py_ssize_t until, int64_t min_offset,
    int stop_mask, bint* has_room, Fault* fault,
) noexcept nogil:
    cdef const unsigned char* base = <const unsigned char*>map.logs[ordinal].buf
    cdef Header header
    cdef Status status
    while pos[0] < min(end, until) and not map.is_full:
        map.position = pos[0]
        status = read_batch(base, pos[0], end, &header, fault)
        if status != OK:
            return status
        if header.attributes & stop_mask:
            return OK
        if not header.attributes & CONTROL_BIT and header.base_offset + header.last_offset_delta >= min_offset:
            status = map_batch(map, base, pos[0], &header, min_offset, ordinal, has_room, fault)
            if status != OK or not has_room[0] or map.is_full:
                return status
        pass_batch(map, &header, min_offset)
        pos[0] += <Py_ssize_t>header.length + PREFIX_BYTES
    return OK


cdef uint64_t secret_half(bytes secret, int at):
    return int.from_bytes(secret[at : at + 8], "little")


def hash_key(object key, bytes secret):
    """The 64-bit hash of a key under a secret of 16 bytes."""
    cdef Py_buffer view
    cdef uint64_t value
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret has 16 bytes")
    take_buffer(key, &view, PyBUF_SIMPLE)
    value = siphash13(secret_half(secret, 0), secret_half(secret, 8), <const unsigned char*>view.buf, view.len)
    PyBuffer_Release(&view)
    return value


@final
cdef class OffsetMap:
    """See the twin."""

    def __cinit__(self, int64_t slots, int64_t copied_bytes, bytes secret, bint careful=False, int64_t first_slots=0):
        if slots < 2 or copied_bytes < 0:
            raise ValueError(f"a map of {slots} slots and {copied_bytes} bytes of keys")
        if len(secret) != SECRET_BYTES:
            raise ValueError("a secret has 16 bytes")
        self.k0, self.k1 = secret_half(secret, 0), secret_half(secret, 8)
        self.most_slots, self.capacity = slots, min(max(first_slots, <int64_t>2), slots) if first_slots else slots
        self.limit = most_keys(self.capacity)
        self.copies_limit = min(copied_bytes, <int64_t>INT32_MAX * COPY_UNIT)
        self.copies_used = COPY_UNIT  # place 0 is an empty slot
        self.careful = careful
        self.slots = <Slot*>table_new(self.capacity * SLOT_BYTES)
        self.logs = <Py_buffer*>calloc(1, sizeof(Py_buffer))
        if self.slots == NULL or self.logs == NULL:
            raise MemoryError("no memory for the offset map")
        self.log_count = self.log_room = 1

    def __dealloc__(self):
        cdef int64_t i
        if self.logs != NULL:
            for i in range(1, self.log_count):
                PyBuffer_Release(&self.logs[i])
        free(self.logs)
        table_free(self.slots, self.capacity * SLOT_BYTES)
        free(self.copies)
        free(self.records.at)

    def __len__(self):
        return self.count

    @property
    def full(self):
        """Whether a key found no room: `end_offset` is the offset of its record."""
        return self.is_full

    @property
    def memory(self):
        """Bytes of the slots and of the copied keys."""
        return self.capacity * SLOT_BYTES + self.copies_used

    def attach(self, object log):
        """Take in the buffer of a log behind all others; its ordinal. It stays pinned as long as the map lives."""
        cdef Py_buffer* grown
        if self.log_count == self.log_room:
            grown = <Py_buffer*>realloc(self.logs, 2 * self.log_room * sizeof(Py_buffer))
            if grown == NULL:
                raise MemoryError("no memory for the offset map")
            self.logs, self.log_room = grown, 2 * self.log_room
        take_buffer(log, &self.logs[self.log_count], PyBUF_SIMPLE)
        if self.logs[self.log_count].len > INT32_MAX:
            PyBuffer_Release(&self.logs[self.log_count])
            raise ValueError("a log has less than 2 GiB")
        self.log_count += 1
        return self.log_count - 1

    def map_batches(
        self, int64_t ordinal, Py_ssize_t start, Py_ssize_t end, int64_t min_offset, int stop_mask, Py_ssize_t until=INT32_MAX
    ):
        """Map the records of the batches in [start, end) of a log; returns where it stopped. See the twin."""
        cdef Fault fault
        cdef Status status
        cdef bint has_room = True
        if not 1 <= ordinal < self.log_count:
            raise ValueError(f"there is no log {ordinal}")
        end = checked_range(&self.logs[ordinal], start, end)
        with nogil:
            status = map_run(self, ordinal, &start, end, until, min_offset, stop_mask, &has_room, &fault)
        if status != OK:
            raise_fault(&fault)
        if not has_room:
            raise MemoryError("no memory for the records of a batch")
        return start

    def map_records(self, object data, object fields, int64_t min_offset):
        """Map the records of one batch whose area is decompressed, and so not in the log: their keys are copied."""
        cdef Py_buffer view
        cdef Header header
        cdef Area area
        cdef Fault fault
        cdef Status status
        take_fields(&header, fields)
        take_buffer(data, &view, PyBUF_SIMPLE)
        try:
            take_area(&area, self, &view, &header)
            with nogil:
                status = list_records(self, &area, &fault)
                if status == OK:
                    map_listed(self, <const unsigned char*>view.buf, header.base_offset, min_offset, 0)
            if status != OK:
                raise_fault(&fault)
        finally:
            PyBuffer_Release(&view)
        if not self.is_full:
            pass_batch(self, &header, min_offset)

    def is_latest(self, object key, int64_t ordinal, int64_t position, int64_t offset):
        """Whether nothing later is mapped for a key than its record with this place (ordinal 0: before all) and offset.

        `position` is that of the key's length in its log.
        """
        cdef Py_buffer view
        cdef uint64_t hash, place = <uint64_t>ordinal << POSITION_BITS | <uint64_t>position
        cdef bint found
        take_buffer(key, &view, PyBUF_SIMPLE)
        hash = siphash13(self.k0, self.k1, <const unsigned char*>view.buf, view.len)
        found = is_latest_of(self, hash, <const unsigned char*>view.buf, view.len, place, offset)
        PyBuffer_Release(&view)
        return found


cdef int take_fields(Header* header, object fields) except -1:
    header.base_offset = fields[0]
    header.attributes = fields[5]
    header.last_offset_delta = fields[6]
    header.base_timestamp = fields[7]
    header.max_timestamp = fields[8]
    header.record_count = fields[12]
    return 0


cdef int take_area(Area* area, OffsetMap map, const Py_buffer* view, const Header* header) except -1:
    if view.len > INT32_MAX:
        raise ValueError("the records of a batch have less than 2 GiB")
    if not make_room(&map.records, header.record_count, view.len):
        raise MemoryError("no memory for the records of a batch")
    open_area(area, <const unsigned char*>view.buf, 0, view.len, header, -INT64_MAX - 1, INT64_MAX)
    return 0

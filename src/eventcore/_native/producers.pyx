"""What a partition knows of its producers. Twin of `_pure.producers`, which says what it is all about.

One flat array of 152 bytes a producer in the order in which they came, and an open-addressed index of their places. The
index's hash has a secret: a client chooses its producer id, and shall not be able to choose ones that fall together.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython cimport final
from libc.stdint cimport INT32_MAX, int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from eventcore._native.cursor cimport load_be16, load_be32, load_be64, store_be32, take_buffer
from eventcore._native.producer_entry cimport (
    BATCH_BYTES,
    CACHED,
    COUNT_BYTES,
    ENTRY_BYTES,
    MAGIC_BYTES,
    NONE,
    BatchEntry,
    Entry,
    add_batch,
    check_batch,
    put_batches,
    put_entry,
    put_in_order,
    told_apart,
)

import os

from eventcore.types import CachedBatch, Producer

__all__ = ["BATCHES_MAGIC", "CACHED_BATCHES", "FIRST_NAMED", "ProducerTable"]

CACHED_BATCHES = CACHED
BATCHES_MAGIC = b"ecBATCH1"
FIRST_NAMED = 1 << 62
FOLLOWS, OLD_EPOCH, IN_TRANSACTION, OUT_OF_ORDER = range(4)


cdef inline void enter(ProducerTable self, int64_t place) noexcept:
    cdef uint32_t slot = home(self, self.entries[place].producer_id)
    while self.index[slot]:
        slot = (slot + 1) & self.mask
    self.index[slot] = <uint32_t>(place + 1)


cdef int make_index(ProducerTable self, int64_t wanted) except -1:
    # An index for so many, at most two thirds full.
    cdef int64_t size = 16, place
    cdef uint32_t* made
    while size * 2 < wanted * 3:
        size *= 2
    made = <uint32_t*>calloc(size, sizeof(uint32_t))
    if made == NULL:
        raise MemoryError("no memory for the producers")
    free(self.index)
    self.index, self.mask = made, <uint32_t>(size - 1)
    for place in range(self.count):
        enter(self, place)
    return 0


cdef int make_room(ProducerTable self, int64_t wanted) except -1:
    # The array grows by an eighth: what lies idle of it is memory, too.
    cdef int64_t room = max(wanted, self.room + self.room // 8, 8)
    cdef Entry* grown
    if wanted > INT32_MAX:
        raise MemoryError("more than 2^31 producers")
    if wanted > self.room:
        grown = <Entry*>realloc(self.entries, room * sizeof(Entry))
        if grown == NULL:
            raise MemoryError("no memory for the producers")
        self.entries, self.room = grown, room
    if wanted * 3 > (<int64_t>self.mask + 1) * 2:
        make_index(self, wanted)
    return 0


cdef Entry* add(ProducerTable self, int64_t producer_id) except NULL:
    cdef Entry* entry
    make_room(self, self.count + 1)
    entry = &self.entries[self.count]
    memset(entry, 0, sizeof(Entry))
    entry.producer_id = producer_id
    entry.epoch = entry.coordinator_epoch = NONE
    entry.timestamp = entry.txn_first_offset = NONE
    self.count += 1
    enter(self, self.count - 1)
    return entry


cdef Entry* begin(ProducerTable self, int64_t producer_id, int16_t epoch, int64_t timestamp) except NULL:
    cdef int64_t place = place_of(self, producer_id)
    cdef Entry* entry = &self.entries[place] if place >= 0 else add(self, producer_id)
    if epoch != entry.epoch:
        entry.epoch = epoch
        entry.batches = 0
    entry.timestamp = timestamp
    return entry


cdef inline int32_t first_sequence_of(const BatchEntry* batch) noexcept nogil:
    if batch.last_sequence < 0:
        return NONE
    return <int32_t>((<int64_t>batch.last_sequence - batch.offset_delta) & INT32_MAX)


cdef inline bint is_over(const Entry* entry, int64_t before) noexcept nogil:
    return entry.txn_first_offset == NONE and entry.timestamp <= before and entry.producer_id >> 62 != 1


# Both take a copy: to make an object may let another thread run, which may move the array or change what is in it.
cdef object batch_of(BatchEntry batch):
    return CachedBatch(
        first_sequence_of(&batch), batch.last_sequence, batch.last_offset - batch.offset_delta, batch.last_offset,
        batch.timestamp,
    )


cdef object known_of(Entry entry):
    cdef int at
    batches = tuple([batch_of(entry.cached[at]) for at in range(entry.batches)])
    return Producer(
        entry.producer_id, entry.epoch, batches, entry.timestamp, entry.coordinator_epoch, entry.txn_first_offset
    )


@final
cdef class ProducerTable:
    """See the twin."""

    def __cinit__(self):
        self.secret = int.from_bytes(os.urandom(8), "little")
        make_index(self, 0)

    def __dealloc__(self):
        free(self.entries)
        free(self.index)

    def __len__(self):
        return self.count

    def find(self, int64_t producer_id):
        """What is known of one producer."""
        cdef int64_t place = place_of(self, producer_id)
        return None if place < 0 else known_of(self.entries[place])

    def all(self):
        """What is known of all, in the order in which they came."""
        cdef int64_t count = self.count, place
        cdef Entry* copy = <Entry*>malloc(max(count, 1) * sizeof(Entry))
        if copy == NULL:
            raise MemoryError("no memory for the producers")
        if count:
            memcpy(copy, self.entries, count * sizeof(Entry))
        try:
            return [known_of(copy[place]) for place in range(count)]
        finally:
            free(copy)

    def open_transactions(self):
        """(producer id, first offset) of each."""
        cdef int64_t place
        return [
            (self.entries[place].producer_id, self.entries[place].txn_first_offset)
            for place in range(self.count)
            if self.entries[place].txn_first_offset != NONE
        ]

    def repeated(self, int64_t producer_id, int16_t epoch, int32_t first_sequence, int32_t last_sequence):
        """The cached batch of these sequences and this epoch (P1)."""
        cdef int64_t place = place_of(self, producer_id)
        cdef const BatchEntry* batch
        cdef Entry* entry
        cdef int at
        if place < 0 or self.entries[place].epoch != epoch:
            return None
        entry = &self.entries[place]
        for at in range(entry.batches):
            batch = &entry.cached[at]
            if batch.last_sequence == last_sequence and first_sequence_of(batch) == first_sequence:
                return batch_of(batch[0])
        return None

    def judge(self, int64_t producer_id, int16_t epoch, int32_t base_sequence, bint transactional):
        """Whether a client's batch FOLLOWS what its producer wrote before, else what is wrong with it (P2 to P4)."""
        cdef int64_t place = place_of(self, producer_id)
        cdef Entry* entry
        if place < 0 or self.entries[place].epoch == NONE:
            return FOLLOWS
        entry = &self.entries[place]
        if epoch < entry.epoch:
            return OLD_EPOCH
        if entry.txn_first_offset != NONE and not transactional:
            return IN_TRANSACTION
        return FOLLOWS if base_sequence == next_of(entry, epoch) else OUT_OF_ORDER

    def next_sequence(self, int64_t producer_id, int16_t epoch):
        """What the producer's next batch has to begin with: 0 in an epoch of which there is none yet."""
        cdef int64_t place = place_of(self, producer_id)
        return 0 if place < 0 else next_of(&self.entries[place], epoch)

    def note(
        self, int64_t producer_id, int16_t epoch, int32_t last_sequence, int32_t offset_delta, int64_t last_offset,
        int64_t timestamp, bint transactional, int64_t now,
    ):
        """Take in a batch of data that was appended; whether it opened a transaction (P5)."""
        cdef Entry* entry = begin(self, producer_id, epoch, max(timestamp, now))
        cdef BatchEntry batch = BatchEntry(last_offset, timestamp, last_sequence, offset_delta)
        add_batch(entry, &batch)
        if not transactional or entry.txn_first_offset != NONE:
            return False
        entry.txn_first_offset = last_offset - offset_delta
        return True

    def note_marker(
        self, int64_t producer_id, int16_t epoch, int32_t coordinator_epoch, int64_t timestamp, int64_t now
    ):
        """Take in an appended marker: the first offset of the transaction that it ended, or -1."""
        cdef Entry* entry = begin(self, producer_id, epoch, max(timestamp, now))
        cdef int64_t first = entry.txn_first_offset
        entry.coordinator_epoch, entry.txn_first_offset = coordinator_epoch, NONE
        return first

    def expire(self, int64_t before):
        """Forget those without a name or an open transaction whose time is not after `before` (P8); how many."""
        cdef int64_t place, kept = 0, gone
        for place in range(self.count):
            if is_over(&self.entries[place], before):
                continue
            if kept < place:
                self.entries[kept] = self.entries[place]
            kept += 1
        gone = self.count - kept
        self.count = kept
        if gone:
            make_index(self, kept)
        return gone

    def adopt(self, ProducerTable other not None):
        """Take over what another table has, which is empty then; this one stays the same for those who use it."""
        self.clear()
        self.entries, other.entries = other.entries, self.entries
        self.index, other.index = other.index, self.index
        self.count, other.count = other.count, self.count
        self.room, other.room = other.room, self.room
        self.mask, other.mask = other.mask, self.mask
        self.secret, other.secret = other.secret, self.secret

    def clear(self):
        """Forget everything."""
        free(self.entries)
        self.entries, self.count, self.room = NULL, 0, 0
        make_index(self, 0)

    def dump(self):
        """The table as the body of a snapshot."""
        cdef int64_t place, batches = 0
        cdef Py_ssize_t size = COUNT_BYTES + self.count * ENTRY_BYTES
        cdef bytes body
        cdef unsigned char* at
        for place in range(self.count):
            batches += told_apart(&self.entries[place])
        if batches:
            size += MAGIC_BYTES + batches * BATCH_BYTES
        body = PyBytes_FromStringAndSize(NULL, size)
        at = <unsigned char*>PyBytes_AS_STRING(body)
        store_be32(at, <int32_t>self.count)
        at += COUNT_BYTES
        for place in range(self.count):
            at = put_entry(at, &self.entries[place])
        if batches:
            memcpy(at, b"ecBATCH1", MAGIC_BYTES)
            at += MAGIC_BYTES
            for place in range(self.count):
                at = put_batches(at, &self.entries[place])
        return body

    def largest_offset(self):
        """The largest offset of a record that is known, -1 if there is none."""
        cdef int64_t place, largest = NONE
        cdef Entry* entry
        for place in range(self.count):
            entry = &self.entries[place]
            if entry.batches:
                largest = max(largest, entry.cached[entry.batches - 1].last_offset)
        return largest

    def load(self, object body):
        """Replace the table by one that `dump` wrote.

        Raises ValueError, with nothing in the table, if it does not hold together.
        """
        cdef Py_buffer view
        self.clear()
        take_buffer(body, &view, PyBUF_SIMPLE)
        try:
            load_body(self, <const unsigned char*>view.buf, view.len)
        except ValueError:
            self.clear()
            raise
        finally:
            PyBuffer_Release(&view)


cdef int load_body(ProducerTable self, const unsigned char* at, Py_ssize_t size) except -1:
    cdef int64_t count = load_be32(at) if size >= COUNT_BYTES else NONE, place
    cdef Py_ssize_t end = COUNT_BYTES
    if not 0 <= count <= (size - COUNT_BYTES) // ENTRY_BYTES:
        raise ValueError(f"{count} producers in {size} bytes")
    make_room(self, count)
    for place in range(count):
        take_entry(self, at + end)
        end += ENTRY_BYTES
    if end < size:
        load_batches(self, at + end, size - end)
    return 0


cdef int take_entry(ProducerTable self, const unsigned char* at) except -1:
    cdef Entry* entry
    cdef BatchEntry batch
    if place_of(self, load_be64(at)) >= 0:
        raise ValueError("a producer that is there twice")
    entry = add(self, load_be64(at))
    entry.epoch, entry.timestamp = load_be16(at + 8), load_be64(at + 26)
    entry.coordinator_epoch, entry.txn_first_offset = load_be32(at + 34), max(load_be64(at + 38), <int64_t>NONE)
    batch = BatchEntry(load_be64(at + 14), entry.timestamp, load_be32(at + 10), load_be32(at + 22))
    if batch.last_offset >= 0:
        check_batch(&batch)
        add_batch(entry, &batch)
    return 0


cdef int load_batches(ProducerTable self, const unsigned char* at, Py_ssize_t size) except -1:
    cdef const unsigned char* end = at + size
    cdef BatchEntry batch
    cdef int64_t place
    if size < MAGIC_BYTES or memcmp(at, b"ecBATCH1", MAGIC_BYTES) != 0 or (size - MAGIC_BYTES) % BATCH_BYTES:
        raise ValueError(f"{size} bytes behind the producers that are no batches")
    at += MAGIC_BYTES
    while at < end:
        batch = BatchEntry(load_be64(at + 8), load_be64(at + 16), load_be32(at + 24), load_be32(at + 28))
        check_batch(&batch)
        place = place_of(self, load_be64(at))
        if place < 0 or not put_in_order(&self.entries[place], &batch):
            raise ValueError(f"a batch of producer {load_be64(at)}, of which there can be none")
        at += BATCH_BYTES
    return 0

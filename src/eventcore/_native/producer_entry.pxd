# One producer of a table: its last batches, and how they are written in a snapshot.

from libc.stdint cimport int16_t, int32_t, int64_t
from libc.string cimport memmove

from eventcore._native.cursor cimport store_be16, store_be32, store_be64


cdef enum:
    CACHED = 5
    NONE = -1
    COUNT_BYTES = 4
    ENTRY_BYTES = 46
    MAGIC_BYTES = 8
    BATCH_BYTES = 32


cdef struct BatchEntry:
    int64_t last_offset
    int64_t timestamp
    int32_t last_sequence
    int32_t offset_delta


cdef struct Entry:
    int64_t producer_id
    int64_t timestamp
    int64_t txn_first_offset
    int32_t coordinator_epoch
    int16_t epoch
    int16_t batches          # how many are cached, oldest first
    BatchEntry[5] cached


cdef inline void add_batch(Entry* entry, const BatchEntry* batch) noexcept nogil:
    if entry.batches == CACHED:
        memmove(&entry.cached[0], &entry.cached[1], (CACHED - 1) * sizeof(BatchEntry))
        entry.batches -= 1
    entry.cached[entry.batches] = batch[0]
    entry.batches += 1


cdef inline int check_batch(const BatchEntry* batch) except -1:
    if not 0 <= batch.offset_delta <= batch.last_offset:
        raise ValueError(f"a batch of {batch.offset_delta} and one records that ends at offset {batch.last_offset}")
    return 0


cdef inline bint put_in_order(Entry* entry, const BatchEntry* batch) noexcept nogil:
    # The last one itself, or one more before it; False if it is neither.
    cdef BatchEntry last
    if entry.batches == 0 or batch.last_offset > entry.cached[entry.batches - 1].last_offset:
        return False
    last = entry.cached[entry.batches - 1]
    if batch.last_offset < last.last_offset:
        if entry.batches == CACHED:
            return False
        entry.cached[entry.batches] = last
        entry.batches += 1
        entry.cached[entry.batches - 2] = batch[0]
    else:
        entry.cached[entry.batches - 1] = batch[0]
    return True


cdef inline unsigned char* put_entry(unsigned char* at, const Entry* entry) noexcept nogil:
    cdef const BatchEntry* last = &entry.cached[entry.batches - 1]
    cdef bint some = entry.batches > 0
    store_be64(at, entry.producer_id)
    store_be16(at + 8, entry.epoch)
    store_be32(at + 10, last.last_sequence if some else NONE)
    store_be64(at + 14, last.last_offset if some else NONE)
    store_be32(at + 22, last.offset_delta if some else 0)
    store_be64(at + 26, entry.timestamp)
    store_be32(at + 34, entry.coordinator_epoch)
    store_be64(at + 38, entry.txn_first_offset)
    return at + ENTRY_BYTES


cdef inline int told_apart(const Entry* entry) noexcept nogil:
    # Of how many batches there is more to tell than Kafka's entry does.
    if entry.batches == 0:
        return 0
    return entry.batches - (entry.cached[entry.batches - 1].timestamp == entry.timestamp)


cdef inline unsigned char* put_batches(unsigned char* at, const Entry* entry) noexcept nogil:
    cdef const BatchEntry* batch
    cdef int i
    for i in range(told_apart(entry)):
        batch = &entry.cached[i]
        store_be64(at, entry.producer_id)
        store_be64(at + 8, batch.last_offset)
        store_be64(at + 16, batch.timestamp)
        store_be32(at + 24, batch.last_sequence)
        store_be32(at + 28, batch.offset_delta)
        at += BATCH_BYTES
    return at

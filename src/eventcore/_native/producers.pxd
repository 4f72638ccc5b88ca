# The producers of a partition: an array of them, and an index of their places.

from libc.stdint cimport INT16_MAX, INT32_MAX, int16_t, int32_t, int64_t, uint32_t, uint64_t

from eventcore._native.producer_entry cimport NONE, BatchEntry, Entry, add_batch


cdef class ProducerTable:
    cdef Entry* entries
    cdef int64_t count
    cdef int64_t room
    cdef uint32_t* index     # places + 1; 0 is free
    cdef uint32_t mask
    cdef uint64_t secret


cdef inline uint32_t home(ProducerTable self, int64_t producer_id) noexcept:
    # The finalizer of SplitMix64, whose every output bit depends on every bit of the secret.
    cdef uint64_t mixed = <uint64_t>producer_id ^ self.secret
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return <uint32_t>((mixed ^ (mixed >> 31)) & self.mask)


cdef inline int64_t place_of(ProducerTable self, int64_t producer_id) noexcept:
    # Its place in the array; -1 if it is not known.
    cdef uint32_t slot = home(self, producer_id)
    while self.index[slot]:
        if self.entries[self.index[slot] - 1].producer_id == producer_id:
            return self.index[slot] - 1
        slot = (slot + 1) & self.mask
    return NONE


cdef inline int32_t next_of(const Entry* entry, int16_t epoch) noexcept nogil:
    if entry.epoch != epoch or entry.batches == 0:
        return 0
    return <int32_t>((<int64_t>entry.cached[entry.batches - 1].last_sequence + 1) & INT32_MAX)


cdef inline void note_next(Entry* entry, int64_t first_offset, int64_t last_offset, int64_t timestamp) noexcept nogil:
    # A batch of the same epoch that has just been appended.
    cdef BatchEntry batch
    batch.last_offset, batch.timestamp = last_offset, timestamp
    batch.offset_delta = <int32_t>(last_offset - first_offset)
    batch.last_sequence = <int32_t>((<int64_t>next_of(entry, entry.epoch) + batch.offset_delta) & INT32_MAX)
    add_batch(entry, &batch)
    entry.timestamp = max(entry.timestamp, timestamp)


cdef inline bint may_end(const Entry* entry, int64_t epoch, int64_t coordinator_epoch, bint raises_epoch) noexcept nogil:
    # Whether this marker ends the producer's transaction (rule P6); of what is at its limits others decide.
    return (
        entry.txn_first_offset >= 0
        and entry.epoch + raises_epoch <= epoch < INT16_MAX
        and entry.coordinator_epoch <= coordinator_epoch <= INT32_MAX
    )


cdef inline void note_end(Entry* entry, int16_t epoch, int32_t coordinator_epoch, int64_t timestamp) noexcept nogil:
    # Its transaction has just been ended.
    if epoch != entry.epoch:
        entry.epoch, entry.batches = epoch, 0
    entry.timestamp, entry.coordinator_epoch, entry.txn_first_offset = timestamp, coordinator_epoch, NONE

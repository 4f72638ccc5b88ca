# What becomes of the listed records of one batch, and how those that stay are written.

from libc.stdint cimport int64_t, uint64_t

from eventcore._native.batch cimport APPEND_TIME_BIT, CODEC_BITS, HEADER_BYTES, Header, seal_batch
from eventcore._native.clean cimport KEEP_ALL, KEEP_NONE, KEEP_SOME, Cleaner, Plan
from eventcore._native.cursor cimport add_overflows, copy_bytes, put_varint, varint_size, zigzag
from eventcore._native.offset_map cimport Keyed, KeyedList
from eventcore._native.status cimport CORRUPT, OK, Fault, Status, blame


cdef enum:
    HORIZON_BIT = 0x40
    WIDER = 14            # a record whose time is relative to something else may need so many bytes more


cdef inline Status plan_batch(
    Cleaner self, const Header* header, bint keep_all, Plan* plan, Fault* fault
) noexcept nogil:
    # Of the listed records, whose `keep` says whether they are the latest.
    cdef KeyedList* records = &self.map.records
    cdef bint has_horizon = header.attributes & HORIZON_BIT
    cdef bint is_expired = has_horizon and self.now >= header.base_timestamp
    cdef bint has_tombstones = keep_all  # a marker gets its horizon like a tombstone
    cdef int64_t i, timestamp = 0
    cdef Keyed* one
    plan.kept, plan.bytes, plan.max_timestamp = 0, 0, -1
    for i in range(records.count):
        one = &records.at[i]
        if keep_all:
            one.keep = True
        elif one.is_tombstone and is_expired and header.base_offset + one.offset_delta < self.map.end_offset:
            one.keep = False
        if not one.keep:
            continue
        plan.kept += 1
        plan.bytes += one.end - one.start
        has_tombstones |= one.is_tombstone
        if header.attributes & APPEND_TIME_BIT:
            continue
        if add_overflows(header.base_timestamp, one.timestamp_delta, &timestamp):
            return blame(fault, CORRUPT, one.start, b"a timestamp leaves the 64 bits", 0, 0)
        plan.max_timestamp = max(plan.max_timestamp, timestamp)
    if header.attributes & APPEND_TIME_BIT:
        plan.max_timestamp = header.max_timestamp
    plan.sets_horizon = plan.kept > 0 and has_tombstones and not has_horizon
    if plan.kept == 0:
        plan.verdict = KEEP_NONE
    elif plan.kept == records.count and not plan.sets_horizon:
        plan.verdict, plan.max_timestamp = KEEP_ALL, header.max_timestamp
    else:
        plan.verdict = KEEP_SOME
    return OK


cdef inline Py_ssize_t most_bytes(const Plan* plan) noexcept nogil:
    return plan.bytes + (<int64_t>WIDER * plan.kept if plan.sets_horizon else 0)


cdef inline Py_ssize_t copy_runs(KeyedList* records, const unsigned char* base, unsigned char* at) noexcept nogil:
    cdef int64_t i = 0, first
    cdef Py_ssize_t used = 0, size
    while i < records.count:
        if not records.at[i].keep:
            i += 1
            continue
        first = i
        while i < records.count and records.at[i].keep:
            i += 1
        size = records.at[i - 1].end - records.at[first].start
        copy_bytes(at + used, base + records.at[first].start, size)
        used += size
    return used


cdef inline unsigned char* put_rebased(
    unsigned char* at, const unsigned char* base, const Keyed* one, int64_t timestamp_delta
) noexcept nogil:
    cdef uint64_t delta = zigzag(timestamp_delta), offset = zigzag(one.offset_delta)
    cdef Py_ssize_t rest = one.end - one.key_at
    at = put_varint(at, zigzag(1 + varint_size(delta) + varint_size(offset) + rest))
    at[0] = 0  # attributes: no bit is in use
    at = put_varint(put_varint(at + 1, delta), offset)
    copy_bytes(at, base + one.key_at, rest)
    return at + rest


cdef inline Status rebase(
    Cleaner self, const unsigned char* base, const Header* header, unsigned char* out, Py_ssize_t* used, Fault* fault
) noexcept nogil:
    # The kept records, their times relative to the delete horizon.
    cdef unsigned char* at = out
    cdef int64_t i, timestamp = 0
    cdef Keyed* one
    for i in range(self.map.records.count):
        one = &self.map.records.at[i]
        if not one.keep:
            continue
        timestamp = header.max_timestamp
        if not header.attributes & APPEND_TIME_BIT:
            timestamp = header.base_timestamp + one.timestamp_delta  # `plan_batch` was there
        if add_overflows(timestamp, -self.horizon, &timestamp):
            return blame(fault, CORRUPT, one.start, b"a timestamp leaves the 64 bits", 0, 0)
        at = put_rebased(at, base, one, timestamp)
    used[0] = at - out
    return OK


cdef inline Status put_records(
    Cleaner self, const unsigned char* base, const Header* header, const Plan* plan, unsigned char* out,
    Py_ssize_t* used, Fault* fault,
) noexcept nogil:
    if plan.sets_horizon:
        return rebase(self, base, header, out, used, fault)
    used[0] = copy_runs(&self.map.records, base, out)
    return OK


cdef inline Py_ssize_t put_empty(unsigned char* at, const Header* header) noexcept nogil:
    cdef Header empty = header[0]
    empty.attributes &= ~(CODEC_BITS | HORIZON_BIT)
    empty.base_timestamp, empty.record_count = -1, 0
    seal_batch(at, HEADER_BYTES, &empty)
    return HEADER_BYTES

from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t

from eventcore._native.status cimport Fault, Status


cdef enum:
    BASE_OFFSET_AT = 0
    LENGTH_AT = 8
    PREFIX_BYTES = 12
    LEADER_EPOCH_AT = 12
    MAGIC_AT = 16
    CRC_AT = 17
    ATTRIBUTES_AT = 21       # the CRC covers the bytes from here on
    LAST_OFFSET_DELTA_AT = 23
    BASE_TIMESTAMP_AT = 27
    MAX_TIMESTAMP_AT = 35
    PRODUCER_ID_AT = 43
    PRODUCER_EPOCH_AT = 51
    BASE_SEQUENCE_AT = 53
    RECORD_COUNT_AT = 57
    HEADER_BYTES = 61

    MAGIC_2 = 2
    CODEC_BITS = 0x07
    APPEND_TIME_BIT = 0x08
    TRANSACTIONAL_BIT = 0x10
    CONTROL_BIT = 0x20
    KNOWN_BITS = 0x7F
    HIGHEST_CODEC = 4

    UNLOCK_SIZE = 1 << 16    # from so many bytes on other threads may run meanwhile: less is not worth the hand-over


cdef struct Header:
    int64_t base_offset
    int32_t length
    int32_t leader_epoch
    int32_t magic
    uint32_t crc
    int32_t attributes
    int32_t last_offset_delta
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t producer_id
    int16_t producer_epoch
    int32_t base_sequence
    int32_t record_count


# Reads the header at `pos` of a batch that ends before `end`; on OK its length and counts make sense. CRC not checked.
cdef Status read_batch(
    const unsigned char* base, Py_ssize_t pos, Py_ssize_t end, Header* header, Fault* fault
) noexcept nogil
cdef Status check_crc(const unsigned char* base, Py_ssize_t pos, const Header* header, Fault* fault) noexcept nogil
# Writes all 61 bytes at `at`, length and CRC computed; the first 12 last.
cdef void seal_batch(unsigned char* at, Py_ssize_t size, const Header* header) noexcept nogil

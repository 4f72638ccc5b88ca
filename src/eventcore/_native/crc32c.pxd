from libc.stdint cimport uint32_t

# The CRC-32C of what `value` is the CRC of (0: of nothing) followed by `size` bytes at `data`; both are finalised CRCs.
cdef uint32_t crc32c_update(uint32_t value, const unsigned char* data, size_t size) noexcept nogil

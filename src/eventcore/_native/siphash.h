/* SipHash-1-3 (Aumasson and Bernstein; what CPython and Rust hash strings with): 64 bits under a secret key of 128, so
 * that nobody can choose keys that fall together. */
#ifndef EVENTCORE_SIPHASH_H
#define EVENTCORE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EC_ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define EC_ROUND                                                                                   \
    do {                                                                                           \
        v0 += v1; v1 = EC_ROTATE(v1, 13); v1 ^= v0; v0 = EC_ROTATE(v0, 32);                        \
        v2 += v3; v3 = EC_ROTATE(v3, 16); v3 ^= v2;                                                \
        v0 += v3; v3 = EC_ROTATE(v3, 21); v3 ^= v0;                                                \
        v2 += v1; v1 = EC_ROTATE(v1, 17); v1 ^= v2; v2 = EC_ROTATE(v2, 32);                        \
    } while (0)

static inline uint64_t load_le64(const unsigned char *at) {
    uint64_t v;
    memcpy(&v, at, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* The last 0 to 7 bytes, little-endian, without a loop: two loads that may overlap. */
static inline uint64_t load_rest(const unsigned char *at, size_t size) {
    uint32_t low, high;
    if (size >= 4) {
        memcpy(&low, at, 4);
        memcpy(&high, at + size - 4, 4);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        low = __builtin_bswap32(low);
        high = __builtin_bswap32(high);
#endif
        return low | (uint64_t)high << (8 * (size - 4));
    }
    if (!size) return 0;
    return at[0] | (uint64_t)at[size / 2] << (8 * (size / 2)) | (uint64_t)at[size - 1] << (8 * (size - 1));
}

static inline uint64_t siphash13(uint64_t k0, uint64_t k1, const unsigned char *data, size_t size) {
    uint64_t v0 = 0x736f6d6570736575ULL ^ k0, v1 = 0x646f72616e646f6dULL ^ k1;
    uint64_t v2 = 0x6c7967656e657261ULL ^ k0, v3 = 0x7465646279746573ULL ^ k1;
    uint64_t word = 0;
    size_t at = 0;
    for (; size - at >= 8; at += 8) {
        word = load_le64(data + at);
        v3 ^= word; EC_ROUND; v0 ^= word;
    }
    word = (uint64_t)(size & 0xFF) << 56 | load_rest(data + at, size - at);
    v3 ^= word; EC_ROUND; v0 ^= word;
    v2 ^= 0xFF; EC_ROUND; EC_ROUND; EC_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

/* hash * n / 2^64: a hash as a number below n, by its high bits. */
static inline uint64_t scale_hash(uint64_t hash, uint64_t n) { return (uint64_t)(((unsigned __int128)hash * n) >> 64); }

#endif

/* Big-endian loads and stores at any alignment, short copies, varints, UTF-8: the parts that Cython has no words for.
 * Nothing here checks bounds; the callers' cursors do. */
#ifndef EVENTCORE_BYTES_H
#define EVENTCORE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define EC_BE16(v) (v)
#define EC_BE32(v) (v)
#define EC_BE64(v) (v)
#else
#define EC_BE16(v) __builtin_bswap16(v)
#define EC_BE32(v) __builtin_bswap32(v)
#define EC_BE64(v) __builtin_bswap64(v)
#endif

/* memcpy of a constant size is one move, and the one defined way to read an unaligned integer. */
static inline int16_t load_be16(const unsigned char *at) { uint16_t v; memcpy(&v, at, 2); return (int16_t)EC_BE16(v); }
static inline int32_t load_be32(const unsigned char *at) { uint32_t v; memcpy(&v, at, 4); return (int32_t)EC_BE32(v); }
static inline int64_t load_be64(const unsigned char *at) { uint64_t v; memcpy(&v, at, 8); return (int64_t)EC_BE64(v); }
static inline void store_be16(unsigned char *at, int16_t n) { uint16_t v = EC_BE16((uint16_t)n); memcpy(at, &v, 2); }
static inline void store_be32(unsigned char *at, int32_t n) { uint32_t v = EC_BE32((uint32_t)n); memcpy(at, &v, 4); }
static inline void store_be64(unsigned char *at, int64_t n) { uint64_t v = EC_BE64((uint64_t)n); memcpy(at, &v, 8); }

/* Items of the caller's int64 columns: the machine's order. */
static inline int64_t load_item(const unsigned char *column, int64_t row) {
    int64_t v; memcpy(&v, column + row * 8, 8); return v;
}
static inline void store_item(unsigned char *column, int64_t row, int64_t v) { memcpy(column + row * 8, &v, 8); }

static inline int add_overflows(int64_t a, int64_t b, int64_t *sum) { return __builtin_add_overflow(a, b, sum); }

/* What is written here before it is written there, also for whoever sees this process killed in between. */
static inline void release_fence(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* gcc takes a function that does nothing but prefetch for one without effects, and drops the calls: the empty asm is one. */
static inline void prefetch(const void *at) { __builtin_prefetch(at); __asm__ volatile(""); }

/* A load whose value nobody wants, so that the line is at hand. A prefetch that needs a walk to its page keeps others
 * waiting on some processors; loads that do not depend on each other overlap. `at` must be readable. */
static inline void fetch(const void *at) { (void)*(const volatile unsigned char *)at; }

/* Keys and values are mostly 8 to 128 bytes, where calling libc costs more than the copy. Two moves may overlap, so
 * that no length needs a loop over single bytes; never a byte beyond `size` is touched. */
static inline void copy_bytes(unsigned char *to, const unsigned char *from, size_t size) {
    if (size > 256) { memcpy(to, from, size); return; }
    if (size > 128) {
        unsigned char *last = to + size - 64;
        const unsigned char *tail = from + size - 64;
        for (; to < last; to += 64, from += 64) memcpy(to, from, 64);
        memcpy(last, tail, 64);
    } else if (size > 64) {
        memcpy(to, from, 64);
        memcpy(to + size - 64, from + size - 64, 64);
    } else if (size > 32) {
        memcpy(to, from, 32);
        memcpy(to + size - 32, from + size - 32, 32);
    } else if (size >= 16) {
        memcpy(to, from, 16);
        memcpy(to + size - 16, from + size - 16, 16);
    } else if (size >= 8) {
        memcpy(to, from, 8);
        memcpy(to + size - 8, from + size - 8, 8);
    } else if (size >= 4) {
        memcpy(to, from, 4);
        memcpy(to + size - 4, from + size - 4, 4);
    } else if (size) {
        to[0] = from[0];
        to[size / 2] = from[size / 2];
        to[size - 1] = from[size - 1];
    }
}

static inline uint64_t zigzag(int64_t value) { return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63); }
static inline int64_t unzigzag(uint64_t value) { return (int64_t)(value >> 1) ^ -(int64_t)(value & 1); }

/* Bytes of a varint: ceil(bits / 7), without a division, exact for 1 to 64 bits. */
static inline int varint_size(uint64_t value) {
    if (value < 0x80) return 1;
    if (value < 0x4000) return 2;
    return ((63 - __builtin_clzll(value)) * 9 + 73) >> 6;
}

static inline unsigned char *put_varint(unsigned char *at, uint64_t value) {
    if (value < 0x80) { *at = (unsigned char)value; return at + 1; }
    if (value < 0x4000) { at[0] = (unsigned char)(value | 0x80); at[1] = (unsigned char)(value >> 7); return at + 2; }
    while (value > 0x7F) { *at++ = (unsigned char)(value | 0x80); value >>= 7; }
    *at++ = (unsigned char)value;
    return at;
}

/* A number below 0x4000. */
static inline unsigned char *put_short(unsigned char *at, uint64_t value) {
    if (value < 0x80) { *at = (unsigned char)value; return at + 1; }
    at[0] = (unsigned char)(value | 0x80);
    at[1] = (unsigned char)(value >> 7);
    return at + 2;
}

/* A varint of one or two bytes, at most two of which are looked at. False, and nothing moved, if it is longer. */
static inline int take_short(const unsigned char **at, int64_t *out) {
    uint64_t first = (*at)[0], second;
    if (first < 0x80) { *out = unzigzag(first); *at += 1; return 1; }
    second = (*at)[1];
    if (second >= 0x80) return 0;
    *out = unzigzag((first & 0x7F) | second << 7);
    *at += 2;
    return 1;
}

static inline int all_zero(const unsigned char *at, ptrdiff_t size) {
    unsigned char any = 0;
    for (ptrdiff_t i = 0; i < size; i++) any |= at[i];
    return !any;
}

/* Strict UTF-8 as Python decodes it: shortest form, no surrogates, at most U+10FFFF. */
static inline int is_utf8(const unsigned char *at, ptrdiff_t size) {
    ptrdiff_t i = 0;
    while (i < size) {
        unsigned char first = at[i++];
        unsigned char low = 0x80, high = 0xBF;
        int more;
        if (first < 0x80) continue;
        if (first >= 0xC2 && first <= 0xDF) more = 1;
        else if (first >= 0xE0 && first <= 0xEF) {
            more = 2;
            if (first == 0xE0) low = 0xA0;
            if (first == 0xED) high = 0x9F;
        } else if (first >= 0xF0 && first <= 0xF4) {
            more = 3;
            if (first == 0xF0) low = 0x90;
            if (first == 0xF4) high = 0x8F;
        } else return 0;
        if (more > size - i || at[i] < low || at[i] > high) return 0;
        for (int k = 1; k < more; k++) if ((at[i + k] & 0xC0) != 0x80) return 0;
        i += more;
    }
    return 1;
}

#endif

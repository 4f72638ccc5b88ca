/* CRC-32C (Castagnoli): the kernels, their constants, and the choice among them. Header-only, for crc32c.pyx alone.
 *
 * The domain. Bits are reflected: in a register of n bits, bit i stands for x^(n-1-i), and the first byte of the
 * message holds the highest powers. `crc` in a kernel is the raw register; crc32c_run() does the two inversions.
 * The CRC of a message M is M * x^32 mod P, so the message may be replaced by any shorter one that is congruent mod P:
 * that is what folding does.
 *
 * The constants. A carry-less product of two reflected registers comes out one bit low: as a 2n-bit register it stands
 * for a * b * x. So to multiply by x^n one multiplies by x^(n-1); and since a 32-bit remainder r in the low half of a
 * 64-bit register stands for r * x^32, the remainder to put there is x^(n-33) mod P. All constants are computed here
 * at import, from the polynomial alone.
 *
 * No -march flag is needed: each kernel carries its target attribute, and compilers or machines without it fall back to
 * the table. Nothing here allocates, calls Python or keeps state other than what crc32c_setup() writes once.
 */
#ifndef EVENTCORE_CRC32C_IMPL_H
#define EVENTCORE_CRC32C_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_POLYNOMIAL 0x82F63B78u /* reflected; x^32 itself is implied */
#define CRC32C_X0 0x80000000u         /* the polynomial 1 as a 32-bit register */

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define CRC32C_X86 1
#if (defined(__clang__) && __clang_major__ >= 10) || (!defined(__clang__) && __GNUC__ >= 9)
#define CRC32C_X86_512 1
#endif
#endif
#if (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define CRC32C_ARM 1
#endif

typedef uint32_t (*crc32c_kernel)(uint32_t crc, const unsigned char *data, size_t size);

/* r * x^bits mod P */
static uint32_t crc32c_shifted(uint32_t r, unsigned bits) {
    while (bits-- > 0)
        r = (r >> 1) ^ (CRC32C_POLYNOMIAL & (0u - (r & 1u)));
    return r;
}

/* ---- table: slicing by 8, for any machine and byte order ---- */

static uint32_t crc32c_tables[8][256];

static void crc32c_setup_tables(void) {
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t r = byte;
        for (unsigned k = 0; k < 8; k++)
            crc32c_tables[k][byte] = r = crc32c_shifted(r, 8); /* k: the number of bytes that follow this one */
    }
}

/* The eight bytes at `at` as a little-endian number; compilers make one load of it where that is right. */
static inline uint64_t crc32c_load(const unsigned char *at) {
    return (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24 |
           (uint64_t)at[4] << 32 | (uint64_t)at[5] << 40 | (uint64_t)at[6] << 48 | (uint64_t)at[7] << 56;
}

static uint32_t crc32c_table(uint32_t crc, const unsigned char *data, size_t size) {
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = crc32c_load(data) ^ crc;
        crc = 0;
        for (unsigned k = 0; k < 8; k++)
            crc ^= crc32c_tables[7 - k][(word >> (8 * k)) & 0xFF];
    }
    for (; size > 0; data++, size--)
        crc = (crc >> 8) ^ crc32c_tables[0][(crc ^ *data) & 0xFF];
    return crc;
}

/* ---- x86-64: the crc32 instruction of SSE4.2 ---- */

#ifdef CRC32C_X86
#include <cpuid.h>
#include <immintrin.h>

#define CRC32C_SSE42 __attribute__((target("sse4.2")))
#define CRC32C_CLMUL __attribute__((target("sse4.2,pclmul")))

/* Sixty-four bits in and out, as the instruction has them: narrowing in between costs a cycle of latency each time. */
CRC32C_SSE42 static inline uint64_t crc32c_step(uint64_t crc, const unsigned char *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return _mm_crc32_u64(crc, word);
}

CRC32C_SSE42 static inline uint32_t crc32c_below_8(uint32_t crc, const unsigned char *data, size_t size) {
    uint32_t four;
    uint16_t two;
    if (size & 4) {
        memcpy(&four, data, 4);
        crc = _mm_crc32_u32(crc, four);
        data += 4;
    }
    if (size & 2) {
        memcpy(&two, data, 2);
        crc = _mm_crc32_u16(crc, two);
        data += 2;
    }
    return size & 1 ? _mm_crc32_u8(crc, *data) : crc;
}

/* One stream: the instruction's latency, three cycles for eight bytes, is the limit. */
CRC32C_SSE42 static uint32_t crc32c_sse42(uint32_t crc, const unsigned char *data, size_t size) {
    uint64_t wide = crc;
    for (; size >= 8; data += 8, size -= 8)
        wide = crc32c_step(wide, data);
    return crc32c_below_8((uint32_t)wide, data, size);
}

/* Three streams hide the latency. Each takes `words` words; then the first two are moved past what follows them. */

#define CRC32C_STREAM_WORDS 1024u /* the longest stream; shorter ones restart the prefetcher too often */
#define CRC32C_STREAMS_FROM 144u  /* below this size the joining costs more than it saves */

static uint32_t crc32c_past_words[2 * CRC32C_STREAM_WORDS + 1]; /* [n]: x^(64 n - 33), moves a CRC past n words */

static void crc32c_setup_streams(void) {
    static const unsigned char zeros[8];
    crc32c_past_words[1] = crc32c_shifted(CRC32C_X0, 64 - 33);
    for (unsigned n = 2; n <= 2 * CRC32C_STREAM_WORDS; n++) /* a register fed with a zero word: times x^64 */
        crc32c_past_words[n] = crc32c_table(crc32c_past_words[n - 1], zeros, sizeof zeros);
}

/* An eight-byte message whose CRC (from register 0) is that of `crc` after n more words of zeros. */
CRC32C_CLMUL static inline uint64_t crc32c_moved(uint64_t crc, size_t n) {
    __m128i by = _mm_cvtsi32_si128((int)crc32c_past_words[n]);
    return (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), by, 0x00));
}

CRC32C_CLMUL static uint32_t crc32c_clmul(uint32_t crc, const unsigned char *data, size_t size) {
    while (size >= CRC32C_STREAMS_FROM) {
        size_t words = size / 24 < CRC32C_STREAM_WORDS ? size / 24 : CRC32C_STREAM_WORDS;
        size_t stream = 8 * words;
        const unsigned char *last = data + stream - 8;
        uint64_t first = crc, second = 0, third = 0;
        for (; data < last; data += 8) {
            first = crc32c_step(first, data);
            second = crc32c_step(second, data + stream);
            third = crc32c_step(third, data + 2 * stream);
        }
        first = crc32c_step(first, data);
        second = crc32c_step(second, data + stream);
        uint64_t word = crc32c_load(data + 2 * stream);
        word ^= crc32c_moved(first, 2 * words) ^ crc32c_moved(second, words);
        crc = (uint32_t)_mm_crc32_u64(third, word);
        data += 8 + 2 * stream;
        size -= 3 * stream;
    }
    return crc32c_sse42(crc, data, size);
}
#endif

/* ---- x86-64: folding of four 512-bit accumulators with VPCLMULQDQ ---- */

#ifdef CRC32C_X86_512
#define CRC32C_512 __attribute__((target("sse4.2,pclmul,avx512f,vpclmulqdq")))
#define CRC32C_FOLD_FROM 128u /* below this size the crc32 instruction alone is quicker */

/* Pairs for each 128-bit lane: [0] moves its first (low) word by `distance` bits, [1] its second. */
static uint64_t crc32c_by_2048[8], crc32c_by_1536[8], crc32c_by_1024[8], crc32c_by_512[8], crc32c_to_last_lane[8];

static void crc32c_setup_pair(uint64_t *pair, unsigned distance) {
    pair[0] = crc32c_shifted(CRC32C_X0, distance + 64 - 33);
    pair[1] = crc32c_shifted(CRC32C_X0, distance - 33);
}

static void crc32c_setup_lanes(uint64_t *pairs, unsigned distance) {
    crc32c_setup_pair(pairs, distance);
    for (unsigned lane = 1; lane < 4; lane++)
        memcpy(pairs + 2 * lane, pairs, 2 * sizeof *pairs);
}

static void crc32c_setup_folds(void) {
    crc32c_setup_lanes(crc32c_by_2048, 2048);
    crc32c_setup_lanes(crc32c_by_1536, 1536);
    crc32c_setup_lanes(crc32c_by_1024, 1024);
    crc32c_setup_lanes(crc32c_by_512, 512);
    for (unsigned lane = 0; lane < 3; lane++) /* the last lane stays: no constants, the kernel adds it as it is */
        crc32c_setup_pair(crc32c_to_last_lane + 2 * lane, 128 * (3 - lane));
}

/* `far`, moved by the distance of the constants, plus `near`. */
CRC32C_512 static inline __m512i crc32c_fold(__m512i far, __m512i by, __m512i near) {
    __m512i low = _mm512_clmulepi64_epi128(far, by, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(far, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, near, 0x96); /* 0x96: exclusive-or of three */
}

/* The CRC register of the 64 bytes in `acc`. */
CRC32C_512 static inline uint32_t crc32c_reduced(__m512i acc) {
    acc = crc32c_fold(acc, _mm512_loadu_si512(crc32c_to_last_lane), _mm512_maskz_mov_epi64(0xC0, acc));
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64(acc, 1));
    __m128i lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(lane));
    return (uint32_t)_mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(lane, 1));
}

/* Folds all whole 256-byte blocks, at least one, into 64 bytes. `first` holds the register to start from. */
CRC32C_512 static inline __m512i crc32c_folded_blocks(__m512i first, const unsigned char *data, size_t blocks) {
    __m512i a = _mm512_xor_si512(first, _mm512_loadu_si512(data));
    __m512i b = _mm512_loadu_si512(data + 64);
    __m512i c = _mm512_loadu_si512(data + 128);
    __m512i d = _mm512_loadu_si512(data + 192);
    __m512i by = _mm512_loadu_si512(crc32c_by_2048);
    while (--blocks > 0) {
        data += 256;
        a = crc32c_fold(a, by, _mm512_loadu_si512(data));
        b = crc32c_fold(b, by, _mm512_loadu_si512(data + 64));
        c = crc32c_fold(c, by, _mm512_loadu_si512(data + 128));
        d = crc32c_fold(d, by, _mm512_loadu_si512(data + 192));
    }
    d = crc32c_fold(c, _mm512_loadu_si512(crc32c_by_512), d);
    d = crc32c_fold(b, _mm512_loadu_si512(crc32c_by_1024), d);
    return crc32c_fold(a, _mm512_loadu_si512(crc32c_by_1536), d);
}

CRC32C_512 static uint32_t crc32c_avx512(uint32_t crc, const unsigned char *data, size_t size) {
    if (size < CRC32C_FOLD_FROM)
        return crc32c_sse42(crc, data, size);
    __m512i acc = _mm512_maskz_set1_epi32(1, (int)crc);
    size_t done = size >= 256 ? size & ~(size_t)255 : 64;
    if (size >= 256)
        acc = crc32c_folded_blocks(acc, data, size / 256);
    else
        acc = _mm512_xor_si512(acc, _mm512_loadu_si512(data));
    __m512i by = _mm512_loadu_si512(crc32c_by_512);
    for (; size - done >= 64; done += 64)
        acc = crc32c_fold(acc, by, _mm512_loadu_si512(data + done));
    return crc32c_sse42(crc32c_reduced(acc), data + done, size - done);
}
#endif

/* ---- AArch64: the crc32c instructions, optional in ARMv8.0 ---- */

#ifdef CRC32C_ARM
/* Assembly, because gcc and clang spell both the intrinsics' target and the intrinsics differently. */
#define CRC32C_ARM_STEP(suffix, width, crc, value) \
    __asm__(".arch_extension crc\n\tcrc32c" suffix " %w0, %w0, %" width "1" : "+r"(crc) : "r"(value))

static uint32_t crc32c_armv8(uint32_t crc, const unsigned char *data, size_t size) {
    for (; size >= 8; data += 8, size -= 8)
        CRC32C_ARM_STEP("x", "x", crc, crc32c_load(data));
    for (; size > 0; data++, size--)
        CRC32C_ARM_STEP("b", "w", crc, (uint32_t)*data);
    return crc;
}

#if defined(__linux__)
#include <sys/auxv.h>
static int crc32c_arm_has(void) {
    return (getauxval(AT_HWCAP) >> 7 & 1) != 0; /* bit 7: HWCAP_CRC32 */
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int crc32c_arm_has(void) {
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.armv8_crc32", &has, &size, NULL, 0) == 0 && has;
}
#else
static int crc32c_arm_has(void) {
    return 0;
}
#endif
#endif

/* ---- what this machine has, and the choice ---- */

#ifdef CRC32C_X86
/* Read once, as under a hypervisor each cpuid costs some 20 us. */
static unsigned crc32c_cpu_1c, crc32c_cpu_7b, crc32c_cpu_7c; /* cpuid: leaf and register */

static void crc32c_read_cpu(void) {
    unsigned a, b, d, last = (unsigned)__get_cpuid_max(0, NULL);
    if (last >= 1)
        __cpuid(1, a, b, crc32c_cpu_1c, d);
    if (last >= 7)
        __cpuid_count(7, 0, a, crc32c_cpu_7b, crc32c_cpu_7c, d);
}

static int crc32c_has_sse42(void) {
    return (crc32c_cpu_1c >> 20 & 1) != 0;
}

static int crc32c_has_clmul(void) {
    return crc32c_has_sse42() && (crc32c_cpu_1c >> 1 & 1) != 0;
}
#endif

#ifdef CRC32C_X86_512
/* The processor having AVX-512 is not enough: the system has to save its registers, which XCR0 tells. */
static int crc32c_has_avx512(void) {
    unsigned low, high;
    if (!crc32c_has_clmul() || (crc32c_cpu_1c >> 27 & 1) == 0) /* bit 27: OSXSAVE, xgetbv may be used */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xE6) != 0xE6) /* xmm, ymm, opmask, upper halves of zmm0-15, zmm16-31 */
        return 0;
    /* AVX2, AVX-512F, VPCLMULQDQ */
    return (crc32c_cpu_7b >> 5 & 1) && (crc32c_cpu_7b >> 16 & 1) && (crc32c_cpu_7c >> 10 & 1);
}
#endif

#define CRC32C_KERNELS_MAX 4

static struct {
    const char *name;
    crc32c_kernel kernel;
} crc32c_available[CRC32C_KERNELS_MAX]; /* the best first; the table is always the last */

static int crc32c_available_count;
static crc32c_kernel crc32c_best; /* set once, by crc32c_setup() at import, before anything can call it */

static void crc32c_offer(const char *name, crc32c_kernel kernel) {
    crc32c_available[crc32c_available_count].name = name;
    crc32c_available[crc32c_available_count].kernel = kernel;
    crc32c_available_count++;
}

static void crc32c_setup(void) {
    crc32c_available_count = 0;
    crc32c_setup_tables();
#ifdef CRC32C_X86
    crc32c_read_cpu();
#endif
#ifdef CRC32C_X86_512
    crc32c_setup_folds();
    if (crc32c_has_avx512())
        crc32c_offer("avx512-vpclmulqdq", crc32c_avx512);
#endif
#ifdef CRC32C_X86
    crc32c_setup_streams();
    if (crc32c_has_clmul())
        crc32c_offer("pclmul-sse42", crc32c_clmul);
    if (crc32c_has_sse42())
        crc32c_offer("sse42", crc32c_sse42);
#endif
#ifdef CRC32C_ARM
    if (crc32c_arm_has())
        crc32c_offer("armv8", crc32c_armv8);
#endif
    crc32c_offer("table", crc32c_table);
    crc32c_best = crc32c_available[0].kernel;
}

/* The finalised CRC of what `value` is the finalised CRC of, followed by `data`. */
static inline uint32_t crc32c_run(crc32c_kernel kernel, uint32_t value, const unsigned char *data, size_t size) {
    return ~kernel(~value, data, size);
}

#endif

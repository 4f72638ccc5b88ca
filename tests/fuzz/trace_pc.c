/* Which branches ran. gcc calls __sanitizer_cov_trace_pc in each basic block of what it builds with
 * -fsanitize-coverage=trace-pc; pairs of blocks that follow each other are counted in a table of hashes.
 * The counters are not atomic: the fuzzed code runs on one thread. */
#include <stdint.h>

enum { BITS = 20, EDGES = 1 << BITS }; /* so many that two of a few thousand edges hardly ever share a counter */

static uint8_t hits[EDGES], seen[EDGES];
static uint32_t touched[EDGES], touched_count;
static uint32_t previous;

void __sanitizer_cov_trace_pc(void) {
    uint64_t block = (uint64_t)(uintptr_t)__builtin_return_address(0) * 0x9E3779B97F4A7C15u >> (64 - BITS);
    uint32_t edge = ((uint32_t)block ^ previous) & (EDGES - 1);
    previous = (uint32_t)block >> 1;
    if (hits[edge] == 0) touched[touched_count++] = edge;
    if (hits[edge] < 255) hits[edge]++;
}

/* 1, 2, 3, 4-7, 8-15, 16-31, 32-127 times or more: a bit each, so that a loop run longer counts as something new. */
static uint8_t bucket(uint8_t count) {
    if (count < 4) return (uint8_t)(1 << (count - 1));
    if (count < 8) return 8;
    if (count < 16) return 16;
    if (count < 32) return 32;
    return count < 128 ? 64 : 128;
}

/* How many edges ran since the last call more often than ever before; forgets what ran since then. */
int trace_news(void) {
    int news = 0;
    for (uint32_t at = 0; at < touched_count; at++) {
        uint32_t edge = touched[at];
        uint8_t bit = bucket(hits[edge]);
        if (!(seen[edge] & bit)) {
            seen[edge] |= bit;
            news++;
        }
        hits[edge] = 0;
    }
    touched_count = 0;
    previous = 0;
    return news;
}

/* How many edges were ever seen. */
int trace_edges(void) {
    int edges = 0;
    for (int edge = 0; edge < EDGES; edge++) edges += seen[edge] != 0;
    return edges;
}

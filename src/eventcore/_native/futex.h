/* Atomics on shared memory, a monotonic clock, sleeping on a 32-bit word: a futex on Linux, short naps elsewhere. */
#ifndef EVENTCORE_FUTEX_H
#define EVENTCORE_FUTEX_H

#include <stdint.h>
#include <time.h>
#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* The fence before it orders the caller's earlier reads, too: "nothing was truncated while I read" is asked this way. */
static inline int64_t load_acquire(const int64_t *word) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline void store_release(int64_t *word, int64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline uint32_t load_ordered(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static inline void store_ordered(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
static inline void add_ordered(uint32_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST); }

static inline int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Sleep while *word == seen, at most `timeout_ns`; a signal to this thread ends it early. The kernel's NULL timeout is
 * never used: whoever sleeps looks again some day. */
static inline void sleep_on(const uint32_t *word, uint32_t seen, int64_t timeout_ns) {
    struct timespec timeout;
#if defined(__linux__)
    timeout.tv_sec = timeout_ns / 1000000000;
    timeout.tv_nsec = timeout_ns % 1000000000;
    /* Not FUTEX_PRIVATE: the word is found by its page of the file, so other processes' wake-ups arrive. */
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0);
#else
    int64_t nap_ns = timeout_ns < 1000000 ? timeout_ns : 1000000;
    if (load_ordered(word) != seen) return;
    timeout.tv_sec = 0;
    timeout.tv_nsec = nap_ns;
    nanosleep(&timeout, NULL);
#endif
}

/* Between two looks at a word that another core writes: leaves the memory bus and a sibling thread alone. */
static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#else
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline void wake_all(uint32_t *word) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

#endif

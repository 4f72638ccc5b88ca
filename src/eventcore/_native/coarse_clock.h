/* A clock that costs a few nanoseconds and is a few milliseconds exact, where the system has one. */
#ifndef EVENTCORE_COARSE_CLOCK_H
#define EVENTCORE_COARSE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t coarse_ns(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif

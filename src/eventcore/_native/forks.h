/* A child of a fork has all that its parent has, but not the right to use it. Each module that asks has a count of its
 * own, and watches for itself: `forks_watch` once, at import. */
#ifndef EVENTCORE_FORKS_H
#define EVENTCORE_FORKS_H

#include <pthread.h>

static unsigned long forks_seen = 0;
static void forks_happened(void) { forks_seen++; }
static int forks_watch(void) { return pthread_atfork(NULL, NULL, forks_happened); }

#endif

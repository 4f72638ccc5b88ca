/* Whether bytes that were copied just now still are what they were: one word that another process may change. */
#ifndef EVENTCORE_WATCH_H
#define EVENTCORE_WATCH_H

#include <Python.h>
#include <stdint.h>

#include "bytes.h"

/* What was read before it is not read after it. */
static inline void acquire_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline int64_t load_word(const int64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline uint32_t load_half(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

/* Bytes of their own; libc's copy costs more than the copy is at the sizes of keys and values. */
static inline PyObject *copied_bytes(const unsigned char *data, Py_ssize_t size) {
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made && size) copy_bytes((unsigned char *)PyBytes_AS_STRING(made), data, (size_t)size);
    return made;
}

#endif

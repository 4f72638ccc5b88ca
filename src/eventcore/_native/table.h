/* Large tables that are touched all over: zeroed memory in huge pages where the system has them, so that a look at a slot
 * costs one miss and not the walk to its page besides. */
#ifndef EVENTCORE_TABLE_H
#define EVENTCORE_TABLE_H

#include <stddef.h>
#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#define EC_HUGE ((size_t)2 << 20)

/* NULL if there is no memory. A table smaller than a huge page gets plain ones. */
static inline void *table_new(size_t bytes) {
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    if (bytes >= EC_HUGE) madvise(table, bytes, MADV_HUGEPAGE);
#endif
    return table;
}

static inline void table_free(void *table, size_t bytes) {
    if (table) munmap(table, bytes);
}

#endif

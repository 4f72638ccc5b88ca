/* A SIGBUS handler that turns a fault inside one of our maps into a flag.
 *
 * A fault (the file became shorter, the disk is full below a hole, the device failed) inside a registered map lays a
 * fresh anonymous page over the page that faulted, marks the map broken and returns: the load or store runs again and
 * succeeds. Whoever uses the map looks at the flag before it believes what it read or acknowledges what it wrote.
 * Everything else goes to the handler that was there before ours.
 *
 * Why the handler needs no lock. The table changes under the GIL only, so there is one writer at a time. Each slot has
 * a sequence number, odd while the slot changes; the handler skips a slot whose number is odd or moved while it looked.
 * That skips nothing it needs: nobody has the address of a map that is not registered yet, and nobody may use one whose
 * last reference is gone. So a map that can fault is in a slot that does not move. Neither does the handler wait for
 * anything, so it may interrupt the writer itself. A forked child has the same maps at the same addresses.
 *
 * The handler calls only what is async-signal-safe: mmap (a plain system call in every libc), sigaction, raise,
 * pthread_self, lock-free atomics. It preserves errno.
 */
#ifndef EVENTCORE_GUARD_H
#define EVENTCORE_GUARD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* SLOTS: half of Linux's usual limit of 65,530 areas per process, so that there are some left to lay over the maps.
 * SINGLE_PAGES: faults of one map that are mended page by page.
 * PASSES: threads inside another handler at once. PATIENCE: times that handler may return without mending a fault. */
enum { GUARD_SLOTS = 32768, GUARD_SINGLE_PAGES = 1024, GUARD_PASSES = 64, GUARD_PATIENCE = 1000 };

typedef struct {
    uint32_t sequence; /* odd while start and end change */
    uint32_t faults; /* the map is broken above 0 */
    uintptr_t start, end; /* both 0: no map */
} guard_slot;

/* Somebody's handler, replaced by ours. Never freed: a handler on another thread may still be reading it. */
typedef struct guard_before {
    struct sigaction action;
    struct guard_before *older;
} guard_before;

/* A thread that is inside somebody else's handler, called by ours. */
typedef struct {
    uintptr_t thread; /* 0: free */
    uintptr_t frame;  /* of our handler when it made that call */
    uintptr_t info;
} guard_pass;

static guard_slot guard_slots[GUARD_SLOTS];
static int32_t guard_next_free[GUARD_SLOTS];
static int32_t guard_first_free = -1;
static uint32_t guard_used; /* slots ever taken: the handler looks no further */
static guard_pass guard_passes[GUARD_PASSES];
static guard_before *guard_last_before;
static uintptr_t guard_page_size;
static uint64_t guard_fault_count;
static uintptr_t guard_stuck_at;
static uint32_t guard_stuck_count;

/* ---- what runs in the handler ---- */

static int guard_holds(const guard_slot *slot, uintptr_t address) {
    uint32_t sequence = __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE);
    uintptr_t start = __atomic_load_n(&slot->start, __ATOMIC_ACQUIRE);
    uintptr_t end = __atomic_load_n(&slot->end, __ATOMIC_ACQUIRE);
    if (sequence & 1 || sequence != __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE)) return 0;
    return start <= address && address < end;
}

static guard_slot *guard_slot_of(uintptr_t address) {
    uint32_t used = __atomic_load_n(&guard_used, __ATOMIC_ACQUIRE);
    for (uint32_t at = 0; at < used; at++)
        if (guard_holds(&guard_slots[at], address)) return &guard_slots[at];
    return NULL;
}

static int guard_lay_over(uintptr_t start, size_t size) {
    int flags = MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE;
    return mmap((void *)start, size, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED;
}

/* The flag goes up first: another thread that reads the fresh page without a fault must find it up afterwards. A map
 * that faults on and on is covered as a whole: each single page may split an area in three. */
static int guard_absorb(uintptr_t address) {
    guard_slot *slot = guard_slot_of(address);
    int done;
    if (slot == NULL) return 0;
    if (__atomic_fetch_add(&slot->faults, 1, __ATOMIC_SEQ_CST) < GUARD_SINGLE_PAGES)
        done = guard_lay_over(address & ~(guard_page_size - 1), guard_page_size);
    else
        done = guard_lay_over(slot->start, slot->end - slot->start);
    if (done) __atomic_fetch_add(&guard_fault_count, 1, __ATOMIC_RELAXED);
    return done;
}

static void guard_die(int number) {
    struct sigaction fallback;
    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    sigaction(number, &fallback, NULL);
    raise(number);
}

/* The entry of this thread, else a free one that is now its own; NULL if too many threads are dying at once. */
static guard_pass *guard_my_pass(void) {
    uintptr_t me = (uintptr_t)pthread_self();
    for (int at = 0; at < GUARD_PASSES; at++)
        if (__atomic_load_n(&guard_passes[at].thread, __ATOMIC_ACQUIRE) == me) return &guard_passes[at];
    for (int at = 0; at < GUARD_PASSES; at++) {
        uintptr_t nobody = 0;
        if (__atomic_compare_exchange_n(&guard_passes[at].thread, &nobody, me, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            guard_passes[at].frame = guard_passes[at].info = 0;
            return &guard_passes[at];
        }
    }
    return NULL;
}

/* A handler that returns without having mended the fault gets it again at once, for ever: Python's own handlers do,
 * and faulthandler's once it is disabled. */
static int guard_is_stuck(uintptr_t address) {
    if (__atomic_exchange_n(&guard_stuck_at, address, __ATOMIC_RELAXED) != address)
        __atomic_store_n(&guard_stuck_count, 0, __ATOMIC_RELAXED);
    return __atomic_add_fetch(&guard_stuck_count, 1, __ATOMIC_RELAXED) > GUARD_PATIENCE;
}

static void guard_call(const struct sigaction *before, int number, siginfo_t *info, void *context) {
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(number, info, context);
    else
        before->sa_handler(number);
}

/* Hand over to the handler before ours. It may end in ours again: faulthandler puts back what was there before it,
 * which is ours if a map was made before, and raises the signal anew; others call what was there before them as a
 * function, with the same `info`. Either way the default action is what is left. A frame below the one remembered tells
 * a call from inside from a new signal after somebody's handler left by siglongjmp, which leaves our entry behind. */
static void guard_pass_on(int number, siginfo_t *info, void *context, int is_fault) {
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    const guard_before *before = __atomic_load_n(&guard_last_before, __ATOMIC_ACQUIRE);
    const struct sigaction *action = &before->action;
    int is_function = action->sa_flags & SA_SIGINFO || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
    guard_pass *pass, outer;
    if (!is_function && action->sa_handler == SIG_IGN && !is_fault) return;
    pass = is_function ? guard_my_pass() : NULL;
    if (pass == NULL || (frame < pass->frame && (!is_fault || pass->info == (uintptr_t)info)) ||
        (is_fault && guard_is_stuck((uintptr_t)info->si_addr))) {
        guard_die(number);
        return;
    }
    outer = *pass;
    if (frame >= outer.frame) outer.frame = outer.info = 0;
    pass->frame = frame;
    pass->info = (uintptr_t)info;
    guard_call(action, number, info, context);
    pass->frame = outer.frame;
    pass->info = outer.info;
    if (outer.frame == 0) __atomic_store_n(&pass->thread, 0, __ATOMIC_RELEASE);
}

static void guard_handle(int number, siginfo_t *info, void *context) {
    int saved = errno;
    int is_fault = info->si_code > 0 && info->si_code != SI_USER; /* SI_USER is above 0 on macOS */
    if (!is_fault || !guard_absorb((uintptr_t)info->si_addr)) guard_pass_on(number, info, context, is_fault);
    errno = saved;
}

/* ---- what runs under the GIL ---- */

static int guard_is_ours(const struct sigaction *action) {
    return action->sa_flags & SA_SIGINFO && action->sa_sigaction == guard_handle;
}

/* Put our handler on top unless it is there; 0 or an errno. Without SA_NODEFER a second fault on a thread whose
 * handler left by siglongjmp would kill. */
static int guard_install(void) {
    struct sigaction current, ours;
    guard_before *before;
    if (sigaction(SIGBUS, NULL, &current) != 0) return errno;
    if (guard_is_ours(&current)) return 0;
    before = malloc(sizeof *before);
    if (before == NULL) return ENOMEM;
    before->action = current;
    before->older = guard_last_before;
    guard_page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    __atomic_store_n(&guard_last_before, before, __ATOMIC_RELEASE);
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = guard_handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    return sigaction(SIGBUS, &ours, NULL) == 0 ? 0 : errno;
}

static int guard_is_installed(void) {
    struct sigaction current;
    return sigaction(SIGBUS, NULL, &current) == 0 && guard_is_ours(&current);
}

/* A slot for a map that is about to be made; -1 if there is none left. */
static int32_t guard_take(void) {
    int32_t at = guard_first_free;
    if (at >= 0) {
        guard_first_free = guard_next_free[at];
        return at;
    }
    if (guard_used == GUARD_SLOTS) return -1;
    at = (int32_t)guard_used;
    __atomic_store_n(&guard_used, guard_used + 1, __ATOMIC_RELEASE);
    return at;
}

static void guard_set(int32_t at, uintptr_t start, uintptr_t end) {
    guard_slot *slot = &guard_slots[at];
    __atomic_fetch_add(&slot->sequence, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->start, start, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->end, end, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->faults, 0, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&slot->sequence, 1, __ATOMIC_SEQ_CST);
}

static void guard_give_back(int32_t at) {
    guard_set(at, 0, 0);
    guard_next_free[at] = guard_first_free;
    guard_first_free = at;
}

/* The fence keeps what was read from the map before this from moving behind it. */
static int guard_is_broken(int32_t at) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&guard_slots[at].faults, __ATOMIC_SEQ_CST) != 0;
}

/* For those who look at it after every few bytes; it stays where it is as long as the map. */
static const uint32_t *guard_faults_of(int32_t at) { return &guard_slots[at].faults; }

static uint64_t guard_faults(void) { return __atomic_load_n(&guard_fault_count, __ATOMIC_RELAXED); }

/* ---- system calls that not every system has: 0 or an errno ---- */

/* Make the pages of [start, start + size) present, as a load or a store would, but with an error instead of a signal.
 * EINVAL is a kernel before 5.14. */
static int guard_populate(char *start, size_t size, int write) {
#if defined(__linux__)
    int advice = write ? 23 : 22; /* MADV_POPULATE_WRITE, MADV_POPULATE_READ: too new for some libcs */
    if (madvise(start, size, advice) == 0 || errno == EINVAL) return 0;
    return errno;
#else
    (void)start, (void)size, (void)write;
    return 0;
#endif
}

/* fallocate(2) itself: posix_fallocate imitates it by writing where the file system has none. */
static int guard_allocate(int fd, off_t start, off_t size) {
#if defined(__linux__)
    return fallocate(fd, 0, start, size) == 0 ? 0 : errno;
#else
    (void)fd, (void)start, (void)size;
    return EOPNOTSUPP;
#endif
}

#endif

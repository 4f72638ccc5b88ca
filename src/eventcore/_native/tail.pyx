"""The end of a log in shared memory: publish it, read it, wait for it to move. Twin of `_pure.tail`.

Why no wake-up is lost. All accesses to SIGNAL and WAITERS are sequentially consistent, so they have one order.

    a waiter                                  a publisher
    W1  seen = SIGNAL, look at the log        P1  store the offsets
    W2  WAITERS = 1                           P2  SIGNAL += 1
    W3  SIGNAL != seen? then return           P3  WAITERS == 0? then return
    W4  futex_wait(SIGNAL, seen)              P4  WAITERS = 0
                                              P5  SIGNAL += 1
                                              P6  futex_wake(everybody)

* If P3 reads 0 although the waiter has its flag set, W2 came after P3, hence after P2: W3 sees the new SIGNAL.
* If P4 clears the flag of a waiter, W1 and W2 came before P4, hence before P5: its `seen` is older than P5. If it
  sleeps by then, P6 wakes it; if not, the kernel compares SIGNAL with `seen` once more and W4 returns at once.
  Without P5 the flag could be cleared under a waiter whose `seen` is already P2's: it would sleep through the next one.
* If somebody else's P4 clears it, the same holds for that publisher's P5 and P6.

2^32 publications between W1 and W4 would bring `seen` back; the longest sleep bounds even that. It also bounds what
happens when the publisher runs the pure twin, which cannot wake anybody.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uintptr_t

from eventcore._native.cursor cimport take_buffer

__all__ = [
    "DURABLE",
    "GENERATION",
    "HIGH_WATERMARK",
    "LAST_STABLE",
    "LOG_END",
    "LOG_START",
    "SIGNAL",
    "STATE_SIZE",
    "TRUNCATED_TO",
    "TRUNCATIONS",
    "WAITERS",
    "load",
    "publish",
    "signal",
    "store",
    "wait",
    "wake",
]

cdef int64_t LONGEST_SLEEP_NS = 1_000_000_000
cdef int64_t LONGEST_UNFLAGGED_SLEEP_NS = 50_000_000

STATE_SIZE = STATE_BYTES
LOG_START = LOG_START_AT
LAST_STABLE = LAST_STABLE_AT
HIGH_WATERMARK = HIGH_WATERMARK_AT
LOG_END = LOG_END_AT
DURABLE = DURABLE_AT
GENERATION = GENERATION_AT
SIGNAL = SIGNAL_AT
WAITERS = WAITERS_AT
TRUNCATIONS = TRUNCATIONS_AT
TRUNCATED_TO = TRUNCATED_TO_AT


cdef int take_state(object state, Py_buffer* view, int flags) except -1:
    cdef Py_ssize_t size
    take_buffer(state, view, flags)
    size = view.len
    if size >= STATE_BYTES and <uintptr_t>view.buf % 8 == 0:
        return 0
    PyBuffer_Release(view)
    if size < STATE_BYTES:
        raise ValueError(f"the state must have {STATE_BYTES} bytes, not {size}")
    raise ValueError("the state must be aligned to 8 bytes")


cdef int check_word(Py_ssize_t at) except -1:
    if at % 8 or at == SIGNAL_AT or not LOG_START_AT <= at <= TRUNCATED_TO_AT:
        raise ValueError(f"there is no 64-bit word at {at}")
    return 0


def load(object state, Py_ssize_t at):
    """The 64-bit word at byte `at`; what was read before the call was read before the word is, too."""
    cdef Py_buffer view
    cdef int64_t value
    check_word(at)
    take_state(state, &view, PyBUF_SIMPLE)
    value = load_acquire(word_at(&view, at))
    PyBuffer_Release(&view)
    return value


def store(object state, Py_ssize_t at, int64_t value):
    """Set the 64-bit word at byte `at`, with release order. Wakes nobody."""
    cdef Py_buffer view
    check_word(at)
    take_state(state, &view, PyBUF_WRITABLE)
    store_release(word_at(&view, at), value)
    PyBuffer_Release(&view)


cdef void signal_all(char* state) noexcept nogil:
    cdef uint32_t* signal_word = <uint32_t*>(state + SIGNAL_AT)
    cdef uint32_t* waiters = <uint32_t*>(state + WAITERS_AT)
    add_ordered(signal_word)
    if load_ordered(waiters):
        store_ordered(waiters, 0)
        add_ordered(signal_word)
        wake_all(signal_word)


cdef void show_end(char* state, int64_t end) noexcept nogil:
    store_release(<int64_t*>(state + LOG_END_AT), end)


cdef void show(char* state, int64_t last_stable, int64_t end) noexcept nogil:
    show_end(state, end)
    store_release(<int64_t*>(state + HIGH_WATERMARK_AT), end)
    store_release(<int64_t*>(state + LAST_STABLE_AT), last_stable)
    signal_all(state)


def publish(object state, int64_t last_stable, int64_t high_watermark, int64_t log_end, int64_t durable):
    """Make everything below these offsets visible to all readers, and wake those that wait."""
    cdef Py_buffer view
    take_state(state, &view, PyBUF_WRITABLE)
    store_release(word_at(&view, LOG_END_AT), log_end)
    store_release(word_at(&view, DURABLE_AT), durable)
    store_release(word_at(&view, HIGH_WATERMARK_AT), high_watermark)
    store_release(word_at(&view, LAST_STABLE_AT), last_stable)
    signal_all(<char*>view.buf)
    PyBuffer_Release(&view)


def wake(object state):
    """Change the signal and wake whoever waits for it."""
    cdef Py_buffer view
    take_state(state, &view, PyBUF_WRITABLE)
    signal_all(<char*>view.buf)
    PyBuffer_Release(&view)


def signal(object state):
    """The signal now: read it, look at the log, then `wait` for the signal to differ."""
    cdef Py_buffer view
    cdef uint32_t value
    take_state(state, &view, PyBUF_SIMPLE)
    value = load_ordered(half_at(&view, SIGNAL_AT))
    PyBuffer_Release(&view)
    return value


cdef void sleep_once(const Py_buffer* view, uint32_t seen, int64_t left_ns) noexcept nogil:
    # Who may not write cannot raise the flag, and looks more often.
    if view.readonly:
        sleep_on(half_at(view, SIGNAL_AT), seen, min(left_ns, LONGEST_UNFLAGGED_SLEEP_NS))
        return
    store_ordered(half_at(view, WAITERS_AT), 1)
    if load_ordered(half_at(view, SIGNAL_AT)) == seen:
        sleep_on(half_at(view, SIGNAL_AT), seen, min(left_ns, LONGEST_SLEEP_NS))


cdef bint sleep_until_signal(const Py_buffer* view, int64_t seen, int64_t timeout_ns) except -1:
    cdef int64_t left_ns = timeout_ns, start_ns = monotonic_ns()
    while load_ordered(half_at(view, SIGNAL_AT)) == seen:
        if left_ns <= 0:
            return False
        with nogil:
            sleep_once(view, <uint32_t>seen, left_ns)
            left_ns = timeout_ns - (monotonic_ns() - start_ns)
        # After every sleep, not only an interrupted one: Ctrl-C may have come just before it, or to another thread.
        PyErr_CheckSignals()
    return True


def wait(object state, int64_t seen, int64_t timeout_ns):
    """Sleep until the signal differs from `seen`, at most `timeout_ns`; True if it does. May return early."""
    cdef Py_buffer view
    take_state(state, &view, PyBUF_SIMPLE)
    try:
        return bool(sleep_until_signal(&view, seen, timeout_ns))
    finally:
        PyBuffer_Release(&view)

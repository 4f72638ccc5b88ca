"""The end of a log in shared memory: publish it, read it, wait for it to move.

The state is a mapped file of one page that the writer and every reader share. Its words are in the machine's own
byte order, 8-byte aligned, and each is stored and loaded whole:

    position  size  word
          64     8  LOG_START        first offset that may be read
          72     8  LAST_STABLE      end of what committed readers may read
          80     8  HIGH_WATERMARK   end of what readers may read
          88     8  LOG_END          offset the next record will get
          96     8  DURABLE          everything below survives a power cut
         104     8  GENERATION       counts rolls, truncations and deletions: readers look at the folder again
         112     4  SIGNAL           changes with each publication; readers sleep on it (futex)
         116     4  WAITERS          1 if somebody may sleep: a publication nobody waits for costs no system call
         120     8  TRUNCATIONS      counts truncations: who reads meanwhile must not believe what was read
         128     8  TRUNCATED_TO     where the latest of them made the log end

`publish` stores the larger offsets first and `load` is an acquire, so whoever reads HIGH_WATERMARK and then the
log finds every byte below it in place, and `last stable ≤ high watermark ≤ log end` holds for every observer that
loads them from left to right. This twin relies on CPython storing an aligned 8-byte word at once, and waits by
polling with a growing pause; the native one uses atomics and a futex.
"""

from __future__ import annotations

import time

from eventcore.types import Buffer

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

STATE_SIZE = 4096
LOG_START, LAST_STABLE, HIGH_WATERMARK, LOG_END, DURABLE, GENERATION = 64, 72, 80, 88, 96, 104
SIGNAL, WAITERS = 112, 116
TRUNCATIONS, TRUNCATED_TO = 120, 128

_SHORTEST_PAUSE_S = 0.0001
_LONGEST_PAUSE_S = 0.05


def _words(state: Buffer, form: str) -> memoryview:
    view = memoryview(state).cast("B")
    if len(view) < STATE_SIZE:
        raise ValueError(f"the state must have {STATE_SIZE} bytes, not {len(view)}")
    return view[:STATE_SIZE].cast(form)  # type: ignore[call-overload,no-any-return]


def _check(at: int) -> int:
    if at % 8 or at == SIGNAL or not LOG_START <= at <= TRUNCATED_TO:
        raise ValueError(f"there is no 64-bit word at {at}")
    return at // 8


def load(state: Buffer, at: int) -> int:
    """The 64-bit word at byte `at`; what was read before the call was read before the word is, too."""
    return int(_words(state, "q")[_check(at)])


def store(state: Buffer, at: int, value: int) -> None:
    """Set the 64-bit word at byte `at`, with release order. Wakes nobody."""
    _words(state, "q")[_check(at)] = value


def publish(state: Buffer, last_stable: int, high_watermark: int, log_end: int, durable: int) -> None:
    """Make everything below these offsets visible to all readers, and wake those that wait."""
    words = _words(state, "q")
    words[LOG_END // 8] = log_end
    words[DURABLE // 8] = durable
    words[HIGH_WATERMARK // 8] = high_watermark
    words[LAST_STABLE // 8] = last_stable
    wake(state)


def wake(state: Buffer) -> None:
    """Change the signal and wake whoever waits for it."""
    words = _words(state, "I")
    words[SIGNAL // 4] = (words[SIGNAL // 4] + 1) & 0xFFFFFFFF


def signal(state: Buffer) -> int:
    """The signal now: read it, look at the log, then `wait` for the signal to differ."""
    return int(_words(state, "I")[SIGNAL // 4])


def wait(state: Buffer, seen: int, timeout_ns: int) -> bool:
    """Sleep until the signal differs from `seen`, at most `timeout_ns`; True if it does. May return early."""
    words = _words(state, "I")
    deadline = time.monotonic_ns() + timeout_ns
    pause = _SHORTEST_PAUSE_S
    while words[SIGNAL // 4] == seen:
        left = deadline - time.monotonic_ns()
        if left <= 0:
            return False
        time.sleep(min(pause, left / 1e9))
        pause = min(pause * 2, _LONGEST_PAUSE_S)
    return True

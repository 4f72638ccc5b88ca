"""The records of every question: 10-byte keys and 100-byte values, the same for every store."""

from __future__ import annotations

import time
from functools import cache
from typing import NamedTuple

POOL = 10_000
"""Distinct records; they repeat. A producer's records are in its caches when it appends them, and so are these."""


class Batch(NamedTuple):
    """The records of one append call, in each of the forms that some store takes fastest."""

    keys: list[bytes]
    values: list[bytes]
    pairs: list[tuple[bytes, bytes]]


def key_of(offset: int) -> bytes:
    """The key of the record at an offset."""
    return b"key-%06d" % (offset % POOL)


def value_of(offset: int) -> bytes:
    """The value of the record at an offset."""
    return b"%0100d" % (offset % POOL)


@cache
def _pool(size: int) -> list[Batch]:
    pool = []
    for first in range(0, POOL, size):
        keys = [key_of(offset) for offset in range(first, first + size)]
        values = [value_of(offset) for offset in range(first, first + size)]
        pool.append(Batch(keys, values, list(zip(keys, values, strict=True))))
    return pool


def batches(count: int, size: int) -> list[Batch]:
    """At least `count` records in batches of `size`, a divisor of POOL."""
    pool = _pool(size)
    return [pool[number % len(pool)] for number in range(-(-count // size))]


def now_ms() -> int:
    """What every store writes beside a record."""
    return time.time_ns() // 1_000_000

"""MurmurHash2 as Kafka's producers hash keys: which partition a keyed record belongs to.

Seed 0x9747b28c, little-endian words; results are signed 32-bit, as in Java. Everybody who appends to a topic has to
choose the same partition for a key, so these numbers never change.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from eventcore.errors import UsageError
from eventcore.types import Buffer

__all__ = ["group", "murmur2"]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_MASK = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def murmur2(data: Buffer) -> int:
    """The hash of some bytes, from -2^31 to 2^31 - 1."""
    view = memoryview(data).cast("B")
    whole = len(view) & ~3
    h = (_SEED ^ len(view)) & _MASK
    for (k,) in struct.iter_unpack("<I", view[:whole]):
        k = k * _M & _MASK
        k = (k ^ k >> _R) * _M & _MASK
        h = h * _M & _MASK ^ k
    if whole < len(view):
        h = (h ^ int.from_bytes(view[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def group(items: Sequence[Any], count: int, keyless: int) -> list[list[Any]]:
    """The items of each of `count` partitions, in order: those with a key where it belongs, others in `keyless`.

    An item is a value, a (key, value) pair, or a Record. Raises UsageError for partitions that cannot be, TypeError for
    a key that is no bytes.
    """
    if not 0 <= keyless < count:
        raise UsageError(f"partition {keyless} of {count}")
    found: list[list[Any]] = [[] for _ in range(count)]
    for item in items:
        key = None
        if isinstance(item, tuple):
            key = item[0] if len(item) == 2 else item[2] if len(item) == 5 else None
        found[keyless if key is None else (murmur2(key) & _POSITIVE) % count].append(item)
    return found

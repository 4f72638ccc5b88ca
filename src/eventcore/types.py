"""The plain values that cross the public API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

Buffer = Union[bytes, bytearray, memoryview]
"""Bytes-like: anything with a C-contiguous buffer of bytes is accepted where this is asked for."""

Header = tuple[str, Union[bytes, None]]
"""A record header: (key, value). Order and duplicates are kept."""

NO_TIMESTAMP = -1
"""Kafka's "no timestamp": on append it stands for "now"."""


class Record(NamedTuple):
    """One event. Read from a log all fields are set; given to `extend` the offset is ignored and may be left out.

    `offset` is the place in the partition, `timestamp` is ms since the epoch (-1: on append, "now"), `key` and
    `value` are bytes or None (a None value is a tombstone), `headers` are (str, bytes | None) pairs.
    """

    offset: int = -1
    timestamp: int = NO_TIMESTAMP
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[Header] = ()


class BatchInfo(NamedTuple):
    """What became of appended batches: offsets (inclusive), largest timestamp, whether it was a repeat."""

    first_offset: int
    last_offset: int
    timestamp: int
    duplicate: bool = False


class AbortedTransaction(NamedTuple):
    """A producer's aborted transaction that begins at `first_offset` (what a Fetch response lists)."""

    producer_id: int
    first_offset: int


class EpochEndOffset(NamedTuple):
    """The largest epoch ≤ the asked one, and the offset one beyond its last record (KIP-320)."""

    epoch: int
    end_offset: int

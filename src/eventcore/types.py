"""The plain values that cross the public API."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
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


class CachedBatch(NamedTuple):
    """One of the last batches of a producer. Should it come again, it is answered with these offsets."""

    first_sequence: int
    last_sequence: int
    first_offset: int
    last_offset: int
    timestamp: int


class Producer(NamedTuple):
    """What a log knows of one producer id; -1 stands for "none". The batches are at most five, oldest first."""

    producer_id: int
    epoch: int
    batches: tuple[CachedBatch, ...]
    timestamp: int
    coordinator_epoch: int
    txn_first_offset: int

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; -1 if none is known."""
        return self.batches[-1].last_sequence if self.batches else -1

    @property
    def last_offset(self) -> int:
        """Offset of the last record; -1 if none is known."""
        return self.batches[-1].last_offset if self.batches else -1


class TransactionStatus(IntEnum):
    """How far a transaction is."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7


_OPEN = {
    TransactionStatus.ONGOING,
    TransactionStatus.PREPARE_COMMIT,
    TransactionStatus.PREPARE_ABORT,
    TransactionStatus.PREPARE_EPOCH_FENCE,
}


class TransactionState(NamedTuple):
    """What is known of a transactional id; -1 stands for "none". Times are ms since the epoch."""

    producer_id: int
    producer_epoch: int
    timeout_ms: int
    status: TransactionStatus = TransactionStatus.EMPTY
    partitions: tuple[tuple[str, int], ...] = ()
    """(topic, partition) of all that the transaction has written to, or may have."""
    last_update_ms: int = -1
    start_ms: int = -1
    previous_producer_id: int = -1
    next_producer_id: int = -1
    next_producer_epoch: int = -1
    client_version: int = 2
    """2: every transaction ends under a new epoch (KIP-890)."""

    @property
    def is_open(self) -> bool:
        """Whether there is a transaction that has not got all of its markers yet."""
        return self.status in _OPEN


class CommittedOffset(NamedTuple):
    """How far a consumer group is in a partition: the offset of the next record it wants, and when it said so.

    The leader epoch of the record before, or -1; the metadata is the group's own. Times are ms since the epoch.
    """

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = -1


class AbortedTransaction(NamedTuple):
    """A producer's aborted transaction that begins at `first_offset` (what a Fetch response lists)."""

    producer_id: int
    first_offset: int


class EpochEndOffset(NamedTuple):
    """The largest epoch ≤ the asked one, and the offset one beyond its last record (KIP-320)."""

    epoch: int
    end_offset: int

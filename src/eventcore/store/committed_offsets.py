"""CommittedOffsets: what one partition of `__consumer_offsets` says of its groups, replayed as far as it goes.

Offsets of a transaction count once its marker says so, at the place where they were written: an offset that was
committed after that, without a transaction, stays (KIP-98; Kafka's OffsetMetadataManager does it that way).
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from eventcore import fork_safe
from eventcore.errors import CorruptRecord, UnsupportedFormat
from eventcore.format import control, group_log
from eventcore.format.batch import BatchHeader
from eventcore.store.store_partition import StorePartition
from eventcore.types import CommittedOffset, Record

logger = logging.getLogger("eventcore")

Key = tuple[str, int]


class Placed(NamedTuple):
    """An offset, and where in the partition it was written."""

    at: int
    committed: CommittedOffset | None
    """None: it was taken back."""


class CommittedOffsets:
    """The groups of one partition. Any thread may use it."""

    def __init__(self, partition: StorePartition) -> None:
        self.partition = partition
        """The partition of `__consumer_offsets`."""
        self._lock = fork_safe.lock()
        self._forget()

    def _forget(self) -> None:
        self._next = 0
        self._groups: dict[str, dict[Key, Placed]] = {}
        self._others: dict[str, set[bytes]] = {}
        self._pending: dict[int, list[tuple[str, Key, Placed]]] = {}

    def catch_up(self) -> None:
        """Take in what was written since the last time."""
        with self._lock:
            self._read_on()

    def _read_on(self) -> None:
        end = self.partition.high_watermark
        if end < self._next:  # a crash took its end away, or a truncation
            self._forget()
        start = max(self._next, self.partition.log_start_offset)
        if start >= end:
            return
        for header, records in self.partition.read_batches(start, end):
            if header.control:
                self._end(header, records)
                continue
            for record in records:
                self._take(header, record)
        self._next = end

    def _take(self, header: BatchHeader, record: Record) -> None:
        key, value = record.key or b"", record.value
        try:
            group, partition = group_log.decode_key(key)
            if partition is None:
                self._note_other(group, key, value)
                return
            found = Placed(record.offset, None if value is None else group_log.decode_value(value))
        except (UnsupportedFormat, CorruptRecord) as error:  # of a later Kafka, or of a broken client: nothing of ours
            logger.warning("%s-%d, offset %d: %s", group_log.TOPIC, self.partition.number, record.offset, error)
            return
        if header.transactional:
            self._pending.setdefault(header.producer_id, []).append((group, partition, found))
        else:
            self._apply(group, partition, found)

    def _note_other(self, group: str, key: bytes, value: bytes | None) -> None:
        """Whoever deletes the group has to delete this, too."""
        if value is None:
            self._others.get(group, set()).discard(key)
        else:
            self._others.setdefault(group, set()).add(key)

    def _end(self, header: BatchHeader, records: list[Record]) -> None:
        """A transaction has ended."""
        pending = self._pending.pop(header.producer_id, ())
        if any(control.read_marker(one.key or b"", one.value or b"").kind == control.COMMIT for one in records):
            for found in pending:
                self._apply(*found)

    def _apply(self, group: str, partition: Key, found: Placed) -> None:
        known = self._groups.setdefault(group, {})
        if partition not in known or known[partition].at < found.at:
            known[partition] = found

    # -- what it says ------------------------------------------------------------------------------------------

    def groups(self) -> set[str]:
        """All groups that something is known of."""
        with self._lock:
            found = {group for group, known in self._groups.items() if any(one.committed for one in known.values())}
            return found | {group for group, keys in self._others.items() if keys}

    def of(self, group: str) -> dict[Key, Placed]:
        """What was committed for a group, deleted offsets included."""
        with self._lock:
            return dict(self._groups.get(group, {}))

    def pending(self, group: str) -> set[Key]:
        """The partitions of which an open transaction has written offsets of the group."""
        with self._lock:
            return {key for found in self._pending.values() for name, key, _ in found if name == group}

    def other_keys(self, group: str) -> set[bytes]:
        """Keys of records that are about the group, and no offsets."""
        with self._lock:
            return set(self._others.get(group, ()))

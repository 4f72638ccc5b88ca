"""NamedProducer: records that are appended once, however often a program that is killed and started again sends them.

Its id follows from its name, so nothing has to be remembered but what each partition knows of that id: how far it is.
Kafka's coordinator counts its ids from 0; ours have bit 62 set, the others are of the name's SHA-256. They never
expire: a program may come back after any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from eventcore import _kernels as kernels
from eventcore.clock import Time, to_ms
from eventcore.errors import UsageError
from eventcore.store.topic import Topic
from eventcore.types import NO_TIMESTAMP, BatchInfo, Buffer, Header, Record

_EPOCH = 0
_LONGEST_NAME = 1 << 10


class Owner(Protocol):
    """The store, as a producer knows it."""

    def topic(self, name: str) -> Topic:
        """A topic by its name."""


def producer_id_of(name: str) -> int:
    """The id of a named producer, the same in every store; for `Partition.append_sequenced`. Raises UsageError."""
    if not 0 < len(name.encode()) <= _LONGEST_NAME:
        raise UsageError(f"a producer's name of {len(name)} characters", hint=f"1 to {_LONGEST_NAME} bytes")
    digest = hashlib.sha256(name.encode()).digest()
    return kernels.producers.FIRST_NAMED | int.from_bytes(digest[:8], "big") >> 2


class NamedProducer:
    """An idempotent producer. Get one by `store.producer(name)`; it needs no closing.

    Sequences count its records in each partition, from 0 on. Who appends with a `sequence` may do so again after a
    crash: what is there already is not appended, what would leave a gap is refused.
    """

    def __init__(self, store: Owner, name: str) -> None:
        self.name = name
        """Its name: whoever has the same one is the same producer."""
        self.producer_id = producer_id_of(name)
        """The id that its batches bear."""
        self._store = store

    def __repr__(self) -> str:
        return f"<NamedProducer {self.name!r}>"

    def next_sequence(self, topic: Topic | str, partition: int) -> int:
        """The sequence of its next record in a partition: how many it has appended there."""
        return self._topic(topic)[partition].next_sequence(self.producer_id, _EPOCH)

    def append(
        self,
        topic: Topic | str,
        value: Buffer | None,
        key: Buffer | None = None,
        headers: Sequence[Header] = (),
        timestamp: Time | None = None,
        partition: int | None = None,
        *,
        sequence: int | None = None,
    ) -> tuple[int, int]:
        """Append one record; returns (partition, offset). On return it is as durable as `fsync` says.

        With a `sequence` a repeat returns the offset that it got the first time, as long as it is one of the last five
        batches; raises OutOfOrderSequence for an older one and for a gap: `next_sequence` says where to go on.
        Without one it is the next record, whatever it is.
        """
        found = self._topic(topic)
        number = self._number(found, key, partition)
        time = NO_TIMESTAMP if timestamp is None else to_ms(timestamp)
        record = Record(-1, time, key, value, headers)  # type: ignore[arg-type]
        return number, self._append(found, number, [record], sequence).first_offset

    def extend(
        self, topic: Topic | str, records: Iterable[Any], *, partition: int, sequence: int | None = None
    ) -> BatchInfo:
        """Append records to one partition as one batch, all of them or none; `sequence` is that of the first.

        It is a repeat if one of the last five batches began and ended with the same sequences. Raises what `append`
        does, and RecordTooLarge.
        """
        items = records if isinstance(records, (list, tuple)) and not isinstance(records, Record) else list(records)
        return self._append(self._topic(topic), partition, items, sequence)

    def _append(self, topic: Topic, partition: int, items: Sequence[Any], sequence: int | None) -> BatchInfo:
        return topic[partition].append_sequenced(items, self.producer_id, _EPOCH, sequence)

    def _topic(self, topic: Topic | str) -> Topic:
        return self._store.topic(topic) if isinstance(topic, str) else topic

    def _number(self, topic: Topic, key: Buffer | None, partition: int | None) -> int:
        if partition is not None:
            return partition
        if key is None and len(topic) > 1:
            text = f"a record without a key may go to any of {len(topic)} partitions, and sequences count in each"
            raise UsageError(text, hint="give a key, or the partition")
        return topic.partition_for(key) if key is not None else 0

"""Topic: its partitions, and which of them a record goes to."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, overload

from eventcore import _kernels as kernels
from eventcore import fork_safe
from eventcore.clock import Time
from eventcore.config import LogConfig
from eventcore.errors import UnknownTopic
from eventcore.store.store_partition import StorePartition
from eventcore.types import Buffer, Header, Record

_STICKY_BYTES = 16 << 10
"""So much goes to one partition before keyless records go to the next: a producer's `batch.size` in Kafka."""
_FIELDS = 20
"""About what a record takes beside its key and value."""


class Owner(Protocol):
    """The store, as a topic knows it."""

    def config_of(self, topic: str) -> LogConfig:
        """A topic's configuration."""

    def check_topic(self, topic: str) -> None:
        """Raise what speaks against using it."""


class Topic:
    """A topic of a store: a sequence of partitions. Records with a key go where Kafka's producers send them; those
    without one stay in one partition for a while, then in the next, so that batches are large.
    """

    def __init__(
        self, owner: Owner, name: str, topic_id: uuid.UUID | None, partitions: Sequence[StorePartition]
    ) -> None:
        self.name = name
        """Its name."""
        self.topic_id = topic_id
        """The id that Kafka knows it by, if it has one."""
        self.partitions = tuple(partitions)
        """All of its partitions, by number."""
        self._owner = owner
        self._lock = fork_safe.lock()
        self._sticky = random.randrange(len(self.partitions))
        self._stuck_bytes = 0

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {len(self)} partitions>"

    def __len__(self) -> int:
        return len(self.partitions)

    def __iter__(self) -> Iterator[StorePartition]:
        return iter(self.partitions)

    @overload
    def __getitem__(self, number: int) -> StorePartition: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[StorePartition, ...]: ...
    def __getitem__(self, number: int | slice) -> StorePartition | tuple[StorePartition, ...]:
        """A partition by its number; negative ones count from the end. Raises UnknownTopic if there is none."""
        self._owner.check_topic(self.name)
        try:
            return self.partitions[number]
        except IndexError:
            text = f"topic {self.name!r} has no partition {number}"
            raise UnknownTopic(text, hint=f"it has {len(self)}, from 0 on") from None

    @property
    def config(self) -> LogConfig:
        """The configuration of all its partitions: the store's defaults, and what was set for this topic."""
        return self._owner.config_of(self.name)

    def partition_for(self, key: Buffer | None) -> int:
        """The partition that a record with this key goes to; without one, the next one would."""
        return self._keyless(0) if key is None else (kernels.murmur2.murmur2(key) & 0x7FFFFFFF) % len(self)

    def append(
        self,
        value: Buffer | None,
        key: Buffer | None = None,
        headers: Sequence[Header] = (),
        timestamp: Time | None = None,
        partition: int | None = None,
    ) -> tuple[int, int]:
        """Append one record; returns (partition, offset). On return it is as durable as `fsync` says.

        `partition` overrules the key. Raises what `Partition.append` does, and UnknownTopic.
        """
        number = self.number_for(value, key, partition)
        return number, self[number].append(value, key, headers, timestamp)

    def number_for(self, value: Buffer | None, key: Buffer | None, partition: int | None) -> int:
        """The partition that this record is about to be appended to; see `append`."""
        if partition is not None:
            return partition
        return self._keyless(_FIELDS + len(value or b"")) if key is None else self.partition_for(key)

    def extend(self, records: Iterable[Any], *, partition: int | None = None) -> dict[int, range]:
        """Append values, (key, value) pairs or Records to many partitions; returns {partition: offsets}.

        Those with a key go where it belongs, in the order given, the others together to one partition; `partition`
        overrules both. Each partition gets its records as `Partition.extend` would append them, one partition after
        the other: if one refuses, what was appended before stays, and the error is raised.
        """
        return {number: self[number].extend(group) for number, group in self.grouped(records, partition).items()}

    def grouped(self, records: Iterable[Any], partition: int | None = None) -> dict[int, Sequence[Any]]:
        """Which of the records go to which partition, in the order given; see `extend`."""
        items = records if isinstance(records, (list, tuple)) and not isinstance(records, Record) else list(records)
        if partition is not None:
            return {partition: items} if items else {}
        groups = kernels.murmur2.group(items, len(self), self._keyless(0))
        keyless = groups[self._sticky]
        self._keyless(sum(map(_size, keyless)))
        return {number: group for number, group in enumerate(groups) if group}

    def _keyless(self, size: int) -> int:
        """The partition for `size` bytes of records without a key."""
        with self._lock:
            number = self._sticky
            self._stuck_bytes += size
            if self._stuck_bytes >= _STICKY_BYTES:
                self._sticky, self._stuck_bytes = (number + 1) % len(self), 0
            return number


def _size(item: Any) -> int:
    """About the bytes of a record without a key; whatever has one does not count."""
    if isinstance(item, tuple):
        key, value = item if len(item) == 2 else (item[2], item[3]) if len(item) == 5 else (None, b"")
        return 0 if key is not None else _FIELDS + len(value or b"")
    return _FIELDS + (len(item) if isinstance(item, (bytes, bytearray, memoryview)) else 0)

"""TransactionStates: what is known of each transactional id, as `__transaction_state` has it, in Kafka's schema."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from eventcore.errors import UnsupportedFormat
from eventcore.format import transaction_log
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.types import TransactionState

logger = logging.getLogger("eventcore")

_CONFIG = {"cleanup.policy": "compact", "segment.bytes": 100 << 20}


class LogOwner(Protocol):
    """The store, as that which has the log."""

    write: bool

    def topic(self, name: str) -> Topic:
        """A topic by its name."""

    def internal_topic(self, name: str, partitions: int, config: Mapping[str, Any]) -> Topic:
        """One of Kafka's own topics, made if it is missing."""

    def has_topic(self, name: str) -> bool:
        """Whether it is there."""


class TransactionStates:
    """The log, and what it says. One thread at a time."""

    def __init__(self, store: LogOwner) -> None:
        self._store = store
        self._known: dict[str, TransactionState] | None = None
        self._homes: dict[str, tuple[StorePartition, bytes]] = {}
        self._holders: dict[int, str] = {}

    @property
    def is_there(self) -> bool:
        """Whether anything was ever written."""
        return self._known is not None or self._store.has_topic(transaction_log.TOPIC)

    def states(self) -> dict[str, TransactionState]:
        """All ids. Who only reads looks anew each time."""
        if self._known is None or not self._store.write:
            self._known = self._load() if self._store.has_topic(transaction_log.TOPIC) else {}
            self._holders = {state.producer_id: name for name, state in self._known.items()}
        return self._known

    def of_producer(self, producer_id: int) -> TransactionState | None:
        """What is known of the id that has a producer id, or had it last."""
        return self.states().get(self._holders.get(producer_id, ""))

    def write(self, transactional_id: str, state: TransactionState, *, wait: bool = True) -> TransactionState:
        """From now on it is known; as durably as `fsync` says, if it is to `wait` for that."""
        partition, key = self._homes.get(transactional_id) or self._home(transactional_id)
        partition.extend([(key, transaction_log.encode_value(state))], wait=wait)
        self.states()[transactional_id] = state
        self._holders[state.producer_id] = transactional_id
        return state

    def forget(self, transactional_id: str) -> None:
        """Nothing is known of it any more."""
        partition, key = self._homes.get(transactional_id) or self._home(transactional_id)
        partition.extend([(key, None)], wait=False)
        self._holders.pop(self.states().pop(transactional_id).producer_id, None)
        del self._homes[transactional_id]

    def _home(self, transactional_id: str) -> tuple[StorePartition, bytes]:
        """The partition that an id is in, and the key of its records."""
        topic = self._store.internal_topic(transaction_log.TOPIC, transaction_log.PARTITIONS, _CONFIG)
        partition = topic[transaction_log.partition_of(transactional_id, len(topic))]
        found = self._homes[transactional_id] = partition, transaction_log.encode_key(transactional_id)
        return found

    def _load(self) -> dict[str, TransactionState]:
        found: dict[str, TransactionState] = {}
        for partition in self._store.topic(transaction_log.TOPIC):
            for record in partition.read(partition.log_start_offset):
                try:
                    name = transaction_log.decode_key(bytes(record.key or b""))
                except UnsupportedFormat as error:  # of a later Kafka, about something that we do not know
                    logger.warning("%s-%d, offset %d: %s", partition.topic, partition.number, record.offset, error)
                    continue
                if record.value is None:
                    found.pop(name, None)
                else:
                    found[name] = transaction_log.decode_value(bytes(record.value))
        return found

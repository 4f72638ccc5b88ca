"""A cut through all partitions of a store at one moment: what is below it is whole.

* No transaction is half of it: while the ends are looked up none begins or ends, so each has all of its markers or
  none. Those that are open count as never committed for who restores the cut.
* No group's offset is beyond its partition: the ends of the groups' log are looked up first, and whatever was
  committed by then lies below the ends that are looked up later.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from eventcore.format import group_log
from eventcore.log.freezing import Moment
from eventcore.store.coordinator import TransactionCoordinator
from eventcore.store.groups import GroupCoordinator
from eventcore.store.store_partition import StorePartition

Key = tuple[str, int]


class Owner(Protocol):
    """The store."""

    @property
    def transactions(self) -> TransactionCoordinator:
        """Its coordinator of transactions."""

    @property
    def groups(self) -> GroupCoordinator:
        """Its coordinator of consumer groups."""

    def partitions(self) -> list[Key]:
        """All partitions."""

    def partition(self, topic: str, number: int) -> StorePartition:
        """One of them. Raises UnknownTopic."""

    def end_of(self, topic: str, number: int) -> int:
        """Where one ends for readers that is closed."""


class Place(NamedTuple):
    """Where the cut goes through a partition."""

    moment: Moment | None
    """None of one that was closed."""
    end: int


def take_cut(store: Owner) -> dict[Key, Place]:
    """All partitions at one moment. What readers have committed is taken over before."""
    store.groups.settle()
    with store.transactions.quiet():
        partitions = sorted(store.partitions(), key=lambda one: one[0] != group_log.TOPIC)
        return {key: _place(store, key) for key in partitions}


def _place(store: Owner, key: Key) -> Place:
    moment = store.partition(*key).moment()
    return Place(moment, store.end_of(*key) if moment is None else moment.end)

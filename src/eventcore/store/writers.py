"""What programs use a store with, beside its topics: named producers, transactions, consumer groups, views."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.config import StoreConfig
from eventcore.disk import Disk
from eventcore.errors import EventCoreError, UsageError
from eventcore.files import view_file
from eventcore.log.ranges import Isolation
from eventcore.store.consumer import SESSION_TIMEOUT_MS, Consumer, Start
from eventcore.store.coordinator import DEFAULT_TIMEOUT_MS, TransactionCoordinator
from eventcore.store.groups import GroupCoordinator, Source
from eventcore.store.producer import NamedProducer
from eventcore.store.topic import Topic
from eventcore.store.transaction import Transaction
from eventcore.store.view_checkpoint import ViewCheckpoint

logger = logging.getLogger("eventcore")


class Writers:
    """A part of `Store`."""

    disk: Disk
    path: Path
    clock: Clock
    fsync: str
    write: bool
    settings: StoreConfig
    _coordinator: TransactionCoordinator | None = None
    _groups: GroupCoordinator | None = None

    def __init__(self) -> None:
        self._coordinator_lock = fork_safe.lock()

    def _check_open(self) -> None:
        raise NotImplementedError

    def _check_writable(self) -> None:
        raise NotImplementedError

    def topic(self, name: str) -> Topic:
        """See `Store`."""
        raise NotImplementedError

    def has_topic(self, name: str) -> bool:
        """See `Store`."""
        raise NotImplementedError

    def internal_topic(self, name: str, partitions: int, config: Mapping[str, Any]) -> Topic:
        """See `Store`."""
        raise NotImplementedError

    def partitions(self) -> list[tuple[str, int]]:
        """See `Store`."""
        raise NotImplementedError

    def producer(self, name: str) -> NamedProducer:
        """An idempotent producer: what it appends with a sequence is there once, also if it is killed and comes again.

        The name says who it is, in this process and in every later one.
        """
        self._check_writable()
        return NamedProducer(self, name)

    @property
    def transactions(self) -> TransactionCoordinator:
        """The coordinator of all transactions: what is open, Kafka's own operations, and what hangs."""
        self._check_open()
        with self._coordinator_lock:
            if self._coordinator is None:
                self._coordinator = TransactionCoordinator(self)
            return self._coordinator

    def verifying(self, producer_id: int, epoch: int, partition: tuple[str, int]) -> AbstractContextManager[None]:
        """See `TransactionCoordinator.verifying`; nothing with `transaction.partition.verification.enable` off."""
        if not self.settings.transaction_partition_verification_enable:
            return nullcontext()
        return self.transactions.verifying(producer_id, epoch, partition)

    def transaction(self, transactional_id: str, *, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Transaction:
        """Begin a transaction: records for several partitions that readers of committed records see all, or none of.

        The id says who writes. An open transaction of the same id is aborted, and its holder fenced: so a program that
        was restarted takes over from what is left of its last run. One that is open for longer than `timeout_ms` is
        aborted, too (KIP-98, KIP-890). Raises UsageError for an id or a timeout that cannot be.
        """
        self._check_writable()
        coordinator, groups = self._coordinator or self.transactions, self._groups or self.groups
        return Transaction(self, coordinator, groups, transactional_id, timeout_ms)

    @property
    def groups(self) -> GroupCoordinator:
        """The coordinator of consumer groups: how far each is, its lag, and what moves or deletes it."""
        self._check_open()
        with self._coordinator_lock:
            if self._groups is None:
                self._groups = GroupCoordinator(self)
            return self._groups

    def _end_clients(self) -> None:
        """The store is about to be closed: nobody goes on with what is open; what readers have committed is for a
        broker, too. What fails is done by the next opening.
        """
        try:
            if self._coordinator is not None and self.write and not self.settings.store_transactions_survive:
                self._coordinator.abandon()
            if self.write:
                self.groups.settle()
        except EventCoreError as error:
            logger.warning("transactions are left open, or offsets in files of ours: %s", error)
        finally:
            if self._groups is not None:
                self._groups.close()

    def consumer(
        self,
        group: str,
        topics: Sequence[str],
        *,
        start: Start = "earliest",
        isolation: Isolation = "read_uncommitted",
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
        source: Source | None = None,
    ) -> Consumer:
        """Become a member of a consumer group, which shares the partitions of these topics among its members, in this
        process and in others; also of a store that is open for reading only.

        It begins at what the group has committed; where that is nothing, or was deleted meanwhile, at `start`:
        "earliest", "latest", or "none", which raises OffsetOutOfRange. Who does not poll within `session_timeout_ms` is
        replaced. Raises UnknownTopic, and UsageError for what cannot be.

        With another store as the `source` it reads that one's topics, while the group and its offsets are this one's:
        a service reads what others write, and has done with it in the transaction in which it writes what came of it.
        A topic that both stores have is refused with UsageError: the group's offsets could not be told apart.
        """
        if source is not None and source is not self:
            both = [topic for topic in topics if self.has_topic(topic)]
            if both:
                raise UsageError(
                    f"topic {both[0]!r} is in both stores", hint="read it under another name than your own"
                )
        return Consumer(source or self, self.groups, self.clock, group, topics, start, isolation, session_timeout_ms)

    def checkpoint(self, name: str) -> ViewCheckpoint:
        """The checkpoint of a view: an application's state and the offsets that it reflects, kept together; also of a
        store that is open for reading only. Nothing is done before it is used. Raises UsageError for a name that cannot
        be.
        """
        self._check_open()
        return ViewCheckpoint(self, name)

    @property
    def checkpoints(self) -> list[str]:
        """The names of the checkpoints that were saved, sorted."""
        self._check_open()
        return view_file.listed(self.disk, self.path)

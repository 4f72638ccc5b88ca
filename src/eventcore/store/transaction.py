"""Transaction: records for several partitions that are all seen, or none of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from eventcore import _kernels as kernels
from eventcore.clock import Time, to_ms
from eventcore.errors import ClosedError, EventCoreError, RecordTooLarge, UsageError
from eventcore.store.committed_offsets import Key
from eventcore.store.consumer import Consumer
from eventcore.store.coordinator import Identity, TransactionCoordinator
from eventcore.store.groups import GroupCoordinator, Offset, Source
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.types import NO_TIMESTAMP, Buffer, Header, Record

_MOST_BYTES = 512 << 10
"""Of records that wait in memory; a batch of them fits into every usual `max.message.bytes`."""
_FIELDS = 20
_FAILED, _COMMITTED, _ABORTED = "failed", "was committed", "was aborted"

logger = logging.getLogger("eventcore")


class Owner(Protocol):
    """The store, as a transaction knows it."""

    def topic(self, name: str) -> Topic:
        """A topic by its name."""


class _Committer(NamedTuple):
    """Whose offsets they are."""

    group: str
    member_id: str | None = None
    source: Source | None = None


class Transaction:
    """One transaction. Get it by `store.transaction(id)`, and use it in a `with` statement: it commits at its end, and
    aborts if an exception leaves it.

    Records wait in memory until there are many of them, or it commits.
    """

    def __init__(
        self,
        store: Owner,
        coordinator: TransactionCoordinator,
        groups: GroupCoordinator,
        transactional_id: str,
        timeout_ms: int,
    ) -> None:
        self.transactional_id = transactional_id
        """Who holds it: whoever begins another one of this id takes it away from this one."""
        self._store, self._coordinator, self._groups = store, coordinator, groups
        self._identity: Identity = coordinator.begin(transactional_id, timeout_ms)
        self._waiting: dict[StorePartition, list[Any]] = {}
        self._offsets: dict[_Committer, dict[Key, Offset]] = {}
        self._bytes = 0
        self._is_over = ""

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_over in (_COMMITTED, _ABORTED):
            return
        try:
            if kind is None:
                self.commit()
        finally:
            if self._is_over != _COMMITTED:
                self._abort_quietly()

    def _abort_quietly(self) -> None:
        """Something else went wrong before, and is what one has to know. If this fails, too, the timeout aborts it."""
        try:
            self._end(commit=False)
        except EventCoreError as error:
            logger.info("the transaction of %r was not aborted here: %s", self.transactional_id, error)

    def __repr__(self) -> str:
        return f"<Transaction {self.transactional_id!r}{' ' + self._is_over if self._is_over else ''}>"

    def append(
        self,
        topic: Topic | str,
        value: Buffer | None,
        key: Buffer | None = None,
        headers: Sequence[Header] = (),
        timestamp: Time | None = None,
        partition: int | None = None,
    ) -> None:
        """Append one record, to be seen when the transaction commits; see `Topic.append`."""
        if timestamp is not None or headers:
            time = NO_TIMESTAMP if timestamp is None else to_ms(timestamp)
            self.extend(topic, [Record(-1, time, key, value, headers)], partition=partition)  # type: ignore[arg-type]
            return
        self._check()
        found = self._store.topic(topic) if isinstance(topic, str) else topic
        number = found.number_for(value, key, partition)
        self._keep(found[number], *_kept_all([(key, value)]))  # pairs are encoded at once, Records one by one
        if self._bytes >= _MOST_BYTES:
            self.flush()

    def extend(self, topic: Topic | str, records: Iterable[Any], *, partition: int | None = None) -> None:
        """Append values, (key, value) pairs or Records to many partitions, to be seen when the transaction commits.

        Raises what `Partition.extend` does, here or when they are written; then the transaction can only abort.
        """
        self._check()
        found = self._store.topic(topic) if isinstance(topic, str) else topic
        groups = [(number, *_kept_all(items)) for number, items in found.grouped(records, partition).items()]
        for number, kept, size in groups:
            self._keep(found[number], kept, size)
        if self._bytes >= _MOST_BYTES:
            self.flush()

    def _keep(self, partition: StorePartition, kept: Sequence[Any], size: int) -> None:
        self._waiting.setdefault(partition, []).extend(kept)
        self._bytes += size

    def commit_offsets(self, group: str | Consumer, offsets: Mapping[Key, Offset] | None = None) -> None:
        """Move a consumer group to these offsets, when the transaction commits: what it made of the records below them
        and that it has done with them are then seen together, or not at all.

        With a consumer instead of a group's name, its positions are meant, and only while its partitions are its own:
        UnknownMember and IllegalGeneration are raised else (KIP-447), here or when they are written. The last offsets
        given for a partition count.
        """
        self._check()
        if isinstance(group, str):
            who = _Committer(group)
            if offsets is None:
                raise UsageError("which offsets?", hint="give the offsets, or a consumer for the group")
        else:
            who = _Committer(group.group, group.member_id, group.source)
            offsets = group.positions if offsets is None else offsets
        if offsets:  # a consumer may have no partitions just now
            self._offsets.setdefault(who, {}).update(offsets)

    def flush(self) -> None:
        """Write what waits in memory; nobody who reads committed records sees it yet."""
        self._check()
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        offsets, self._offsets = self._offsets, {}
        if not waiting and not offsets:
            return
        try:
            places = [(partition.topic, partition.number) for partition in waiting]
            places += [self._groups.place_of(who.group) for who in offsets]
            self._coordinator.add_partitions(self.transactional_id, self._identity, places)
            for partition, items in waiting.items():
                self._write(partition, items)
            for who, committed in offsets.items():
                self._groups.commit_in_transaction(who.group, committed, self._identity, who.member_id, who.source)
        except BaseException:
            self._is_over = _FAILED
            raise

    def _write(self, partition: StorePartition, items: list[Any]) -> None:
        """As one batch, or as many as it takes."""
        try:
            partition.append_sequenced(items, *self._identity, transactional=True, wait=False)
        except RecordTooLarge:
            if len(items) == 1:
                raise
            middle = len(items) // 2
            self._write(partition, items[:middle])
            self._write(partition, items[middle:])

    def commit(self) -> None:
        """Let all of it be seen. On return it is as durable as `fsync` says; no crash can take a part of it away.

        Raises InvalidProducerEpoch if another holder of the id, or the timeout, has aborted it. After another error it
        may be decided all the same, and is finished later then: `store.transactions.describe` tells.
        """
        self.flush()
        self._end(commit=True)

    def abort(self) -> None:
        """Let none of it ever be seen."""
        if self._is_over != _FAILED:
            self._check()
        self._waiting.clear()
        self._offsets.clear()
        self._end(commit=False)

    def _end(self, *, commit: bool) -> None:
        self._is_over = _FAILED  # should the next line fail
        self._coordinator.end(self.transactional_id, self._identity, commit=commit)
        self._is_over = _COMMITTED if commit else _ABORTED

    def _check(self) -> None:
        if self._is_over:
            text = f"the transaction of {self.transactional_id!r} is over: it {self._is_over}"
            raise ClosedError(text, hint="begin another one")


def _kept_all(items: Sequence[Any]) -> tuple[Sequence[Any], int]:
    """The records as they are now, and about how many bytes they are."""
    size = kernels.encode.plain_size(items)
    if size >= 0:
        return items, size + _FIELDS * len(items)
    kept = list(map(_kept, items))
    return kept, sum(map(_size, kept))


def _kept(item: Any) -> Any:
    """The record as it is now: it waits, and its buffers may be used for something else meanwhile."""
    if isinstance(item, Record):
        headers = tuple((name, _bytes(value)) for name, value in item.headers)
        return item._replace(key=_bytes(item.key), value=_bytes(item.value), headers=headers)
    return tuple(map(_bytes, item)) if isinstance(item, tuple) else _bytes(item)


def _bytes(part: Any) -> bytes | None:
    return part if part is None or type(part) is bytes else memoryview(part).tobytes()


def _size(item: Any) -> int:
    """About the bytes of a record that was kept."""
    parts = item[2:4] if isinstance(item, Record) else item if isinstance(item, tuple) else (item,)
    return _FIELDS + sum(map(len, filter(None, parts)))

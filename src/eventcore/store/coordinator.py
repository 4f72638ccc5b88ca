"""TransactionCoordinator: which transactions are open, which decided; the markers that end them; its log.

What it knows of each transactional id is a record of `__transaction_state`, in Kafka's schema and partition, written
before anything follows from it. A transaction is decided when the record that prepares its end is appended: from then
on it is ended that way, by whoever comes after a crash. Each ends under a new epoch of its producer, so that nothing
that was sent for one can get into the next (KIP-890). Rules P6 and P7; operations have Kafka's names.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.errors import (
    EventCoreError,
    Fenced,
    InvalidProducerEpoch,
    InvalidTxnState,
    UnknownTopic,
    UsageError,
)
from eventcore.store.committed_offsets import Key
from eventcore.store.store_partition import StorePartition
from eventcore.store.transaction_states import LogOwner, TransactionStates
from eventcore.types import TransactionState, TransactionStatus

logger = logging.getLogger("eventcore")

DEFAULT_TIMEOUT_MS = 60_000
MOST_TIMEOUT_MS = 900_000
"""Kafka's transaction.max.timeout.ms."""
_UNUSED_MS = 604_800_000
"""Kafka's transactional.id.expiration.ms."""
_OURS = 1 << 61
"""Producer ids that a coordinator of ours has given have this bit: Kafka counts from 0."""
_LONGEST_ID = 1 << 10
_LAST_EPOCH = (1 << 15) - 2
"""The epoch after it is for a last marker; then the id gets another producer."""
_PREPARED = {
    TransactionStatus.PREPARE_COMMIT: True,
    TransactionStatus.PREPARE_ABORT: False,
    TransactionStatus.PREPARE_EPOCH_FENCE: False,
}
_PREPARE = {True: TransactionStatus.PREPARE_COMMIT, False: TransactionStatus.PREPARE_ABORT}
_COMPLETED = {True: TransactionStatus.COMPLETE_COMMIT, False: TransactionStatus.COMPLETE_ABORT}


class Identity(NamedTuple):
    """Under which producer id and epoch the holder of a transactional id writes."""

    producer_id: int
    epoch: int


class OpenTransaction(NamedTuple):
    """A transaction that a partition waits for and no coordinator knows of."""

    topic: str
    partition: int
    producer_id: int
    epoch: int
    first_offset: int


class Owner(LogOwner, Protocol):
    """The store, as its coordinator knows it."""

    clock: Clock
    fsync: str

    def partitions(self) -> list[tuple[str, int]]:
        """(topic, number) of every partition that may be written."""


class TransactionCoordinator:
    """The coordinator of a store. One thread at a time is in it. What it has returned is written, as durably as `fsync`
    says; a call that failed may have been, too: then `describe` tells. That of a store that is open for reading only
    tells what the writer has written.
    """

    def __init__(self, store: Owner) -> None:
        self._store = store
        self._lock = fork_safe.rlock()
        self._log = TransactionStates(store)
        self._partitions: dict[Key, StorePartition] = {}
        self._idle: set[str] = set()
        """Ids whose last transaction was ended by who began it, in this process: nobody needs to be fenced."""
        self._begun: set[str] = set()
        """Ids that have begun a transaction in this process."""

    # -- Kafka's operations ------------------------------------------------------------------------------------

    def init_producer_id(self, transactional_id: str, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Identity:
        """Become the holder of an id: its transaction is aborted, and who held it before is fenced."""
        if not 0 < len(transactional_id.encode()) <= _LONGEST_ID:
            text = f"a transactional id of {len(transactional_id)} characters"
            raise UsageError(text, hint=f"1 to {_LONGEST_ID} bytes")
        if not 0 < timeout_ms <= MOST_TIMEOUT_MS:
            raise UsageError(f"a timeout of {timeout_ms} ms", hint=f"1 to {MOST_TIMEOUT_MS}")
        with self._lock:
            self._idle.discard(transactional_id)
            state = self._settled(transactional_id)
            identity = Identity(_new_producer_id(), 0)
            if state is not None and state.producer_epoch < _LAST_EPOCH:
                identity = Identity(state.producer_id, state.producer_epoch + 1)
            previous = state.producer_id if state is not None and state.producer_id != identity.producer_id else -1
            self._log.write(
                transactional_id,
                TransactionState(*identity, timeout_ms, last_update_ms=self._now(), previous_producer_id=previous),
            )
            return identity

    def begin(self, transactional_id: str, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Identity:
        """`init_producer_id`, or go on under the epoch that the last transaction of this process has left."""
        with self._lock:
            state = self._log.states().get(transactional_id)
            if transactional_id in self._idle and state is not None and state.timeout_ms == timeout_ms:
                self._idle.discard(transactional_id)
                return Identity(state.producer_id, state.producer_epoch)
            return self.init_producer_id(transactional_id, timeout_ms)

    def add_partitions(self, transactional_id: str, identity: Identity, partitions: Iterable[tuple[str, int]]) -> None:
        """Before anything of the transaction is appended to these partitions: they will get its marker."""
        with self._lock:
            state = self._held(transactional_id, identity)
            ongoing = state.status == TransactionStatus.ONGOING
            known = state.partitions if ongoing else ()
            both = tuple(dict.fromkeys((*known, *partitions)))
            if ongoing and both == known:
                return
            now = self._now()
            self._begun.add(transactional_id)
            start, following = state.start_ms if ongoing else now, state.next_producer_id
            next_state = _moved(state, identity, TransactionStatus.ONGOING, both, now, start, -1, following)
            self._log.write(transactional_id, next_state)

    def end(self, transactional_id: str, identity: Identity, *, commit: bool) -> Identity:
        """End the transaction: on return every partition has its marker. Its next one is under the new identity.

        Once decided it is never decided otherwise. The same call again, after the end, changes nothing.
        """
        with self._lock:
            state = self._log.states().get(transactional_id)
            if state is not None and state.status == _COMPLETED[commit] and _was_ended(state, identity):
                return Identity(state.producer_id, state.producer_epoch)
            state = self._held(transactional_id, identity)
            if state.status == TransactionStatus.ONGOING:
                state = self._finish(transactional_id, self._prepare(transactional_id, state, commit), is_new=True)
            self._idle.add(transactional_id)
            return Identity(state.producer_id, state.producer_epoch)

    def describe(self, transactional_id: str) -> TransactionState:
        """What is known of an id. Raises InvalidTxnState if nothing is."""
        with self._lock:
            return self._known(transactional_id)

    def states(self) -> dict[str, TransactionState]:
        """What is known of all ids."""
        with self._lock:
            return dict(self._log.states())

    @contextmanager
    def verifying(self, producer_id: int, epoch: int, partition: tuple[str, int]) -> Iterator[None]:
        """Nothing ends while a client's batch begins a transaction in a partition. Raises InvalidTxnState if there is
        none that the partition was added to: the batch is late, and nobody would end what it begins (P7, KIP-890).
        """
        with self._lock:
            state = self._log.of_producer(producer_id)
            if state is None or state.status != TransactionStatus.ONGOING or partition not in state.partitions:
                text = f"producer {producer_id} has no transaction that {partition[0]}-{partition[1]} is part of"
                raise InvalidTxnState(text, hint="add the partition before anything is sent to it")
            if epoch != state.producer_epoch:
                raise InvalidProducerEpoch(f"producer {producer_id} has epoch {state.producer_epoch}, not {epoch}")
            yield

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No transaction begins or ends meanwhile; what was begun is written on."""
        with self._lock:
            yield

    # -- care --------------------------------------------------------------------------------------------------

    def settle(self, *, after_crash: bool = False) -> int:
        """End what was decided and not finished, and abort what has been open for longer than its timeout, so that who
        began it is fenced; returns how many were aborted. Ids that were not used for a week are forgotten, as Kafka
        does. A store's housekeeping does it from time to time; and a store that was not closed when it is opened:
        `after_crash` also what is open and was begun by a coordinator of ours is aborted, as who had it is dead.

        What goes wrong with one keeps no other from its end; the first error is raised after all.
        """
        if not self._log.is_there:
            return 0
        with self._lock:
            now, states = self._now(), self._log.states()
            late = [
                name
                for name, state in states.items()
                if state.status == TransactionStatus.ONGOING
                and (now - state.start_ms >= state.timeout_ms or (after_crash and state.producer_id & _OURS))
            ]
            over = [name for name, one in states.items() if not one.is_open and now - one.last_update_ms >= _UNUSED_MS]
            self._end_all([*late, *(name for name, state in states.items() if state.status in _PREPARED)])
            for name in over:
                self._log.forget(name)
                self._idle.discard(name)
            return len(late)

    def abandon(self) -> None:
        """Abort what was begun here and is open: the store is about to be closed, and nobody could go on with it."""
        with self._lock:
            states = self._log.states() if self._begun else {}
            self._end_all([name for name in self._begun if name in states and states[name].is_open])

    def _end_all(self, transactional_ids: list[str]) -> None:
        failures = []
        for name in transactional_ids:
            try:
                self._settled(name)
            except EventCoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def hanging(self) -> list[OpenTransaction]:
        """Transactions that partitions wait for, of producers that have none open here. Opens every partition."""
        with self._lock:
            ours = {
                state.producer_id for state in self._log.states().values() if state.status == TransactionStatus.ONGOING
            }
            return [
                OpenTransaction(topic, number, one.producer_id, one.epoch, one.txn_first_offset)
                for topic, number in self._store.partitions()
                for one in self._store.topic(topic)[number].producers()
                if one.txn_first_offset >= 0 and one.producer_id not in ours
            ]

    def abort_hanging(self, found: OpenTransaction) -> None:
        """Abort a transaction that is open in a partition. Raises InvalidTxnState if it is not among `hanging`."""
        with self._lock:
            if found not in self.hanging():
                raise InvalidTxnState(f"producer {found.producer_id} has no hanging transaction there")
            self._store.topic(found.topic)[found.partition].end_transaction(
                found.producer_id, found.epoch, commit=False
            )

    # -- inside ------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return self._store.clock.now_ms()

    def _known(self, transactional_id: str) -> TransactionState:
        state = self._log.states().get(transactional_id)
        if state is None:
            raise InvalidTxnState(f"there is no transactional id {transactional_id!r}")
        return state

    def _partition(self, place: Key) -> StorePartition:
        """Raises UnknownTopic: the topic may have been deleted since, and made again."""
        found = self._partitions.get(place)
        if found is None or found.failure is not None:
            found = self._partitions[place] = self._store.topic(place[0])[place[1]]
        return found

    def _sync(self, state: TransactionState) -> None:
        """Make the transaction's partitions as durable as `fsync` says: one round for all that was not waited for."""
        if self._store.fsync == "always":
            for place in state.partitions:
                with suppress(UnknownTopic):  # deleted since
                    self._partition(place).sync()

    def _held(self, transactional_id: str, identity: Identity) -> TransactionState:
        """The state of an id, which must be held under this identity, and not be about to end."""
        state = self._known(transactional_id)
        if identity != state[:2]:
            raise InvalidProducerEpoch(
                f"transactional id {transactional_id!r} is held by producer {state.producer_id} epoch "
                f"{state.producer_epoch}, not by {identity.producer_id} epoch {identity.epoch}",
                hint="another program has taken it, or the transaction took longer than its timeout: begin a new one",
            )
        if state.status in _PREPARED:
            raise InvalidTxnState(f"the transaction of {transactional_id!r} is being ended")
        return state

    def _settled(self, transactional_id: str) -> TransactionState | None:
        """The state of an id, of which no transaction is open any more."""
        state = self._log.states().get(transactional_id)
        if state is not None and state.status == TransactionStatus.ONGOING:
            state = self._prepare(transactional_id, state, commit=False)
        if state is not None and state.status in _PREPARED:
            state = self._finish(transactional_id, state)
        return state

    def _prepare(self, transactional_id: str, state: TransactionState, commit: bool) -> TransactionState:
        """Decide. The epoch rises, and at the last one the id is given another producer for what comes after."""
        if commit:
            self._sync(state)
        who, epoch, status = state.producer_id, state.producer_epoch, _PREPARE[commit]
        following = _new_producer_id() if epoch >= _LAST_EPOCH else -1
        places, start, previous = state.partitions, state.start_ms, state.previous_producer_id
        prepared = _moved(state, (who, epoch + 1), status, places, self._now(), start, previous, following)
        return self._log.write(transactional_id, prepared)

    def _finish(self, transactional_id: str, state: TransactionState, *, is_new: bool = False) -> TransactionState:
        """Give every partition its marker, then note that they have it. Some may have it, unless that `is_new`."""
        commit = _PREPARED[state.status]
        for place in state.partitions:
            self._mark(place, state, commit, is_new)
        self._sync(state)
        who, following = state[:2], state.next_producer_id
        if following >= 0:
            who = following, 0
        completed = _moved(
            state, who, _COMPLETED[commit], (), self._now(), state.start_ms, state.producer_id, following=-1
        )
        # Should it be lost, the transaction is ended once more, which changes nothing.
        return self._log.write(transactional_id, completed, wait=False)

    def _mark(self, place: Key, state: TransactionState, commit: bool, is_new: bool) -> None:
        """Append the marker, unless an earlier attempt has."""
        who, epoch = state.producer_id, state.producer_epoch
        try:
            partition = self._partition(place)
            known = None if is_new else partition.producer(who)
            if known is None or known.epoch != epoch or known.txn_first_offset >= 0:
                partition.end_transaction(who, epoch, commit=commit, raises_epoch=state.client_version >= 2, wait=False)
        except UnknownTopic:
            return  # deleted since
        except Fenced as error:  # the partition knows of a newer one
            logger.warning("%s-%d: no marker for producer %d: %s", *place, who, error)


def _was_ended(state: TransactionState, identity: Identity) -> bool:
    """Whether it is the last transaction of this holder that has ended so."""
    if identity.epoch == _LAST_EPOCH:
        return state.previous_producer_id == identity.producer_id and state.producer_epoch == 0
    return (state.producer_id, state.producer_epoch) == (identity.producer_id, identity.epoch + 1)


def _moved(
    state: TransactionState,
    who: tuple[int, int],
    status: TransactionStatus,
    partitions: tuple[Key, ...],
    now: int,
    start: int,
    previous: int,
    following: int,
) -> TransactionState:
    """The next state of a transaction; `_replace` would take three times as long."""
    return TransactionState(
        who[0],
        who[1],
        state.timeout_ms,
        status,
        partitions,
        now,
        start,
        previous,
        following,
        state.next_producer_epoch,
        state.client_version,
    )


def _new_producer_id() -> int:
    """One that no one else has: Kafka counts from 0, and those of names have a bit of their own."""
    return _OURS | random.SystemRandom().getrandbits(61)

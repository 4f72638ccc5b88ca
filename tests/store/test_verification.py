"""Requests of clients that come late, or twice, touch no other transaction than theirs (KIP-890)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec

QUIET = {"store.housekeeping.enable": False}
KEY = ("orders", 0)


@pytest.fixture
def store(memory_path: Path) -> Iterator[ec.Store]:
    with ec.open(memory_path / "store", fsync="never", config=QUIET) as store:
        store.create_topic("orders", 2)
        yield store


def batch_of(folder: Path, identity: ec.Identity, sequence: int = 0) -> bytes:
    """A batch of a transaction, as a client sends it."""
    with ec.open_partition(folder / f"client-{sequence}", fsync="never") as scratch:
        for number in range(sequence + 1):
            at = scratch.append_sequenced([b"%d" % number], *identity, number, transactional=True).first_offset
        return bytes(8) + bytes(scratch.fetch(at).data)[8:]  # a client counts from 0


def committed(store: ec.Store, number: int = 0) -> list[bytes | None]:
    return [record.value for record in store.topic("orders")[number].read(isolation="read_committed")]


def test_a_batch_begins_a_transaction_only_where_the_coordinator_knows_of_it(store: ec.Store, tmp_path: Path) -> None:
    coordinator, (first, second) = store.transactions, store.topic("orders")
    identity = coordinator.init_producer_id("client")
    data = batch_of(tmp_path, identity)
    for partition in (first, second):
        with pytest.raises(ec.InvalidTxnState):
            partition.append_batches(data)
    coordinator.add_partitions("client", identity, [KEY])
    assert first.append_batches(data).first_offset == 0
    assert first.append_batches(data).duplicate
    with pytest.raises(ec.InvalidTxnState):
        second.append_batches(data)
    later = coordinator.end("client", identity, commit=True)
    assert committed(store) == [b"0"]
    with pytest.raises(ec.InvalidTxnState):
        first.append_batches(data)
    coordinator.add_partitions("client", later, [KEY, ("orders", 1)])
    for partition in (first, second):  # of the one before, on its way until now
        with pytest.raises(ec.InvalidProducerEpoch):
            partition.append_batches(data)
    coordinator.end("client", later, commit=False)
    assert (committed(store), committed(store, 1), coordinator.hanging()) == ([b"0"], [], [])


def test_the_end_of_one_sent_again_does_not_end_the_next(store: ec.Store, tmp_path: Path) -> None:
    coordinator, partition = store.transactions, store.topic("orders")[0]
    identity = coordinator.init_producer_id("client")
    coordinator.add_partitions("client", identity, [KEY])
    partition.append_batches(batch_of(tmp_path, identity))
    later = coordinator.end("client", identity, commit=True)
    assert coordinator.end("client", identity, commit=True) == later
    coordinator.add_partitions("client", later, [KEY])
    partition.append_batches(batch_of(tmp_path / "later", later))
    for late in (True, False):
        with pytest.raises(ec.InvalidProducerEpoch):
            coordinator.end("client", identity, commit=late)
    assert partition.last_stable_offset < partition.log_end_offset
    coordinator.end("client", later, commit=False)
    assert committed(store) == [b"0"]


def test_a_transaction_that_goes_on_is_not_asked_about(store: ec.Store, tmp_path: Path) -> None:
    coordinator, partition = store.transactions, store.topic("orders")[0]
    identity = coordinator.init_producer_id("client")
    coordinator.add_partitions("client", identity, [KEY])
    for sequence in range(3):
        partition.append_batches(batch_of(tmp_path / str(sequence), identity, sequence))
    coordinator.end("client", identity, commit=True)
    assert committed(store) == [b"0", b"1", b"2"]


def test_whoever_has_a_coordinator_of_his_own_switches_it_off(memory_path: Path, tmp_path: Path) -> None:
    config = {**QUIET, "transaction.partition.verification.enable": False}
    with ec.open(memory_path / "store", fsync="never", config=config) as store:
        partition = store.create_topic("orders", 1)[0]
        partition.append_batches(batch_of(tmp_path, ec.Identity(7, 0)))
        partition.end_transaction(7, 0, commit=True)
        assert committed(store) == [b"0"]
        with pytest.raises(ec.EventCoreError):
            partition.append_batches(b"no batch")

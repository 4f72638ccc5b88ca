"""Transactions over several partitions: all of it or nothing, whoever dies, comes late, or comes again."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.format import transaction_log
from eventcore.store.coordinator import Identity
from eventcore.store.store_partition import StorePartition
from eventcore.types import TransactionStatus

QUIET = {"store.housekeeping.enable": False}


class Clock:
    """Told what time it is."""

    now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(memory_path: Path, clock: Clock) -> Path:
    with opened(memory_path / "store", clock) as store:
        store.create_topic("orders", 3, {"segment.bytes": 1 << 21})
        store.create_topic("invoices", 1, {"segment.bytes": 1 << 21})
    return memory_path / "store"


def opened(folder: Path, clock: Clock) -> ec.Store:
    return ec.open(folder, fsync="never", config=QUIET, clock=clock)


@pytest.fixture
def store(folder: Path, clock: Clock) -> Iterator[ec.Store]:
    with opened(folder, clock) as store:
        yield store


def seen(store: ec.Store, *topics: str) -> list[bytes]:
    return sorted(
        record.value
        for topic in topics or ("orders", "invoices")
        for partition in store.topic(topic)
        for record in partition.read(partition.log_start_offset, isolation="read_committed")
    )


def test_all_of_it_when_it_commits(store: ec.Store) -> None:
    with store.transaction("billing-1") as tx:
        for number in range(30):
            tx.append("orders", b"order %d" % number, key=b"%d" % number)
        tx.append("invoices", b"invoice")
        tx.flush()
        assert seen(store) == []
    assert len(seen(store, "orders")) == 30
    assert seen(store, "invoices") == [b"invoice"]
    assert store.transactions.describe("billing-1").status == TransactionStatus.COMPLETE_COMMIT
    assert store.transactions.hanging() == []


class Watched(Disk):
    """Notes which partitions are synced."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def sync(self, fd: int) -> None:
        self.synced.append(self._path(fd).parent.name)
        super().sync(fd)


def test_four_rounds_of_syncs(memory_path: Path) -> None:
    """Its partitions, what it writes, the decision, the markers: those of a round do not wait for each other."""
    disk = Watched()
    with ec.open(memory_path / "store", config=QUIET, disk=disk) as store:
        store.create_topic("orders", 3).extend([b"v"] * 10)
        for _ in range(2):  # the second time nothing has to be made first
            disk.synced.clear()
            with store.transaction("billing-1") as tx:
                for number in range(3):
                    tx.append("orders", b"v", partition=number)
                tx.commit_offsets("g", {("orders", 0): 0})
        synced = list(disk.synced)
        log = f"{transaction_log.TOPIC}-{transaction_log.partition_of('billing-1')}"
        touched = {"orders-0", "orders-1", "orders-2", "-".join(map(str, store.groups.place_of("g")))}
    assert synced[0] == synced[5] == log
    assert set(synced[1:5]) == set(synced[6:]) == touched
    assert len(synced) == 10


def test_nothing_of_it_after_an_exception(store: ec.Store) -> None:
    def fail() -> None:
        with store.transaction("billing-1") as tx:
            tx.extend("orders", [b"a", (b"k", b"b")])
            tx.flush()
            tx.append("invoices", b"c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen(store) == []
    with store.transaction("billing-1") as tx:
        tx.append("invoices", b"d")
    assert seen(store) == [b"d"]
    assert [one.value for one in store.topic("invoices")[0]] == [b"d"], "what only waited was never written"


def test_a_record_is_what_it_was_when_it_was_appended(store: ec.Store) -> None:
    buffer, view = bytearray(b"before"), memoryview(bytearray(b"before"))
    with store.transaction("billing-1") as tx:
        tx.extend("orders", [buffer, (b"k", view), ec.Record(-1, 5, None, buffer, [("h", buffer)])], partition=0)
        buffer[:], view[:] = b"after!", b"after!"
        for wrong in ("text", 5, (b"k", "text")):
            with pytest.raises(TypeError):
                tx.extend("orders", [b"not even this", wrong])
    found = list(store.topic("orders")[0].read(0, isolation="read_committed"))
    assert [record.value for record in found] == [b"before"] * 3
    assert found[2].headers == (("h", b"before"),)


def test_nothing_at_all_leaves_no_trace(store: ec.Store) -> None:
    with store.transaction("billing-1"):
        pass
    with store.transaction("billing-1") as tx:
        tx.abort()
    assert store.transactions.describe("billing-1").status == TransactionStatus.EMPTY
    assert sum(map(len, store.topic(transaction_log.TOPIC))) == 1


def test_a_second_holder_fences_the_first(store: ec.Store) -> None:
    first = store.transaction("billing-1")
    first.append("orders", b"first")
    first.flush()
    with store.transaction("billing-1") as second:
        second.append("orders", b"second")
    with pytest.raises(ec.InvalidProducerEpoch, match="another program"):
        first.commit()
    assert seen(store) == [b"second"]
    with pytest.raises(ec.ClosedError):
        first.append("orders", b"more")


def test_what_was_written_late_gets_nowhere(store: ec.Store) -> None:
    """KIP-890: a request of an older transaction, on its way for long, must not get into the next one."""
    coordinator, partition = store.transactions, store.topic("invoices")[0]
    old = coordinator.init_producer_id("billing-1")
    coordinator.add_partitions("billing-1", old, [("invoices", 0)])
    partition.append_sequenced([b"a"], *old, 0, transactional=True)
    new = coordinator.end("billing-1", old, commit=True)
    assert new == Identity(old.producer_id, old.epoch + 1)
    assert coordinator.end("billing-1", old, commit=True) == new, "the same request again"
    coordinator.add_partitions("billing-1", new, [("invoices", 0)])
    partition.append_sequenced([b"b"], *new, 0, transactional=True)
    for late in (
        lambda: partition.append_sequenced([b"late"], *old, 1, transactional=True),
        lambda: coordinator.end("billing-1", old, commit=False),
        lambda: coordinator.end("billing-1", old, commit=True),
        lambda: coordinator.add_partitions("billing-1", old, [("orders", 0)]),
    ):
        with pytest.raises(ec.InvalidProducerEpoch):
            late()
    coordinator.end("billing-1", new, commit=False)
    assert seen(store) == [b"a"]


def test_the_timeout_aborts_and_fences(store: ec.Store, clock: Clock) -> None:
    tx = store.transaction("billing-1", timeout_ms=1000)
    tx.append("orders", b"slow")
    tx.flush()
    clock.now += 999
    assert store.housekeep().aborted_transactions == 0
    clock.now += 1
    assert store.housekeep().aborted_transactions == 1
    assert all(partition.last_stable_offset == partition.log_end_offset for partition in store.topic("orders"))
    with pytest.raises(ec.InvalidProducerEpoch):
        tx.commit()
    assert seen(store) == []


def test_what_was_decided_is_finished_later(store: ec.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that cannot take its marker now gets it in a round of housekeeping."""
    marker, wanted = StorePartition.end_transaction, [True]

    def fail(partition: StorePartition, *arguments: Any, **keywords: Any) -> ec.BatchInfo:
        if partition.topic == "invoices" and wanted:
            raise ec.DiskFull("no space")
        return marker(partition, *arguments, **keywords)

    monkeypatch.setattr(StorePartition, "end_transaction", fail)
    tx = store.transaction("billing-1")
    tx.append("orders", b"a")
    tx.append("invoices", b"b")
    with pytest.raises(ec.DiskFull):
        tx.commit()
    assert store.transactions.describe("billing-1").status == TransactionStatus.PREPARE_COMMIT
    assert store.housekeep().errors["transactions"].startswith("no space")
    assert seen(store, "invoices") == []
    wanted.clear()
    assert store.housekeep().errors == {}
    assert seen(store) == [b"a", b"b"]


def test_records_of_a_later_kafka_are_passed_over(folder: Path, clock: Clock) -> None:
    with opened(folder, clock) as store:
        with store.transaction("billing-1") as tx:
            tx.append("orders", b"a")
        store.topic(transaction_log.TOPIC)[0].append(b"?", key=b"\x00\x07?")
    with opened(folder, clock) as store:
        assert store.transactions.states().keys() == {"billing-1"}


@pytest.mark.parametrize("value", [b"", b"\x00\x01?"])
def test_a_damaged_log_of_the_coordinator_keeps_no_store_closed(folder: Path, clock: Clock, value: bytes) -> None:
    with opened(folder, clock) as store:
        with store.transaction("billing-1") as tx:
            tx.append("orders", b"a")
        store.topic(transaction_log.TOPIC)[0].append(value, key=transaction_log.encode_key("other"))
    (folder / ".kafka_cleanshutdown").unlink()
    with opened(folder, clock) as store:
        assert seen(store) == [b"a"]
        assert "transactions" in store.housekeep().errors
        with pytest.raises(ec.CorruptRecord):
            store.transaction("billing-1")


@pytest.mark.parametrize("how", ["closed", "killed"])
@pytest.mark.parametrize("survive", [False, True])
def test_nobody_waits_for_who_had_it_open(folder: Path, clock: Clock, how: str, survive: bool) -> None:
    """Who used the store himself is dead or has closed it; the clients of a server may come back."""
    config = {**QUIET, "store.transactions.survive": survive}
    left = folder.with_name("left")
    with ec.open(folder, fsync="never", config=config, clock=clock) as store:
        tx = store.transaction("billing-1")
        tx.append("orders", b"lost", partition=0)
        tx.flush()
        if how == "killed":
            shutil.copytree(folder, left)
    if how == "killed":
        shutil.rmtree(folder)
        left.rename(folder)
    with ec.open(folder, fsync="never", config=config, clock=clock) as store:
        expected = TransactionStatus.ONGOING if survive else TransactionStatus.COMPLETE_ABORT
        assert store.transactions.describe("billing-1").status == expected
        partition = store.topic("orders")[0]
        assert (partition.last_stable_offset == partition.log_end_offset) is not survive
        with store.transaction("billing-1") as tx:
            tx.append("orders", b"kept", partition=0)
        assert seen(store) == [b"kept"]


def test_an_id_that_is_not_used_is_forgotten(folder: Path, clock: Clock) -> None:
    with opened(folder, clock) as store:
        for name in ("old", "open", "new"):
            with store.transaction(name) as tx:
                tx.append("orders", b"v", partition=0)
        clock.now += 604_800_000 - 1
        coordinator = store.transactions
        identity = coordinator.begin("open", 900_000)
        coordinator.add_partitions("open", identity, [("orders", 0)])
        coordinator.init_producer_id("new")
        clock.now += 1
        assert (store.housekeep().errors, set(coordinator.states())) == ({}, {"open", "new"})
        with store.transaction("old") as tx:
            tx.append("orders", b"again", partition=0)
    with opened(folder, clock) as store:
        assert set(store.transactions.states()) == {"old", "open", "new"}
        clock.now += 604_800_000
        store.housekeep()
        assert store.transactions.states() == {}


def test_the_last_epoch_gives_the_id_another_producer(store: ec.Store) -> None:
    coordinator = store.transactions
    identity = coordinator.init_producer_id("billing-1")
    state = coordinator.describe("billing-1")._replace(producer_epoch=32766)
    coordinator._log.write("billing-1", state)
    identity = Identity(identity.producer_id, 32766)
    coordinator.add_partitions("billing-1", identity, [("orders", 0)])
    store.topic("orders")[0].append_sequenced([b"a"], *identity, 0, transactional=True)
    after = coordinator.end("billing-1", identity, commit=True)
    assert (after.epoch, after.producer_id != identity.producer_id) == (0, True)
    assert coordinator.end("billing-1", identity, commit=True) == after
    assert seen(store) == [b"a"]
    with store.transaction("billing-1") as tx:
        tx.append("orders", b"b")
    assert seen(store) == [b"a", b"b"]


def test_large_ones_are_written_on_the_way(store: ec.Store) -> None:
    with store.transaction("billing-1") as tx:
        tx.extend("orders", [(b"%d" % number, b"x" * 10_000) for number in range(300)])
        assert sum(map(len, store.topic("orders"))) == 300
        tx.extend("invoices", [b"x" * 700_000] * 2)  # not both in one batch
    assert len(seen(store)) == 302


def test_a_record_that_does_not_fit_aborts_it(store: ec.Store) -> None:
    def write() -> None:
        with store.transaction("billing-1") as tx:
            tx.append("orders", b"fits", partition=0)
            tx.append("orders", b"x" * 1_100_000, partition=0)

    with pytest.raises(ec.RecordTooLarge):
        write()
    assert seen(store) == []
    assert store.transactions.describe("billing-1").status == TransactionStatus.COMPLETE_ABORT


def test_a_hanging_one_is_found_and_ended(store: ec.Store) -> None:
    store.topic("orders")[1].append_sequenced([b"a"], 5, 3, 0, transactional=True)
    (found,) = store.transactions.hanging()
    assert found == ("orders", 1, 5, 3, 0)
    with pytest.raises(ec.InvalidTxnState):
        store.transactions.abort_hanging(found._replace(producer_id=6))
    store.transactions.abort_hanging(found)
    assert store.transactions.hanging() == []
    assert store.topic("orders")[1].last_stable_offset == 2


@pytest.mark.parametrize(("name", "timeout_ms"), [("", 1000), ("x" * 1025, 1000), ("x", 0), ("x", -1), ("x", 900_001)])
def test_what_cannot_be_a_transaction(store: ec.Store, name: str, timeout_ms: int) -> None:
    with pytest.raises(ec.UsageError):
        store.transaction(name, timeout_ms=timeout_ms)


def test_what_nobody_knows_of(store: ec.Store) -> None:
    with pytest.raises(ec.InvalidTxnState):
        store.transactions.describe("nobody")
    with pytest.raises(ec.InvalidTxnState):
        store.transactions.end("nobody", Identity(1, 0), commit=True)
    with pytest.raises(ec.UnknownTopic), store.transaction("billing-1") as tx:
        tx.append("nowhere", b"v")
    assert seen(store) == []


def test_a_topic_that_was_deleted_meanwhile(store: ec.Store) -> None:
    with store.transaction("billing-1") as tx:
        tx.append("orders", b"a", partition=0)
        tx.append("invoices", b"b")
        tx.flush()
        store.delete_topic("orders")
    assert seen(store, "invoices") == [b"b"]
    with pytest.raises(ec.UnknownTopic), store.transaction("billing-1") as tx:
        tx.append("orders", b"c", partition=0)
    store.create_topic("orders", 1)
    with store.transaction("billing-1") as tx:
        tx.append("orders", b"d", partition=0)
        tx.append("invoices", b"e")
    assert seen(store) == [b"b", b"d", b"e"]
    assert store.topic("orders")[0].last_stable_offset == 2


def test_a_reader_may_not(folder: Path) -> None:
    with ec.open(folder, "r") as store, pytest.raises(ec.ReadOnly):
        store.transaction("billing-1")


@pytest.mark.sampled
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(folder: Path, clock: Clock, seed: int) -> None:
    """Copies of the folder are what kills leave. In each, every transaction is there whole, or not at all."""
    rng, copies = random.Random(seed), 0
    with opened(folder, clock) as store:
        for number in range(8):
            count = rng.randint(1, 6)
            try:
                with store.transaction(rng.choice(("one", "other"))) as tx:
                    for part in range(count):
                        tx.append("orders", b"%d/%d" % (number, count), partition=part % 3)
                        if rng.random() < 0.3:
                            tx.flush()
                            copies = check_copy(folder, clock, copies)
                    if rng.random() < 0.3:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            copies = check_copy(folder, clock, copies)


def check_copy(folder: Path, clock: Clock, number: int) -> int:
    copy = folder.parent / f"copy-{number}"
    subprocess.run(["cp", "-r", "--sparse=always", folder, copy], check=True)  # the files are mostly holes
    with opened(copy, clock) as store:
        values = seen(store, "orders")
        for value in set(values):
            assert values.count(value) == int(value.split(b"/")[1]), values
        for name, state in store.transactions.states().items():
            if state.status == TransactionStatus.ONGOING:
                store.transactions.init_producer_id(name)
        assert store.transactions.hanging() == []
        assert seen(store, "orders") >= values
    shutil.rmtree(copy)
    return number + 1

"""Offsets of consumer groups: what was committed last counts, in the log and beside it, and nothing else does."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.format import group_log
from eventcore.store import group_files
from tests.scale import seeded
from tests.store.conftest import NOW, FakeClock, OpenStore

ORDERS = [("orders", number) for number in range(3)]


@pytest.fixture
def store(open_store: OpenStore) -> ec.Store:
    store = open_store()
    topic = store.create_topic("orders", 3)
    for number in range(3):
        topic.extend([b"%d" % at for at in range(20)], partition=number)
    return store


def at(store: ec.Store, group: str = "billing") -> dict[tuple[str, int], int]:
    return {key: found.offset for key, found in store.groups.offsets(group).items()}


def test_what_was_committed_last_counts(store: ec.Store, open_store: OpenStore, clock: FakeClock) -> None:
    assert at(store) == {}
    store.groups.commit("billing", {ORDERS[0]: 5, ORDERS[1]: 7})
    store.groups.commit("shipping", {ORDERS[0]: 1})
    clock.now += 1
    store.groups.commit("billing", {ORDERS[0]: ec.CommittedOffset(3, 0, "back")})
    assert at(store) == {ORDERS[0]: 3, ORDERS[1]: 7}
    assert store.groups.list() == ["billing", "shipping"]
    store.close()
    again = open_store()
    assert again.groups.offsets("billing")[ORDERS[0]] == ec.CommittedOffset(3, 0, "back", NOW + 1)
    assert at(again, "shipping") == {ORDERS[0]: 1}
    records = [record for partition in again.topic(group_log.TOPIC) for record in partition]
    assert len(records) == 4


@pytest.mark.parametrize(
    ("group", "offsets", "error"),
    [
        ("billing", {("orders", 0): 21}, ec.OffsetOutOfRange),
        ("billing", {("orders", 0): -1}, ec.OffsetOutOfRange),
        ("billing", {("orders", 1): 1, ("orders", 3): 0}, ec.UnknownTopic),
        ("billing", {("none", 0): 0}, ec.UnknownTopic),
        ("", {("orders", 0): 1}, ec.UsageError),
        ("x" * 5000, {("orders", 0): 1}, ec.UsageError),
        ("billing", {("orders", 0): ec.CommittedOffset(1, -1, "x" * 5000)}, ec.UsageError),
    ],
)
def test_what_cannot_be_is_not_committed(
    store: ec.Store, group: str, offsets: dict[tuple[str, int], int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.groups.commit(group, offsets)
    assert store.groups.list() == []


def test_a_group_with_members_is_theirs(store: ec.Store, clock: FakeClock) -> None:
    with store.consumer("billing", ["orders"]):
        with pytest.raises(ec.UnknownMember):
            store.groups.commit("billing", {ORDERS[0]: 5})
        with pytest.raises(ec.GroupNotEmpty):
            store.groups.delete("billing")
        with pytest.raises(ec.GroupNotEmpty):
            store.groups.reset("billing", "latest", ORDERS)
        clock.now += 60_000  # it was silent for too long
        store.groups.commit("billing", {ORDERS[0]: 5})
    assert at(store) == {ORDERS[0]: 5}


def test_reset(store: ec.Store, clock: FakeClock) -> None:
    with pytest.raises(ec.UnknownGroup):
        store.groups.reset("billing", "earliest")
    clock.now += 1000
    for number in range(3):
        store.topic("orders").append(b"late", partition=number)
    assert store.groups.reset("billing", "latest", ORDERS) == dict.fromkeys(ORDERS, 21)
    moment = datetime.fromtimestamp(clock.now / 1000, timezone.utc)
    assert store.groups.reset("billing", moment, [ORDERS[0]]) == {ORDERS[0]: 20}
    moment += timedelta(days=1)
    assert store.groups.reset("billing", moment, [ORDERS[0]]) == {ORDERS[0]: 21}
    assert store.groups.reset("billing", 4, [ORDERS[1]]) == {ORDERS[1]: 4}
    assert at(store) == {ORDERS[0]: 21, ORDERS[1]: 4, ORDERS[2]: 21}
    assert store.groups.reset("billing", "earliest") == dict.fromkeys(ORDERS, 0)
    for wrong in ("middle", 22, -1):
        with pytest.raises((ec.UsageError, ec.OffsetOutOfRange)):
            store.groups.reset("billing", wrong, [ORDERS[0]])
    assert at(store) == dict.fromkeys(ORDERS, 0)


def test_delete(store: ec.Store, open_store: OpenStore) -> None:
    store.groups.commit("billing", dict.fromkeys(ORDERS, 5))
    store.groups.commit("shipping", {ORDERS[0]: 1})
    store.groups.delete("billing")
    with pytest.raises(ec.UnknownGroup):
        store.groups.delete("billing")
    with pytest.raises(ec.UnknownGroup):
        store.groups.describe("billing")
    store.close()
    again = open_store()
    assert (again.groups.list(), at(again)) == (["shipping"], {})
    again.groups.commit("billing", {ORDERS[2]: 2})
    assert at(again) == {ORDERS[2]: 2}
    with pytest.raises(ec.ReadOnly):
        open_store("r").groups.delete("billing")


def test_describe_tells_lag_and_owners(store: ec.Store) -> None:
    store.groups.commit("billing", {ORDERS[0]: 5})
    with store.consumer("billing", ["orders"]) as consumer:
        found = store.groups.describe("billing")
        assert found.members == {consumer.member_id: ("orders",)}
        assert [(one.partition, one.lag, one.member_id) for one in found.partitions] == [
            (0, 15, consumer.member_id),
            (1, None, consumer.member_id),
            (2, None, consumer.member_id),
        ]
    assert store.groups.describe("billing").members == {}
    store.delete_topic("orders")
    (left,) = store.groups.describe("billing").partitions
    assert (left.committed, left.end_offset, left.lag) == (ec.CommittedOffset(5, commit_ms=NOW), None, None)


# -- readers ---------------------------------------------------------------------------------------------------


@pytest.mark.sampled
def test_a_reader_commits_too(store: ec.Store, open_store: OpenStore, folder: Path) -> None:
    store.groups.commit("billing", {ORDERS[0]: 5, ORDERS[1]: 5})
    reader = open_store("r")
    reader.groups.commit("billing", {ORDERS[0]: 6})
    reader.groups.commit("billing", {ORDERS[2]: 7})
    for one in (store, reader, open_store("r")):
        assert at(one) == {ORDERS[0]: 6, ORDERS[1]: 5, ORDERS[2]: 7}
        assert one.groups.list() == ["billing"]
    store.groups.commit("billing", {ORDERS[0]: 2})
    assert at(reader) == at(store) == {ORDERS[0]: 2, ORDERS[1]: 5, ORDERS[2]: 7}
    reader.groups.commit("billing", {ORDERS[1]: 9})
    store.close()
    assert not list(folder.glob(group_files.PREFIX + "*")), "the log has it all"
    assert at(open_store()) == {ORDERS[0]: 2, ORDERS[1]: 9, ORDERS[2]: 7}


def test_a_reader_commits_before_anybody_else(store: ec.Store, open_store: OpenStore) -> None:
    reader = open_store("r")
    reader.groups.commit("billing", {ORDERS[0]: 6})
    assert (at(reader), at(store), store.groups.list()) == ({ORDERS[0]: 6}, {ORDERS[0]: 6}, ["billing"])
    assert store.housekeep().errors == {}
    assert at(reader) == {ORDERS[0]: 6}
    assert sum(map(len, store.topic(group_log.TOPIC))) == 1
    reader.groups.commit("shipping", {ORDERS[0]: 6})
    store.groups.delete("shipping")
    assert at(reader, "shipping") == {}


def test_the_log_is_newer_than_what_was_taken_over(store: ec.Store, open_store: OpenStore, folder: Path) -> None:
    """A crash between taking over and forgetting what was taken over."""
    store.groups.commit("billing", {ORDERS[0]: 1})
    open_store("r").groups.commit("billing", {ORDERS[0]: 6})
    (path,) = folder.glob(group_files.PREFIX + "*")
    before = path.read_bytes()
    store.groups.settle()
    assert not path.exists()
    store.groups.commit("billing", {ORDERS[0]: 3})
    path.write_bytes(before)
    later = open_store("r")
    assert at(later) == {ORDERS[0]: 3}
    store.close()
    assert at(open_store()) == {ORDERS[0]: 3}


def test_a_damaged_file_of_a_group_is_a_typed_error(store: ec.Store, open_store: OpenStore, folder: Path) -> None:
    open_store("r").groups.commit("billing", {ORDERS[0]: 6})
    (path,) = folder.glob(group_files.PREFIX + "*")
    path.write_bytes(path.read_bytes().replace(b"orders", b"0rders"))
    reader = open_store("r")
    with pytest.raises(ec.CorruptFile) as caught:
        reader.groups.offsets("billing")
    assert caught.value.path == str(path)
    store.topic("orders").append(b"goes on", partition=0)
    store.close()
    path.unlink()
    assert at(open_store()) == {}


# -- transactions ----------------------------------------------------------------------------------------------


def test_offsets_of_a_transaction_count_when_it_commits(store: ec.Store, open_store: OpenStore) -> None:
    store.groups.commit("billing", {ORDERS[0]: 1, ORDERS[1]: 1})
    with store.transaction("t") as tx:
        tx.append("orders", b"out", partition=2)
        tx.commit_offsets("billing", {ORDERS[0]: 4})
        tx.commit_offsets("billing", {ORDERS[0]: 5})
        tx.flush()
        assert at(store)[ORDERS[0]] == 1
        assert store.groups.pending("billing") == {ORDERS[0]}
        reader = open_store("r")
        assert (at(reader)[ORDERS[0]], reader.groups.pending("billing")) == (1, {ORDERS[0]})
    assert at(store) == at(reader) == {ORDERS[0]: 5, ORDERS[1]: 1}
    tx = store.transaction("t")
    tx.commit_offsets("billing", {ORDERS[0]: 9})
    tx.flush()
    tx.abort()
    assert at(store) == at(reader) == {ORDERS[0]: 5, ORDERS[1]: 1}
    assert store.groups.pending("billing") == reader.groups.pending("billing") == set()


def test_a_later_commit_outlives_an_older_transaction(store: ec.Store) -> None:
    with store.transaction("t") as tx:
        tx.commit_offsets("billing", {ORDERS[0]: 4})
        tx.flush()
        store.groups.commit("billing", {ORDERS[0]: 6})
        assert at(store) == {ORDERS[0]: 6}
    assert at(store) == {ORDERS[0]: 6}


def test_an_offset_that_cannot_be_aborts_the_transaction(store: ec.Store) -> None:
    tx = store.transaction("t")
    tx.append("orders", b"out", partition=2)
    tx.commit_offsets("billing", {ORDERS[0]: 400})
    with pytest.raises(ec.OffsetOutOfRange):
        tx.commit()
    tx.abort()
    assert at(store) == {}
    assert b"out" not in [one.value for one in store.topic("orders")[2].read(isolation="read_committed")]
    with store.transaction("t") as tx:
        with pytest.raises(ec.UsageError):
            tx.commit_offsets("billing")
        tx.commit_offsets("billing", {ORDERS[0]: 20})
    assert at(store) == {ORDERS[0]: 20}


def test_what_is_compacted_still_counts(store: ec.Store, open_store: OpenStore, clock: FakeClock) -> None:
    rng, expected = seeded(5), dict.fromkeys(ORDERS, 0)
    for _ in range(60):
        key, offset, commits = rng.choice(ORDERS), rng.randrange(20), rng.random() < 0.7
        if rng.random() < 0.5:
            store.groups.commit("billing", {key: offset})
            expected[key] = offset
        else:
            tx = store.transaction("t")
            tx.commit_offsets("billing", {key: offset})
            tx.flush()
            tx.commit() if commits else tx.abort()
            expected[key] = offset if commits else expected[key]
    partition = store.topic(group_log.TOPIC)[int(store.groups.place_of("billing")[1])]
    partition.roll()
    for _ in range(3):
        clock.now += 2 * 86_400_000
        partition.compact()
    store.close()
    assert {**dict.fromkeys(ORDERS, 0), **at(open_store())} == expected


def test_closing_beside_threads_that_commit(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who commits may need the store's lock inside of the groups', or of the coordinator's."""
    real = ec.Store.internal_topic

    def slow(self: ec.Store, *arguments: Any) -> ec.Topic:
        time.sleep(0.02)
        return real(self, *arguments)

    monkeypatch.setattr(ec.Store, "internal_topic", slow)
    for number in range(5):
        store = ec.open(memory_path / str(number), fsync="never", config={"store.housekeeping.enable": False})
        store.create_topic("orders", 3).extend([b"v"] * 10, partition=0)
        started = threading.Barrier(3)

        def commit(store: ec.Store = store, started: threading.Barrier = started) -> None:
            started.wait()
            with suppress(ec.EventCoreError):
                for group in range(10_000):
                    store.groups.commit(f"g{group}", {ORDERS[0]: 5})

        def transact(store: ec.Store = store, started: threading.Barrier = started) -> None:
            started.wait()
            with suppress(ec.EventCoreError):
                for group in range(10_000):
                    with store.transaction(f"t{group}") as tx:
                        tx.commit_offsets(f"g{group}", {ORDERS[0]: 5})

        threads = [threading.Thread(target=work) for work in (commit, transact)]
        for thread in threads:
            thread.start()
        started.wait()
        time.sleep(0.01 * number)
        store.close()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()


# -- crashes ---------------------------------------------------------------------------------------------------


@pytest.mark.sampled
def test_no_group_is_beyond_what_a_crash_has_left(
    store: ec.Store, open_store: OpenStore, folder: Path, tmp_path: Path
) -> None:
    """The offset was durable, the records were not: those that get their offsets later must be read."""
    store.groups.commit("billing", {ORDERS[0]: 20})
    reader = open_store("r")
    reader.groups.commit("shipping", {ORDERS[0]: 20})
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    store.close()
    shutil.rmtree(folder)
    copy.rename(folder)
    log = folder / "orders-0" / "00000000000000000000.log"
    with log.open("r+b") as file:
        file.truncate(0)
    after = open_store("r")
    with after.consumer("billing", ["orders"]) as consumer:
        assert consumer.positions[ORDERS[0]] == 0
    again = open_store()
    assert at(again)[ORDERS[0]] == at(again, "shipping")[ORDERS[0]] == 0
    again.topic("orders").append(b"new", partition=0)
    with again.consumer("billing", ["orders"]) as consumer:
        assert b"new" in [record.value for record in consumer.poll()]

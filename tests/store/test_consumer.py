"""Consumers: each partition has one owner at a time, whoever comes, goes or dies; what was committed does not come
again, what was not does."""

from __future__ import annotations

import pickle
import random
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from tests.store.conftest import NOW, FakeClock, OpenStore

Key = tuple[str, int]
ORDERS = [("orders", number) for number in range(3)]


@pytest.fixture
def store(open_store: OpenStore) -> ec.Store:
    store = open_store()
    topic = store.create_topic("orders", 3)
    for number in range(3):
        fill(topic, number, 20)
    return store


def fill(topic: ec.Topic, number: int, count: int) -> None:
    """Values say where they are, times are those of the offsets."""
    partition = topic[number]
    for _ in range(count):
        at = partition.log_end_offset
        partition.append(b"%d:%d" % (number, at), timestamp=NOW + at)


def values(records: list[ec.ConsumerRecord]) -> list[bytes | None]:
    return [record.value for record in records]


def test_all_of_its_topics_in_order(store: ec.Store) -> None:
    store.create_topic("other", 1).extend([b"x", b"y"])
    with store.consumer("billing", ["orders", "other"]) as consumer:
        found: list[ec.ConsumerRecord] = []
        while records := consumer.poll(max_records=7):
            assert len(records) <= 7
            found += records
        assert {(one.topic, one.partition): one.offset for one in found} == {
            **dict.fromkeys(ORDERS, 19),
            ("other", 0): 1,
        }
        for number in range(3):
            assert values([one for one in found if one.partition == number and one.topic == "orders"]) == [
                b"%d:%d" % (number, at) for at in range(20)
            ]
        assert consumer.lag() == dict.fromkeys(consumer.assignment, 0)
        assert consumer.committed() == {}
        consumer.commit()
        assert consumer.committed() == consumer.positions == {**dict.fromkeys(ORDERS, 20), ("other", 0): 2}
    with store.consumer("billing", ["orders"]) as consumer:
        assert consumer.poll() == []


def test_a_record_knows_where_it_is_from(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"]) as consumer:
        record = consumer.poll(max_records=1)[0]
        assert (record.topic, record.partition) == ORDERS[0]
        assert record == ec.Record(0, NOW, None, b"0:0", ()) == next(store.topic("orders")[0].read(0))
        again = pickle.loads(pickle.dumps(record))
        assert (again, again.topic, again.partition, type(again)) == (record, "orders", 0, type(record))
        assert "orders-0" in repr(record)
        assert isinstance(record, ec.ConsumerRecord)
        with pytest.raises(AttributeError):
            record.other = 1  # type: ignore[attr-defined]


def test_a_slow_partition_gets_its_turn(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"]) as consumer:
        assert {consumer.poll(max_records=5)[0].partition for _ in range(3)} == {0, 1, 2}


def test_what_was_not_committed_comes_again(store: ec.Store, open_store: OpenStore) -> None:
    with store.consumer("billing", ["orders"]) as consumer:
        first = consumer.poll(max_records=10)
        consumer.commit()
        second = consumer.poll(max_records=10)
    with open_store("r").consumer("billing", ["orders"]) as consumer:
        found = consumer.poll(max_records=100)
        assert set(second) < set(found)
        assert not {(one.partition, one.offset) for one in first} & {(one.partition, one.offset) for one in found}


def test_where_a_new_group_begins(store: ec.Store) -> None:
    with store.consumer("a", ["orders"], start="latest") as consumer:
        assert consumer.poll() == []
        store.topic("orders").append(b"new", partition=1)
        assert values(consumer.poll()) == [b"new"]
    with pytest.raises(ec.OffsetOutOfRange):
        store.consumer("b", ["orders"], start="none")
    assert "b" not in store.groups.list()
    store.groups.commit("b", dict.fromkeys(ORDERS, 18))
    with store.consumer("b", ["orders"], start="none") as consumer:
        assert len(consumer.poll()) == 7


@pytest.mark.parametrize(
    ("topics", "options"),
    [
        ([], {}),
        ("orders", {}),
        (["nowhere"], {}),
        (["orders"], {"start": "middle"}),
        (["orders"], {"isolation": "none"}),
        (["orders"], {"session_timeout_ms": 0}),
    ],
)
def test_what_cannot_be(store: ec.Store, topics: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ec.UsageError):
        store.consumer("billing", topics, **options)
    assert store.groups.list() == []
    with store.consumer("billing", ["orders"]) as consumer, pytest.raises(ec.UsageError):
        consumer.poll(max_records=0)
    for call in (consumer.poll, consumer.commit, lambda: consumer.seek("earliest")):
        with pytest.raises(ec.ClosedError):
            call()  # type: ignore[operator]
    consumer.close()


def test_seek(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"]) as consumer:
        consumer.poll(max_records=100)
        consumer.commit()
        consumer.seek(5, "orders", 1)
        assert consumer.positions == {ORDERS[0]: 20, ORDERS[1]: 5, ORDERS[2]: 20}
        consumer.seek("earliest", "orders")
        assert set(consumer.positions.values()) == {0}
        consumer.seek(datetime.fromtimestamp((NOW + 7) / 1000, timezone.utc))
        assert set(consumer.positions.values()) == {7}
        consumer.seek("latest")
        assert set(consumer.positions.values()) == {20}
        consumer.seek(0, "orders", 2)
        consumer.seek("committed")
        assert set(consumer.positions.values()) == {20}
        assert consumer.lag() == dict.fromkeys(ORDERS, 0)
        for arguments, error in (
            ((5,), ec.UsageError),
            ((5, "orders", 9), ec.UsageError),
            (("earliest", "nowhere"), ec.UsageError),
            (("middle",), ec.UsageError),
            ((21, "orders", 0), ec.OffsetOutOfRange),
        ):
            with pytest.raises(error):
                consumer.seek(*arguments)


def test_who_reads_committed_records_sees_no_others(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"], isolation="read_committed", start="latest") as consumer:
        tx = store.transaction("t")
        tx.append("orders", b"aborted", partition=0)
        tx.flush()
        assert consumer.poll() == []
        tx.abort()
        with store.transaction("t") as tx:
            tx.append("orders", b"committed", partition=0)
        assert values(consumer.poll()) == [b"committed"]
        assert consumer.poll() == []
        assert consumer.lag() == dict.fromkeys(ORDERS, 0), "markers are passed over"


def test_what_retention_took_is_passed_over(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"]) as consumer, store.consumer("b", ["orders"]) as other:
        consumer.commit()
        store.topic("orders")[0].delete_records(8)
        assert min(one.offset for one in consumer.poll(max_records=100) if one.partition == 0) == 8
        other.seek("latest")
    with store.consumer("billing", ["orders"]) as consumer:
        assert consumer.positions[ORDERS[0]] == 8
    store.groups.reset("billing", "earliest")
    store.topic("orders")[0].delete_records(9)
    with pytest.raises(ec.OffsetOutOfRange):
        store.consumer("billing", ["orders"], start="none")


def test_nothing_is_lost_for_an_error_elsewhere(open_store: OpenStore, folder: Path) -> None:
    """What was read before it is handed out; then it is told, and again as long as it is there."""
    with open_store() as store:
        topic = store.create_topic("orders", 3)
        for number in range(3):
            fill(topic, number, 20)
    log = folder / "orders-1" / f"{0:020}.log"
    data = bytearray(log.read_bytes())
    at = data.index(b"1:7")
    data[at] ^= 1
    log.write_bytes(data)
    store = open_store()
    with store.consumer("billing", ["orders"]) as consumer:
        seen: set[tuple[int, int]] = set()
        errors = 0
        for _ in range(40):
            try:
                seen |= {(one.partition, one.offset) for one in consumer.poll(max_records=6)}
                consumer.commit()
            except ec.CorruptRecord:
                errors += 1
        assert errors > 1
        assert seen >= {(number, at) for number in (0, 2) for at in range(20)} | {(1, at) for at in range(7)}
        assert (1, 7) not in seen
        assert consumer.committed()[ORDERS[1]] == 7
        consumer.seek(8, "orders", 1)
        assert [one.offset for one in consumer.poll(max_records=100)] == list(range(8, 20))


def test_a_truncation_is_told_once(store: ec.Store) -> None:
    with store.consumer("billing", ["orders"]) as consumer:
        consumer.poll(max_records=60)
        partition = store.topic("orders")[0]
        partition.truncate(20)
        assert consumer.poll() == [], "nothing of what was handed out was replaced"
        partition.truncate(12)
        fill(store.topic("orders"), 0, 30)
        with pytest.raises(ec.LogTruncated):
            consumer.poll()
        assert [one.offset for one in consumer.poll(max_records=100)] == list(range(12, 42))
        partition.truncate(30)
        with pytest.raises(ec.LogTruncated):
            consumer.poll()
        assert consumer.positions[ORDERS[0]] == 30


# -- waiting ---------------------------------------------------------------------------------------------------


def test_poll_waits_for_any_partition(store: ec.Store, open_store: OpenStore) -> None:
    """If what comes did not wake it, this test would not end."""
    for one in (store, open_store("r")):
        with one.consumer(one.mode, ["orders"], start="latest") as consumer:
            assert consumer.poll(0.05) == []
            timer = threading.Timer(0.1, fill, (store.topic("orders"), 2, 1))
            timer.start()
            assert len(consumer.poll(1e6)) == 1
            timer.join()


@pytest.mark.nightly
def test_poll_waits_as_long_as_it_is_told(store: ec.Store, open_store: OpenStore) -> None:
    for one in (store, open_store("r")):
        with one.consumer(one.mode, ["orders"], start="latest") as consumer:
            began = time.monotonic()
            assert consumer.poll(0.05) == []
            assert 0.05 <= time.monotonic() - began < 5


# -- sharing ---------------------------------------------------------------------------------------------------


def test_a_second_one_takes_its_share(store: ec.Store, open_store: OpenStore) -> None:
    reader = open_store("r")
    first, second = store.consumer("billing", ["orders"]), reader.consumer("billing", ["orders"])
    assert (len(first.assignment), second.assignment) == (3, [])
    assert second.poll() == [], "their owner has them until he polls again"
    second.commit()
    with store.transaction("t") as tx:
        tx.commit_offsets(second)
    assert store.groups.offsets("billing") == {}
    first.poll(max_records=60)
    first.commit()
    first.poll()
    second.poll()
    assert len(first.assignment) + len(second.assignment) == 3
    assert len(second.assignment) == 1
    assert second.positions == dict.fromkeys(second.assignment, 20), "it begins at what is committed"
    first.close()
    second.poll()
    assert second.assignment == ORDERS
    second.close()
    assert store.groups.describe("billing").members == {}


def test_one_that_is_silent_is_replaced_and_fenced(store: ec.Store, open_store: OpenStore, clock: FakeClock) -> None:
    reader = open_store("r")
    first = reader.consumer("billing", ["orders"], session_timeout_ms=1000)
    first.poll(max_records=60)
    second = store.consumer("billing", ["orders"], session_timeout_ms=1000)
    clock.now += 900
    assert second.poll() == []
    clock.now += 200
    assert len(second.poll(max_records=60)) == 60
    assert second.assignment == ORDERS
    old = first.member_id
    with pytest.raises(ec.UnknownMember):
        first.commit()
    tx = store.transaction("t")
    tx.commit_offsets(first)
    with pytest.raises(ec.UnknownMember):
        tx.commit()
    tx.abort()
    assert store.groups.offsets("billing") == {}
    second.commit()
    assert first.poll() == []
    assert first.member_id != old, "it is back, as another one"
    second.poll()
    first.poll()
    assert first.positions == dict.fromkeys(first.assignment, 20) != {}
    taken = next(key for key in ORDERS if key not in first.assignment)
    with pytest.raises(ec.IllegalGeneration):
        first.commit({taken: 3})
    assert first.committed() == first.positions
    first.close()
    second.close()


def test_one_that_nobody_missed_stays(store: ec.Store, clock: FakeClock) -> None:
    with store.consumer("billing", ["orders"], session_timeout_ms=1000) as consumer:
        consumer.poll(max_records=60)
        clock.now += 5000
        consumer.commit()
        assert consumer.poll() == []
        clock.now -= 60_000  # the machine's clock is set back
        assert consumer.poll() == []
        consumer.commit()
        assert store.groups.describe("billing").members.keys() == {consumer.member_id}


def test_a_partition_with_offsets_of_an_open_transaction_is_waited_for(store: ec.Store, clock: FakeClock) -> None:
    """Who began at what is committed now would do again what the transaction has done (KIP-447)."""
    first = store.consumer("billing", ["orders"], session_timeout_ms=1000)
    first.poll(max_records=60)
    tx = store.transaction("t")
    tx.commit_offsets(first)
    tx.flush()
    clock.now += 2000
    with store.consumer("billing", ["orders"], session_timeout_ms=1000) as second:
        assert second.poll() == []
        assert (second.assignment, second.positions) == (ORDERS, {})
        tx.commit()
        assert second.poll() == []
        assert second.positions == dict.fromkeys(ORDERS, 20)
    tx = store.transaction("t")
    tx.commit_offsets("billing", {ORDERS[0]: 3})
    tx.flush()
    with store.consumer("billing", ["orders"], session_timeout_ms=1000) as third:
        tx.abort()
        third.poll()
        assert third.positions == dict.fromkeys(ORDERS, 20)


def test_a_consumer_of_another_store(store: ec.Store, tmp_path: Path, clock: FakeClock) -> None:
    """A service reads what others write; where it is stands in its own store, and moves with what it writes."""
    settings = {"store.housekeeping.enable": False}
    with ec.open(tmp_path / "own", fsync="never", config=settings, clock=clock) as own:
        own.create_topic("invoices", 1)
        with own.consumer("billing", ["orders"], source=store) as consumer:
            assert consumer.source is store
            with own.transaction("billing") as tx:
                for record in consumer.poll(max_records=7):
                    tx.append("invoices", record.value)
                tx.commit_offsets(consumer)
            consumer.poll(max_records=5)
            consumer.commit()
            with pytest.raises(ec.UnknownTopic):
                own.groups.commit("shipping", {ORDERS[0]: 1})
            with pytest.raises(ec.OffsetOutOfRange):
                consumer.commit({ORDERS[0]: 21})
        assert store.groups.list() == []
        own.create_topic("both", 1)
        store.create_topic("both", 1)
        with pytest.raises(ec.UsageError):
            own.consumer("billing", ["both"], source=store)
        found = own.groups.describe("billing").partitions
        assert sum(one.committed.offset for one in found if one.committed) == 12
        assert {(one.end_offset, one.lag) for one in found} == {(None, None)}
        with own.consumer("billing", ["orders"], source=store) as consumer:
            assert sum(consumer.positions.values()) == 12
        own.groups.settle(was_clean=False)
        assert sum(one.offset for one in own.groups.offsets("billing").values()) == 12


def test_a_topic_that_is_deleted(store: ec.Store) -> None:
    store.create_topic("other", 2).extend([b"x"] * 10)
    with store.consumer("billing", ["orders", "other"]) as consumer:
        store.delete_topic("other")
        with pytest.raises((ec.UnknownTopic, ec.ClosedError)):
            _ = [consumer.poll(max_records=100) for _ in range(2)]
    with store.consumer("billing", ["orders"]) as consumer:
        assert len(consumer.poll(max_records=100)) == 60


@pytest.mark.sampled
def test_threads_share_the_work(store: ec.Store, clock: FakeClock) -> None:
    """Everybody commits before he polls: each record comes once, while others come and go."""
    seen: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def work(rounds: int) -> None:
        try:
            with store.consumer("billing", ["orders"]) as consumer:
                for _ in range(rounds):
                    seen.extend((one.partition, one.offset) for one in consumer.poll(0.01, max_records=3))
                    consumer.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rounds,)) for rounds in (5, 10, 15, 20)]
    for thread in threads:
        thread.start()
    for number in range(3):
        fill(store.topic("orders"), number, 10)
    for thread in threads:
        thread.join()
    work(60)
    assert errors == []
    assert sorted(seen) == [(number, at) for number in range(3) for at in range(30)]


@pytest.mark.parametrize("seed", range(6))
def test_any_coming_and_going(open_store: OpenStore, clock: FakeClock, seed: int) -> None:
    """Members join, leave, die, poll and commit at random, in the writer and in a reader: no partition has two living
    owners, what was committed is never less, and every record is seen."""
    rng, store = random.Random(seed), open_store()
    topics = {"orders": store.create_topic("orders", 3), "other": store.create_topic("other", 2)}
    stores = [store, open_store("r")]
    wanted = {(name, number) for name, topic in topics.items() for number in range(len(topic))}
    living: list[ec.Consumer] = []
    seen: set[tuple[str, int, int]] = set()
    committed: dict[Key, int] = {}
    for _ in range(250):
        what = rng.random()
        if (what < 0.08 and len(living) < 5) or not living:
            living.append(rng.choice(stores).consumer("g", ["orders", "other"], session_timeout_ms=1000))
        elif what < 0.12:
            living.pop(rng.randrange(len(living))).close()
        elif what < 0.15:
            living.pop(rng.randrange(len(living)))  # dead: it does not come back
        elif what < 0.3:
            name = rng.choice(list(topics))
            fill(topics[name], rng.randrange(len(topics[name])), rng.randrange(4))
        elif what < 0.4:
            clock.now += rng.choice([100, 400])
            for one in living:
                seen |= {(r.topic, r.partition, r.offset) for r in one.poll(max_records=1)}
        else:
            one = rng.choice(living)
            seen |= {(r.topic, r.partition, r.offset) for r in one.poll(max_records=rng.randrange(1, 6))}
            if rng.random() < 0.7:
                one.commit()
        owned = [key for one in living for key in one.positions]
        assert len(owned) == len(set(owned))
        now = {key: found.offset for key, found in store.groups.offsets("g").items()}
        assert all(now[key] >= offset for key, offset in committed.items())
        committed = now
    for one in living:
        one.close()
    with stores[1].consumer("g", ["orders", "other"]) as last:
        clock.now += 2000
        while records := last.poll():
            seen |= {(r.topic, r.partition, r.offset) for r in records}
        assert set(last.assignment) == wanted
    ends = {(name, number): topics[name][number].log_end_offset for name, number in wanted}
    assert seen == {(*key, at) for key, end in ends.items() for at in range(end)}

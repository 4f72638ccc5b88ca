"""store.producer: whoever comes again under the same name goes on where he was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from eventcore import _kernels as kernels

DAY_MS = 86_400_000


class Clock:
    """Told what time it is."""

    now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ec.Store]:
    with ec.open(tmp_path, fsync="never") as store:
        store.create_topic("orders", 3)
        yield store


def test_a_repeat_gets_its_first_offset(store: ec.Store) -> None:
    producer = store.producer("importer-1")
    number, offset = producer.append("orders", b"v", key=b"k", sequence=0)
    assert producer.append("orders", b"v", key=b"k", sequence=0) == (number, offset)
    assert producer.append("orders", b"w", key=b"k", sequence=1) == (number, offset + 1)
    with pytest.raises(ec.OutOfOrderSequence, match="where 2 is next"):
        producer.append("orders", b"x", key=b"k", sequence=3)
    assert producer.next_sequence("orders", number) == 2
    assert len(store.topic("orders")[number]) == 2


def test_every_partition_counts_by_itself(store: ec.Store) -> None:
    producer, topic = store.producer("importer-1"), store.topic("orders")
    for partition in range(3):
        for sequence in range(partition + 1):
            producer.append(topic, b"v", partition=partition, sequence=sequence)
    assert [producer.next_sequence(topic, partition) for partition in range(3)] == [1, 2, 3]


def test_names_do_not_know_of_each_other(store: ec.Store) -> None:
    one, other = store.producer("one"), store.producer("other")
    assert one.producer_id != other.producer_id == store.producer("other").producer_id
    assert one.append("orders", b"a", partition=0) == (0, 0)
    assert other.append("orders", b"b", partition=0, sequence=0) == (0, 1)


def test_it_goes_on_after_any_time(tmp_path: Path) -> None:
    clock = Clock()
    for round_ in range(4):
        with ec.open(tmp_path, fsync="never", clock=clock) as store:
            store.create_topic("orders", 1, exist_ok=True)
            producer = store.producer("importer-1")
            assert producer.next_sequence("orders", 0) == 10 * round_
            for start in (10 * round_ - 10, 10 * round_):
                if start >= 0:
                    info = producer.extend("orders", [b"v"] * 10, partition=0, sequence=start)
                    assert info.duplicate == (start < 10 * round_)
            store.topic("orders")[0].roll()
            store.housekeep()
        clock.now += 400 * DAY_MS


def test_others_are_forgotten_after_a_day(tmp_path: Path) -> None:
    clock = Clock()
    with ec.open(tmp_path, fsync="never", clock=clock) as store:
        partition = store.create_topic("orders", 1)[0]
        store.producer("importer-1").append("orders", b"v")
        partition.append_sequenced([b"v"], 5)
        clock.now += DAY_MS - 1
        partition.append_sequenced([b"v"], 6)
        store.housekeep()
        assert len(partition.producers()) == 3
        clock.now += 1
        store.housekeep()
        known = [one.producer_id for one in partition.producers()]
        assert known == [ec.producer_id_of("importer-1"), 6]
    clock.now += DAY_MS
    with ec.open(tmp_path, fsync="never", clock=clock) as store:
        assert len(store.topic("orders")[0].producers()) == 1, "an opening forgets them, too"


def test_old_records_are_no_old_producers(tmp_path: Path) -> None:
    """Kafka goes by the time of the last record, and would take the second batch for the first of somebody new."""
    with ec.open(tmp_path, fsync="never") as store:
        partition = store.create_topic("orders", 1, {"message.timestamp.before.max.ms": (1 << 63) - 1})[0]
        for sequence in range(3):
            partition.append_sequenced([ec.Record(-1, 5, None, b"v")], 5, 0, sequence)
            partition.roll()
            store.housekeep()
    with ec.open(tmp_path, fsync="never") as store:
        partition = store.topic("orders")[0]
        assert partition.append_sequenced([ec.Record(-1, 5, None, b"v")], 5, 0, 1).duplicate
        assert partition.append_sequenced([b"w"], 5, 0, 3).first_offset == 3


def test_the_id_tells_that_there_is_a_name() -> None:
    assert kernels.producers.FIRST_NAMED <= ec.producer_id_of("x") < 1 << 63
    assert ec.producer_id_of("importer-1") == 8_045_074_754_873_488_392, "what is on a disk knows it by this"


@pytest.mark.parametrize("name", ["", "x" * 1025, "é" * 513])
def test_names_that_are_none(store: ec.Store, name: str) -> None:
    with pytest.raises(ec.UsageError, match="1 to 1024 bytes"):
        store.producer(name)


def test_what_cannot_be_appended(store: ec.Store) -> None:
    producer = store.producer("importer-1")
    with pytest.raises(ec.UsageError, match="sequences count in each"):
        producer.append("orders", b"v", sequence=0)
    with pytest.raises(ec.UnknownTopic):
        producer.append("invoices", b"v", partition=0)
    with pytest.raises(ec.UnknownTopic):
        producer.append("orders", b"v", partition=3)
    with pytest.raises(ec.RecordTooLarge):
        producer.extend("orders", [b"v" * 600_000] * 2, partition=0)
    assert [len(partition) for partition in store.topic("orders")] == [0, 0, 0]


def test_who_may_not(tmp_path: Path) -> None:
    with ec.open(tmp_path) as store:
        store.create_topic("orders", 1)
        producer = store.producer("importer-1")
    with pytest.raises(ec.ClosedError):
        producer.append("orders", b"v")
    with ec.open(tmp_path, "r") as reader, pytest.raises(ec.ReadOnly):
        reader.producer("importer-1")

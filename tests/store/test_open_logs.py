"""Few partitions are open at a time, whatever is done with many; and nobody notices."""

from __future__ import annotations

import os
import random
import resource
import sys
import threading
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.store import limits

from .conftest import OpenStore

NATIVE = ec.build_info()["kernels"] == "native"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.sampled
@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.skipif(not NATIVE, reason="Python's own maps keep descriptors until garbage is collected")
def test_many_partitions_with_few_descriptors(open_store: OpenStore) -> None:
    store = open_store(store_open_partitions=4)
    topic = store.create_topic("t", 40)
    before = descriptors()
    for round_ in range(3):
        for partition in topic:
            assert partition.append(b"%d" % round_) == round_
            assert store.metrics()["open_partitions"] <= 4
            assert descriptors() - before <= 4 * 7
    assert [[record.value for record in partition] for partition in topic] == [[b"0", b"1", b"2"]] * 40


def test_handles_stay_good_and_readers_go_on(open_store: OpenStore) -> None:
    store = open_store(store_open_partitions=1)
    one, other = store.create_topic("t", 2)
    one.extend([b"%d" % at for at in range(10)])
    records = one.read()
    assert next(records).offset == 0
    columns = one.columns()
    tail = one.tail(0, timeout=0.01)
    assert next(tail).value == b"0"
    other.append(b"other")
    assert one.current is None
    assert [record.offset for record in records] == list(range(1, 10))
    assert len(columns) == 10
    assert [record.value for record in tail] == [b"%d" % at for at in range(1, 10)]
    one.append(b"10")
    tail = one.tail(tail.position, timeout=60)
    assert next(tail).value == b"10"
    assert one.append(b"11", expected_offset=11) == 11


def test_single_records_of_logs_that_come_and_go(open_store: OpenStore) -> None:
    store = open_store(store_open_partitions=1)
    pair = store.create_topic("t", 2)
    for number, partition in enumerate(pair):
        partition.extend([b"%d %d" % (number, at) for at in range(100)])
    for at in (0, 99, 7, -1, 7):
        for number, partition in enumerate(pair):
            for _ in range(2):
                assert partition[at].value == b"%d %d" % (number, at % 100)
    known = pair[1]._point
    pair[0].append(b"x")
    assert pair[1].current is None
    assert known(7) is None, "a table that was closed gives out nothing"
    store.close()
    with pytest.raises(ec.ClosedError):
        pair[0][0]


def test_who_waits_for_news_is_told_and_keeps_it_open(open_store: OpenStore) -> None:
    store = open_store(store_open_partitions=1)
    one, other = store.create_topic("t", 2)
    told: list[int] = []
    unsubscribe = one.subscribe(lambda: told.append(one.high_watermark))
    other.append(b"x")
    assert one.current is not None
    one.append(b"1")
    store.configure_topic("t", {"retention.ms": 5})
    one.append(b"2")
    assert 1 in told
    assert told[-1] == 2
    unsubscribe()
    other.append(b"y")
    assert one.current is None


@pytest.mark.sampled
def test_many_threads_share_few_open_partitions(open_store: OpenStore) -> None:
    store = open_store(store_open_partitions=2)
    topic = store.create_topic("t", 6)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for at in range(60):
                partition = topic[rng.randrange(6)]
                if rng.random() < 0.5:
                    partition.append(b"%d %d" % (seed, at))
                elif rng.random() < 0.5:
                    partition.extend([b"%d %d" % (seed, at)])
                else:
                    assert all(record.value for record in partition)
                    topic.append(b"%d %d" % (seed, at), partition=rng.randrange(6))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    values = sorted(bytes(record.value or b"") for partition in topic for record in partition)
    wanted = sorted(b"%d %d" % (seed, at) for seed in range(4) for at in range(60))
    assert values == wanted


@pytest.mark.sampled
def test_transactions_in_logs_that_come_and_go(open_store: OpenStore) -> None:
    """An appender that still may append is that of a log which is not closed before."""
    store = open_store(store_open_partitions=2)
    topic = store.create_topic("t", 6)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for at in range(8):
                with store.transaction(f"w{seed}") as tx:
                    for number in rng.sample(range(6), 2):
                        tx.append(topic, b"%d %d" % (seed, at), partition=number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    values = [bytes(record.value or b"") for one in topic for record in one.read(isolation="read_committed")]
    assert sorted(values) == sorted(2 * [b"%d %d" % (seed, at) for seed in range(3) for at in range(8)])


def test_a_fenced_partition_stays_fenced(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    store = open_store(fsync="always", store_open_partitions=1)
    one, other = store.create_topic("t", 2)
    one.append(b"1")

    def fail(*arguments: object) -> None:
        raise ec.StorageError("cannot sync")

    with monkeypatch.context() as patch:
        patch.setattr(store.disk, "sync", fail)
        with pytest.raises(ec.StorageFenced):
            one.append(b"2")
    other.append(b"x")
    with pytest.raises(ec.StorageFenced):
        one.append(b"3")
    with pytest.raises(ec.StorageFenced):
        store.close()
    assert not (folder / ".kafka_cleanshutdown").exists()
    store = open_store()
    assert not store.was_clean
    assert [record.value for record in store.topic("t")[0]][:1] == [b"1"]


def test_maps_of_closed_logs_are_given_back(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hang in cycles, and the collector knows nothing of what they cost."""
    monkeypatch.setattr("eventcore.store.store.process_limits", lambda: limits.Limits(2, 40))
    collected: list[int] = []
    monkeypatch.setattr("eventcore.store.open_logs.gc.collect", lambda: collected.append(1))
    store = open_store()
    for partition in store.create_topic("t", 30):
        partition.append(b"x")
    assert 2 <= len(collected) <= 6


def test_limits_are_half_of_what_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 128 if NATIVE else 81
    for soft, wanted in ((20, 4), (1024, 73 if NATIVE else 46), (4096, most), (resource.RLIM_INFINITY, most)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert limits.process_limits().partitions == wanted

"""Housekeeping: retention and compaction over all partitions, by hand and by the thread; what it says of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import checkpoint
from eventcore.store.throttle import Throttle

from .conftest import DAY, NOW, FakeClock, OpenStore


def fill(partition: ec.Partition, segments: int) -> None:
    for _ in range(segments):
        partition.extend([ec.Record(-1, NOW, b"k%d" % at, b"x" * 50) for at in range(10)])
        partition.roll()


def test_old_segments_of_open_and_closed_partitions_go(open_store: OpenStore, folder: Path, clock: FakeClock) -> None:
    store = open_store(retention_ms=DAY, store_open_partitions=1)
    topic = store.create_topic("t", 3)
    for partition in topic:
        fill(partition, 2)
        partition.append(b"last", timestamp=NOW + DAY)
    assert store.housekeep().deleted_segments == 0
    clock.now += DAY + 1
    report = store.housekeep()
    assert (report.partitions, report.deleted_segments, report.errors) == (3, 6, {})
    assert [partition.log_start_offset for partition in topic] == [20, 20, 20]
    care = store.metrics()["housekeeping"]["partitions"]["t-2"]
    assert care["deleted_segments"] == 2
    assert care["deleted_bytes"] > 1000
    clock.now += 60_000
    store.housekeep()
    assert not list(folder.rglob("*.deleted"))


def test_what_has_nothing_to_do_is_not_opened(open_store: OpenStore) -> None:
    with open_store() as store:
        for partition in store.create_topic("t", 5, {"cleanup.policy": "compact,delete"}):
            partition.append(b"v", key=b"k")
    store = open_store()
    for _ in range(3):
        store.housekeep()
    assert store.metrics()["open_partitions"] <= 5
    before = store.metrics()
    store.housekeep()
    assert store.metrics()["open_partitions"] == before["open_partitions"]
    with open_store("r") as reader:
        assert reader.metrics()["open_partitions"] == 0


def test_a_quiet_compacted_topic_is_rolled_and_compacted(open_store: OpenStore, folder: Path, clock: FakeClock) -> None:
    store = open_store(store_idle_roll_ms=1000, cleanup_policy="compact")
    topic = store.create_topic("t")
    clock.now = time.time_ns() // 1_000_000
    for round_ in range(3):
        topic[0].extend([(b"key", b"%d" % round_)] * 20)
    store.housekeep()
    assert len(topic[0].segments) == 1, "it was appended to just now"
    clock.now += 60_000
    report = store.housekeep()
    assert (report.compactions, report.errors) == (1, {})
    assert [record.value for record in topic[0]] == [b"2"]
    care = store.metrics()["housekeeping"]["partitions"]["t-0"]
    assert (care["idle_rolls"], care["compactions"]) == (1, 1)
    assert care["saved_bytes"] > 0
    known = checkpoint.read_offsets(Disk(), folder / "cleaner-offset-checkpoint")
    assert known == {("t", 0): 60}
    clock.now += 60_000
    assert store.housekeep().compactions == 0, "it is clean"
    store.close()
    assert checkpoint.read_offsets(Disk(), folder / "cleaner-offset-checkpoint") == known


def test_one_partitions_trouble_is_told_and_keeps_no_other(
    open_store: OpenStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(retention_ms=DAY)
    topic = store.create_topic("t", 2)
    for partition in topic:
        fill(partition, 1)
    clock.now += DAY + 1

    def trouble(*arguments: object) -> None:
        raise ec.StorageError("trouble", path=topic[0].path)

    with monkeypatch.context() as patch:
        patch.setattr(topic[0], "retain", trouble)
        report = store.housekeep()
    assert list(report.errors) == ["t-0"]
    assert report.deleted_segments == 1
    assert "trouble" in store.metrics()["housekeeping"]["partitions"]["t-0"]["last_error"]
    assert store.housekeep().errors == {}
    assert store.metrics()["housekeeping"]["partitions"]["t-0"]["last_error"] == ""


def test_the_thread_does_it(folder: Path) -> None:
    config = {"log.initial.task.delay.ms": 0, "log.retention.check.interval.ms": 20, "retention.ms": 1}
    with ec.open(folder, fsync="never", config=config) as store:
        partition = store.create_topic("t")[0]
        partition.append(b"old")
        partition.roll()
        deadline = time.monotonic() + 60
        while partition.log_start_offset < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert partition.log_start_offset == 1
        assert store.metrics()["housekeeping"]["running"]
    rounds = store._housekeeper.metrics()["rounds"]
    time.sleep(0.1)
    assert store._housekeeper.metrics()["rounds"] == rounds, "it ends with the store"


def test_a_throttle_keeps_its_rate_and_saves_up_a_second() -> None:
    now, slept = [0.0], []

    def wait(seconds: float) -> bool:
        slept.append(seconds)
        now[0] += seconds
        return len(slept) > 6

    throttle = Throttle(100, wait, lambda: ec.ClosedError("ended"), lambda: now[0])
    for _ in range(3):
        throttle(100)
    assert now[0] == 3
    now[0] += 10
    throttle(100)
    assert slept[-1] == 0
    throttle(50)
    throttle(100)
    assert now[0] == 13 + 1.5
    with pytest.raises(ec.ClosedError):
        throttle(1)


@pytest.mark.timeout(120)
def test_an_older_checkpoint_of_the_store_does_not_make_compaction_endless(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        fill(store.create_topic("t", config={"cleanup.policy": "compact"})[0], 3)
    checkpoint.write_offsets(Disk(), folder / "cleaner-offset-checkpoint", {("t", 0): 10})
    partition = open_store().topic("t")[0]
    report = partition.compact()
    assert report is not None
    assert report.first_dirty == 10
    assert len(list(partition)) == 10
    assert checkpoint.read_offsets(Disk(), folder / "cleaner-offset-checkpoint") == {("t", 0): 30}
    assert partition.compact() is None


def test_a_truncation_below_a_brokers_checkpoint_is_noted(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        fill(store.create_topic("t", config={"cleanup.policy": "compact"})[0], 2)
    checkpoint.write_offsets(Disk(), folder / "cleaner-offset-checkpoint", {("t", 0): 20})
    store = open_store()
    partition = store.topic("t")[0]
    partition.truncate(5)
    fill(partition, 2)
    assert partition.cleanable().first_dirty == 0, "of the batch that holds the offset nothing stays"
    store.close()
    assert checkpoint.read_offsets(Disk(), folder / "cleaner-offset-checkpoint") == {("t", 0): 0}

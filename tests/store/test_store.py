"""A store: topics that are made, found again, configured and deleted; and what others see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import checkpoint, meta_properties, topic_file
from eventcore.store import doomed

from .conftest import FakeClock, OpenStore, tree

CHECKPOINTS = ("recovery-point-offset-checkpoint", "replication-offset-checkpoint")


def values(partition: ec.Partition) -> list[bytes | None]:
    return [record.value for record in partition]


def test_a_new_store_is_a_log_directory(open_store: OpenStore, folder: Path) -> None:
    store = open_store()
    assert (store.topics, store.mode, store.problems) == ([], "rw", [])
    store.close()
    assert meta_properties.read(Disk(), folder / "meta.properties").cluster_id == store.cluster_id
    assert json.loads((folder / ".kafka_cleanshutdown").read_text()) == {"version": 0, "brokerEpoch": -1}
    again = open_store()
    assert again.cluster_id == store.cluster_id
    assert not (folder / ".kafka_cleanshutdown").exists(), "an old mark would vouch for what comes now"


def test_topics_are_found_again_with_records_and_configuration(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        orders = store.create_topic("orders", 3, {"retention.ms": "1000", "cleanup.policy": "compact"})
        assert (len(orders), orders.config.retention_ms, orders.config.compacted) == (3, 1000, True)
        orders[2].append(b"v", key=b"k")
        store.create_topic("plain")
        assert store.topics == ["orders", "plain"]
    with open_store() as store:
        orders = store.topic("orders")
        assert store.was_clean
        assert store.own_config("orders") == {"retention.ms": 1000, "cleanup.policy": "compact"}
        assert orders.config.retention_ms == 1000
        assert [values(partition) for partition in orders] == [[], [], [b"v"]]
        assert len(store.topic("plain")) == 1
        assert orders[-1] is orders[2]
        assert [partition.number for partition in orders[1:]] == [1, 2]
    for name in CHECKPOINTS:
        assert checkpoint.read_offsets(Disk(), folder / name)["orders", 2] == 1
    ids = {checkpoint.read_topic_id(Disk(), folder / f"orders-{n}" / "partition.metadata") for n in range(3)}
    assert ids == {orders.topic_id}


def test_the_defaults_of_the_store_are_those_of_its_topics(open_store: OpenStore) -> None:
    store = open_store(segment_bytes=8192)
    topic = store.create_topic("one", config=ec.LogConfig(retention_ms=5))
    assert topic.config.segment_bytes == ec.LogConfig().segment_bytes  # a LogConfig says everything
    topic = store.create_topic("two", config={"retention.ms": 5})
    assert (topic.config.segment_bytes, topic.config.retention_ms) == (8192, 5)
    assert topic[0].config == topic.config


def test_configuration_takes_effect_and_survives(open_store: OpenStore) -> None:
    store = open_store()
    topic = store.create_topic("t", 2)
    topic[0].append(b"1")
    held = topic[0]
    store.configure_topic("t", {"max.message.bytes": 300, "retention.ms": 7})
    with pytest.raises(ec.RecordTooLarge):
        held.append(b"x" * 400)
    store.configure_topic("t", {"max.message.bytes": None})
    assert held.append(b"x" * 400) == 1
    assert store.own_config("t") == {"retention.ms": 7}
    with pytest.raises(ec.InvalidConfig):
        store.configure_topic("t", {"retention.ms": "soon"})
    with pytest.raises(ec.InvalidConfig):
        store.configure_topic("t", {"retention.mss": None})
    store.close()
    assert open_store().topic("t").config.retention_ms == 7


def test_a_deleted_topic_is_gone_at_once_and_its_files_later(
    open_store: OpenStore, folder: Path, clock: FakeClock
) -> None:
    store = open_store()
    topic = store.create_topic("orders", 2, {"file.delete.delay.ms": 1000})
    partition = topic[1]
    partition.extend([b"a", b"b"])
    records = partition.read()
    first = next(records)
    store.delete_topic("orders")
    assert store.topics == []
    assert first.value == b"a"
    with pytest.raises(ec.ClosedError, match="deleted"):
        list(records)
    with pytest.raises(ec.ClosedError, match="deleted"):
        partition.append(b"c")
    with pytest.raises(ec.UnknownTopic):
        topic.append(b"c")
    with pytest.raises(ec.UnknownTopic):
        store.topic("orders")
    waiting = sorted(path.name for path in folder.glob("*-delete"))
    assert [name.split(".")[0] for name in waiting] == ["orders-0", "orders-1"]
    again = store.create_topic("orders", 1)
    assert again.topic_id != topic.topic_id
    assert values(again[0]) == []
    clock.now += 999
    assert store.housekeep().removed_folders == 0
    clock.now += 1
    assert store.housekeep().removed_folders == 2
    assert not list(folder.glob("*-delete"))


def test_folders_that_wait_to_be_removed_are_removed_after_an_opening(
    open_store: OpenStore, folder: Path, clock: FakeClock
) -> None:
    with open_store() as store:
        store.create_topic("a" * 249, 1)
        store.delete_topic("a" * 249)
    (name,) = (path.name for path in folder.glob("*-delete"))
    assert len(name) == 255
    store = open_store()
    assert store.problems == []
    assert store.metrics()["housekeeping"]["folders_to_remove"] == 1
    clock.now += 60_000
    assert store.housekeep().removed_folders == 1


def test_exist_ok_gives_what_is_there_if_it_is_what_was_asked_for(open_store: OpenStore) -> None:
    store = open_store()
    topic = store.create_topic("t", 3, {"retention.ms": 5})
    assert store.create_topic("t", exist_ok=True) is topic
    assert store.create_topic("t", 3, {"retention.ms": "5"}, exist_ok=True) is topic
    for arguments in ((2, {}), (3, {"retention.ms": 6})):
        with pytest.raises(ec.TopicExists):
            store.create_topic("t", *arguments, exist_ok=True)
    with pytest.raises(ec.TopicExists):
        store.create_topic("t", 3)


def test_names_that_kafka_would_take_for_one(open_store: OpenStore) -> None:
    store = open_store()
    store.create_topic("a.b")
    with pytest.raises(ec.TopicExists, match=r"a\.b"):
        store.create_topic("a_b")


def test_readers_in_another_handle_follow(open_store: OpenStore) -> None:
    store, reader = open_store(), open_store("r")
    store.create_topic("t", 2).append(b"1", partition=1)
    assert reader.topics == ["t"]
    topic = reader.topic("t")
    assert values(topic[1]) == [b"1"]
    assert values(topic[0]) == []
    store.topic("t")[1].append(b"2")
    assert values(topic[1]) == [b"1", b"2"]
    store.close()
    assert values(topic[1]) == [b"1", b"2"]
    for act in (
        lambda: reader.create_topic("u"),
        lambda: reader.delete_topic("t"),
        lambda: reader.configure_topic("t", {}),
        reader.housekeep,
        lambda: topic.append(b"3"),
    ):
        with pytest.raises(ec.ReadOnly):
            act()


def test_a_reader_sees_no_topic_that_is_being_made_or_removed(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill may come, and the next opening removes what was made."""
    writer = open_store()
    writer.create_topic("whole", 1)
    seen: list[tuple[str, list[str]]] = []
    for name in ("note", "forget"):
        real = getattr(doomed, name)

        def watched(*arguments: Any, real: Any = real, name: str = name) -> None:
            seen.append((name, open_store("r").topics)) if name == "forget" else None
            real(*arguments)
            seen.append((name + "d", open_store("r").topics)) if name == "note" else None

        monkeypatch.setattr(doomed, name, watched)
    writer.create_topic("orders", 3)
    assert set(open_store("r").topics) == {"whole", "orders"}
    writer.delete_topic("orders")
    assert [topics for _, topics in seen] == [["whole"]] * len(seen)
    assert [what for what, _ in seen] == ["noted", "forget", "noted", "forget"]


def test_one_writer_and_no_broker_beside_it(open_store: OpenStore, folder: Path) -> None:
    store = open_store()
    store.create_topic("t")
    with pytest.raises(ec.LogLocked):
        ec.open(folder)
    with pytest.raises(ec.LogLocked):
        ec.open_partition(folder / "t-0")
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    taken = subprocess.run([sys.executable, "-c", code, str(folder / ".lock")], capture_output=True, check=False)
    assert taken.returncode != 0, "a Java process takes a POSIX lock"
    store.close()
    with ec.open_partition(folder / "t-0") as partition:
        partition.append(b"by itself")
        with pytest.raises(ec.LogLocked):
            ec.open(folder)
    assert values(open_store().topic("t")[0]) == [b"by itself"]


def test_a_closed_store_says_so(open_store: OpenStore) -> None:
    store = open_store()
    topic = store.create_topic("t")
    partition = topic[0]
    partition.append(b"1")
    store.close()
    store.close()
    for act in (
        lambda: store.topic("t"),
        lambda: store.topics,
        store.metrics,
        store.housekeep,
        lambda: topic[0],
        lambda: topic.append(b"2"),
        lambda: partition.append(b"2"),
        lambda: list(partition),
    ):
        with pytest.raises(ec.ClosedError):
            act()


def test_after_a_kill_everything_appended_is_there_and_the_rest_is_recovered(
    open_store: OpenStore, folder: Path
) -> None:
    with open_store() as store:
        store.create_topic("t", 3)[0].append(b"before")
    code = (
        "import eventcore as ec, os, sys; t = ec.open(sys.argv[1], fsync='never').topic('t');"
        "t[1].append(b'killed'); t[2].append(b'killed'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert not (folder / ".kafka_cleanshutdown").exists()
    with open_store() as store:
        assert not store.was_clean
        assert values(store.topic("t")[1]) == [b"killed"]
    assert (folder / ".kafka_cleanshutdown").exists(), "the one that nobody has used was recovered at the close"
    assert checkpoint.read_offsets(Disk(), folder / CHECKPOINTS[0]) == {("t", 0): 1, ("t", 1): 1, ("t", 2): 1}
    with open_store() as store:
        assert all(partition.recovery.clean for partition in store.topic("t"))


def test_a_forked_child_can_do_nothing(open_store: OpenStore) -> None:
    store = open_store()
    partition = store.create_topic("t")[0]
    partition.append(b"1")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        outcomes = []
        for act in (lambda: store.topic("t"), lambda: partition.append(b"2"), lambda: list(partition)):
            try:
                act()
                outcomes.append("done")
            except ec.ClosedError:
                outcomes.append("refused")
        store.close()
        os.write(write, " ".join(outcomes).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"refused refused refused"
    assert partition.append(b"2") == 1


def test_a_brokers_start_of_a_log_is_taken_over_once(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t", 2)[1].extend([b"0", b"1", b"2", b"3"])
    checkpoint.write_offsets(Disk(), folder / "log-start-offset-checkpoint", {("t", 1): 2, ("other", 5): 9})
    assert values(open_store("r").topic("t")[1]) == [b"2", b"3"]
    store = open_store()
    partition = store.topic("t")[1]
    assert values(partition) == [b"2", b"3"]
    partition.truncate(1)
    partition.extend([b"one", b"two"])
    partition.close()
    assert values(partition) == [b"one", b"two"]
    store.close()
    assert values(open_store().topic("t")[1]) == [b"one", b"two"]


def test_a_damaged_topic_file_is_reported_and_can_only_be_deleted(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t", config={"retention.ms": 100_000})[0].append(b"1")
        store.create_topic("u")
    path = folder / "t-0" / topic_file.NAME
    path.write_bytes(path.read_bytes().replace(b"100000", b"000001"))
    store = open_store()
    assert [problem.name for problem in store.problems] == ["t"]
    with pytest.raises(ec.CorruptFile):
        store.topic("t")
    store.topic("u").append(b"fine")
    assert list(store.housekeep().errors) == ["t-0"]
    store.delete_topic("t")
    assert (store.topics, store.problems) == (["u"], [])


def test_housekeeping_of_nothing_changes_nothing(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t", 2)[0].append(b"1")
    before = tree(folder / "t-0")
    with open_store() as store:
        assert store.housekeep().partitions == 2
    assert tree(folder / "t-0") == before

"""Logs that a real Kafka broker wrote open here: the records a Kafka consumer read, and they can be written on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import eventcore as ec

from .judge.broker import Message
from .judge.broker_logs import COMPACTED, TOPICS, TRANSACTIONS, BrokerLogs, copy_partition
from .judge.dump import FileDump, dump_folder, dump_log

pytestmark = pytest.mark.interop

NEW = [(b"key", b"added by eventcore"), (None, b"added without a key"), (b"key", None)]


def as_messages(records: Iterable[ec.Record]) -> list[Message]:
    return [Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


@pytest.mark.parametrize("topic", TOPICS)
def test_read_only_yields_what_a_kafka_consumer_read(broker_logs: BrokerLogs, topic: str) -> None:
    folder = broker_logs.partition(topic)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with ec.open_partition(folder, mode="r") as partition:
        assert as_messages(partition.read(partition.log_start_offset)) == broker_logs.read_uncommitted[topic]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("topic", TOPICS)
def test_written_on_it_stays_a_log_without_fault(broker_logs: BrokerLogs, topic: str, tmp_path: Path) -> None:
    folder = copy_partition(broker_logs, topic, tmp_path)
    with ec.open_partition(folder) as partition:
        end = partition.log_end_offset
        assert as_messages(partition.read(partition.log_start_offset)) == broker_logs.read_uncommitted[topic]
        offsets = partition.extend([(key or b"k", value) for key, value in NEW] if topic == COMPACTED else NEW)
        assert list(offsets) == [end, end + 1, end + 2]
    result = dump_folder(folder)
    assert (result.complaints_beside_gaps if topic == COMPACTED else result.complaints) == []
    with ec.open_partition(folder, mode="r") as partition:
        read = as_messages(partition.read(partition.log_start_offset))
        assert read[:-3] == broker_logs.read_uncommitted[topic]
        assert [message.value for message in read[-3:]] == [value for _, value in NEW]


@pytest.mark.parametrize("topic", TOPICS)
def test_verify_finds_nothing_wrong(broker_logs: BrokerLogs, topic: str, tmp_path: Path) -> None:
    with ec.open_partition(copy_partition(broker_logs, topic, tmp_path), mode="r") as partition:
        partition.verify()


def test_the_log_end_is_the_brokers(broker_logs: BrokerLogs, tmp_path: Path) -> None:
    """Control records count: the end is beyond the last record a consumer sees."""
    with ec.open_partition(broker_logs.partition(TRANSACTIONS), mode="r") as partition:
        assert partition.log_end_offset == partition.last_stable_offset
        assert partition.log_end_offset == len(broker_logs.read_uncommitted[TRANSACTIONS]) + 12  # 12 markers


@pytest.mark.parametrize("topic", TOPICS)
def test_a_replica_of_a_brokers_log_is_the_same_log(broker_logs: BrokerLogs, topic: str, folder: Path) -> None:
    """Copied as a follower does, the bytes, the aborted transactions and the producers come out as Kafka has them."""
    original = broker_logs.partition(topic)
    with ec.open_partition(folder) as partition:
        for path in sorted(original.glob("*.log")):
            if path.stat().st_size:
                partition.append_batches(path.read_bytes(), origin="replica")
        end = partition.log_end_offset
    for suffix in ("log", "txnindex"):
        assert joined(folder, suffix) == joined(original, suffix)
    paths = [where / f"{end:020}.snapshot" for where in (folder, original)]
    result = dump_log([*paths, *sorted(folder.glob("*.*index"))])
    assert result.complaints_beside_gaps == []
    ours, kafkas = (producers(result[path.resolve()]) for path in paths)
    assert ours == kafkas


def joined(folder: Path, suffix: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob(f"*.{suffix}")))


def producers(snapshot: FileDump) -> list[tuple[tuple[str, int], ...]]:
    """The producers of a snapshot; their order in the file is free, and their time is when we heard of them."""
    times = ("lastTimestamp", "timestamp")
    return sorted(tuple(item for item in entry.items() if item[0] not in times) for entry in snapshot.entries)

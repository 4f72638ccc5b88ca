"""Kafka's own cleaner and ours, given the same logs: the same records stay, at the same offsets."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import checkpoint

from .judge.broker import Broker, Message
from .judge.broker_logs import CODECS, LOG_APPEND_TIME, SEGMENTS, TRANSACTIONS, BrokerLogs
from .judge.dump import dump_folder

pytestmark = pytest.mark.interop

TOPICS = (*(f"codec-{codec}" for codec in CODECS), SEGMENTS, LOG_APPEND_TIME)
CONFIG = {"cleanup.policy": "compact", "delete.retention.ms": "0", "min.cleanable.dirty.ratio": "0.0"}
LATER_MS = 1_750_000_000_000
ROUNDS = 3
"""The first finds the tombstones and gives them their horizon, the second drops them, the third finds no more."""
_TIMEOUT_S = 180


def last_of(round_number: int) -> Message:
    """A record that closes the segment before it, and is the first of the next round."""
    return Message(-1, LATER_MS + round_number * 10_000, b"key-1", b"round %d" % round_number, ())


def cleaned_by_kafka(folder: Path) -> dict[str, list[list[Message]]]:
    """What is left of each topic after each round of the broker's cleaner."""
    found: dict[str, list[list[Message]]] = {topic: [] for topic in TOPICS}
    with Broker(folder) as broker:
        _configure(broker)
        for number in range(ROUNDS):
            for topic in TOPICS:
                broker.produce(topic, [last_of(number)])
            _wait_for_cleaner(broker, {topic: broker.consume(topic)[-1].offset for topic in TOPICS})
            for topic in TOPICS:
                found[topic].append(broker.consume(topic))
    return found


def _configure(broker: Broker) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

    values = {**CONFIG, "segment.ms": "1000"}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries) for topic in TOPICS]
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.incremental_alter_configs(resources).values():
        future.result(_TIMEOUT_S)


def _wait_for_cleaner(broker: Broker, ends: dict[str, int]) -> None:
    path, deadline = broker.data / "cleaner-offset-checkpoint", time.monotonic() + _TIMEOUT_S
    while True:
        found = checkpoint.read_offsets(Disk(), path) if path.exists() else {}
        late = {topic: (found.get((topic, 0)), end) for topic, end in ends.items() if found.get((topic, 0), -1) < end}
        if not late:
            return
        assert time.monotonic() < deadline, f"the broker did not clean {late}"
        time.sleep(0.3)


def cleaned_by_us(folder: Path, append_time: bool) -> list[list[Message]]:
    """The same with ours."""
    config = {**CONFIG, "message.timestamp.type": "LogAppendTime" if append_time else "CreateTime"}
    found = []
    with ec.open_partition(folder, config=config) as partition:
        for number in range(ROUNDS):
            message = last_of(number)
            partition.roll()
            partition.extend([ec.Record(-1, message.timestamp, message.key, message.value, ())])
            assert partition.compact() is not None
            records = partition.read(partition.log_start_offset)
            found.append([Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records])
        assert partition.verify().ok
    return found


@pytest.mark.timeout(900)
def test_both_cleaners_leave_the_same(broker_logs: BrokerLogs, tmp_path: Path) -> None:
    data = Path(shutil.copytree(broker_logs.data, tmp_path / "broker" / "data"))
    ours = {topic: Path(shutil.copytree(data / f"{topic}-0", tmp_path / "ours" / f"{topic}-0")) for topic in TOPICS}
    wanted = cleaned_by_kafka(tmp_path / "broker")
    for topic in TOPICS:
        found = cleaned_by_us(ours[topic], topic == LOG_APPEND_TIME)
        for number in range(ROUNDS):
            one, other = (_without_append_time(rows, topic) for rows in (found[number], wanted[topic][number]))
            assert one == other, f"{topic} after round {number + 1}"
        assert len(found[0]) > len(found[1]), "there was a tombstone, and it has gone"
        assert dump_folder(ours[topic]).complaints_beside_gaps == []


def _without_append_time(messages: list[Message], topic: str) -> list[Message]:
    """The records of the rounds have the time at which they were appended, here and there."""
    if topic != LOG_APPEND_TIME:
        return messages
    rounds = {last_of(number).value for number in range(ROUNDS)}
    return [message._replace(timestamp=0) if message.value in rounds else message for message in messages]


@pytest.mark.timeout(600)
def test_a_broker_takes_over_what_we_compacted(broker_logs: BrokerLogs, tmp_path: Path) -> None:
    data = Path(shutil.copytree(broker_logs.data, tmp_path / "broker" / "data"))
    topics = (SEGMENTS, "codec-zstd", TRANSACTIONS)
    wanted = {topic: cleaned_by_us(data / f"{topic}-0", False)[-1] for topic in topics}
    with Broker(tmp_path / "broker") as broker:
        assert {topic: broker.consume(topic) for topic in topics} == wanted
        broker.produce(SEGMENTS, [last_of(9)])
        assert broker.consume(SEGMENTS)[-1].value == b"round 9"
    for topic in topics:
        assert dump_folder(data / f"{topic}-0").complaints_beside_gaps == []
        with ec.open_partition(data / f"{topic}-0", config=CONFIG) as partition:
            assert len(list(partition.read(partition.log_start_offset))) >= len(wanted[topic])

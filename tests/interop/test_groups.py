"""Consumer groups: what a broker's groups have committed we know, and the other way round; Kafka's tools read ours."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.format import group_log, transaction_log

from .judge.broker import Broker, Message
from .judge.jars import java
from .test_handover import SUSPICIOUS

pytestmark = pytest.mark.interop

TOPIC = "orders"
PLACE = (TOPIC, 0)
QUIET = {"store.housekeeping.enable": False}
NOW = 1_700_000_000_000
_TIMEOUT_S = 120


def consumer_of(broker: Broker, group: str) -> Any:
    from confluent_kafka import Consumer

    return Consumer({"bootstrap.servers": broker.address, "group.id": group, "auto.offset.reset": "earliest"})


def commit(broker: Broker, group: str, offset: int) -> None:
    """As a client of the broker does it."""
    from confluent_kafka import TopicPartition

    consumer = consumer_of(broker, group)
    consumer.commit(offsets=[TopicPartition(TOPIC, 0, offset)], asynchronous=False)
    consumer.close()


def commit_in_transaction(broker: Broker, group: str, offset: int, *, commits: bool) -> None:
    from confluent_kafka import TopicPartition

    producer, consumer = broker.producer(transactional_id=f"of {group}"), consumer_of(broker, group)
    producer.init_transactions(_TIMEOUT_S)
    producer.begin_transaction()
    place = [TopicPartition(TOPIC, 0, offset)]
    producer.send_offsets_to_transaction(place, consumer.consumer_group_metadata(), _TIMEOUT_S)
    producer.commit_transaction(_TIMEOUT_S) if commits else producer.abort_transaction(_TIMEOUT_S)
    consumer.close()


def known_to(broker: Broker, group: str) -> int:
    """The offset that a broker has for a group; -1001 if it has none. One that was just started is still loading."""
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": broker.address})
    asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(TOPIC, 0)])]
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            (found,) = admin.list_consumer_group_offsets(asked)[group].result(_TIMEOUT_S).topic_partitions
            return int(found.offset)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_groups_take_over_from_each_other(kafka: str, tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(TOPIC, {}, 1)
        broker.produce(TOPIC, [Message(-1, NOW + at, None, b"%d" % at, ()) for at in range(20)])
        for group, offset in (("kafkas", 4), ("kafkas", 5), ("gone", 1)):
            commit(broker, group, offset)
        commit_in_transaction(broker, "kafkas, exactly once", 7, commits=True)
        commit_in_transaction(broker, "kafkas, exactly once", 9, commits=False)
    data = tmp_path / "broker" / "data"
    with ec.open(data, config=QUIET) as store:
        groups = store.groups
        assert {name: groups.offsets(name)[PLACE].offset for name in groups.list()} == {
            "kafkas": 5,
            "gone": 1,
            "kafkas, exactly once": 7,
        }
        groups.commit("kafkas", {PLACE: 6})
        groups.commit("ours", {PLACE: ec.CommittedOffset(3, metadata="so far")})
        groups.delete("gone")
        with store.transaction("of ours") as tx:
            tx.append(TOPIC, b"20")
            tx.commit_offsets("ours, exactly once", {PLACE: 11})
        aborted = store.transaction("of ours")
        aborted.commit_offsets("ours, exactly once", {PLACE: 12})
        aborted.flush()
        aborted.abort()
        with ec.open(data, "r") as reader:
            reader.groups.commit("a reader's", {PLACE: 2})
    with Broker(tmp_path / "broker") as broker:
        expected = {
            "kafkas": 6,
            "kafkas, exactly once": 7,
            "ours": 3,
            "ours, exactly once": 11,
            "a reader's": 2,
            "gone": -1001,
        }
        assert {name: known_to(broker, name) for name in expected} == expected
        consumer = consumer_of(broker, "ours")
        consumer.subscribe([TOPIC])
        first = next(message for message in iter(lambda: consumer.poll(10.0), None) if message.error() is None)
        assert (first.offset(), first.value()) == (3, b"3")
        consumer.close()  # commits 4
        assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []
    with ec.open(data, config=QUIET) as store:
        assert store.groups.offsets("ours")[PLACE].offset == 4
        assert store.groups.describe("ours").members == {}
        with store.consumer("ours", [TOPIC]) as ours:
            assert [record.value for record in ours.poll(max_records=2)] == [b"4", b"5"]
        store.groups.delete("ours")
    with Broker(tmp_path / "broker") as broker:
        assert known_to(broker, "ours") == -1001


def test_kafkas_tool_reads_our_offsets(kafka: str, tmp_path: Path) -> None:
    with ec.open(tmp_path / "store", fsync="never", config=QUIET) as store:
        store.create_topic(TOPIC, 3)[2].append(b"v")
        store.groups.commit("billing", {(TOPIC, 2): ec.CommittedOffset(1, 4, "so far", NOW)})
        store.groups.delete("billing")
        number = store.groups.place_of("billing")[1]
    assert number == transaction_log.partition_of("billing")
    log = tmp_path / "store" / f"{group_log.TOPIC}-{number}" / f"{0:020}.log"
    command = java("org.apache.kafka.tools.DumpLogSegments", "--offsets-decoder", "--files", log)
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    keys = [json.loads(text) for text in re.findall(r"key: ({.*?}}) payload", printed)]
    payloads = re.findall(r"payload: (.*)", printed)
    assert [key["data"] for key in keys] == [{"group": "billing", "topic": TOPIC, "partition": 2}] * 2
    assert json.loads(payloads[0]) == {
        "version": "3",
        "data": {"offset": 1, "leaderEpoch": 4, "metadata": "so far", "commitTimestamp": NOW},
    }
    assert payloads[1] == "<DELETE>"


def test_kafkas_tool_lists_what_we_have_left_open(kafka: str, tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(TOPIC, {}, 1)
        producer = broker.producer(transactional_id="kafkas")
        producer.init_transactions(_TIMEOUT_S)
        producer.begin_transaction()
        producer.produce(TOPIC, b"v", partition=0)
        producer.commit_transaction(_TIMEOUT_S)
    with ec.open(tmp_path / "broker" / "data", config={**QUIET, "store.transactions.survive": True}) as store:
        tx = store.transaction("left open", timeout_ms=900_000)
        tx.append(TOPIC, b"waits")
        tx.flush()
        state = store.transactions.describe("left open")
    with Broker(tmp_path / "broker") as broker:
        tool = ("org.apache.kafka.tools.TransactionsCommand", "--bootstrap-server", broker.address)

        def run(*arguments: str) -> list[list[str]]:
            command = java(*tool, *arguments)
            printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
            return [line.split() for line in printed.splitlines()]

        listed = {" ".join(line[:-3]): line[-2:] for line in run("list")[1:]}
        assert listed["left open"] == [str(state.producer_id), "Ongoing"]
        described = run("describe", "--transactional-id", "left open")[1]
        assert str(state.producer_id) in described
        assert f"{TOPIC}-0" in described[-1]

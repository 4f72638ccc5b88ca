"""A real broker's whole log directory, opened as a store, written, compacted, shortened; and taken over again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import eventcore as ec

from .judge.broker import Broker, Message, _poll_to_end
from .judge.broker_logs import COMPACTED, SEGMENTS, TOPICS, BrokerLogs
from .judge.dump import dump_folder
from .test_handover import SUSPICIOUS
from .writing import sample

pytestmark = pytest.mark.interop

QUIET = {"store.housekeeping.enable": False}
KEYED = "keyed"
PARTITIONS = 4


def read(partition: ec.Partition) -> list[Message]:
    return [Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in partition]


def consume(broker: Broker, topic: str, partition: int) -> list[Message]:
    """As `Broker.consume`, of any partition."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    config = {
        "bootstrap.servers": broker.address,
        "group.id": "judge",
        "enable.partition.eof": True,
        "check.crcs": True,
    }
    consumer = Consumer({**config, "isolation.level": "read_uncommitted"})
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        return _poll_to_end(consumer)
    finally:
        consumer.close()


def produce_keyed(broker: Broker, count: int) -> None:
    """A client chooses the partitions, as Kafka's own does."""
    producer = broker.producer(partitioner="murmur2_random")
    for at in range(count):
        producer.produce(KEYED, key=b"key %d" % at, value=b"again")
    assert producer.flush(60) == 0


def write_everywhere(store: ec.Store) -> dict[str, list[Message]]:
    """Records for every topic, one of them shortened; what consumers must then find, partition by partition."""
    for topic in TOPICS:
        store.topic(topic).extend(sample(60))
    store.topic(SEGMENTS)[0].roll()
    store.topic(SEGMENTS)[0].delete_records(store.topic(SEGMENTS)[0].high_watermark - 25)
    store.topic(COMPACTED)[0].roll()
    store.topic(COMPACTED)[0].compact()
    store.topic(KEYED).extend([(b"key %d" % (number % 90), b"%d" % number) for number in range(900)])
    return {topic: [one for partition in store.topic(topic) for one in read(partition)] for topic in (*TOPICS, KEYED)}


def test_a_broker_takes_over_a_store(broker_logs: BrokerLogs, tmp_path: Path) -> None:
    data = Path(shutil.copytree(broker_logs.data, tmp_path / "broker" / "data"))
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(KEYED, {}, PARTITIONS)
    with ec.open(data, config=QUIET) as store:
        assert store.was_clean
        assert {*TOPICS, KEYED} <= set(store.topics)
        assert store.problems == []
        written = write_everywhere(store)
    with Broker(tmp_path / "broker") as broker:
        for topic, expected in written.items():
            if topic != KEYED:
                assert broker.consume(topic) == expected, topic
        consumed = [one for number in range(PARTITIONS) for one in consume(broker, KEYED, number)]
        assert consumed == written[KEYED]
        produce_keyed(broker, 90)
        broker.produce(SEGMENTS, [Message(-1, 1_700_000_100_000, b"k", b"again", ())])
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []
    check_what_the_broker_left(data, written)


def check_what_the_broker_left(data: Path, written: dict[str, list[Message]]) -> None:
    """Its keys went where ours did; nothing is wrong with the files; and the store opens as one closed cleanly."""
    for topic in (*TOPICS, KEYED):
        for folder in data.glob(f"{topic}-[0-9]*"):
            assert dump_folder(folder).complaints_beside_gaps == [], folder
    with ec.open(data, config=QUIET) as store:
        assert store.was_clean
        assert store.problems == []
        keyed = store.topic(KEYED)
        again = [record for partition in keyed for record in partition if record.value == b"again"]
        assert len(again) == 90
        for partition in keyed:
            assert all(keyed.partition_for(record.key) == partition.number for record in partition)
        shortened = store.topic(SEGMENTS)[0]
        assert shortened.log_start_offset == written[SEGMENTS][0].offset
        assert read(shortened)[:-1] == written[SEGMENTS]
        assert store.housekeep().errors == {}


def test_a_broker_finishes_what_was_deleted(kafka: str, tmp_path: Path) -> None:
    """A topic that we made and deleted leaves folders that it removes, and not a word."""
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(KEYED, {}, 2)
    data = tmp_path / "broker" / "data"
    with ec.open(data, config=QUIET) as store:
        store.topic(KEYED).extend([(b"%d" % number, b"v") for number in range(100)])
        store.create_topic("ours", 1)
        store.delete_topic("ours")
        assert store.housekeep().errors == {}
    assert list(data.glob("ours-0.*-delete"))
    with Broker(tmp_path / "broker") as broker:
        assert sum(len(consume(broker, KEYED, number)) for number in range(2)) == 100
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []

"""Transactions that we wrote, read by a real broker's consumers; producers that we knew, known to the broker."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.format import transaction_log
from eventcore.types import TransactionStatus
from tests.scale import seeded

from .judge.broker import Broker, Message
from .judge.dump import dump_folder
from .judge.jars import java
from .test_handover import SUSPICIOUS

pytestmark = pytest.mark.interop

TOPIC = "orders"
QUIET = {"store.housekeeping.enable": False}


def read(partition: ec.Partition, isolation: str) -> list[Message]:
    records = partition.read(partition.log_start_offset, isolation=isolation)  # type: ignore[arg-type]
    return [Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


def write_transactions(partition: ec.Partition, rng: random.Random) -> None:
    """Committed, aborted, empty and interleaved ones over several segments; producer 99 leaves one open at the end."""
    epochs = dict.fromkeys(range(1, 5), 0)
    sequences = dict.fromkeys(range(1, 5), 0)
    for number in range(300):
        who = rng.choice(list(epochs))
        if rng.random() < 0.7:
            count = rng.randint(1, 5)
            values = [(b"key", b"%d.%d" % (number, part)) for part in range(count)]
            partition.append_sequenced(values, who, epochs[who], sequences[who], transactional=True)
            sequences[who] += count
        else:
            epochs[who], sequences[who] = epochs[who] + 1, 0
            partition.end_transaction(who, epochs[who], commit=rng.random() < 0.5, raises_epoch=True)
        if number % 25 == 24:
            partition.append(b"plain %d" % number)
        if number % 60 == 59:
            partition.roll()
    for who, epoch in epochs.items():
        partition.end_transaction(who, epoch + 1, commit=who % 2 == 0)
    partition.append_sequenced([b"open"] * 3, 99, 0, 0, transactional=True)
    partition.append(b"behind an open transaction")


@pytest.fixture
def data(kafka: str, tmp_path: Path) -> Path:
    """A broker's folder, with transactions that we have written into it."""
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(TOPIC, {}, 1)
    data = tmp_path / "broker" / "data"
    with ec.open(data, config=QUIET) as store:
        write_transactions(store.topic(TOPIC)[0], seeded(6))
    return data


def test_kafkas_consumers_see_the_same(data: Path, tmp_path: Path) -> None:
    dumped = dump_folder(data / f"{TOPIC}-0")
    assert dumped.complaints == []
    with ec.open(data, "r") as store:
        partition = store.topic(TOPIC)[0]
        everything, committed = (read(partition, one) for one in ("read_uncommitted", "read_committed"))
        stable = partition.last_stable_offset
    assert 0 < len(committed) < len(everything)
    assert committed[-1].offset < stable < everything[-1].offset
    with Broker(tmp_path / "broker") as broker:
        assert broker.consume(TOPIC) == everything
        assert broker.consume(TOPIC, committed=True) == committed
        broker.produce(TOPIC, [Message(-1, everything[-1].timestamp, b"k", b"the broker's", ())])
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []
    with ec.open(data, config=QUIET) as store:
        partition = store.topic(TOPIC)[0]
        assert read(partition, "read_committed") == committed
        partition.end_transaction(99, 0, commit=True)  # the broker has left it open, as it was
        values = [message.value for message in read(partition, "read_committed")]
        assert values[-5:] == [b"open", b"open", b"open", b"behind an open transaction", b"the broker's"]


def in_a_transaction(broker: Broker, transactional_id: str, *values: bytes) -> None:
    """A transactional producer of Kafka's."""
    producer = broker.producer(transactional_id=transactional_id)
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(TOPIC, value, partition=0)
    producer.commit_transaction(60)


def test_coordinators_take_over_from_each_other(kafka: str, tmp_path: Path) -> None:
    """What a broker's coordinator knows we know, and the other way round: also of a transaction that is open."""
    with Broker(tmp_path / "broker") as broker:
        broker.create_topic(TOPIC, {}, 1)
        for _ in range(2):
            in_a_transaction(broker, "kafkas", b"kafka's")
    data = tmp_path / "broker" / "data"
    with ec.open(data, config={**QUIET, "store.transactions.survive": True}) as store:
        known = store.transactions.describe("kafkas")
        assert (known.status, known.partitions) == (TransactionStatus.COMPLETE_COMMIT, ())
        with store.transaction("kafkas") as tx:
            tx.append(TOPIC, b"ours")
        assert store.transactions.describe("kafkas").producer_id == known.producer_id
        with store.transaction("ours") as tx:
            tx.extend(TOPIC, [b"ours", b"ours, too"])
        left = store.transaction("left open")
        left.append(TOPIC, b"never seen")
        left.flush()
        open_id = store.transactions.describe("left open").producer_id
    with Broker(tmp_path / "broker") as broker:
        for name in ("kafkas", "ours", "left open"):
            in_a_transaction(broker, name, b"from " + name.encode())
        values = [message.value for message in broker.consume(TOPIC, committed=True)]
    expected = [b"kafka's"] * 2 + [b"ours"] * 2 + [b"ours, too", b"from kafkas", b"from ours", b"from left open"]
    assert values == expected
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []
    with ec.open(data, config=QUIET) as store:
        partition = store.topic(TOPIC)[0]
        assert [message.value for message in read(partition, "read_committed")] == expected
        assert store.transactions.describe("left open").producer_id == open_id
        assert store.transactions.hanging() == []


def test_kafkas_tool_reads_our_coordinators_log(kafka: str, tmp_path: Path) -> None:
    with ec.open(tmp_path / "store", fsync="never", config=QUIET) as store:
        store.create_topic(TOPIC, 3)
        with store.transaction("billing-1") as tx:
            tx.extend(TOPIC, [b"a"], partition=1)
            tx.extend(TOPIC, [b"b"], partition=2)
            tx.flush()
            ongoing = store.transactions.describe("billing-1")
        complete = store.transactions.describe("billing-1")
    number = transaction_log.partition_of("billing-1")
    log = tmp_path / "store" / f"{transaction_log.TOPIC}-{number}" / f"{0:020}.log"
    command = java("org.apache.kafka.tools.DumpLogSegments", "--transaction-log-decoder", "--files", log)
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = [json.loads(text)["data"] for text in re.findall(r"payload: ({.*})", printed)]
    assert [one["transactionStatus"] for one in found] == [0, 1, 2, 4]
    assert set(re.findall(r"key: ({.*?}}) payload", printed)) == {'{"type":"0","data":{"transactionalId":"billing-1"}}'}
    for one, state in ((found[1], ongoing), (found[3], complete)):
        told = (one["producerId"], one["producerEpoch"], one["transactionTimeoutMs"], one["clientTransactionVersion"])
        assert told == (state.producer_id, state.producer_epoch, state.timeout_ms, 2)
        times = (one["transactionLastUpdateTimestampMs"], one["transactionStartTimestampMs"])
        assert times == (state.last_update_ms, state.start_ms)
    assert found[1]["transactionPartitions"] == [{"topic": TOPIC, "partitionIds": [1, 2]}]
    assert (found[3]["transactionPartitions"], found[3]["previousProducerId"]) == ([], ongoing.producer_id)

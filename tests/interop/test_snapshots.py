"""Snapshots taken under load, restored, and taken over by a real broker."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import eventcore as ec
from tests.snapshot.under_load import TOPICS, Load

from .judge.broker import Broker, Message
from .judge.dump import dump_folder
from .test_groups import commit_in_transaction
from .test_handover import SUSPICIOUS
from .test_store_handover import consume

pytestmark = pytest.mark.interop

OURS = [name for name in TOPICS if not name.startswith("__")]
METADATA = "__cluster_metadata-0"
"""A controller's own log lies in the same folder, and is none of the store's."""


@pytest.fixture
def home(kafka: str, tmp_path: Path) -> Path:
    """Of a broker that has all topics, Kafka's own too."""
    with Broker(tmp_path / "broker") as broker:
        for name in OURS:
            count, config = TOPICS[name]
            broker.create_topic(name, {"cleanup.policy": config.get("cleanup.policy", "delete")}, count)
        broker.create_topic("orders", {}, 1)
        commit_in_transaction(broker, "first", 0, commits=True)
    return tmp_path / "broker"


def read(partition: ec.Partition) -> list[Message]:
    records = partition.read(partition.log_start_offset)
    return [Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


@pytest.mark.timeout(900)
def test_a_broker_takes_over_five_of_them(home: Path, tmp_path: Path) -> None:
    made = []
    with Load(home / "data", 11, "never", of_broker=True) as load:
        for number in range(5):
            time.sleep(0.5)
            manifest = load.store.snapshot(tmp_path / "kept")
            folder = tmp_path / f"broker{number}"
            shutil.copytree(home, folder, ignore=shutil.ignore_patterns("data"))
            ec.restore(tmp_path / "kept", folder / "data", number=manifest.number)
            load.check(manifest, folder / "data")
            made.append(folder)
        assert load.failures == []
    for folder in made:
        shutil.copytree(home / "data" / METADATA, folder / "data" / METADATA)
        check_broker(folder)


def check_broker(folder: Path) -> None:
    """It reads what we read, and has nothing to complain of."""
    with ec.open(folder / "data", "r") as store:
        wanted = {(name, one.number): read(one) for name in OURS for one in store.topic(name)}
        committed = [r.value for r in store.topic("a")[0].read(isolation="read_committed")]
    assert sum(map(len, wanted.values())) > 100
    for name in OURS:
        for partition in (folder / "data").glob(f"{name}-[0-9]"):
            assert dump_folder(partition).complaints_beside_gaps == [], partition
    with Broker(folder, settings="log.cleaner.enable=false\n") as broker:  # what it cleans meanwhile would differ
        for (name, number), messages in wanted.items():
            assert consume(broker, name, number) == messages, (folder, name, number)
        assert [message.value for message in broker.consume("a", committed=True)] == committed
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []

"""A real broker takes over folders that this package has written in: after a clean stop, and by recovery."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import eventcore as ec

from .judge.broker import Broker, Message
from .judge.broker_logs import CODECS, SEGMENTS, TRANSACTIONS, BrokerLogs
from .judge.dump import dump_folder
from .writing import extend, sample

pytestmark = pytest.mark.interop

TOPICS = (*(f"codec-{codec}" for codec in CODECS), SEGMENTS, TRANSACTIONS)
SUSPICIOUS = re.compile(r"corrupt|orphan|stray|resetting|invalid|mismatch|\bERROR\b", re.IGNORECASE)
ADDED = 120


def write_on(folder: Path, topic: str) -> list[Message]:
    """Append to a broker's partition, in the topic's codec, rolling once; everything a consumer must then find."""
    codec = topic.removeprefix("codec-") if topic.startswith("codec-") else "none"
    config = {"compression.type": "uncompressed" if codec == "none" else codec, "index.interval.bytes": 512}
    with ec.open_partition(folder, config=config) as partition:
        extend(partition, sample(ADDED // 2))
        partition.roll()
        extend(partition, sample(ADDED // 2))
        records = list(partition.read(partition.log_start_offset))
    return [Message(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


@pytest.mark.parametrize("stop", ["clean", "unclean"])
def test_a_broker_takes_over(broker_logs: BrokerLogs, tmp_path: Path, stop: str) -> None:
    data = Path(shutil.copytree(broker_logs.data, tmp_path / "broker" / "data"))
    written = {topic: write_on(data / f"{topic}-0", topic) for topic in TOPICS}
    if stop == "unclean":  # the broker then trusts nothing above its recovery point and reads it again
        (data / ".kafka_cleanshutdown").unlink()
    with Broker(tmp_path / "broker") as broker:
        for topic, expected in written.items():
            assert broker.consume(topic) == expected
            assert expected[:-ADDED] == broker_logs.read_uncommitted[topic]
        committed = broker.consume(TRANSACTIONS, committed=True)
        assert committed == broker_logs.read_committed[TRANSACTIONS] + written[TRANSACTIONS][-ADDED:]
        broker.produce(SEGMENTS, [Message(-1, 1_700_000_100_000, b"key", b"from the broker again", ())])
        assert broker.consume(SEGMENTS)[-1].value == b"from the broker again"
    assert [line for line in broker.log_text().splitlines() if SUSPICIOUS.search(line)] == []
    check_what_the_broker_left(data, written)


def check_what_the_broker_left(data: Path, written: dict[str, list[Message]]) -> None:
    """The broker has closed the folders once more: still no fault, and still ours to open."""
    for topic, expected in written.items():
        assert dump_folder(data / f"{topic}-0").complaints == []
        with ec.open_partition(data / f"{topic}-0", mode="r") as partition:
            records = list(partition.read(partition.log_start_offset))[: len(expected)]
        assert [(r.offset, r.key, r.value) for r in records] == [m[:1] + m[2:4] for m in expected]

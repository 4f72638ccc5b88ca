"""Logs that a real broker wrote, and what a Kafka client read back from it, recorded once and kept for later runs.

One topic a codec, and one each for LogAppendTime, several segments, transactions and compaction. `expected.json`
lies beside the broker's data folder: for every topic the records as a Kafka consumer read them from the running
broker. While recording, what was sent is compared with what was read: the judge itself is judged once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventcore.disk import Disk
from eventcore.files import checkpoint

from .broker import Broker, Message, send_all

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
LOG_APPEND_TIME, SEGMENTS, TRANSACTIONS, COMPACTED = "log-append-time", "segments", "transactions", "compacted"
TOPICS = (*(f"codec-{codec}" for codec in CODECS), LOG_APPEND_TIME, SEGMENTS, TRANSACTIONS, COMPACTED)

_T0 = 1_700_000_000_000
_SMALL_SEGMENTS = {"internal.segment.bytes": "4096", "index.interval.bytes": "512", "file.delete.delay.ms": "0"}
_CLEANING_TIMEOUT_S = 240
_CALL_TIMEOUT_S = 120


@dataclass(frozen=True)
class BrokerLogs:
    """A stopped broker's data folder and what Kafka's clients read from it before it stopped."""

    data: Path
    read_uncommitted: dict[str, list[Message]]
    read_committed: dict[str, list[Message]]

    def partition(self, topic: str) -> Path:
        """The folder of the topic's only partition; shared by all tests: copy it before writing."""
        return self.data / f"{topic}-0"


def record_once(cache: Path) -> BrokerLogs:
    """The recorded logs; runs a broker only if this version of this file has not recorded yet."""
    recipe = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("broker.py", "broker_logs.py"))
    finished = cache / f"broker-logs-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if not finished.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _record_alone(cache, finished)
    return _load(finished)


def _record_alone(cache: Path, finished: Path) -> None:
    """Whoever comes while another process records waits for what it records."""
    with (cache / "recording.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished.is_dir():
            return
        with tempfile.TemporaryDirectory(prefix="recording-", dir=cache) as unfinished:
            _record(Path(unfinished) / "kept")
            (Path(unfinished) / "kept").rename(finished)  # atomic: a folder of this name is complete


def _load(folder: Path) -> BrokerLogs:
    stored = json.loads((folder / "expected.json").read_text())
    uncommitted, committed = (
        {topic: [_from_json(row) for row in rows] for topic, rows in stored[level].items()}
        for level in ("read_uncommitted", "read_committed")
    )
    return BrokerLogs(folder / "data", uncommitted, committed)


def _record(folder: Path) -> None:
    with Broker(folder) as broker:
        sent = {f"codec-{codec}": _write_codec(broker, codec) for codec in CODECS}
        _write_log_append_time(broker)
        sent[SEGMENTS] = _write_segments(broker)
        _write_transactions(broker)
        _write_compacted(broker)
        uncommitted = {topic: broker.consume(topic) for topic in TOPICS}
        committed = {topic: broker.consume(topic, committed=True) for topic in TOPICS}
    for topic, messages in sent.items():
        if uncommitted[topic] != messages:
            raise AssertionError(f"what a Kafka client read from {topic} is not what was sent")
    levels = {"read_uncommitted": uncommitted, "read_committed": committed}
    stored = {level: {t: [_to_json(m) for m in rows] for t, rows in topics.items()} for level, topics in levels.items()}
    (folder / "expected.json").write_text(json.dumps(stored))


def sample(count: int, first: int = 0) -> list[Message]:
    """Records with every kind of null: keys, values, header values, no headers, repeated header names, late times."""
    return [
        Message(
            offset=first + n,
            timestamp=_T0 + n * 7 - (50 if n % 10 == 3 else 0),
            key=None if n % 5 == 0 else f"key-{n % 17}".encode(),
            value=None if n % 11 == 4 else b"" if n % 13 == 5 else f"value {n} ".encode() * (n % 23),
            headers=(("source", b"judge"), ("empty", b""), ("null", None), ("source", b"again")) if n % 3 == 0 else (),
        )
        for n in range(count)
    ]


def _write_codec(broker: Broker, codec: str) -> list[Message]:
    topic = f"codec-{codec}"
    broker.create_topic(topic, {"index.interval.bytes": "512"})
    messages = sample(600)
    broker.produce(topic, messages, at_once=100, compression_type=codec)
    return messages


def _write_log_append_time(broker: Broker) -> None:
    broker.create_topic(LOG_APPEND_TIME, {"message.timestamp.type": "LogAppendTime", "index.interval.bytes": "512"})
    for codec in CODECS:
        broker.produce(LOG_APPEND_TIME, sample(50), compression_type=codec)


def _write_segments(broker: Broker) -> list[Message]:
    broker.create_topic(SEGMENTS, _SMALL_SEGMENTS)
    messages = sample(600)
    broker.produce(SEGMENTS, messages, at_once=5)  # small batches: several, and index entries, in each small segment
    return messages


def _write_transactions(broker: Broker) -> None:
    """Committed and aborted transactions of two producers, interleaved, with plain records between them."""
    broker.create_topic(TRANSACTIONS, {})
    first, second = (broker.producer(transactional_id=name) for name in ("first", "second"))
    for producer in (first, second):
        producer.init_transactions(_CALL_TIMEOUT_S)
    for n in range(6):
        for producer in (first, second):
            producer.begin_transaction()
            send_all(producer, TRANSACTIONS, sample(10))
            producer.flush(_CALL_TIMEOUT_S)
        broker.produce(TRANSACTIONS, sample(3))
        _end(first, commit=n % 2 == 0)
        _end(second, commit=n % 3 != 0)


def _end(producer: Any, commit: bool) -> None:
    (producer.commit_transaction if commit else producer.abort_transaction)(_CALL_TIMEOUT_S)


def _write_compacted(broker: Broker) -> None:
    """Keys overwritten many times and cleaned by the broker: what is left has gaps between offsets."""
    config = {**_SMALL_SEGMENTS, "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
    broker.create_topic(COMPACTED, {**config, "delete.retention.ms": "0"})
    messages = [m for m in sample(1000) if m.key is not None]
    broker.produce(COMPACTED, messages, at_once=20)
    deadline = time.monotonic() + _CLEANING_TIMEOUT_S
    while len(broker.consume(COMPACTED)) > len(messages) // 2 or not _is_clean(broker):
        if time.monotonic() > deadline:
            raise AssertionError("the broker did not compact its topic in time")
        time.sleep(0.5)


def _is_clean(broker: Broker) -> bool:
    """Whether all but the active segment is compacted: then no pass is under way, and none comes any more."""
    active = max(int(path.stem) for path in (broker.data / f"{COMPACTED}-0").glob("*.log"))
    path = broker.data / "cleaner-offset-checkpoint"
    cleaned = checkpoint.read_offsets(Disk(), path) if path.exists() else {}
    return cleaned.get((COMPACTED, 0), -1) >= active


def _to_json(message: Message) -> list[Any]:
    def text(value: bytes | None) -> str | None:
        return None if value is None else value.hex()

    headers = [[name, text(value)] for name, value in message.headers]
    return [message.offset, message.timestamp, text(message.key), text(message.value), headers]


def _from_json(row: Iterable[Any]) -> Message:
    def binary(text: str | None) -> bytes | None:
        return None if text is None else bytes.fromhex(text)

    offset, timestamp, key, value, headers = row
    pairs = tuple((name, binary(text)) for name, text in headers)
    return Message(offset, timestamp, binary(key), binary(value), pairs)


def copy_partition(logs: BrokerLogs, topic: str, destination: Path) -> Path:
    """A writable copy of a topic's partition folder, under its own name."""
    return Path(shutil.copytree(logs.partition(topic), destination / f"{topic}-0"))

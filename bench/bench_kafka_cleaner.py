"""The cleaner of a real Kafka broker and ours, on the same folder: `python -m bench.bench_kafka_cleaner [--records N]`.

Needs what the interop tests need: a JDK, Maven and confluent-kafka. eventcore writes the log into the broker's data
folder; a copy is compacted in this process, then the broker, which runs with the JVM settings of Kafka's own start
script, cleans the original. Its MB/s are those of its own log line; ours are the same bytes by the clock around
`compact`: both passes, indexes, syncs and the swap. What both have left must be the same records at the same offsets.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import eventcore as ec
from bench.bench_compaction import CONFIG, fill, measured, verdict
from bench.kafka import KAFKAS_JVM
from eventcore.disk import Disk
from eventcore.files import checkpoint
from tests.interop.judge.broker import Broker

GOAL = 4.0
MAP_BYTES = 512 << 20
TOPIC = "table"
SETTINGS = "log.cleaner.dedupe.buffer.size=134217728\n"
"""Kafka's default, where that of the judge is small."""
_CLEANED = re.compile(r"([\d.,]+) MB of log processed in ([\d.,]+) seconds")
_TIMEOUT_S = 600


class Result(NamedTuple):
    """Megabytes (2^20) of log a second, in Kafka's count and in ours."""

    kafka: float
    ours: float
    records_left: int


def measure(place: Path, records: int, share: float, rounds: int = 3, small_map: int = 0) -> Result:
    """Both cleaners on one log; `rounds` of ours, their median. One more has a `small_map` of so many bytes."""
    broker_folder = place / "broker"
    with Broker(broker_folder, KAFKAS_JVM, SETTINGS) as broker:
        broker.create_topic(TOPIC, {"cleanup.policy": "delete", "retention.ms": "-1"})
    folder = broker_folder / "data" / f"{TOPIC}-0"
    fill(folder, records, share)
    found = [_compacted(folder, place / f"copy-{number}" / folder.name) for number in range(rounds)]
    copies = [place / "copy-0" / folder.name]
    if small_map:
        copies.append(place / "small" / folder.name)
        _compacted(folder, copies[-1], small_map)
    kafka = _cleaned_by_kafka(broker_folder, records)
    wanted = _records(folder)
    for copy in copies:
        if (left := _records(copy)) != wanted:
            raise RuntimeError(f"Kafka has left {len(wanted)} records, eventcore {len(left)}, or others")
    return Result(kafka, median(found), len(wanted))


def _compacted(folder: Path, copy: Path, map_bytes: int = MAP_BYTES) -> float:
    shutil.copytree(folder, copy)
    with ec.open_partition(copy, config=CONFIG) as partition:
        _, seconds, report = measured(lambda: partition.compact(map_bytes=map_bytes))
    if (report.passes > 1) != (map_bytes < MAP_BYTES):
        raise RuntimeError(f"{report.passes} passes with a map of {map_bytes} bytes")
    return float(report.bytes_before / (1 << 20) / seconds)


def _cleaned_by_kafka(folder: Path, end: int) -> float:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

    values = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.0"}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    with Broker(folder, KAFKAS_JVM, SETTINGS) as broker:
        resource = ConfigResource(ConfigResource.Type.TOPIC, TOPIC, incremental_configs=entries)
        admin = AdminClient({"bootstrap.servers": broker.address})
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(30)
        _wait(broker, end)
        return sum(rates(broker.log_text())[:1])


def _wait(broker: Broker, end: int) -> None:
    path, deadline = broker.data / "cleaner-offset-checkpoint", time.monotonic() + _TIMEOUT_S
    while not path.exists() or checkpoint.read_offsets(Disk(), path).get((TOPIC, 0), 0) < end:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the broker did not clean; its log ends:\n{broker.log_text()[-2000:]}")
        time.sleep(0.3)
    time.sleep(1)  # the line comes after the checkpoint


def rates(log: str) -> list[float]:
    """MB/s of each cleaning that a broker's log tells of."""
    numbers = [[float(number.replace(",", "")) for number in found] for found in _CLEANED.findall(log)]
    return [megabytes / seconds for megabytes, seconds in numbers if seconds]


def _records(folder: Path) -> list[tuple[int, bytes | None]]:
    with ec.open_partition(folder, config=CONFIG) as partition:
        return [(record.offset, record.key) for record in partition]


def main(arguments: list[str] | None = None) -> int:
    """Measure at 10 % and 50 % distinct keys; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4_000_000)
    records = parser.parse_args(arguments).records
    memory = Path("/dev/shm")
    met = True
    for share in (0.1, 0.5):
        with tempfile.TemporaryDirectory(prefix="eventcore-bench-", dir=memory if memory.is_dir() else None) as name:
            found = measure(Path(name), records, share)
        print(
            f"{records:,} records, {share:.0%} distinct: Kafka {found.kafka:.0f}, eventcore {found.ours:.0f} MB/s; "
            f"{found.records_left:,} records left by both"
        )
        met &= verdict(found.ours / found.kafka, GOAL) >= GOAL
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

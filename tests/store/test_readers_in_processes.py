"""Four processes read a store all the while one writes it: retention, compaction, deletion of records and of topics.

A violation is a record that says another offset than its own, a gap where nothing was compacted, a key that is missing
or older than one seen before, an error that a deletion does not explain, a death. `-m nightly` runs it for a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from tests.scale import DEPTH

CONFIG = {
    "store.housekeeping.enable": False,
    "segment.bytes": 1 << 15,
    "file.delete.delay.ms": 0,
    "min.cleanable.dirty.ratio": 0.01,
}
READERS, KEYS = 4, 40

READER = """
import json, os, sys
import eventcore as ec

def events(topic):
    count = 0
    for partition in topic:
        try:
            last = None
            for record in partition.read(partition.log_start_offset):
                assert record.value.split(b"|")[0] == b"%d" % record.offset, record
                assert last is None or record.offset == last + 1, (record.offset, last)
                last, count = record.offset, count + 1
        except ec.OffsetOutOfRange:  # deleted since
            pass
    return count

def table(topic, seen):
    count, last, found = 0, -1, {}
    for record in topic[0].read(topic[0].log_start_offset):
        assert record.offset > last, (record.offset, last)
        found[record.key], last, count = int(record.value), record.offset, count + 1
    assert len(found) == int(sys.argv[3]), sorted(found)
    for key, number in found.items():
        assert number >= seen.get(key, 0), (key, number, seen[key])
    seen.update(found)
    return count

counts, seen = {"events": 0, "table": 0, "passing": 0, "gone": 0}, {}
with ec.open(sys.argv[1], mode="r") as store:
    print("ready", flush=True)
    while not (os.path.exists(sys.argv[2]) and counts["events"] > 1000 and counts["table"] and counts["passing"]):
        counts["events"] += events(store.topic("events"))
        counts["table"] += table(store.topic("table"), seen)
        for name in store.topics:
            if name.startswith("passing"):
                try:
                    counts["passing"] += events(store.topic(name))
                except (ec.UnknownTopic, ec.NotALog):
                    counts["gone"] += 1
print(json.dumps(counts), flush=True)
"""


class Writer:
    """All that a store does to its files, over and over."""

    def __init__(self, store: ec.Store) -> None:
        self.store, self.round = store, 0
        self.events = store.create_topic("events", 2, {"retention.bytes": 1 << 17})
        self.table = store.create_topic("table", 1, {"cleanup.policy": "compact"})
        self.step()

    def step(self) -> None:
        self.round += 1
        for partition in self.events:
            self._number(partition, 200)
        self.table[0].extend([(b"key-%d" % key, b"%d" % self.round) for key in range(KEYS)])
        if self.round % 5 == 0:
            self.table[0].roll()
            first = self.events[0]
            first.delete_records(max(first.log_start_offset, first.high_watermark - 1500))
        passing = f"passing-{self.round}"
        self._number(self.store.create_topic(passing, 1)[0], 20)
        if self.round > 3:
            self.store.delete_topic(f"passing-{self.round - 3}")
        report = self.store.housekeep()
        assert report.errors == {}

    def has_done(self, least: int) -> bool:
        done = self.store.metrics()["housekeeping"]["partitions"]
        if not {"events-0", "events-1", "table-0"} <= done.keys():  # a partition of which nothing has been done yet
            return False
        deleted = min(done[name]["deleted_segments"] for name in ("events-0", "events-1"))
        return deleted > least and done["table-0"]["compactions"] > least / 2

    def _number(self, partition: ec.Partition, count: int) -> None:
        end = partition.log_end_offset
        partition.extend([b"%d|" % offset + b"x" * 100 for offset in range(end, end + count)])


@pytest.mark.sampled
@pytest.mark.parametrize("least", [8, pytest.param(60 * DEPTH, marks=pytest.mark.nightly)])
@pytest.mark.timeout(600 * DEPTH)
def test_what_they_see_is_whole_at_all_times(memory_path: Path, least: int) -> None:
    """Until the writer has deleted so many segments of each partition, and compacted so often, and each reader has read
    of everything: if that does not happen, this test does not end.
    """
    folder, enough = memory_path / "store", memory_path / "enough"
    with ec.open(folder, fsync="never", config=CONFIG) as store:
        writer = Writer(store)
        command = [sys.executable, "-c", READER, str(folder), str(enough), str(KEYS)]
        readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(READERS)]
        try:
            assert all(reader.stdout and reader.stdout.readline() == b"ready\n" for reader in readers)
            while any(reader.poll() is None for reader in readers):
                writer.step()
                if writer.has_done(least):
                    enough.touch()
                    time.sleep(0.05)  # a topic that passes lives for three rounds: a reader has to get to it
        finally:
            for reader in readers:
                reader.kill() if reader.poll() is None else None
            results = [reader.communicate() for reader in readers]
        assert [reader.returncode for reader in readers] == [0] * READERS, [err.decode()[-900:] for _, err in results]
        assert writer.has_done(least), "the readers ended before they should"
    found: list[dict[str, Any]] = [json.loads(out) for out, _ in results]
    print(writer.round, found)
    assert all(one["events"] > 1000 and one["table"] >= KEYS and one["passing"] for one in found)

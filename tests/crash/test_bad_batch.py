"""One bad batch in the middle of a log, each of 1,000 in turn: it is refused, and no record before or behind is lost.

A changed byte of the records, and a changed field of the header, in a log that was closed, or whose writer was killed;
opened for reading, and again for writing. `EVENTCORE_DEPTH=10 pytest -m nightly tests/crash/test_bad_batch.py`
does so in every combination; otherwise each batch is damaged in one of them in turn.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

import eventcore as ec
from tests.scale import DEPTH

DEEP = DEPTH >= 10
BATCHES = 1000
CONFIG = {"segment.bytes": 1 << 18, "segment.index.bytes": 4096, "index.interval.bytes": 1000}
KINDS = {"records": 70, "crc": 18, "offset": 6, "length": 10, "magic": 16, "epoch": 14, "last offset": 25, "time": 40,
         "count": 59}  # fmt: skip
"""A byte of the batch that is changed."""
STATES = ("closed", "rolled", "killed")
MODES = ("r", "rw")
EVERYTHING = tuple(product(STATES, MODES, KINDS))


class Log:
    """The folder in one state, and where its batches are."""

    def __init__(self, state: str, folder: Path) -> None:
        self.state = state
        self.folder = folder / "events-0"
        made = folder / "made-0"
        partition = ec.open_partition(made, fsync="never", config=CONFIG)
        for number in range(BATCHES):
            partition.extend([b"value %d" % number, b"and another"])
        if state == "rolled":
            partition.roll()
            partition.append(b"behind")
        partition.sync()
        if state != "killed":
            partition.close()
        self.files = {path.name: path.read_bytes() for path in made.iterdir()}
        with ec.open_partition(made, "r", config=CONFIG) as reader:
            self.good = list(reader)
            self.batches = [(entry.position, entry.size) for entry in reader.batches()][:BATCHES]
        if state == "killed":
            partition.close()

    def damage(self, number: int, kind: str) -> None:
        """The folder anew, with one byte of one batch changed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)
        position = self.batches[number][0] + KINDS[kind]
        with (self.folder / f"{0:020d}.log").open("r+b", buffering=0) as file:
            byte = os.pread(file.fileno(), 1, position)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 0x15]), position)


@pytest.fixture(scope="module")
def logs() -> Iterator[dict[str, Log]]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield {state: Log(state, Path(folder) / state) for state in STATES}


def readable(partition: ec.Partition) -> tuple[list[ec.Record], list[tuple[int, int]]]:
    """All records that can be read, and the ranges that are refused: reading goes on behind what an error names."""
    found: list[ec.Record] = []
    refused: list[tuple[int, int]] = []
    offset = partition.log_start_offset
    while offset < partition.high_watermark:
        try:
            for record in partition.read(offset):
                found.append(record)
                offset = record.offset + 1
            break
        except ec.CorruptRecord:
            resume = next_readable(partition, offset)
            refused.append((offset, resume))
            offset = resume
    return found, refused


def next_readable(partition: ec.Partition, offset: int) -> int:
    """The first offset behind a refused one that is not refused."""
    for later in range(offset + 1, partition.high_watermark):
        try:
            partition[later]
        except ec.CorruptRecord:
            continue
        return later
    return partition.high_watermark


def check(log: Log, mode: str, number: int, kind: str) -> None:
    log.damage(number, kind)
    with ec.open_partition(log.folder, mode, fsync="never", config=CONFIG) as partition:  # type: ignore[arg-type]
        end = len(log.good)
        assert partition.high_watermark == end
        found, refused = readable(partition)
        lost = range(2 * number, 2 * number + 2)
        if (log.state, kind) == ("killed", "epoch") and not refused:
            lost = range(0)  # nothing covers the epoch as long as the segment grows, and no record shows it
        assert found == [record for record in log.good if record.offset not in lost]
        assert refused == ([(lost.start, lost.stop)] if lost else [])
        if mode == "rw":
            assert partition.append(b"more") == end
            assert partition[end].value == b"more"
    if mode == "rw":
        with ec.open_partition(log.folder, "rw", fsync="never", config=CONFIG) as partition:
            assert readable(partition)[0][:-1] == found


@pytest.mark.parametrize(("state", "mode", "kind"), EVERYTHING)
def test_a_bad_batch_in_the_middle_loses_no_other(logs: dict[str, Log], state: str, mode: str, kind: str) -> None:
    for number in (1, BATCHES // 2, BATCHES - 2):
        check(logs[state], mode, number, kind)


@pytest.mark.nightly
def test_each_bad_batch_in_the_middle_loses_no_other(logs: dict[str, Log]) -> None:
    for number in range(BATCHES - 1):
        for state, mode, kind in EVERYTHING if DEEP else [EVERYTHING[number % len(EVERYTHING)]]:
            check(logs[state], mode, number, kind)

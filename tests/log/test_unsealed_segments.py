"""A segment that others follow, and that was never sealed: a roll was cut short, it still has its reserved zeros.

The zeros end it, for whoever reads, verifies, repairs or writes; the next writer seals it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.types import Record

SIZE = 16384
CONFIG = {"segment.bytes": SIZE, "segment.index.bytes": 4096, "index.interval.bytes": 500}
RECORDS = 600
START_MS = 1_700_000_000_000


def value(number: int) -> bytes:
    return b"%06d" % number * 10 + bytes(number % 90)  # some end in zeros themselves


def timestamp(number: int) -> int:
    return START_MS + number * 10


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def made(memory: Path) -> Path:
    """A closed log of several segments."""
    folder = memory / "made-0"
    with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
        for first in range(0, RECORDS, 3):
            p.extend([Record(value=value(n), timestamp=timestamp(n)) for n in range(first, first + 3)])
        assert len(p.segments) > 3
    return folder


@pytest.fixture
def folder(made: Path, memory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory) as root:
        yield Path(shutil.copytree(made, Path(root) / "events-0"))


def cut_short(folder: Path, slot: int, step: str) -> Path:
    """Leave a segment's roll where it was after some of its steps; returns the path of the log."""
    log = sorted(folder.glob("*.log"))[slot]
    seal = log.with_suffix(".seal")
    grow(log, SIZE)
    if step == "indexes cut":
        seal.unlink()
    elif step == "nothing done":
        seal.unlink()
        times = log.with_suffix(".timeindex")
        times.write_bytes(times.read_bytes()[:-12])  # its last entry is the one that sealing adds
        grow(times, 4092)
        grow(log.with_suffix(".index"), 4096)
    return log


def grow(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def in_state(folder: Path, state: str) -> None:
    if state in ("foreign", "never clean"):
        (folder / "eventcore.recovery").unlink()
    if state == "foreign":
        for path in (*folder.glob("*.seal"), folder / "eventcore.state"):
            path.unlink(missing_ok=True)


STEPS = ["nothing done", "indexes cut", "an old seal"]
STATES = ["closed", "never clean", "foreign"]


def check(p: ec.Partition) -> None:
    """All of it can be had in every way."""
    assert [record.value for record in p] == [value(n) for n in range(RECORDS)]
    assert p.verify().problems == []
    for number in range(0, RECORDS, 37):
        assert p[number].value == value(number)
        assert p.offset_for_time(timestamp(number)) == number
        assert p.fetch(number).next_offset > number
    assert sum(entry.record_count for entry in p.batches()) == RECORDS
    assert p.columns(columns=["offset"]).offset.tolist() == list(range(RECORDS))
    assert list(p.read_values()) == [value(n) for n in range(RECORDS)]
    assert [record.offset for record in p.tail(0, timeout=0.0)] == list(range(RECORDS))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("slots", [(0, 1), (-2,)])
def test_the_zeros_end_it(folder: Path, state: str, step: str, slots: tuple[int, ...]) -> None:
    logs = [cut_short(folder, slot, step) for slot in slots]
    in_state(folder, state)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with ec.open_partition(folder, "r", config=CONFIG) as reader:
        check(reader)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with ec.open_partition(folder, fsync="never", config=CONFIG) as writer:
        check(writer)
        assert writer.recovery.damage == []
        assert writer.append(b"next") == RECORDS
    for log in logs:
        assert log.stat().st_size < SIZE, "it was sealed"
        assert log.with_suffix(".seal").exists()
    with ec.open_partition(folder, fsync="never", config=CONFIG) as writer:
        assert writer.recovery.clean
        assert writer.verify().ok


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("state", STATES)
def test_repair_and_verify_agree(folder: Path, state: str, step: str) -> None:
    cut_short(folder, 1, step)
    in_state(folder, state)
    copy = folder.with_name("copy-0")
    shutil.copytree(folder, copy)
    with ec.open_partition(folder, "r", config=CONFIG) as reader:
        assert reader.verify().ok
    assert ec.repair_partition(folder, CONFIG, dry_run=True).losses == []
    assert ec.repair_partition(copy, CONFIG).losses == []
    for repaired in (folder, copy):
        with ec.open_partition(repaired, "r", config=CONFIG) as reader:
            check(reader)


@pytest.mark.parametrize("state", STATES)
def test_damage_before_the_zeros_is_still_damage(folder: Path, state: str) -> None:
    log = cut_short(folder, 1, "indexes cut")
    in_state(folder, state)
    with log.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    with ec.open_partition(folder, "r", config=CONFIG) as reader:
        assert not reader.verify().ok
    report = ec.repair_partition(folder, CONFIG)
    assert len(report.losses) == 1
    assert report.lost_offsets == 3
    with ec.open_partition(folder, "r", config=CONFIG) as reader:
        assert reader.verify().ok
        assert len(list(reader)) == RECORDS - 3


@pytest.mark.parametrize("state", STATES)
def test_records_that_are_missing_before_the_next_segment_are_still_missed(folder: Path, state: str) -> None:
    """Zeros where records should be: the last batch of the segment went lost, too."""
    log = sorted(folder.glob("*.log"))[1]
    with ec.open_partition(folder, "r", config=CONFIG) as reader:
        last = [entry for entry in reader.batches() if entry.path == log][-1]
    cut_short(folder, 1, "indexes cut")
    in_state(folder, state)
    with log.open("r+b") as file:
        file.seek(last.position)
        file.write(bytes(last.size))
    report = ec.repair_partition(folder, CONFIG)
    assert [(loss.damage.first_offset, loss.damage.next_offset) for loss in report.losses] == [
        (last.base_offset, last.last_offset + 1)
    ]


def test_a_segment_whose_values_end_in_zeros_is_not_cut(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
        for _ in range(100):
            p.append(bytes(400))
        assert len(p.segments) > 2
    for path in (*folder.glob("*.seal"), folder / "eventcore.recovery", folder / "eventcore.state"):
        path.unlink(missing_ok=True)
    for mode in ("r", "rw"):
        with ec.open_partition(folder, mode, config=CONFIG) as p:  # type: ignore[arg-type]
            assert len(list(p)) == 100
            assert p.verify().ok


def test_a_whole_log_is_not_read_for_that(folder: Path) -> None:
    with ec.open_partition(folder, config=CONFIG) as p:
        assert p.recovery.clean
        assert p.recovery.scanned_bytes == 0

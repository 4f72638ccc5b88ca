"""A reader of what a dead writer has left: it sees what the next writer would, and changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.log.overlay_disk import OverlayDisk

LARGE = {"segment.bytes": 4 << 20}
SMALL = {"segment.bytes": 1 << 14, "index.interval.bytes": 500}
LOG = f"{0:020d}.log"


def left_by_a_kill(folder: Path, config: dict[str, int], records: int, size: int) -> list[bytes]:
    """A writer appends, and is gone without a word; returns the values."""
    code = (
        "import os, sys, eventcore as ec\n"
        f"p = ec.open_partition(sys.argv[1], fsync='never', config={config!r})\n"
        f"for at in range(0, {records}, 10):\n"
        f"    p.extend([b'%d-' % i + b'x' * {size} for i in range(at, at + 10)])\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=120)
    return [b"%d-" % i + b"x" * size for i in range(records)]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def values_of(p: ec.Partition) -> list[bytes | None]:
    return [record.value for record in p]


@pytest.mark.parametrize(("config", "records", "size"), [(SMALL, 900, 40), (LARGE, 1500, 1500)], ids=["small", "large"])
def test_reads_what_a_killed_writer_left_and_changes_nothing(
    tmp_path: Path, config: dict[str, int], records: int, size: int
) -> None:
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, config, records, size)
    before = contents(folder)
    with ec.open_partition(folder, "r") as p:
        assert not p.recovery.clean
        assert values_of(p) == values
        assert [p[offset].value for offset in (0, records // 2, records - 1)] == [
            values[0],
            values[records // 2],
            values[-1],
        ]
        assert p.verify().ok
    assert contents(folder) == before


@pytest.mark.parametrize(("config", "records", "size"), [(SMALL, 200, 40), (LARGE, 900, 1500)], ids=["small", "large"])
def test_a_torn_tail_is_not_shown_and_stays_on_the_disk(
    tmp_path: Path, config: dict[str, int], records: int, size: int
) -> None:
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, config, records, size)
    last = max(folder.glob("*.log"))
    with last.open("r+b") as file:
        end = len(last.read_bytes().rstrip(b"\0"))
        file.seek(end - 5)
        file.write(b"\xff" * 100)
    before = contents(folder)
    with ec.open_partition(folder, "r") as p:
        assert values_of(p) == values[:-10]
        assert (p.recovery.cut_bytes, p.recovery.quarantined) == (0, [])
    assert contents(folder) == before
    with ec.open_partition(folder) as p:
        assert values_of(p) == values[:-10]


def test_a_swap_cut_short_is_seen_whole(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, SMALL, 100, 40)
    copy = tmp_path / "copy-0"
    with ec.open_partition(folder, config=SMALL) as p:
        p.roll()
        p.append(b"behind")
        shutil.copytree(folder, copy)
    for path in copy.glob(f"{0:020d}.*"):
        path.rename(path.with_name(path.name + ".swap"))
    before = contents(copy)
    with ec.open_partition(copy, "r") as p:
        assert values_of(p) == [*values, b"behind"]
    assert contents(copy) == before


def test_follows_the_writer_that_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, SMALL, 50, 40)
    with ec.open_partition(folder, "r") as reader:
        assert values_of(reader) == values
        with ec.open_partition(folder, config=SMALL) as p:
            p.append(b"next")
            assert values_of(reader) == [*values, b"next"]
        assert values_of(reader) == [*values, b"next"]


def test_a_writer_that_comes_within_a_tick_of_the_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder then looks as old as it was, though its files were replaced."""
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, SMALL, 50, 40)
    monkeypatch.setattr(Disk, "changed_ns", lambda self, folder: 7)
    with ec.open_partition(folder, "r") as reader:
        assert values_of(reader) == values
        with ec.open_partition(folder, config=SMALL) as p:
            p.append(b"next")
            assert values_of(reader) == [*values, b"next"]


def test_a_writer_that_comes_while_one_reads_is_no_truncation(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    values = left_by_a_kill(folder, SMALL, 50, 40)
    with ec.open_partition(folder, "r") as reader:
        reading = reader.read()
        first = [next(reading).value for _ in range(5)]
        with ec.open_partition(folder, config=SMALL) as p:
            p.append(b"next")
            assert reader.high_watermark == len(values) + 1, "it has seen the new writer"
            assert [*first, *(record.value for record in reading)] == values
            reading = reader.read()
            first = [next(reading).value for _ in range(5)]
            p.truncate(10)
            with pytest.raises(ec.LogTruncated):
                list(reading)


def test_one_that_comes_where_there_never_was_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p:
        p.append(b"v")
    (folder / "eventcore.state").unlink()
    monkeypatch.setattr(Disk, "changed_ns", lambda self, folder: 7)
    with ec.open_partition(folder, "r") as reader:
        assert values_of(reader) == [b"v"]
        with ec.open_partition(folder) as p:
            p.append(b"next")
            assert values_of(reader) == [b"v", b"next"]


@pytest.mark.parametrize("name", ["high_watermark", "log_end_offset", "durable_offset", "last_stable_offset"])
def test_the_end_is_right_at_the_first_look_after_the_last_writer(tmp_path: Path, name: str) -> None:
    """It was that of before the folder was looked at anew: 0, where there always was a writer until then."""
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as writer:
        writer.extend([b"v"] * 20)
        reader = ec.open_partition(folder, "r")
        assert getattr(reader, name) == 20
    with ec.open_partition(folder) as writer:
        writer.append(b"v")
    with reader:
        assert getattr(reader, name) == 21


def test_keeps_nothing_open_once_it_is_closed(tmp_path: Path, count_descriptors: Callable[[], int]) -> None:
    folder = tmp_path / "events-0"
    left_by_a_kill(folder, LARGE, 1500, 1500)
    before = count_descriptors()
    for _ in range(3):
        with ec.open_partition(folder, "r") as p:
            record = p[7]
        assert record.value is not None
        if before:
            assert count_descriptors() == before


def test_an_overlay_shows_changes_and_makes_none(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    over = OverlayDisk(disk, tmp_path)
    over.rename(tmp_path / "a", tmp_path / "c")
    over.unlink(tmp_path / "b")
    over.replace_file(tmp_path / "d", b"new")
    assert over.list(tmp_path) == ["c", "d"]
    assert over.entries(tmp_path) == {"c", "d"}
    assert over.read_file(tmp_path / "c", 10) == b"one"
    fd = over.open(tmp_path / "c", write=True)
    over.pwrite_all(fd, b"0", 0)
    over.close(fd)
    assert over.read_file(tmp_path / "c", 10) == b"0ne"
    assert over.read_file(tmp_path / "d", 10) == b"new"
    assert not over.exists(tmp_path / "a")
    with pytest.raises(ec.NotALog, match="missing"):
        over.open(tmp_path / "b", write=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_large_log_in_an_overlay_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / LOG
    path.write_bytes(b"x" * (3 << 20))
    over = OverlayDisk(Disk(), tmp_path)
    fd = over.open(path, write=True)
    over.map(fd, 3 << 20, write=True)
    over.pwrite_all(fd, b"yy", 5000)
    over.cut(fd, 2 << 20)
    again = over.open(path, write=False)
    assert over.size(again) == 2 << 20
    assert over.pread(again, 4, 4999) == b"xyyx"
    assert over.pread(again, 100, (2 << 20) - 10) == b"x" * 10
    assert path.read_bytes() == b"x" * (3 << 20)

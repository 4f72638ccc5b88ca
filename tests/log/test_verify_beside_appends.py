"""`verify` beside a writer: everything below the end it began with is checked, what comes later is not its matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.log import verify
from eventcore.log.segment import Segment

CONFIG = {"segment.bytes": 16384, "segment.index.bytes": 4096, "index.interval.bytes": 200}


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    with ec.open_partition(tmp_path / "events-0", fsync="never", config=CONFIG) as partition:
        for number in range(60):
            partition.extend([b"%d" % number * 30] * 2)
        yield partition


def during(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object], at: int = 0) -> None:
    """Do something once, while a check is just about to enter one of its steps."""
    original, left = getattr(verify._SegmentCheck, name), [at]

    def entered(check: Any, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            act()
        return original(check, *arguments)

    monkeypatch.setattr(verify._SegmentCheck, name, entered)


STEPS = ["run", "_batches", "_batch", "_offset_index", "_time_index"]


def acts(writer: ec.Partition) -> dict[str, Callable[[], object]]:
    later = [b"later" * 50] * 2

    def append() -> None:
        for _ in range(20):
            writer.extend(later)

    def roll() -> None:
        writer.roll()
        append()

    def cut() -> None:
        writer.truncate(31)

    def cut_and_append() -> None:
        cut()
        append()

    def append_and_roll() -> None:
        append()
        roll()

    return {
        "appends and rolls": append_and_roll,
        "appends": append,
        "rolls": roll,
        "truncates": cut,
        "truncates and appends": cut_and_append,
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["appends", "appends and rolls", "rolls", "truncates", "truncates and appends"])
def test_what_happens_meanwhile_is_no_damage(
    writer: ec.Partition, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    during(monkeypatch, step, acts(writer)[what])
    report = writer.verify()
    assert report.problems == []
    monkeypatch.undo()
    assert writer.verify().problems == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["appends", "appends and rolls", "rolls", "truncates", "truncates and appends"])
def test_nor_is_it_for_a_reader(
    writer: ec.Partition, monkeypatch: pytest.MonkeyPatch, step: str, what: str, tmp_path: Path
) -> None:
    with ec.open_partition(tmp_path / "events-0", "r", config=CONFIG) as reader:
        during(monkeypatch, step, acts(writer)[what])
        assert reader.verify().problems == []


def test_damage_below_the_end_is_still_found(writer: ec.Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    active = writer.segments.active
    assert isinstance(active, Segment)
    active.log.view[active.log.size - 3] ^= 1
    during(monkeypatch, "_batches", acts(writer)["appends"])
    assert [problem.what for problem in writer.verify().problems] != []
    active.log.view[active.log.size - 3] ^= 1


def test_an_index_entry_below_the_end_that_names_no_batch_is_still_found(writer: ec.Partition) -> None:
    index = writer.segments.active.offset_index
    view, at = index.file.view, 8 * (index.count - 1)
    view[at + 7] ^= 1
    assert "an offset index entry that names no batch" in [problem.what for problem in writer.verify().problems]
    view[at + 7] ^= 1
    assert writer.verify().ok


def test_nor_is_one_that_points_beyond_the_end_overlooked(writer: ec.Partition) -> None:
    index = writer.segments.active.offset_index
    view, at = index.file.view, 8 * (index.count - 1)
    view[at] ^= 1
    assert "an offset index entry that names no batch" in [problem.what for problem in writer.verify().problems]
    view[at] ^= 1
    assert writer.verify().ok

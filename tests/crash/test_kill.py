"""A killed writer loses nothing it acknowledged; see `killing.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from tests.crash import killing
from tests.crash.killing import Totals
from tests.scale import DEPTH, SEED


@pytest.fixture
def ground() -> Iterator[Path]:
    """In memory where that is possible: on a disk a child is killed before it has written much."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_few_kills_lose_nothing(ground: Path) -> None:
    totals = killing.run(3, 11, ground, Totals())
    killing.run(3, 12, ground, totals, least=20)
    assert totals.wrong == []


@pytest.mark.nightly
def test_many_kills_lose_nothing(ground: Path) -> None:
    kills = 1000 * DEPTH
    totals = killing.run(kills, 7 + SEED, ground, Totals())
    assert totals.wrong == []
    assert totals.kills == kills
    assert totals.checked > kills


def test_the_harness_sees_a_wrong_record(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ec.Partition.append
    monkeypatch.setattr(ec.Partition, "append", lambda self, value: real(self, value + b"!"))
    assert killing.run(40, 3, ground, Totals(), least=50).wrong


def test_the_harness_sees_a_loss(ground: Path) -> None:
    folder = ground / "events-0"
    with ec.open_partition(folder, fsync="never") as p:
        p.extend([killing.value_of(offset, 1) for offset in range(4)])
    totals = Totals()
    killing.check(folder, killing.Model(), [(1, 4, 1), (2, 4, 1), (1, 5, 1), (2, 5, 1)], totals)
    assert totals.wrong == [f"{folder}: lost: 4 records of 5 acknowledged ones"]

"""Services that agree through topics, killed at any time: every order gets one outcome; see `choreography.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eventcore as ec
from tests.crash import choreography
from tests.crash.choreography import EXAMPLE, Totals
from tests.scale import DEPTH, SEED


@pytest.mark.sampled
def test_the_example_as_one_runs_it(memory_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), str(memory_path), "--orders", "30"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "shipped" in ended.stdout


@pytest.mark.sampled
def test_a_few_kills(memory_path: Path) -> None:
    totals = choreography.run(2, 5, memory_path, Totals())
    assert totals.wrong == []


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_200_runs(memory_path: Path) -> None:
    totals = choreography.run(200 * DEPTH, 7 + SEED, memory_path, Totals())
    assert totals.wrong == []
    assert totals.kills > 200 * DEPTH


@pytest.mark.nightly
def test_the_harness_sees_an_order_that_ships_twice(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets that do not move with what was made of the records."""

    def commit(self: ec.Transaction, consumer: ec.Consumer) -> None:
        self.commit()
        consumer.commit()

    monkeypatch.setattr(ec.Transaction, "commit_offsets", commit)
    assert choreography.run(200, 3, memory_path, Totals()).wrong

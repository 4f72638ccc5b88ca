"""The example of a view with a checkpoint, as one runs it; and killed while it saves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eventcore as ec
from tests.scale import seeded

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "balances.py"


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(EXAMPLE), str(folder), *options]


def run(folder: Path, *options: str) -> list[str]:
    ended = subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@pytest.mark.sampled
def test_the_example_as_one_runs_it(memory_path: Path) -> None:
    for before in (0, 3_000, 6_000):
        said, proof = run(memory_path, "--events", "3000", "--check")
        assert said.startswith(f"{before + 3_000:,} movements, 3,000 of them read, in ")
        assert proof == "equal to a full replay"


@pytest.mark.sampled
def test_the_example_killed(memory_path: Path) -> None:
    """At any time; the next run equals a full replay."""
    rng = seeded(3)
    run(memory_path, "--events", "1000")
    for _ in range(3):
        process = subprocess.Popen(command(memory_path, "--events", "20000"), stdout=subprocess.DEVNULL)
        time.sleep(0.4 + rng.random() * 0.6)
        process.kill()
        process.wait()
    assert run(memory_path, "--events", "10", "--check")[1] == "equal to a full replay"
    with ec.open(memory_path, "r") as store:
        assert store.checkpoints == ["balances"]
    assert not os.path.exists(memory_path / "eventcore.checkpoint-balances.view.tmp")

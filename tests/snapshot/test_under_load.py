"""Snapshots of a store that is being written, changed and looked after: what is restored is what was there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale import DEPTH, SEED
from tests.snapshot import under_load


@pytest.mark.sampled
def test_a_few(memory_path: Path) -> None:
    assert under_load.run(6, 1, memory_path) == 6


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_three_hundred(memory_path: Path) -> None:
    assert under_load.run(250 * DEPTH, 2 + SEED, memory_path) == 250 * DEPTH
    assert under_load.run(50 * DEPTH, 3 + SEED, memory_path, fsync="always") == 50 * DEPTH

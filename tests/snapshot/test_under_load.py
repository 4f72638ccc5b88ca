"""Snapshots of a store that is being written, changed and looked after: what is restored is what was there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.snapshot import under_load


@pytest.mark.sampled
def test_a_few(memory_path: Path) -> None:
    assert under_load.run(6, 1, memory_path) == 6


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_three_hundred(memory_path: Path) -> None:
    assert under_load.run(250, 2, memory_path) + under_load.run(50, 3, memory_path, fsync="always") == 300

"""The measurement that `bench.compare` runs on two commits, tiny, so that it cannot rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.append_cost import CALLS, cost


@pytest.mark.parametrize("count", list(CALLS))
def test_a_cost_is_measured(count: int, tmp_path: Path) -> None:
    assert 0 < cost(count, 10, str(tmp_path)) < 1
    assert list(tmp_path.iterdir()) == []

"""What `bench.compare` runs on two commits, tiny, so that it cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import append_cost, compare, read_cost


@pytest.mark.parametrize("name", list(append_cost.CALLS))
def test_the_cost_of_an_append_is_measured(name: str, tmp_path: Path) -> None:
    assert append_cost.cost(name, 10, str(tmp_path)) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_costs_of_reading_are_measured(tmp_path: Path) -> None:
    found = read_cost.costs(str(tmp_path), 2000, 5)
    assert {"read", "columns", "p[i] 1000", "p[i] 100"} <= set(found)
    assert all(cost > 0 for cost in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_both_have_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three rounds the median; what only one commit can do is left out."""
    turns = iter(
        [{"read": 5.0, "old": 1.0}, {"read": 2.0, "new": 1.0}] * 2 + [{"read": 9.0, "old": 1.0}, {"read": 1.0}]
    )
    monkeypatch.setattr(compare, "measured", lambda source, scripts: next(turns))
    assert compare.compare(Path("before"), Path("after"), 3, ("read",)) == {"read": (5.0, 2.0)}


def test_the_scripts_print_what_compare_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all((compare.ROOT / "bench" / f"{name}_cost.py").is_file() for name in compare.SCRIPTS)
    monkeypatch.setattr(append_cost, "CALLS", {"append one": 10})
    append_cost.main(str(tmp_path))
    assert set(json.loads(capsys.readouterr().out)) == {"append one"}

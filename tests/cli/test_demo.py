"""demo: a first look that leaves a good log behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


def test_it_tells_a_story_and_leaves_a_good_log(run: Run, tmp_path: Path) -> None:
    ended = run("demo", tmp_path / "shop" / "orders-0", "--records", 12_345)
    assert ended.code == 0, ended.err
    for word in ("OrderPlaced", "StockReserved", "ShipmentSent", "correlation-id", "records/s", "eventcore verify"):
        assert word in ended.text
    with ec.open_partition(tmp_path / "shop" / "orders-0", "r") as partition:
        assert len(partition) == 7 + 12_345
        assert partition.verify().ok
        ids = {record.key: dict(record.headers)["correlation-id"] for record in partition[:7]}
        assert len(set(ids.values())) == len(ids) == 2


def test_as_json_in_a_temporary_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (facts,) = run("demo", "--records", 10, "--json").objects
    assert Path(facts["path"]).is_relative_to(tmp_path)
    assert (facts["story_records"], facts["bulk_records"]) == (7, 10)
    assert len(run("read", facts["path"], "--json").objects) == 17


def test_it_leaves_a_log_with_records_alone(run: Run, folder: Path) -> None:
    ended = run("demo", folder)
    assert ended.code == 1
    assert "give the demo a new folder" in ended.error
    assert run("stat", folder, "--json").objects[0]["log_end_offset"] == 5

"""Real files go in and come out unchanged, key by key, row by row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize("codec", ["uncompressed", "zstd"])
def test_earthquakes(run: Run, tmp_path: Path, data_dir: Path, codec: str) -> None:
    file = data_dir / "earthquakes.csv"
    options = ("--key", "EventID", "--config", f"compression.type={codec}", "--config", "segment.bytes=1000000")
    (summary,) = run("append", tmp_path / "quakes-0", file, *options, "--json").objects
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    records = run("read", tmp_path / "quakes-0", "--json").objects
    assert summary["records"] == len(rows) == 38_094
    assert [record["offset"] for record in records] == list(range(len(rows)))
    assert [record["key"] for record in records] == [row["EventID"] for row in rows]
    assert [json.loads(record["value"]) for record in records] == rows
    assert run("verify", tmp_path / "quakes-0").code == 0


def test_access_log(run: Run, tmp_path: Path, data_dir: Path) -> None:
    file = data_dir / "apache_access.log"
    assert run("append", tmp_path / "access-0", file, "--batch", 333).code == 0
    lines = file.read_bytes().decode().removesuffix("\n").split("\n")
    records = run("read", tmp_path / "access-0", "--json").objects
    assert len(records) == 10_000
    assert [record["value"] for record in records] == lines
    assert run("verify", tmp_path / "access-0").code == 0

"""`eventcore compact`."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """Three keys, each of them written ten times."""
    path = tmp_path / "prices-0"
    with ec.open_partition(path, fsync="never") as partition:
        for number in range(10):
            partition.extend([(b"%d" % key, b"%d" % number) for key in range(3)])
    return path


def test_the_latest_of_each_key_is_left(prices: Path, run: Run) -> None:
    ended = run("compact", prices)
    assert ended.code == 0
    assert "30" in ended.text
    assert "saved" in ended.text
    with ec.open_partition(prices, "r") as partition:
        assert [(record.offset, record.value) for record in partition] == [(27, b"9"), (28, b"9"), (29, b"9")]
    again = run("compact", prices)
    assert (again.code, "nothing to compact" in again.text) == (0, True)


def test_json(prices: Path, run: Run) -> None:
    found = run("compact", prices, "--json").objects[0]
    assert (found["compacted"], found["records_before"], found["records_after"], found["passes"]) == (True, 30, 3, 1)
    assert found["saved_bytes"] == found["bytes_before"] - found["bytes_after"]
    assert run("compact", prices, "--json").objects == [{"path": str(prices), "compacted": False}]


def test_the_active_segment_can_be_kept(prices: Path, run: Run) -> None:
    assert run("compact", prices, "--keep-active", "--json").objects[0]["compacted"] is False
    with ec.open_partition(prices, "r") as partition:
        assert len(list(partition)) == 30


def test_what_was_damaged_is_told(prices: Path, run: Run) -> None:
    with ec.open_partition(prices) as partition:
        partition.roll()
        log = partition.segments.first.log.path
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    ended = run("compact", prices)
    assert "offsets 3 to 5 were damaged: kept in" in ended.text


def test_errors(tmp_path: Path, run: Run) -> None:
    assert "there is no folder" in run("compact", tmp_path / "missing").error
    assert run("compact", tmp_path, "--map-mib", "0").code == 2


@pytest.mark.realdata
def test_earthquakes_twice_over(tmp_path: Path, data_dir: Path, run: Run) -> None:
    """Exactly one record a key is left, the newest."""
    path = tmp_path / "quakes-0"
    for _ in range(2):
        assert run("append", path, data_dir / "earthquakes.csv", "--key", "EventID", "--fsync", "never").code == 0
    with ec.open_partition(path, "r") as partition:
        newest = {record.key: record for record in partition}
    assert run("compact", path).code == 0
    with ec.open_partition(path, "r") as partition:
        assert list(partition) == sorted(newest.values(), key=lambda record: record.offset)

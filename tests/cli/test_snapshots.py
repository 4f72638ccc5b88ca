"""`eventcore snapshot`, `snapshots` and `restore`."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop"
    with ec.open(path, fsync="never") as store:
        store.create_topic("orders", 2)[0].extend(
            [ec.Record(-1, 1_700_000_000_000 + 1000 * n, None, b"%d" % n, ()) for n in range(100)]
        )
    return path


def count(path: Path) -> int:
    with ec.open(path, "r") as store:
        return sum(len(partition) for partition in store.topic("orders"))


def test_from_one_to_the_next(shop: Path, tmp_path: Path, run: Run) -> None:
    kept = tmp_path / "kept"
    ended = run("snapshot", shop, kept)
    assert ended.code == 0
    assert "snapshot 1 of" in ended.text
    assert run("append", shop, "-", "--topic", "orders", stdin=b"one more\n").code == 0
    [facts] = run("snapshot", shop, kept, "--json").objects
    assert (facts["number"], facts["parent"]) == (2, 1)
    assert sum(end for _, end in facts["partitions"].values()) == 101
    listed = run("snapshots", "list", kept)
    assert listed.code == 0
    assert "partitions" in listed.text
    assert [one["number"] for one in run("snapshots", "list", kept, "--json").objects[0]] == [1, 2]
    assert run("snapshots", "verify", kept).code == 0
    ended = run("restore", kept, tmp_path / "new")
    assert ended.code == 0
    assert "all checked" in ended.text
    assert count(tmp_path / "new") == 101
    assert run("restore", kept, tmp_path / "first", "--number", "1", "--json").objects[0]["number"] == 1
    assert count(tmp_path / "first") == 100
    assert run("restore", kept, tmp_path / "offset", "--until-offset", "orders-0=7").code == 0
    assert count(tmp_path / "offset") == 7
    assert run("restore", kept, tmp_path / "time", "--until", "1700000050000").code == 0
    assert count(tmp_path / "time") == 50
    assert run("snapshots", "prune", kept, "--dry-run").text == "would remove: 1\n"
    assert run("snapshots", "prune", kept, "--json").objects == [{"removed": [1], "dry_run": False}]
    assert run("snapshots", "verify", kept, "--json").objects == [{"2": []}]


def test_what_is_wrong_is_said_in_a_line(shop: Path, tmp_path: Path, run: Run) -> None:
    kept = tmp_path / "kept"
    assert "no snapshots" in run("snapshots", "verify", kept).error
    assert "no snapshots" in run("restore", kept, tmp_path / "new").error
    assert run("snapshot", tmp_path / "absent", kept).code != 0
    assert not (tmp_path / "absent").exists()
    with ec.open(shop):
        assert "written by" in run("snapshot", shop, kept).error
    assert run("snapshot", shop, kept).code == 0
    assert "something at" in run("restore", kept, shop).error
    assert run("restore", kept, tmp_path / "new", "--until", "1", "--until-offset", "orders-0=1").code == 2
    assert run("restore", kept, tmp_path / "new", "--until-offset", "orders=1").code == 2
    assert run("restore", kept, tmp_path / "new", "--until-offset", "orders-0").code == 2
    next(path for path in (kept / "objects").rglob("*") if path.is_file()).unlink()
    ended = run("snapshots", "verify", kept)
    assert ended.code == 1
    assert "objects/" in ended.text
    assert "missing" in run("restore", kept, tmp_path / "new").error
    assert not (tmp_path / "new").exists()

"""`eventcore repair` and what `stat` says of a living writer."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk

from .conftest import Run
from .test_inspect import LOG, damage


def test_a_whole_log_needs_nothing(run: Run, folder: Path) -> None:
    ended = run("repair", folder)
    assert (ended.code, "nothing to repair" in ended.text) == (0, True)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Run, folder: Path) -> None:
    damage(folder)
    before = (folder / LOG).read_bytes()
    ended = run("repair", folder, "--dry-run")
    assert ended.code == 1
    assert "2 to 3" in ended.text
    assert "would be put aside" in ended.text
    assert (folder / LOG).read_bytes() == before
    assert not (folder / "quarantine").exists()


def test_bad_bytes_are_put_aside_and_the_rest_is_read(run: Run, folder: Path) -> None:
    damage(folder)
    assert run("verify", folder).code == 1
    (report,) = run("repair", folder, "--json").objects
    (loss,) = report["losses"]
    assert (loss["first_offset"], loss["next_offset"], report["lost_offsets"]) == (2, 4, 2)
    assert Path(loss["quarantined"]).stat().st_size == loss["end_position"] - loss["position"]
    assert run("verify", folder).code == 0
    read = run("read", folder, "--json")
    assert [record["offset"] for record in read.objects] == [0, 1, 4]
    assert run("repair", folder, "--json").objects[0]["losses"] == []


def test_nobody_repairs_what_is_being_written(run: Run, folder: Path) -> None:
    with ec.open_partition(folder):
        ended = run("repair", folder)
    assert ended.code != 0
    assert "process" in ended.error


@pytest.mark.parametrize("allocates", [True, False])
def test_stat_says_how_the_log_is_written(
    run: Run, folder: Path, allocates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disk, "allocates", lambda disk, fd: allocates)
    assert "written by" not in run("stat", folder).text
    with ec.open_partition(folder):
        io = "mmap" if allocates else "pwrite"
        assert run("stat", folder, "--json").objects[0]["io"] == io
        assert f"written by           {io}" in run("stat", folder).text

"""Manifests and folders made by somebody who means harm, or by bad luck: refused, and nothing outside is touched.

Each has a right CRC over wrong content, unless that is what is wrong: whoever may write a manifest can compute one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from tests.snapshot.worlds import look, look_at, open_store, tree

Values = dict[str, Any]
LOG = f"{0:020}.log"


def sealed(values: Values) -> bytes:
    """The bytes of a manifest, with the CRC it ought to have."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**values, "crc32c": kernels.crc32c.crc32c(text)}).encode()


def renamed(path: str) -> Callable[[Values], None]:
    """The log has another path."""

    def change(values: Values) -> None:
        file_of(values)[0] = path

    return change


def moved(name: Any, start: Any = 0, size: Any = None) -> Callable[[Values], None]:
    """The log's bytes are elsewhere."""

    def change(values: Values) -> None:
        piece = file_of(values)[3][0]
        file_of(values)[3] = [[name, start, piece[2] if size is None else size]]

    return change


def having(**changes: Any) -> Callable[[Values], None]:
    """Some values are others."""
    return lambda values: values.update(changes)


def without(name: str) -> Callable[[Values], None]:
    """A value is missing."""
    return lambda values: values.pop(name)


def file_of(values: Values, name: str = LOG) -> list[Any]:
    """The row of a file."""
    return next(row for row in values["files"] if row[0].endswith(name))


def in_file(at: int, value: Any) -> Callable[[Values], None]:
    """The log's size, CRC or pieces are others."""

    def change(values: Values) -> None:
        file_of(values)[at] = value

    return change


def in_extent(*row: Any) -> Callable[[Values], None]:
    """The one partition is another."""
    return lambda values: values.update(partitions=[list(row)])


def twice(name: str) -> Callable[[Values], None]:
    """A row is there twice."""
    return lambda values: values[name].append(values[name][0])


def one_more(path: str) -> Callable[[Values], None]:
    """There is a file that no store has."""

    def change(values: Values) -> None:
        values["files"].append([path, *file_of(values)[1:]])

    return change


MANIFESTS: dict[str, Callable[[Values], Any]] = {
    "absolute path": renamed(f"/orders-0/{LOG}"),
    "absolute path of another file": renamed("/etc/passwd"),
    "path upwards": renamed(f"../orders-0/{LOG}"),
    "path upwards inside": renamed(f"orders-0/../../{LOG}"),
    "path with a dot": renamed(f"./orders-0/{LOG}"),
    "path with two slashes": renamed(f"orders-0//{LOG}"),
    "path of a folder": renamed("orders-0/"),
    "path three deep": renamed(f"orders-0/inner/{LOG}"),
    "path with a zero byte": renamed(f"orders-0/{LOG}\0"),
    "path with a newline": renamed(f"orders-0/{LOG}\n"),
    "path with a backslash": renamed(f"orders-0\\{LOG}"),
    "path in another script": renamed(f"оrders-0/{LOG}"),
    "empty path": renamed(""),
    "path that is a number": in_file(0, 7),
    "path that is null": in_file(0, None),
    "the lock of a store": renamed(".lock"),
    "the mark of a clean shutdown": renamed(".kafka_cleanshutdown"),
    "the note of the restore": renamed("eventcore.restoring"),
    "the state of a partition": renamed("orders-0/eventcore.state"),
    "a file in quarantine": renamed(f"orders-0/quarantine/{LOG}"),
    "a hidden file": renamed("orders-0/.bashrc"),
    "a temporary file": renamed(f"orders-0/{LOG}.tmp"),
    "a file that would be swapped": renamed(f"orders-0/{LOG}.swap"),
    "an offset that is too large": renamed(f"orders-0/{'9' * 20}.log"),
    "a partition of a number that Kafka never writes": renamed(f"orders-00/{LOG}"),
    "a file of no partition of it": one_more(f"other-0/{LOG}"),
    "a checkpoint with a path for its name": one_more("eventcore.checkpoint-../x"),
    "a file twice": twice("files"),
    "a partition twice": twice("partitions"),
    "a partition without files": lambda values: values["partitions"].append(["other", 0, 0, 0]),
    "a topic's name upwards": in_extent("..", 0, 0, 1),
    "a topic's name with a slash": in_extent("a/b", 0, 0, 1),
    "a partition's number below zero": in_extent("orders", -1, 0, 1),
    "a partition's number that is true": in_extent("orders", True, 0, 1),
    "an end before the start": in_extent("orders", 0, 5, 1),
    "an end beyond 63 bits": in_extent("orders", 0, 0, 1 << 63),
    "an object upwards": moved("objects/../../etc/passwd"),
    "an object that is absolute": moved("/etc/passwd"),
    "an object elsewhere": moved("snapshots/0000000001.json"),
    "an object in a folder upwards": moved("objects/../objects/x"),
    "an object with a dot": moved("objects/./x"),
    "an object with a zero byte": moved("objects/a/x\0"),
    "an object that is null": moved(None),
    "an object that is not there": moved("objects/nobody/none"),
    "a piece that begins behind its object": moved("objects/packs/0000000001-000000", 1 << 40),
    "a piece that begins below zero": moved("objects/packs/0000000001-000000", -1),
    "a piece of more than 63 bits": moved("objects/packs/0000000001-000000", (1 << 63) - 1, 1 << 62),
    "a size that its pieces have not": in_file(1, 1),
    "a size below zero": in_file(1, -1),
    "a size beyond 63 bits": in_file(1, 1 << 63),
    "a size that is a text": in_file(1, "1"),
    "a size that is a fraction": in_file(1, 1.5),
    "a wrong CRC": in_file(2, 12345),
    "a CRC beyond 32 bits": in_file(2, 1 << 32),
    "no pieces": in_file(3, []),
    "pieces that are a text": in_file(3, "none"),
    "files that are a text": having(files="none"),
    "files of three values": lambda values: values["files"].append(["orders-0/x", 0, 0]),
    "partitions that are missing": without("partitions"),
    "no meta.properties": lambda values: values["files"].remove(file_of(values, "meta.properties")),
    "another number": having(number=2),
    "a number that is a text": having(number="1"),
    "a parent that is newer": having(parent=5),
    "itself as its parent": having(parent=1),
    "a parent below zero": having(parent=-1),
    "a time that is a text": having(created_ms="now"),
    "a cluster without a name": having(cluster_id=None),
    "a newer version": having(version=2),
    "no version": without("version"),
    "a list": lambda values: [1, 2],
    "a number": lambda values: 7,
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A snapshot of one partition."""
    with open_store(tmp_path / "store") as store:
        store.create_topic("orders", 1)[0].extend([b"v" * 1000] * 200)
        store.snapshot(tmp_path / "kept")
    (tmp_path / "secret").write_bytes(b"not to be read or written")
    return tmp_path / "kept"


def refuse(kept: Path, tmp_path: Path) -> ec.EventCoreError:
    """It is not restored, and nothing but what is ours was touched."""
    before = tree(tmp_path)
    names = sorted(os.listdir(tmp_path))
    with pytest.raises((ec.SnapshotDamaged, ec.UnsupportedFormat, ec.NoSnapshot)) as caught:
        ec.restore(kept, tmp_path / "new", number=1)
    assert sorted(os.listdir(tmp_path)) == names
    assert tree(tmp_path) == before
    return caught.value


@pytest.mark.parametrize("name", list(MANIFESTS))
def test_a_manifest_that_cannot_be(kept: Path, tmp_path: Path, name: str) -> None:
    path = kept / "snapshots" / "0000000001.json"
    values = json.loads(path.read_bytes())
    del values["crc32c"]
    returned = MANIFESTS[name](values)
    if isinstance(returned, (list, int)):
        path.write_bytes(json.dumps(returned).encode())
    else:
        path.write_bytes(sealed(values))
    refuse(kept, tmp_path)
    assert ec.snapshots(kept).verify(1)


def test_there_are_sixty() -> None:
    assert len(MANIFESTS) >= 60


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "nested", "no text", "a folder", "a link", "a pipe"])
def test_a_manifest_that_is_none(kept: Path, tmp_path: Path, damage: str) -> None:
    path = kept / "snapshots" / "0000000001.json"
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a link":
        (tmp_path / "real").write_bytes(data)
        path.symlink_to(tmp_path / "real")
    elif damage == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[:-20],
                "changed": data.replace(b'"new_bytes":', b'"new_bytes":1'),
                "nested": b"[" * 100_000,
                "no text": bytes(range(256)),
            }[damage]
        )
    if damage in ("a folder", "a link", "a pipe"):
        with pytest.raises(ec.StorageError):
            ec.restore(kept, tmp_path / "new", number=1)
        assert not (tmp_path / "new").exists()
    else:
        refuse(kept, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "changed", "a link", "a folder", "a pipe"])
def test_an_object_that_is_not_what_it_was(kept: Path, tmp_path: Path, damage: str) -> None:
    path = next(path for path in (kept / "objects").rglob("*.log.*"))
    data = path.read_bytes()
    path.unlink()
    if damage == "a link":
        path.symlink_to(tmp_path / "secret")
    elif damage == "a folder":
        path.mkdir()
    elif damage == "a pipe":
        os.mkfifo(path)
    elif damage != "missing":
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "changed": data[:-1] + b"x"}[damage])
    if damage == "longer":  # of an object that several share one reads the own part
        ec.restore(kept, tmp_path / "new")
        assert ec.snapshots(kept).verify(1) == []
        return
    error = refuse(kept, tmp_path)
    assert "objects/" in str(error) or "CRC" in str(error)
    assert ec.snapshots(kept).verify(1)


def test_what_does_not_belong_there_is_left_alone(kept: Path, tmp_path: Path) -> None:
    for name in ("objects/orders-0/stranger", "snapshots/readme.txt", "snapshots/7.json", "stranger"):
        (kept / name).write_bytes(b"mine")
    (kept / "objects" / "link").symlink_to(tmp_path)
    assert ec.snapshots(kept).numbers() == [1]
    ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "store") as store:
        assert look_at(tmp_path / "new") == look(store)


@pytest.mark.parametrize("name", ["objects", "snapshots"])
def test_a_link_in_place_of_a_folder(kept: Path, tmp_path: Path, name: str) -> None:
    (kept / name).rename(tmp_path / "real")
    (kept / name).symlink_to(tmp_path / "real")
    with pytest.raises(ec.StorageError):
        ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "store") as store, pytest.raises(ec.StorageError):
        store.snapshot(kept)


def test_what_prune_does_not_know_stays_outside(kept: Path, tmp_path: Path) -> None:
    """It removes objects by names it has given, nothing through a link."""
    (kept / "objects" / "away").symlink_to(tmp_path)
    with open_store(tmp_path / "store") as store:
        store.snapshot(kept)
    before = (tmp_path / "secret").read_bytes()
    ec.snapshots(kept).prune()
    assert (tmp_path / "secret").read_bytes() == before

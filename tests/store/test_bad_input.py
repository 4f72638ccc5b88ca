"""What is refused, with what to do and with nothing changed: names, numbers, configurations, folders of other kinds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import json_file, topic_file

from .conftest import OpenStore, tree

NAMES = ["", ".", "..", "a/b", "../a", "a\\b", "a b", "a\0b", "a\nb", "a" * 250, "größe", "話題", "a:b", "a*"]
RESERVED = ["__cluster_metadata", "__consumer_offsets", "__transaction_state", "__share_group_state"]


@pytest.mark.parametrize("name", NAMES + RESERVED)
def test_names_that_cannot_be(open_store: OpenStore, folder: Path, name: str) -> None:
    store = open_store()
    before = tree(folder)
    with pytest.raises(ec.UsageError) as refused:
        store.create_topic(name)
    assert refused.value.hint
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["a" * 249, "a", "-", "a-0", "a.b_c-d", "0", "...", "-1"])
def test_names_that_can_be(open_store: OpenStore, name: str) -> None:
    with open_store() as store:
        store.create_topic(name, 2)[1].append(b"1")
    store = open_store()
    assert store.topics == [name]
    assert len(store.topic(name)[1]) == 1
    store.delete_topic(name)
    assert store.topics == []


@pytest.mark.parametrize("partitions", [0, -1, 10_001, 1_000_000, True, 1.5, "3"])
def test_partition_counts_that_cannot_be(open_store: OpenStore, folder: Path, partitions: int) -> None:
    store = open_store()
    before = tree(folder)
    with pytest.raises(ec.UsageError, match="allowed are 1 to"):
        store.create_topic("t", partitions)
    assert tree(folder) == before


@pytest.mark.parametrize(
    "config",
    [{"no.such": 1}, {"retention.ms": -2}, {"retention.ms": "x"}, {"cleanup.policy": "both"}, {"segment.bytes": 1}],
)
def test_configurations_that_cannot_be(open_store: OpenStore, folder: Path, config: dict[str, object]) -> None:
    store = open_store()
    store.create_topic("there")
    before = tree(folder)
    for act in (
        lambda: store.create_topic("t", 1, config),
        lambda: store.configure_topic("there", config),
        lambda: ec.open(folder.parent / "other", config=config),  # type: ignore[arg-type]
    ):
        with pytest.raises(ec.InvalidConfig):
            act()
    assert tree(folder) == before
    assert not (folder.parent / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"mode": "w"}, ec.UsageError), ({"fsync": "maybe"}, ec.UsageError), ({"cluster_id": "a/b"}, ec.UsageError)],
)
def test_arguments_that_cannot_be(folder: Path, arguments: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        ec.open(folder, **arguments)  # type: ignore[arg-type]
    assert not folder.exists()


def refused(folder: Path, error: type[ec.EventCoreError], match: str | None, **arguments: str) -> None:
    before = tree(folder)
    for mode in ("rw", "r"):
        with pytest.raises(error, match=match) as found:
            ec.open(folder, mode, **arguments)  # type: ignore[arg-type]
        assert found.value.hint
    assert tree(folder) == before


def test_a_store_of_another_cluster(open_store: OpenStore, folder: Path) -> None:
    open_store(cluster_id="mine").close()
    refused(folder, ec.NotALog, "belongs to cluster 'mine', not 'other'", cluster_id="other")
    assert open_store(cluster_id="mine").cluster_id == "mine"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("version=2\ncluster.id=c\nnode.id=1\n", ec.UnsupportedFormat),
        ("version=1\nnode.id=1\n", ec.CorruptFile),
        ("version=1\ncluster.id=c\n", ec.CorruptFile),
        ("version=1\ncluster.id=c\nnode.id=-1\n", ec.CorruptFile),
        ("version=one\ncluster.id=c\nnode.id=1\n", ec.CorruptFile),
        ("rubbish", ec.CorruptFile),
        ("", ec.CorruptFile),
    ],
)
def test_a_newer_or_broken_store(open_store: OpenStore, folder: Path, text: str, error: type[ec.StorageError]) -> None:
    open_store().close()
    (folder / "meta.properties").write_text(text)
    refused(folder, error, None)


def test_what_kafka_writes_is_understood(open_store: OpenStore, folder: Path) -> None:
    open_store().close()
    text = "#\n#Sat Jan 01\ncluster.id=a\\:b\nversion=1\ndirectory.id=x\nnode.id = 7\n"
    (folder / "meta.properties").write_text(text)
    assert open_store().cluster_id == "a:b"
    (folder / "meta.properties").write_text("version=0\nbroker.id=3\n")


def test_half_a_store(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t", 3)[0].append(b"1")
    (folder / "meta.properties").unlink()
    refused(folder, ec.NotALog, "half a store")


def test_a_topic_with_a_folder_missing(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t", 3)[0].append(b"1")
        store.create_topic("u")
    shutil.rmtree(folder / "t-2")
    store = open_store()
    assert [problem.name for problem in store.problems] == ["t"]
    with pytest.raises(ec.NotALog, match="no folder of partition 2"):
        store.topic("t")
    store.topic("u").append(b"1")
    assert not (folder / "t-2").exists()


@pytest.mark.parametrize("kind", ["file", "other files", "a partition"])
def test_folders_of_other_kinds(folder: Path, kind: str) -> None:
    if kind == "file":
        folder.write_text("x")
        for mode in ("rw", "r"):
            with pytest.raises(ec.NotALog):
                ec.open(folder, mode)  # type: ignore[arg-type]
        assert folder.read_text() == "x"
        return
    folder.mkdir()
    if kind == "other files":
        (folder / "letter.txt").write_text("dear")
    else:
        ec.open_partition(folder).close()
    refused(folder, ec.NotALog, "open_partition" if kind == "a partition" else "letter.txt")


def test_a_missing_or_empty_folder_is_no_store_to_read(folder: Path) -> None:
    with pytest.raises(ec.NotALog, match="no such folder"):
        ec.open(folder, "r")
    folder.mkdir()
    with pytest.raises(ec.NotALog, match="no store"):
        ec.open(folder, "r")
    assert tree(folder) == {}


def test_strange_things_in_the_folder_are_left_alone_and_told(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t")[0].append(b"1")
    (folder / "strange").mkdir()
    (folder / "lost+found").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "t-007").mkdir()
    (folder / "file-0").write_text("no folder")
    (folder / "link-0").symlink_to(folder / "t-0")
    store = open_store()
    assert sorted(problem.name for problem in store.problems) == ["file-0", "link-0", "strange", "t-007"]
    assert store.topics == ["t"]
    for name in ("file", "link"):
        with pytest.raises(ec.NotALog, match="something else has the name"):
            store.create_topic(name)
    store.housekeep()
    store.close()
    assert (folder / "link-0").is_symlink()
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_link_in_place_of_a_file_is_not_followed(open_store: OpenStore, folder: Path, tmp_path: Path) -> None:
    open_store().close()
    (tmp_path / "elsewhere").write_text("mine")
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ec.NotALog, match="symbolic link"):
        ec.open(folder)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_note_that_is_damaged_is_not_acted_on(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t")[0].append(b"1")
    (folder / "eventcore.doomed").write_text('{"version":1,"topic":"t","topic_id":"","crc32c":1}')
    with pytest.raises(ec.CorruptFile):
        ec.open(folder)
    json_file.write(Disk(), folder / "eventcore.doomed", {"topic": "../t", "topic_id": ""})
    with pytest.raises(ec.CorruptFile):
        ec.open(folder)
    assert (folder / "t-0").is_dir()
    (folder / "eventcore.doomed").unlink()
    assert len(open_store().topic("t")[0]) == 1


def test_a_topic_file_of_a_newer_version(open_store: OpenStore, folder: Path) -> None:
    with open_store() as store:
        store.create_topic("t")
    json_file.write(Disk(), folder / "t-0" / topic_file.NAME, {"version": 2, "partitions": 1, "config": {}})
    with pytest.raises(ec.UnsupportedFormat):
        open_store().topic("t")

"""ViewCheckpoint: state and offsets belong together, and fit the log, or are not given back."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import view_file
from eventcore.store.view_checkpoint import checkpoint_files
from tests.scale import seeded
from tests.store.conftest import NOW, OpenStore


def fold(checkpoint: ec.ViewCheckpoint, *topics: str, allow_gap: bool = False) -> list[bytes]:
    """The view: all values in the order in which they were seen."""
    saved = checkpoint.load(allow_gap=allow_gap)
    state = bytes(saved.data).split(b"\n") if saved and saved.data else []
    for partition, start, stop in checkpoint.unread(*topics):
        state += [value or b"" for value in partition.read_values(start, stop)]
    return state


def save(checkpoint: ec.ViewCheckpoint, state: list[bytes]) -> None:
    checkpoint.save(b"\n".join(state))


def replayed(store: ec.Store, *topics: str) -> list[bytes]:
    return [value or b"" for name in topics for partition in store.topic(name) for value in partition.read_values()]


@pytest.fixture
def store(open_store: OpenStore) -> ec.Store:
    store = open_store()
    store.create_topic("a", 3)
    store.create_topic("b")
    for number in range(3):
        store.topic("a")[number].extend([b"%d-%d" % (number, at) for at in range(10)])
    return store


@pytest.fixture
def checkpoint(store: ec.Store) -> ec.ViewCheckpoint:
    return store.checkpoint("view")


def test_a_view_goes_on_where_it_was(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    assert checkpoint.load() is None
    assert checkpoint.reason == ""
    state = fold(checkpoint, "a", "b")
    assert state == replayed(store, "a", "b")
    save(checkpoint, state)
    store.topic("a")[1].extend([b"x", b"y"])
    store.topic("b").append(b"z")
    again = store.checkpoint("view")
    saved = again.load()
    assert saved is not None
    assert saved.offsets == again.offsets == {("a", 0): 10, ("a", 1): 10, ("a", 2): 10, ("b", 0): 0}
    assert saved.saved_ms == NOW
    found = [(one.topic, one.number, start, stop) for one, start, stop in again.unread("a", "b")]
    assert found == [("a", 1, 10, 12), ("b", 0, 0, 1)]
    assert list(again.unread("a", "b")) == []
    assert sorted(fold(store.checkpoint("view"), "a", "b")) == sorted(replayed(store, "a", "b"))


def test_records_of_transactions(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    """An open one ends what readers of committed records may see; it is behind the place that is saved."""
    with store.transaction("t") as tx:
        tx.append("b", b"early", partition=0)
    tx = store.transaction("t")
    tx.append("b", b"late", partition=0)
    tx.flush()
    for partition, start, stop in checkpoint.unread("b", isolation="read_committed"):
        assert list(partition.read_values(start, stop, isolation="read_committed")) == [b"early"]
    checkpoint.save(b"early")
    tx.commit()
    again = store.checkpoint("view")
    assert again.load() is not None
    read = [
        list(partition.read_values(start, stop, isolation="read_committed"))
        for partition, start, stop in again.unread("b", isolation="read_committed")
    ]
    assert read == [[b"late"]]


def test_names_and_lists(store: ec.Store, folder: Path) -> None:
    assert store.checkpoints == []
    for name in ("two", "one-0", "a"):
        store.checkpoint(name).save(b"", {("b", 0): 0})
    assert store.checkpoints == ["a", "one-0", "two"]
    assert store.problems == []
    for name in ("", "..", "a/b", "../x", "ä", "x" * 201):
        with pytest.raises(ec.UsageError, match="cannot name a checkpoint"):
            store.checkpoint(name)
    store.checkpoint("two").delete()
    store.checkpoint("never").delete()
    assert store.checkpoints == ["a", "one-0"]
    (folder / view_file.file_name("bad")).write_bytes(b"?")
    found = checkpoint_files(Disk(), folder)
    assert found == {"a": {("b", 0): 0}, "bad": None, "one-0": {("b", 0): 0}}


def test_a_damaged_file_is_told_and_nothing_else_is_lost(
    store: ec.Store, checkpoint: ec.ViewCheckpoint, folder: Path
) -> None:
    save(checkpoint, fold(checkpoint, "a"))
    other = store.checkpoint("other")
    save(other, fold(other, "a"))
    path = folder / view_file.file_name("view")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ec.CorruptFile, match="fold its topics from their start"):
        checkpoint.load()
    assert path.read_bytes() == data
    assert store.checkpoint("other").load() is not None
    checkpoint.delete()
    assert fold(checkpoint, "a") == replayed(store, "a")


def test_states_of_every_kind(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    offsets = {("b", 0): 0}
    for state in (
        b"",
        bytearray(b"x"),
        memoryview(b"yy"),
        np.arange(5),
        np.zeros((2, 3)),
        np.zeros(0),
        np.ones(3, "i4,>i8"),
    ):
        checkpoint.save(state, offsets)  # type: ignore[arg-type]
        saved = checkpoint.load()
        assert saved is not None
        assert bytes(saved.data) == bytes(state)
    for bad in (np.arange(10)[::2], "text", None, np.array([store], object), 7):
        with pytest.raises(ec.UsageError, match="no buffer of bytes"):
            checkpoint.save(bad, offsets)  # type: ignore[arg-type]
    saved = checkpoint.load()
    assert saved is not None
    assert len(saved.data) == 36  # of the last that was good


def test_a_large_state_is_streamed_and_mapped(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    state = np.random.default_rng(1).integers(0, 1 << 60, 1_000_000)
    checkpoint.save(lambda file: np.save(file, state), {("b", 0): 0})
    saved = checkpoint.load()
    assert saved is not None
    assert saved.data.readonly
    again = np.frombuffer(saved.data[128:], np.int64)
    assert again.flags.aligned
    assert (again == state).all()
    checkpoint.save(b"other", {("b", 0): 0})
    assert (again == state).all()


def test_offsets_that_nobody_can_have_come_to(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    checkpoint.save(b"old", {("a", 0): 3})
    for offset in (-1, 11):
        with pytest.raises(ec.OffsetOutOfRange, match=f"offset {offset} of a-0"):
            checkpoint.save(b"new", {("a", 0): offset})
    with pytest.raises(ec.UnknownTopic):
        checkpoint.save(b"new", {("a", 3): 0})
    with pytest.raises(ec.UsageError, match="folded twice"):
        checkpoint.save(b"new", {})
    with pytest.raises(ec.UsageError, match="folded twice"):
        store.checkpoint("new").save(b"new")
    saved = checkpoint.load()
    assert saved is not None
    assert (bytes(saved.data), saved.offsets) == (b"old", {("a", 0): 3})


def test_a_range_that_was_not_read_to_its_end_is_not_saved(checkpoint: ec.ViewCheckpoint) -> None:
    for _ in checkpoint.unread("a"):
        break
    with pytest.raises(ec.UsageError, match="a-0 was not read to the end"):
        checkpoint.save(b"half")
    checkpoint.save(b"half", {("a", 0): 5})
    checkpoint.load()
    assert [start for _, start, _ in checkpoint.unread("a")] == [5, 0, 0]


def test_a_save_in_the_middle(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    """With offsets of one's own, of some partitions; none is forgotten when the whole is saved."""
    state: list[bytes] = []
    for partition, start, stop in checkpoint.unread("a"):
        for record in partition.read(start, stop):
            state.append(record.value or b"")
            checkpoint.save(b"\n".join(state), {**checkpoint.offsets, ("a", partition.number): record.offset + 1})
            again = store.checkpoint("view")
            assert sorted(fold(again, "a")) == sorted(replayed(store, "a"))
    checkpoint.save(b"part", {("a", 1): 10})
    save(checkpoint, state)
    saved = checkpoint.load()
    assert saved is not None
    assert saved.offsets == {("a", 0): 10, ("a", 1): 10, ("a", 2): 10}


def test_a_closed_store_and_who_only_reads(store: ec.Store, checkpoint: ec.ViewCheckpoint, folder: Path) -> None:
    save(checkpoint, fold(checkpoint, "a"))
    store.close()
    for call in (checkpoint.load, checkpoint.delete, lambda: checkpoint.save(b"", {("a", 0): 0})):
        with pytest.raises(ec.ClosedError):
            call()
    with ec.open(folder, "r") as reader:
        again = reader.checkpoint("view")
        assert fold(again, "a") == replayed(reader, "a")
        save(again, [b"by a reader"])
        assert reader.checkpoints == ["view"]
        assert fold(reader.checkpoint("view"), "a") == [b"by a reader"]
        again.delete()
        assert reader.checkpoints == []


# -- the log is not any more what it was -----------------------------------------------------------------------


def test_a_topic_that_was_made_anew(
    store: ec.Store, checkpoint: ec.ViewCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoint, fold(checkpoint, "a"))
    store.delete_topic("a")
    assert checkpoint.load() is None
    assert checkpoint.reason == "there is no a-0 any more"
    store.create_topic("a", 3)
    store.topic("a")[0].extend([b"new"] * 20)
    with caplog.at_level(logging.WARNING, "eventcore"):
        assert fold(checkpoint, "a") == [b"new"] * 20
    assert checkpoint.reason == "topic 'a' was made anew"
    assert checkpoint.reason in caplog.text


def test_a_topic_that_was_made_anew_under_a_running_view(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    state = fold(checkpoint, "b")
    store.delete_topic("b")
    store.create_topic("b")
    with pytest.raises(ec.LogTruncated, match="made anew"):
        save(checkpoint, state)
    with pytest.raises(ec.LogTruncated, match="made anew"):
        list(checkpoint.unread("b"))


def test_records_that_were_deleted_unseen(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    save(checkpoint, fold(checkpoint, "a"))
    partition = store.topic("a")[1]
    partition.delete_records(10)  # what was seen may go
    assert checkpoint.load() is not None
    partition.extend([b"x", b"y", b"z"])
    partition.delete_records(12)
    with pytest.raises(ec.OffsetOutOfRange, match="has not seen offsets 10 to 11 of a-1"):
        checkpoint.load()
    state = fold(checkpoint, "a", allow_gap=True)
    assert len(state) == 31
    assert state[-1] == b"z"
    assert checkpoint.offsets["a", 1] == 13
    save(checkpoint, state)
    partition.extend([b"x", b"y"])
    partition.delete_records(15)
    with pytest.raises(ec.OffsetOutOfRange, match="offsets 13 to 14"):
        list(checkpoint.unread("a"))


def test_compaction_is_no_gap(open_store: OpenStore) -> None:
    store = open_store(segment_bytes=4096, min_cleanable_dirty_ratio=0)
    topic = store.create_topic("c", config={"cleanup.policy": "compact"})
    topic.extend([(b"k%d" % (at % 3), b"%d" % at) for at in range(500)])
    checkpoint = store.checkpoint("latest")

    def latest(state: dict[bytes, bytes]) -> dict[bytes, bytes]:
        for partition, start, stop in checkpoint.unread("c"):
            state.update((record.key or b"", record.value or b"") for record in partition.read(start, stop))
        return state

    state = latest({})
    checkpoint.save(repr(state).encode())
    topic.extend([(b"k%d" % (at % 2), b"%d" % at) for at in range(500, 900)])
    topic[0].roll()
    assert topic[0].compact() is not None
    saved = checkpoint.load()
    assert saved is not None
    assert saved.offsets == {("c", 0): 500}
    assert latest(state) == {b"k0": b"898", b"k1": b"899", b"k2": b"497"}


def follower(store: ec.Store) -> ec.StorePartition:
    """Offsets 0 to 4 of epoch 1, 5 to 9 of epoch 2."""
    partition = store.topic("b")[0]
    for epoch in (1, 2):
        partition.set_leader_epoch(epoch)
        partition.extend([b"%d" % epoch] * 5)
    return partition


@pytest.mark.parametrize(("cut", "fits"), [(10, True), (9, False), (7, False), (5, False), (3, False)])
def test_a_truncation_below_the_offset(store: ec.Store, checkpoint: ec.ViewCheckpoint, cut: int, fits: bool) -> None:
    """And other records at the same offsets, of a later leader (KIP-320)."""
    partition = follower(store)
    save(checkpoint, fold(checkpoint, "b"))
    partition.truncate(cut)
    if not fits:
        assert checkpoint.load() is None
        assert checkpoint.reason == f"b-0 ends at {cut}, below offset 10"
    partition.set_leader_epoch(3)
    partition.extend([b"3"] * 20)
    again = store.checkpoint("view")
    assert fold(again, "b") == replayed(store, "b")
    assert again.reason == ("" if fits else "b-0 was truncated below offset 10")


def test_a_truncation_under_a_running_view(store: ec.Store, checkpoint: ec.ViewCheckpoint) -> None:
    """Between what it has read and the next look, and the records that came instead are as many."""
    partition = follower(store)
    state = fold(checkpoint, "b")
    save(checkpoint, state)
    partition.extend([b"2"] * 3)
    for one, start, stop in checkpoint.unread("b"):
        state += [value or b"" for value in one.read_values(start, stop)]
    partition.truncate(11)
    partition.set_leader_epoch(3)
    partition.extend([b"3"] * 7)
    for offsets in (None, {("b", 0): 13}, {("b", 0): 15}):
        with pytest.raises(ec.LogTruncated, match="truncated below offset 13"):
            checkpoint.save(b"\n".join(state), offsets)
    with pytest.raises(ec.LogTruncated, match="`load` it again"):
        list(checkpoint.unread("b"))
    assert fold(checkpoint, "b") == replayed(store, "b")  # from what was saved before


def test_a_store_that_is_older_than_the_checkpoint(store: ec.Store, folder: Path, tmp_path: Path) -> None:
    """Restored from a copy, beside a checkpoint that was not."""
    store.close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    name = view_file.file_name("view")
    with ec.open(folder) as later:
        later.topic("a")[0].extend([b"x"] * 5)
        view = later.checkpoint("view")
        save(view, fold(view, "a"))
    shutil.copy(folder / name, copy / name)
    with ec.open(copy) as older:
        view = older.checkpoint("view")
        assert view.load() is None
        assert view.reason == "a-0 ends at 10, below offset 15"


# -- processes -------------------------------------------------------------------------------------------------


def work(folder: Path, ready: int) -> None:
    """Fold topic `a` and save it, again and again, as a process that only reads."""
    with ec.open(folder, "r") as store:
        checkpoint = store.checkpoint("view")
        saved = checkpoint.load()
        state = bytes(saved.data).split(b"\n") if saved else []
        while True:
            for partition, start, stop in checkpoint.unread("a"):
                state += [value or b"" for value in partition.read_values(start, stop)]
            lines = [b"\n".join(state)]
            checkpoint.save(lambda file, lines=lines: file.writelines(lines))  # type: ignore[misc]
            os.write(ready, b"!")


@contextmanager
def worker(folder: Path) -> Iterator[None]:
    """Such a process, once it has saved, until it is killed."""
    end, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, ready)
        finally:
            os._exit(1)
    os.close(ready)
    try:
        assert os.read(end, 1) == b"!"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(end)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_pair(store: ec.Store, name: str = "view") -> int:
    """The state is the one of the offsets; how far it is."""
    saved = store.checkpoint(name).load()
    if saved is None:
        return 0
    state = bytes(saved.data).split(b"\n")
    expected = [
        value
        for (topic, number), offset in sorted(saved.offsets.items())
        for value in islice(store.topic(topic)[number].read_values(), offset)
    ]
    assert sorted(state) == sorted(value or b"" for value in expected)
    return len(state)


@pytest.mark.sampled
def test_a_saving_process_that_is_killed(store: ec.Store, folder: Path) -> None:
    """A reader that folds and saves what another process appends, dozens of times."""
    rng = seeded(7)
    reached = []
    for _ in range(40):
        with worker(folder):
            end = time.monotonic() + rng.random() * 0.02
            while True:  # once at least, however busy the machine is: the next worker folds it before it is killed
                store.topic("a").extend([b"%d" % rng.getrandbits(40) for _ in range(3)])
                if time.monotonic() >= end:
                    break
        reached.append(check_pair(store))
    assert reached == sorted(reached)
    assert reached[-1] >= 30 + 3 * 39
    names = {path.name for path in folder.glob("eventcore.checkpoint-*")}
    file = view_file.file_name("view")
    assert {file, f"{file}.lock"} <= names <= {file, f"{file}.lock", f"{file}.tmp"}
    view = store.checkpoint("view")
    save(view, fold(view, "a"))
    assert not (folder / f"{file}.tmp").exists()


@pytest.mark.sampled
def test_two_processes_that_save_the_same(store: ec.Store, folder: Path) -> None:
    """Each whole, one after the other; who looks meanwhile finds a pair that belongs together."""
    with worker(folder), worker(folder):
        for look in range(50):
            store.topic("a").extend([b"%d" % look] * 3)
            assert check_pair(store) >= 30

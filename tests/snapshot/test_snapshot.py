"""Snapshots: what is in them, what a later one adds, and that the store goes on without changing them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.snapshot.folder_place import FolderPlace
from tests.snapshot.worlds import QUIET, look, look_at, open_store, tree

SEGMENTS = {"segment.bytes": 1 << 18}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ec.Store]:
    with open_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def fill(store: ec.Store, topic: str = "orders", count: int = 4000, partitions: int = 2) -> None:
    """Records of 100 bytes, so that segments of `SEGMENTS` are closed now and then."""
    made = store.create_topic(topic, partitions, SEGMENTS, exist_ok=True)
    for at in range(0, count, 500):
        made.extend([(b"%d" % number, b"%d" % number * 20) for number in range(at, at + 500)])


def test_what_is_restored_is_what_was_there(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    fill(store)
    store.create_topic("quiet", 3, {"cleanup.policy": "compact"})
    store.topic("orders").append(b"with headers", headers=[("a", b"1"), ("b", None)], timestamp=1_600_000_000_000)
    store.topic("orders")[1].delete_records(700)
    store.groups.commit("g", {("orders", 0): 3})
    before = look(store)
    manifest = store.snapshot(kept)
    assert (manifest.number, manifest.parent) == (1, None)
    assert {(one.topic, one.partition): one.end for one in manifest.partitions if one.topic == "orders"} == {
        ("orders", number): store.topic("orders")[number].log_end_offset for number in range(2)
    }
    fill(store)
    assert ec.snapshots(kept).verify(1) == []
    assert ec.restore(kept, tmp_path / "new") == manifest
    assert look_at(tmp_path / "new") == before
    with open_store(tmp_path / "new") as new:
        assert new.topics == store.topics
        assert new.cluster_id == store.cluster_id
        assert new.own_config("quiet") == store.own_config("quiet")
        assert new.groups.offsets("g")[("orders", 0)].offset == 3
        assert new.topic("orders").append(b"goes on", partition=0) == (0, len(before["orders", 0]))


def test_no_file_of_ours_is_left_in_the_new_store(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    fill(store)
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".restoring")]
    assert not [name for name in tree(tmp_path / "new") if "restoring" in name]
    assert (tmp_path / "new" / ".kafka_cleanshutdown").exists()
    assert not [name for name in os.listdir(store.path) if "snapshot" in name]


def test_a_later_one_stores_what_is_new(store: ec.Store, kept: Path) -> None:
    fill(store, count=20_000)
    first = store.snapshot(kept)
    assert first.new_bytes > 1_000_000
    again = store.snapshot(kept)
    assert (again.number, again.parent, again.new_bytes) == (2, 1, 0)
    fill(store, count=500)
    third = store.snapshot(kept)
    assert 0 < third.new_bytes < first.new_bytes / 3
    assert third.size > again.size == first.size


def test_closed_segments_are_linked_and_take_no_space(store: ec.Store, kept: Path) -> None:
    fill(store, count=20_000)
    store.snapshot(kept)
    linked = [path for path in kept.rglob("*.log.*") if path.stat().st_nlink == 2]
    assert linked
    copied = sum(
        path.stat().st_blocks * 512 for path in kept.rglob("*") if path.is_file() and path.stat().st_nlink == 1
    )
    assert copied < sum(path.stat().st_size for path in linked)


def test_where_links_cannot_be_they_are_copied(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    before = look(store)
    monkeypatch.setattr(Disk, "link", lambda *arguments: False)
    store.snapshot(kept)
    assert all(path.stat().st_nlink == 1 for path in kept.rglob("*") if path.is_file())
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == before


def test_a_large_last_segment_is_closed_for_it(store: ec.Store, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventcore.snapshot.taking.ROLL_BYTES", 100_000)
    topic = store.create_topic("orders", 2)
    topic[0].extend([bytes(1000)] * 200)
    topic[1].extend([bytes(1000)] * 20)
    store.snapshot(kept)
    assert [len(partition.segments) for partition in topic] == [2, 1]


def test_what_the_store_does_later_does_not_get_into_it(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """A truncation changes a closed segment in place: it is a copy by then."""
    fill(store)
    before = look(store)
    store.snapshot(kept)
    for partition in store.topic("orders"):
        partition.truncate(10)
        partition.extend([b"something else"] * 5000)
    store.topic("orders")[0].delete_records(3000)
    store.delete_topic("orders")
    assert ec.snapshots(kept).verify(1) == []
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == before


def test_recovery_after_a_crash_does_not_get_into_it_either(kept: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        fill(store)
        before = look(store)
        store.snapshot(kept)
    for name in ("orders-0", "orders-1"):
        (tmp_path / "store" / name / "eventcore.recovery").unlink()
        for index in (tmp_path / "store" / name).glob("*.index"):
            Disk().unshare(index)
            index.write_bytes(b"\xff" * 64)
    (tmp_path / "store" / ".kafka_cleanshutdown").unlink()
    with open_store(tmp_path / "store") as store:
        assert look(store) == before
    assert ec.snapshots(kept).verify(1) == []


@pytest.mark.sampled
def test_a_transaction_is_in_it_or_not(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    store.create_topic("a", 1)
    store.create_topic("b", 1)
    with store.transaction("done") as tx:
        tx.append("a", b"done")
        tx.append("b", b"done")
        tx.commit_offsets("g", {("a", 0): 1})
    hanging = store.transaction("open")
    hanging.append("a", b"open")
    hanging.append("b", b"open")
    hanging.flush()
    store.snapshot(kept)
    hanging.commit()
    ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "new") as new:
        assert {key: [one[3] for one in found] for key, found in look(new).items()} == {
            ("a", 0): [b"done"],
            ("b", 0): [b"done"],
        }
        assert new.groups.offsets("g")[("a", 0)].offset == 1
        assert not new.transactions.hanging()
        with new.transaction("open") as tx:
            tx.append("a", b"mine")
        assert [one[3] for one in look(new)["a", 0]] == [b"done", b"mine"]


def test_offsets_of_readers_are_in_it(kept: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        fill(store)
        with ec.open(tmp_path / "store", "r") as reader:
            reader.groups.commit("readers", {("orders", 1): 7})
        store.snapshot(kept)
    ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "new") as new:
        assert new.groups.offsets("readers")[("orders", 1)].offset == 7


def test_partitions_of_any_state_are_in_it(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """Empty, closed, all records deleted, cut, compacted."""
    topic = store.create_topic("orders", 6, {**SETTINGS_SMALL, "cleanup.policy": "compact"})
    topic[1].extend([(b"k", b"v")] * 10)
    topic[1].close()
    topic[2].extend([b"gone"] * 100)
    topic[2].delete_records(-1)
    topic[3].extend([b"some"] * 100)
    topic[3].truncate(50)
    for _ in range(30):
        topic[4].extend([(b"%d" % number, b"x" * 50) for number in range(50)])
    topic[4].roll()
    topic[4].compact()
    topic[5].append_sequenced([b"one", b"two"], producer_id=7)
    before = look(store)
    assert len(before["orders", 4]) == 50
    manifest = store.snapshot(kept)
    ends = [(one.start, one.end) for one in manifest.partitions]  # a cut inside of a batch leaves none of it
    assert ends == [(0, 0), (0, 10), (100, 100), (0, 0), (0, 1500), (0, 2)]
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == before
    with open_store(tmp_path / "new") as new:
        assert new.topic("orders")[5].next_sequence(7) == 2
        assert new.topic("orders")[5].append_sequenced([b"one", b"two"], producer_id=7, sequence=0).duplicate


SETTINGS_SMALL = {"segment.bytes": 8192}


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[ec.StorePartition], object]) -> list[str]:
    """Something is done to the first partition between the cut and its files; the answer are those it was done to."""
    frozen, calls = ec.StorePartition.freeze, []

    def freeze(partition: ec.StorePartition, moment: Any, end: int, shelf: Any) -> Any:
        if not calls:
            calls.append(partition.topic)
            act(partition)
        return frozen(partition, moment, end, shelf)

    monkeypatch.setattr(ec.StorePartition, "freeze", freeze)
    return calls


def compact_for_what_comes(partition: ec.StorePartition) -> None:
    """All that was there goes for the sake of what came after the cut."""
    partition.extend([(b"only", b"second")] * 300)
    partition.roll()
    partition.compact()


@pytest.mark.parametrize("closed", [False, True])
def test_records_that_are_compacted_away_meanwhile_are_in_it(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Of a log that was open at the cut, the segments of then are kept; of one that was closed another cut is taken."""
    topic = store.create_topic("orders", 1, {**SETTINGS_SMALL, "cleanup.policy": "compact"})
    topic[0].extend([(b"only", b"first")] * 10)
    topic[0].roll()
    before = look(store)
    if closed:
        topic[0].close()
    assert meanwhile(monkeypatch, compact_for_what_comes) == []
    manifest = store.snapshot(kept)
    assert manifest.partitions[0].end == (310 if closed else 10)
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == (look(store) if closed else before)
    with open_store(tmp_path / "new") as new:
        new.topic("orders")[0].extend([(b"only", b"third")] * 10)
        new.topic("orders")[0].roll()
        new.topic("orders")[0].compact()
        assert [one[3] for one in look(new)["orders", 0]] == [b"third"]


GONE: dict[str, Callable[[ec.StorePartition], object]] = {
    "truncate": lambda partition: partition.truncate(100),
    "delete records": lambda partition: partition.delete_records(-1),
    "retain": lambda partition: (partition.roll(), partition.retain(now=1 << 50)),
}


@pytest.mark.parametrize("what", list(GONE))
def test_what_is_gone_meanwhile(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Deleted records are in it, as they were at the cut; after a truncation another cut is taken."""
    fill(store, "orders", 4000, 1)
    fill(store, "other", 500, 1)
    before = look(store)
    meanwhile(monkeypatch, GONE[what])
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == (look(store) if what == "truncate" else before)


def test_a_topic_that_is_deleted_meanwhile_is_not_in_it(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, "orders", 500, 1)
    fill(store, "other", 500, 1)
    deleted = meanwhile(monkeypatch, lambda partition: store.delete_topic(partition.topic))
    store.snapshot(kept)
    assert deleted == ["orders"]
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == look(store)


def test_states_of_views_are_in_it(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """With the offsets they reflect, so that a view starts from the snapshot; but not their locks."""
    topic = store.create_topic("orders", 1)
    topic[0].extend([b"1", b"2", b"3"])
    state = bytes(range(256)) * 1000
    store.checkpoint("sums").save(state, {("orders", 0): 2})
    manifest = store.snapshot(kept)
    assert [file.path for file in manifest.files if "checkpoint-sums" in file.path] == [
        "eventcore.checkpoint-sums.view"
    ]
    topic[0].append(b"4")
    store.checkpoint("sums").save(b"later", {("orders", 0): 4})
    assert ec.snapshots(kept).verify(1) == []
    ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "new") as new:
        saved = new.checkpoint("sums").load()
        assert saved is not None
        assert (bytes(saved.data), saved.offsets) == (state, {("orders", 0): 2})
    ec.restore(kept, tmp_path / "earlier", until={("orders", 0): 1})
    with open_store(tmp_path / "earlier") as new:
        assert new.checkpoint("sums").load() is None


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_view_that_is_saved_meanwhile_is_in_it_whole(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its file is replaced between the look at its size and the link."""
    store.create_topic("orders", 1)[0].append(b"1")
    store.checkpoint("sums").save(bytes(size), {("orders", 0): 1})
    length, looked = Disk.length, []

    def replaced(disk: Disk, path: Path) -> int:
        found = length(disk, path)
        if path.suffix == ".view" and not looked:
            looked.append(path)
            store.checkpoint("sums").save(b"x" * 200_000, {("orders", 0): 1})
        return found

    monkeypatch.setattr(Disk, "length", replaced)
    store.snapshot(kept)
    assert looked
    assert ec.snapshots(kept).verify(1) == []
    ec.restore(kept, tmp_path / "new")
    with open_store(tmp_path / "new") as new:
        saved = new.checkpoint("sums").load()
        assert saved is not None
        assert bytes(saved.data) == b"x" * 200_000


@pytest.mark.sampled
def test_appends_go_on_meanwhile(tmp_path: Path, kept: Path) -> None:
    """From other threads, with rolls and transactions; each snapshot is a prefix of every partition."""
    with ec.open(tmp_path / "store", fsync="interval", config=QUIET) as store:
        topic, stop = store.create_topic("orders", 3, {"segment.bytes": 1 << 16}), threading.Event()

        def append(number: int) -> None:
            while not stop.is_set():
                topic[number].extend([b"%d" % number * 50] * 50)
                time.sleep(0.001)

        threads = [threading.Thread(target=append, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            made = [store.snapshot(kept) for _ in range(10)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        last = look(store)
    for manifest in made:
        path = tmp_path / f"new{manifest.number}"
        ec.restore(kept, path, number=manifest.number)
        found = look_at(path)
        for one in manifest.partitions:
            assert found["orders", one.partition] == last["orders", one.partition][: one.end]


def test_one_at_a_time(store: ec.Store, kept: Path) -> None:
    fill(store, count=500)
    with ec.snapshots(kept).place.holding(), pytest.raises(ec.LogLocked):
        store.snapshot(kept)
    assert store.snapshot(kept).number == 1


def test_where_it_may_not_be(store: ec.Store, tmp_path: Path, kept: Path) -> None:
    fill(store, count=500)
    for place in (store.path / "kept", store.path, tmp_path):
        with pytest.raises(ec.UsageError, match="inside"):
            store.snapshot(place)
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ec.StorageError):
        store.snapshot(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
    with open_store(tmp_path / "other") as other:
        other.create_topic("orders", 1)
        other.snapshot(kept)
    with pytest.raises(ec.UsageError, match="another store"):
        store.snapshot(kept)
    with pytest.raises(ec.UsageError, match="s3://"):
        store.snapshot("ftp://somewhere")


def test_a_reader_takes_none(store: ec.Store, kept: Path) -> None:
    fill(store, count=500)
    with ec.open(store.path, "r") as reader, pytest.raises(ec.ReadOnly):
        reader.snapshot(kept)


def test_it_heals_objects_that_are_gone(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    fill(store)
    store.snapshot(kept)
    for path in (kept / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    assert ec.snapshots(kept).verify(1)
    store.snapshot(kept)
    assert ec.snapshots(kept).verify(2) == []
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == look(store)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.skipif(not kernels.guard.is_guarded(), reason="the pure kernels have no guard: it would be a signal")
def test_what_cannot_be_read_gets_into_none(
    store: ec.Store, kept: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A stranger cuts a segment while it is read: in the map there are zeros then, and a flag."""
    map_file = Disk.map
    store.create_topic("orders", 1, {"segment.bytes": 1 << 17})
    store.topic("orders").extend([b"v" * 1000] * 1000)

    def cut(disk: Disk, fd: int, size: int, **keywords: bool) -> object:
        mapped, path = map_file(disk, fd, size, **keywords), Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.parent.name.startswith("eventcore.snapshot-0."):
            os.truncate(path, 0)
        return mapped

    monkeypatch.setattr(Disk, "map", cut)
    monkeypatch.setattr(FolderPlace, "links", links)
    with pytest.raises(ec.MappingFault):
        store.snapshot(kept)
    assert ec.snapshots(kept).numbers() == []


def test_progress_is_told(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    fill(store)
    told: list[tuple[int, int]] = []
    store.snapshot(kept, progress=lambda done, of: told.append((done, of)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    told.clear()
    manifest = ec.restore(kept, tmp_path / "new", progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (manifest.size, manifest.size)


# -- prune ---------------------------------------------------------------------------------------------------------

DAY_MS = 86_400_000


class Clock:
    """Told what time it is."""

    now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now


def test_prune_keeps_what_it_is_asked_to_and_breaks_nothing(tmp_path: Path, kept: Path) -> None:
    clock = Clock()
    worlds = {}
    with ec.open(tmp_path / "store", fsync="never", config=QUIET, clock=clock) as store:
        for _ in range(12):
            fill(store, count=1000)
            worlds[store.snapshot(kept).number] = look(store)
            clock.now += DAY_MS // 2
    archive = ec.snapshots(kept)
    assert archive.prune(keep_last=2, keep_daily=4, dry_run=True) == [1, 2, 3, 4, 5, 6, 8, 10]
    assert archive.numbers() == list(range(1, 13))
    assert archive.prune(keep_last=2, keep_daily=4) == [1, 2, 3, 4, 5, 6, 8, 10]
    for number in archive.numbers():
        assert archive.verify(number) == []
        ec.restore(kept, tmp_path / f"new{number}", number=number)
        assert look_at(tmp_path / f"new{number}") == worlds[number]
    assert archive.prune() == [7, 9, 11]
    needed = archive.latest().objects()
    assert archive.place.sizes("objects/").keys() == needed.keys()
    with pytest.raises(ec.UsageError):
        archive.prune(keep_last=0)
    with pytest.raises(ec.NoSnapshot):
        archive.read(7)


def test_prune_removes_nothing_if_it_cannot_know_what_is_needed(store: ec.Store, kept: Path) -> None:
    for _ in range(3):
        fill(store, count=500)
        store.snapshot(kept)
    path = kept / "snapshots" / "0000000002.json"
    path.write_bytes(path.read_bytes()[:-10])
    before = tree(kept)
    with pytest.raises(ec.SnapshotDamaged):
        ec.snapshots(kept).prune()
    assert tree(kept) == before
    assert store.snapshot(kept).number == 4

"""Restoring: an earlier moment, a replica that goes on, a restore that was killed, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.snapshot import restoring
from eventcore.types import Buffer
from tests.snapshot.worlds import QUIET, look, look_at, open_store, records, tree

START_MS = 1_700_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ec.Store]:
    with open_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def numbered(first: int, count: int) -> list[ec.Record]:
    """Records a second apart."""
    return [
        ec.Record(-1, START_MS + 1000 * number, b"%d" % (number % 7), b"%d" % number * 10, ())
        for number in range(first, first + count)
    ]


# -- an earlier moment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, 1, 499, 500, 777, 1999, 2000])
def test_an_offset(store: ec.Store, kept: Path, tmp_path: Path, end: int) -> None:
    topic = store.create_topic("orders", 2, {"segment.bytes": 1 << 16})
    for partition in topic:
        for first in range(0, 2000, 500):
            partition.extend(numbered(first, 500))
    before = look(store)
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new", until={("orders", 1): end})
    found = look_at(tmp_path / "new")
    assert found["orders", 0] == before["orders", 0]
    assert found["orders", 1] == before["orders", 1][:end]


@pytest.mark.parametrize("second", [0, 1, 250, 1999, 2000, 3000])
def test_a_time(store: ec.Store, kept: Path, tmp_path: Path, second: int) -> None:
    store.create_topic("orders", 1)[0].extend(numbered(0, 2000))
    before = look(store)["orders", 0]
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new", until=START_MS + 1000 * second)
    assert look_at(tmp_path / "new")["orders", 0] == [one for one in before if one[1] < START_MS + 1000 * second]


def test_a_cut_inside_of_a_compacted_batch(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """Records keep their offsets, and the gaps between them."""
    topic = store.create_topic("orders", 1, {"segment.bytes": 8192, "cleanup.policy": "compact"})
    for _ in range(3):
        topic[0].extend([(b"%d" % number, b"v") for number in range(100)])
    topic[0].extend([(b"%d" % number, b"w" * 100) for number in range(0, 100, 3)])
    topic[0].roll()
    topic[0].compact()
    before = look(store)["orders", 0]
    assert before[0][0] > 200
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new", until={("orders", 0): 250})
    assert look_at(tmp_path / "new")["orders", 0] == [one for one in before if one[0] < 250]


@pytest.mark.sampled
def test_a_transaction_is_not_torn_by_it(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        store.create_topic(name, 1)
    marks = []
    for number in range(5):
        with store.transaction("billing") as tx:
            for name in ("a", "b"):
                tx.append(name, b"%s%d" % (name.encode(), number))
            tx.commit_offsets("g", {("c", 0): 0})
        marks.append({name: store.topic(name)[0].log_end_offset for name in ("a", "b")})
        store.topic("c").append(b"%d" % number)
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new", until={("a", 0): marks[3]["a"], ("b", 0): marks[1]["b"]})
    with open_store(tmp_path / "new") as new:
        seen = {name: [one[3] for one in records(new.topic(name)[0])] for name in ("a", "b", "c")}
        assert seen == {
            "a": [b"a0", b"a1"],
            "b": [b"b0", b"b1"],
            "c": [b"0", b"1", b"2", b"3", b"4"],
        }
        assert not new.transactions.hanging()
        assert not new.groups.pending("g")
        with new.transaction("billing") as tx:
            tx.append("a", b"again")
        assert records(new.topic("a")[0])[-1][3] == b"again"


def test_no_group_is_beyond_it(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    store.create_topic("orders", 1)[0].extend(numbered(0, 100))
    store.groups.commit("g", {("orders", 0): 90})
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new", until={("orders", 0): 40})
    with open_store(tmp_path / "new") as new:
        assert new.groups.offsets("g")[("orders", 0)].offset == 40


def test_the_oldest_snapshot_that_reaches_far_enough_is_taken(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """Later ones may have lost what was wanted."""
    topic = store.create_topic("orders", 1)
    for first in range(0, 300, 100):
        topic[0].extend(numbered(first, 100))
        store.snapshot(kept)
    topic[0].delete_records(-1)
    store.snapshot(kept)
    assert ec.restore(kept, tmp_path / "a", until={("orders", 0): 150}).number == 2
    assert ec.restore(kept, tmp_path / "b", until={("orders", 0): 300}).number == 3
    assert ec.restore(kept, tmp_path / "c").number == 4
    assert ec.restore(kept, tmp_path / "d", until=START_MS).number == 1
    for until in ({("orders", 0): 301}, {("none", 0): 1}, 1 << 50):
        with pytest.raises(ec.NoSnapshot):
            ec.restore(kept, tmp_path / "e", until=until)  # type: ignore[arg-type]
    with pytest.raises(ec.OffsetOutOfRange):
        ec.restore(kept, tmp_path / "e", until={("orders", 0): 301}, number=1)
    with pytest.raises(ec.UnknownTopic):
        ec.restore(kept, tmp_path / "e", until={("none", 0): 1}, number=1)
    with pytest.raises(ec.NoSnapshot):
        ec.restore(kept, tmp_path / "e", number=5)
    with pytest.raises(ec.UsageError):
        ec.restore(kept, tmp_path / "e", until=1, as_replica=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "d", "kept", "store"]


# -- a replica -----------------------------------------------------------------------------------------------------


def catch_up(leader: ec.Partition, follower: ec.Partition) -> None:
    """What a follower does until it has all."""
    while follower.log_end_offset < leader.high_watermark:
        found = leader.fetch(follower.log_end_offset, max_bytes=10_000)
        follower.append_batches(found.data, origin="replica")


def test_a_replica_goes_on_where_the_snapshot_ends(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """Without a gap or an overlap, in the midst of transactions, through compaction and deletion at the leader."""
    topic = store.create_topic("orders", 3, {"segment.bytes": 1 << 14, "cleanup.policy": "compact,delete"})
    topic.extend([(b"%d" % (number % 50), b"%d" % number) for number in range(3000)])
    hanging = store.transaction("open")
    for number in range(3):
        hanging.append("orders", b"in the midst", key=b"t", partition=number)
    hanging.flush()
    manifest = store.snapshot(kept)
    hanging.append("orders", b"the rest", key=b"u", partition=1)
    hanging.commit()
    topic.extend([(b"%d" % (number % 50), b"%d" % number) for number in range(3000, 5000)])
    topic[2].roll()
    topic[2].compact()
    ec.restore(kept, tmp_path / "new", as_replica=True)
    with open_store(tmp_path / "new") as new:
        for leader, follower in zip(topic, new.topic("orders"), strict=True):
            end = next(one.end for one in manifest.partitions if one[:2] == ("orders", leader.number))
            assert follower.log_end_offset == end
            assert follower.last_stable_offset < end
            catch_up(leader, follower)
            if leader.number < 2:
                assert records(follower) == records(leader)
                assert records(follower, committed=False) == records(leader, committed=False)
            latest = {one[2]: one for one in records(leader)}
            assert {one[2]: one for one in records(follower)} == latest
            assert follower.last_stable_offset == leader.last_stable_offset


# -- killed, refused -----------------------------------------------------------------------------------------------


def test_one_that_was_killed_is_taken_up(
    store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_topic("orders", 4)
    for partition in store.topic("orders"):
        partition.extend([os.urandom(1000)] * 200)
    before = look(store)
    store.snapshot(kept)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "_put_in_order", killed)
    with pytest.raises(KeyboardInterrupt):
        ec.restore(kept, tmp_path / "new")
    staging = tmp_path / "new.restoring"
    assert not (tmp_path / "new").exists()
    (staging / "orders-1" / f"{0:020}.log").write_bytes(b"half")
    (staging / "orders-2" / "stranger").write_bytes(b"?")
    (staging / "orders-3" / "folder").mkdir()
    (staging / "nobody-0").mkdir()
    with pytest.raises(ec.UsageError, match="not the rest of the same"):
        ec.restore(kept, tmp_path / "new", until={("orders", 0): 1})
    monkeypatch.undo()
    fetched: list[str] = []
    fetch = restoring.content
    monkeypatch.setattr(restoring, "content", lambda place, file: fetched.append(file.path) or fetch(place, file))
    ec.restore(kept, tmp_path / "new")
    assert f"orders-1/{0:020}.log" in fetched
    assert f"orders-0/{0:020}.log" not in fetched
    assert look_at(tmp_path / "new") == before
    assert not staging.exists()
    assert "stranger" not in os.listdir(tmp_path / "new" / "orders-2")


KILLED = """
import eventcore as ec, sys
print("begun", flush=True)
ec.restore(sys.argv[1], sys.argv[2])
"""


@pytest.mark.sampled
def test_killed_at_any_time(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """By SIGKILL: the folder is not there, or whole; the source is as it was."""
    topic = store.create_topic("orders", 20)
    topic.extend([(b"%d" % number, b"v" * 1000) for number in range(20_000)])
    before = look(store)
    store.snapshot(kept)
    source = tree(kept)
    for attempt in range(30):
        child = subprocess.Popen([sys.executable, "-c", KILLED, kept, tmp_path / "new"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.01 * attempt)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if (tmp_path / "new").exists():
            break
    if not (tmp_path / "new").exists():
        ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == before
    assert tree(kept) == source


def test_nothing_that_is_there_is_touched(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    store.create_topic("orders", 1)[0].append(b"v")
    store.snapshot(kept)
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link", "store"):
        with pytest.raises(ec.UsageError):
            ec.restore(kept, tmp_path / name)
    (tmp_path / "new.restoring").mkdir()
    (tmp_path / "new.restoring" / "mine").write_bytes(b"mine")
    with pytest.raises(ec.UsageError, match="not the rest"):
        ec.restore(kept, tmp_path / "new")
    (tmp_path / "other.restoring").symlink_to(tmp_path / "folder")
    with pytest.raises(ec.UsageError, match="not the rest"):
        ec.restore(kept, tmp_path / "other")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert os.listdir(tmp_path / "folder") == []
    assert tree(tmp_path / "new.restoring") == {"mine": b"mine"}
    for place in (kept / "new", kept, tmp_path / "kept" / "objects" / "new"):
        with pytest.raises(ec.UsageError):
            ec.restore(kept, place)
    with pytest.raises(ec.NoSnapshot):
        ec.restore(tmp_path / "folder", tmp_path / "new2")
    with pytest.raises(ec.NoSnapshot):
        ec.restore(tmp_path / "absent", tmp_path / "new2")
    assert not (tmp_path / "absent").exists()


def test_two_at_once(store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_topic("orders", 1)[0].append(b"v")
    store.snapshot(kept)
    inner: list[BaseException] = []

    def meanwhile(*arguments: Any) -> None:
        with pytest.raises(ec.LogLocked) as caught:
            ec.restore(kept, tmp_path / "new")
        inner.append(caught.value)

    monkeypatch.setattr(restoring, "_put_in_order", meanwhile)
    ec.restore(kept, tmp_path / "new")
    assert inner


def test_a_full_disk(store: ec.Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the destination, in either direction: nothing is there, and the next call does it."""
    store.create_topic("orders", 1)[0].extend([b"v" * 1000] * 1000)
    write, room = Disk.pwrite_all, [100_000]

    def full(disk: Disk, fd: int, data: Buffer, at: int) -> None:
        room[0] -= len(memoryview(data))
        if room[0] < 0 and ("kept" in str(disk._path(fd)) or "restoring" in str(disk._path(fd))):
            raise ec.DiskFull("no space left")
        write(disk, fd, data, at)  # type: ignore[arg-type]

    monkeypatch.setattr(Disk, "pwrite_all", full)
    with pytest.raises(ec.DiskFull):
        store.snapshot(kept)
    assert ec.snapshots(kept).numbers() == []
    room[0] = 1 << 40
    store.snapshot(kept)
    room[0] = 100_000
    with pytest.raises(ec.DiskFull):
        ec.restore(kept, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.restoring").exists()
    room[0] = 1 << 40
    ec.restore(kept, tmp_path / "new")
    assert look_at(tmp_path / "new") == look(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nobody_may_write(store: ec.Store, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o500)
    with pytest.raises(ec.StorageError):
        store.snapshot(tmp_path / "kept")


def test_configuration_of_the_new_store_is_the_caller_s(store: ec.Store, kept: Path, tmp_path: Path) -> None:
    """Defaults are given at opening, and the restore leaves none of its own."""
    store.create_topic("orders", 1, {"retention.ms": 5000})
    store.snapshot(kept)
    ec.restore(kept, tmp_path / "new")
    with ec.open(tmp_path / "new", config={**QUIET, "segment.bytes": 12345}) as new:
        assert new.config_of("orders").segment_bytes == 12345
        assert new.own_config("orders") == {"retention.ms": 5000}

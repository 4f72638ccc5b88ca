"""Ctrl-C, or a signal handler that appends, amid a change of the log: the old state, the new one, or a fence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.log import group_commit
from eventcore.log.group_commit import GroupCommit
from eventcore.log.segment import Segment

CONFIG = {"segment.bytes": 1 << 14, "segment.index.bytes": 4096}
VALUE = b"." * 2500


class InterruptedDisk(Disk):
    """Raises KeyboardInterrupt before call number `left`, or right after it."""

    left: int | None = None
    after = False

    def counted(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if self.left is None:
            return call(*arguments, **keywords)
        self.left -= 1
        if self.left >= 0:
            return call(*arguments, **keywords)
        self.left = None
        if self.after:
            call(*arguments, **keywords)
        raise KeyboardInterrupt

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("left", "after", "counted") or not callable(found):
            return found
        return lambda *arguments, **keywords: self.counted(found, *arguments, **keywords)


def fill(p: ec.Partition, known: dict[int, bytes], count: int = 8) -> None:
    for number in range(count):
        value = b"%04d" % number + VALUE
        known[p.append(value)] = value


def extend(p: ec.Partition, known: dict[int, bytes]) -> None:
    values = [b"%05d" % number + VALUE for number in range(12)]
    known.update(zip(p.extend(values), values, strict=True))


def grow(p: ec.Partition, known: dict[int, bytes]) -> None:
    fill(p, known, 12)


CHANGES: dict[str, Callable[[ec.Partition, dict[int, bytes]], Any]] = {
    "roll": lambda p, known: p.roll(),
    "appends": grow,
    "extend": extend,
    "sync": lambda p, known: p.sync(),
    "truncate": lambda p, known: [known.pop(offset, None) for offset in range(3, 100)] and p.truncate(3),
    "delete": lambda p, known: [known.pop(offset, None) for offset in range(7)] and p.delete_records(7),
}


def moments(change: str, fsync: str, after: bool, ground: Path) -> Iterator[tuple[ec.Partition, dict[int, bytes]]]:
    """The partition at each moment at which the change was interrupted, and what must be in it."""
    for left in range(10_000):
        disk, known = InterruptedDisk(), dict[int, bytes]()
        p = ec.open_partition(ground / f"events-{left}", "rw", fsync, CONFIG, disk=disk)  # type: ignore[arg-type]
        fill(p, known)
        disk.left, disk.after = left, after
        try:
            CHANGES[change](p, known)
        except KeyboardInterrupt:
            yield p, known
        else:
            disk.left = None
            p.close()
            return
    raise AssertionError("it has no end")


@pytest.mark.sampled
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fsync", ["always", "never"])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_acknowledged_is_lost(memory_path: Path, change: str, fsync: str, after: bool) -> None:
    """Red before for `roll`, `appends` and `extend`: unreadable after a close that called itself clean."""
    for p, known in moments(change, fsync, after, memory_path):
        with suppress(ec.StorageFenced):
            known[p.append(b"next")] = b"next"
        p.close()
        with ec.open_partition(p.path, "rw", "never", CONFIG) as again:
            found = {record.offset: record.value for record in again.read(again.log_start_offset)}
            assert {offset: found.get(offset) for offset in known} == known
            assert again.verify().problems == []


def test_a_sync_that_is_cut_short_leaves_nothing_out_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red before: only the active segment was synced again, and all of it called durable."""
    synced: list[int] = []
    real = Segment.sync

    def sync(self: Segment) -> None:
        real(self)
        synced.append(self.base_offset)

    with ec.open_partition(tmp_path / "events-0", "rw", "never", CONFIG) as p:
        fill(p, {}, 20)
        bases = [segment.base_offset for segment in p.segments]
        monkeypatch.setattr(Segment, "sync", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            p.sync()
        assert p.durable_offset == 0
        monkeypatch.setattr(Segment, "sync", sync)
        p.sync()
        assert synced == bases
        assert p.durable_offset == 20


def test_what_a_replica_restarts_with_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule F2. Red before: nothing of the segment that the log went on in was synced."""
    with ec.open_partition(tmp_path / "leader-0", "rw", "never") as leader:
        fill(leader, {}, 5)
        leader.extend([b"%d" % number for number in range(10)], atomic=True)
        batch = bytes(leader.fetch(5).data)
    with ec.open_partition(tmp_path / "events-0", "rw", "always") as p:
        fill(p, {}, 20)
        p.roll()
        p.delete_records(20)
        p.truncate(10)
        synced: list[int] = []
        real = Segment.sync
        monkeypatch.setattr(Segment, "sync", lambda self: (synced.append(self.base_offset), real(self)))
        assert p.append_batches(batch, origin="replica").last_offset == 14
        assert synced == [5]
        assert p.durable_offset == 15


def test_a_replica_does_not_restart_for_what_is_refused(tmp_path: Path) -> None:
    """Red before: the log restarted below its start, before the second batch was looked at."""
    with ec.open_partition(tmp_path / "leader-0", "rw", "never") as leader:
        fill(leader, {}, 5)
        leader.extend([b"%d" % number for number in range(10)], atomic=True)
        batch = bytes(leader.fetch(5).data)
    with ec.open_partition(tmp_path / "events-0", "rw", "always") as p:
        fill(p, {}, 20)
        p.roll()
        p.delete_records(20)
        p.truncate(10)
        with pytest.raises(ec.InvalidRecord):
            p.append_batches(batch + batch, origin="replica")
        assert (p.log_start_offset, p.log_end_offset, p.durable_offset) == (10, 10, 10)
        p._log.check()  # type: ignore[union-attr]
        assert p.append(b"x") == 10


def in_a_handler(act: Callable[[], object], inside: Callable[[], object]) -> None:
    """`act` comes from a signal handler while `inside` runs; `inside` raises the signal."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        inside()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_cannot_append_in_the_midst_of_an_append(tmp_path: Path) -> None:
    """Red before: offsets were handed out twice, and the log was unreadable."""
    refused: list[BaseException] = []

    class Signalling(Disk):
        armed = False

        def sync_dir(self, folder: Path) -> None:
            if self.armed:
                self.armed = False
                os.kill(os.getpid(), signal.SIGUSR1)
            super().sync_dir(folder)

    disk = Signalling()
    p = ec.open_partition(tmp_path / "events-0", "rw", "never", CONFIG, disk=disk)

    def append() -> None:
        try:
            p.append(b"from a handler")
        except ec.UsageError as error:
            refused.append(error)

    def fill_it() -> None:
        disk.armed = True
        fill(p, {}, 20)

    in_a_handler(append, fill_it)
    assert len(refused) == 1
    assert len(p) == 20
    p.close()
    with ec.open_partition(tmp_path / "events-0", "rw") as again:
        assert [record.offset for record in again] == list(range(20))
        assert again.verify().problems == []


def test_a_signal_handler_may_append_while_its_thread_syncs(tmp_path: Path) -> None:
    class Signalling(Disk):
        armed = False

        def sync(self, fd: int) -> None:
            if self.armed:
                self.armed = False
                os.kill(os.getpid(), signal.SIGUSR1)
            super().sync(fd)

    disk = Signalling()
    p = ec.open_partition(tmp_path / "events-0", "rw", "always", disk=disk)
    offsets = [p.append(b"the first one writes the leader epoch, too")]

    def append() -> None:
        disk.armed = True
        offsets.append(p.append(b"main"))

    in_a_handler(lambda: offsets.append(p.append(b"handler")), append)
    assert sorted(offsets) == [0, 1, 2]
    assert p.durable_offset == 3
    p.close()


class Interrupter:
    """Raises KeyboardInterrupt in the n-th line that is executed of a module, in one thread.

    Not in the line of a `with` that is being left: no signal is handled between its last statement and its end.
    """

    def __init__(self, module: str, line: int) -> None:
        self.module, self.left = module, line
        self.before: dict[FrameType, int] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_globals.get("__name__") != self.module:
            return None
        if event == "line":
            ends = frame.f_lineno < self.before.get(frame, 0)
            self.before[frame] = frame.f_lineno
            self.left -= not ends
            if self.left == 0 and not ends:
                raise KeyboardInterrupt
        return self


@pytest.mark.sampled
@pytest.mark.parametrize("others", [0, 2])
def test_group_commit_goes_on_wherever_its_leader_is_interrupted(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red before: 1 of 100 programs that got Ctrl-C waited for ever."""
    monkeypatch.setattr(group_commit, "PATIENCE_S", 0.01)
    for line in range(1, 200):
        ends = [0, 0]

        def sync(ends: list[int] = ends) -> None:
            ends[1] = ends[0]

        commits = GroupCommit(sync, lambda ends=ends: ends[1])  # type: ignore[misc]
        interrupter = Interrupter("eventcore.log.group_commit", line)
        ends[0] = 1
        sys.settrace(interrupter)
        try:
            commits.wait_for(1)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if interrupter.left > 0:
            assert line > 10
            return

        def wait(commits: GroupCommit = commits, ends: list[int] = ends) -> None:
            ends[0] += 1
            commits.wait_for(ends[0])

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(others + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), f"it waits for ever after an interrupt in line event {line}"
    raise AssertionError("it has no end")


@pytest.mark.skipif(kernels.KERNELS == "pure", reason="Python's mmap keeps a descriptor of its own for each map")
@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_rolls_leave_no_descriptors(tmp_path: Path, fsync: str, count_descriptors: Callable[[], int]) -> None:
    """Red before: three more after each roll, until `close`."""
    with ec.open_partition(tmp_path / "events-0", "rw", fsync, {"flush.ms": 3_600_000}) as p:  # type: ignore[arg-type]
        counts = []
        for _ in range(12):
            p.append(b"x")
            p.roll()
            counts.append(count_descriptors())
        assert counts[2:] == [counts[2]] * 10
        p.sync()
        assert p.durable_offset == 12

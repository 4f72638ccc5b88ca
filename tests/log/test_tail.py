"""Following a log: in a thread, in asyncio, and from another process; and readers of a log that changes its shape."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.format import control
from tests.scale import seeded

from .conftest import Open
from .test_append_batches import batch, marker

PATIENCE_S = 120.0
"""How long a tail waits for what comes: it ends without a record only if that never comes."""
FOREVER_S = 1e6
FOLLOWS = pytest.mark.parametrize(("mode", "spin"), [("rw", 0.0), ("rw", 0.02), ("r", 0.0), ("r", 0.02), ("r", 20.0)])


def later(work: Callable[[], object], delay_s: float = 0.05) -> threading.Timer:
    """Something that another thread does while this one waits."""
    timer = threading.Timer(delay_s, work)
    timer.start()
    return timer


def reader_of(p: ec.Partition, open_log: Open, mode: str) -> ec.Partition:
    return p if mode == "rw" else open_log(mode="r")


def test_a_tail_with_a_timeout_ends(open_log: Open) -> None:
    p = open_log()
    p.extend([b"a", b"b"])
    assert [r.value for r in p.tail(0, timeout=0.05)] == [b"a", b"b"]
    assert list(p.tail(timeout=0.05)) == []
    with pytest.raises(ec.OffsetOutOfRange):
        p.tail(3)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_tail_wakes_for_what_another_thread_appends(open_log: Open, mode: str) -> None:
    handed_over(open_log, mode)


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_tail_wakes_at_once(open_log: Open, mode: str) -> None:
    assert sorted(handed_over(open_log, mode))[10] < 0.2


def handed_over(open_log: Open, mode: str) -> list[float]:
    """Twenty records, appended by one thread and awaited by another; seconds from just before the append."""
    p = open_log()
    follow = reader_of(p, open_log, mode).tail(0, timeout=PATIENCE_S)
    waits: list[float] = []

    def write() -> None:
        for i in range(20):
            time.sleep(0.005)
            waits.append(time.monotonic())
            p.append(b"%d" % i)

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    for i in range(20):
        seen.append(next(follow).value)
        waits[i] = time.monotonic() - waits[i]
    thread.join()
    assert seen == [b"%d" % i for i in range(20)]
    assert follow.position == 20
    return waits


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_async_for(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"0")
    reader = p if mode == "rw" else open_log(mode="r")

    async def follow() -> list[bytes | None]:
        seen = []
        async for record in reader.tail(0, timeout=PATIENCE_S):
            seen.append(record.value)
            if len(seen) == 10:
                break
        return seen

    async def both() -> list[bytes | None]:
        task = asyncio.create_task(follow())
        for i in range(1, 10):
            await asyncio.sleep(0.005)
            p.append(b"%d" % i)
        return await asyncio.wait_for(task, PATIENCE_S)

    assert asyncio.run(both()) == [b"%d" % i for i in range(10)]


def test_async_for_ends_after_its_timeout(open_log: Open) -> None:
    p = open_log()
    p.append(b"a")

    async def follow() -> list[ec.Record]:
        return [record async for record in p.tail(0, timeout=0.05)]

    assert [record.value for record in asyncio.run(follow())] == [b"a"]


def test_subscribers_are_called_until_they_leave(open_log: Open) -> None:
    p = open_log()
    calls: list[int] = []
    leave = p.subscribe(lambda: calls.append(p.high_watermark))
    p.append(b"a")
    p.extend([b"b", b"c"])
    leave()
    leave()
    p.append(b"d")
    assert calls == [1, 3]


WRITER = """
import sys
import eventcore as ec
with ec.open_partition(sys.argv[1], fsync="never", config={"segment.bytes": 16384}) as p:
    for i in range(int(sys.argv[2])):
        p.append(b"%d" % i * 10)
"""


def test_a_reader_in_another_process_sees_every_record_once(folder: Path) -> None:
    with ec.open_partition(folder, config={"segment.bytes": 16384}):
        pass
    count = 3000
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=PATIENCE_S)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(count)])
        try:
            seen = [next(follow) for _ in range(count)]
        finally:
            assert writer.wait(PATIENCE_S) == 0
    assert [record.offset for record in seen] == list(range(count))
    assert [record.value for record in seen] == [b"%d" % i * 10 for i in range(count)]


def test_a_reader_follows_roll_truncation_and_log_start(open_log: Open) -> None:
    p = open_log(segment_bytes=4096)
    p.append(b"first")
    r = open_log(mode="r")
    for i in range(100):
        p.append(b"%d" % i * 20)
        assert r[-1].value == b"%d" % i * 20
    p.truncate(50)
    assert (r.high_watermark, len(list(r))) == (50, 50)
    p.append(b"again")
    assert r[50].value == b"again"
    p.delete_records(30)
    assert r.log_start_offset == 30
    assert [x.offset for x in r] == list(range(30, 51))
    with pytest.raises(ec.OffsetOutOfRange):
        r[29]


def test_a_reader_outlives_its_writer(open_log: Open) -> None:
    p = open_log()
    p.append(b"a")
    r = open_log(mode="r")
    p.close()
    assert [x.value for x in r] == [b"a"]
    p = open_log()
    p.append(b"b")
    assert [x.value for x in r] == [b"a", b"b"]


def test_a_reader_of_a_dead_writer_reads_to_the_last_good_batch(folder: Path) -> None:
    code = WRITER + "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run([sys.executable, "-c", code, str(folder), "100"], check=False)
    with ec.open_partition(folder, "r") as r:
        assert len(list(r)) == 100
        assert r.verify().problems == []
    assert not (folder / "eventcore.recovery.tmp").exists()
    with ec.open_partition(folder) as p:
        assert not p.recovery.clean
        assert len(list(p)) == 100


@FOLLOWS
def test_what_is_published_behind_the_last_record_comes_without_the_slow_way(
    open_log: Open, mode: str, spin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = open_log()
    p.append(b"0")
    follow = reader_of(p, open_log, mode).tail(0, timeout=PATIENCE_S, spin=spin)
    assert next(follow).value == b"0"
    monkeypatch.setattr(follow, "_fill", None)
    monkeypatch.setattr(follow, "_chunks", iter(()))
    for at in range(1, 6):
        timer = later(lambda at=at: p.extend([b"%d" % at, b"x"]), 0.01)  # type: ignore[misc]
        assert [next(follow).value, next(follow).value] == [b"%d" % at, b"x"]
        assert follow.position == 2 * at + 1
        timer.join()


def mixed(p: ec.Partition, at: int) -> list[bytes]:
    """Append the batches of turn `at`, of every kind; what committed readers shall see of them."""
    end, value = p.log_end_offset, b"%d|" % at + b"x" * (at * 37 % 300)
    kind, producer = at % 9, (at, 0, 0)
    if kind == 0:
        p.roll()
    elif kind in (1, 2):  # a transaction, whose marker shows it
        p.append_batches(batch([value, b"t"], base=end, epoch=0, attributes=0x10, producer=producer), "replica")
        p.append_batches(marker(control.COMMIT if kind == 1 else control.ABORT, end + 2, at, 0), "replica")
        return [value, b"t"] if kind == 1 else []
    elif kind in (3, 4):
        p.append_batches(batch([value] * 3, codec=kind))
        return [value] * 3
    p.extend([value] * (at % 5 + 1))
    return [value] * (at % 5 + 1)


@pytest.mark.parametrize(
    ("mode", "spin", "isolation"),
    [
        ("rw", 0.0, "read_uncommitted"),
        ("rw", 0.02, "read_committed"),
        ("r", 0.0, "read_committed"),
        ("r", 0.02, "read_uncommitted"),
        ("r", 20.0, "read_committed"),
    ],
)
def test_batches_of_every_kind_rolls_included(open_log: Open, mode: str, spin: float, isolation: Any) -> None:
    p = open_log(segment_bytes=8192)
    follow = reader_of(p, open_log, mode).tail(0, timeout=PATIENCE_S, spin=spin, isolation=isolation)
    committed: list[bytes] = []

    def write() -> None:
        for at in range(100):
            committed.extend(mixed(p, at))
            time.sleep(0.001 * (at % 3))
        p.append(b"end")

    timer, seen = later(write, 0.0), []
    for record in follow:
        seen.append(record)
        if record.value == b"end":
            break
    timer.join()
    assert seen == list(p.read(isolation=isolation))
    if isolation == "read_committed":
        assert [record.value for record in seen] == [*committed, b"end"]


@FOLLOWS
def test_committed_readers_wait_for_the_marker(open_log: Open, mode: str, spin: float) -> None:
    p = open_log()
    p.append(b"0")
    reader = reader_of(p, open_log, mode)
    every = reader.tail(0, timeout=PATIENCE_S, spin=spin)
    briefly = reader.tail(0, timeout=0.2, spin=spin, isolation="read_committed")
    committed = reader.tail(0, timeout=PATIENCE_S, spin=spin, isolation="read_committed")
    assert [next(follow).value for follow in (every, briefly, committed)] == [b"0"] * 3
    p.append_batches(batch([b"1"], base=1, epoch=0, attributes=0x10, producer=(7, 0, 0)), "replica")
    p.append(b"2")
    assert [next(every).value, next(every).value] == [b"1", b"2"]
    assert list(briefly) == []
    briefly = reader.tail(briefly.position, timeout=0.2, spin=spin, isolation="read_committed")
    timer = later(lambda: p.append_batches(marker(control.COMMIT, 3, 7, 0), "replica"))
    assert [next(committed).value, next(committed).value] == [b"1", b"2"]
    timer.join()
    assert [record.value for record in briefly] == [b"1", b"2"]


@FOLLOWS
def test_a_truncation_is_told_once_to_who_waits(open_log: Open, mode: str, spin: float) -> None:
    p = open_log()
    for at in range(10):
        p.append(b"%d" % at)
    follow = reader_of(p, open_log, mode).tail(0, timeout=PATIENCE_S, spin=spin)
    assert [next(follow).offset for _ in range(10)] == list(range(10))
    timer = later(lambda: p.append(b"10"))
    assert next(follow).offset == 10
    timer.join()
    timer = later(lambda: (p.truncate(7), p.append(b"again")))
    with pytest.raises(ec.LogTruncated):
        next(follow)
    assert follow.position == 7
    assert next(follow).value == b"again"
    timer.join()
    timer = later(lambda: (p.append(b"8"), p.truncate(8), p.append(b"other")), 0.1)  # may be seen or not
    seen: list[bytes | None] = []
    try:
        for _ in range(2):
            seen.append(next(follow).value)
            if seen[-1] == b"other":
                break
    except ec.LogTruncated:
        assert seen == [b"8"]
        seen = [next(follow).value]
    assert seen[-1] == b"other"
    timer.join()


@FOLLOWS
def test_a_truncation_behind_what_was_read_is_no_matter(open_log: Open, mode: str, spin: float) -> None:
    p = open_log()
    p.extend([b"0", b"1"])
    p.append(b"2")
    follow = reader_of(p, open_log, mode).tail(0, timeout=PATIENCE_S, spin=spin)
    assert [next(follow).value, next(follow).value] == [b"0", b"1"]
    p.truncate(2)
    timer = later(lambda: p.append(b"other"))
    found = [next(follow).value for _ in range(1)]
    assert found[0] in (b"2", b"other"), "it may have been decoded before"
    timer.join()


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize(
    ("spin", "timeout"), [(0, 0.0), (FOREVER_S, 0.0), (0.0, 0.1), (int(FOREVER_S), 0.1), (0.05, 0.1)]
)
def test_a_timeout_ends_spinning_too(open_log: Open, mode: str, spin: float, timeout: float) -> None:
    """If it did not, this test would not end."""
    p = open_log()
    p.append(b"a")
    reader = reader_of(p, open_log, mode)
    follow = reader.tail(0, timeout=timeout, spin=spin)
    assert [record.value for record in follow] == [b"a"]
    assert list(follow) == []
    follow = reader.tail(follow.position, timeout=timeout, spin=spin)
    p.append_batches(batch([b"b"], codec=4))
    assert [record.value for record in follow] == [b"b"], "what is there comes, whatever the timeout"


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize(("spin", "timeout"), [(20.0, 0.0), (0.0, 0.1), (20, 0.1), (0.05, 0.1)])
def test_it_waits_as_long_as_it_is_told(open_log: Open, mode: str, spin: float, timeout: float) -> None:
    p = open_log()
    follow = reader_of(p, open_log, mode).tail(0, timeout=timeout, spin=spin)
    began = time.monotonic()
    assert list(follow) == []
    assert timeout * 0.99 <= time.monotonic() - began < 5


@pytest.mark.parametrize("spin", [-1, -0.001, float("nan"), float("-inf"), "1", None])
def test_a_spin_that_is_no_time(open_log: Open, spin: Any) -> None:
    p = open_log()
    with pytest.raises(ec.UsageError, match="spin"):
        p.tail(spin=spin)
    assert list(p.tail(timeout=0.01, spin=float("inf"))) == []


@pytest.mark.sampled
@pytest.mark.parametrize("spin", [0.0, FOREVER_S])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_who_waits_while_another_closes_is_told(open_log: Open, mode: str, spin: float) -> None:
    """If he were not, this test would not end."""
    p = open_log()
    p.append(b"a")
    reader = reader_of(p, open_log, mode)
    follow = reader.tail(0, timeout=FOREVER_S, spin=spin)
    next(follow)
    timer = later(reader.close)
    with pytest.raises(ec.ClosedError):
        next(follow)
    with pytest.raises(ec.ClosedError):
        next(follow)
    timer.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_forks_child_is_refused(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"a")
    follow = reader_of(p, open_log, mode).tail(0, timeout=0.1)
    assert next(follow).value == b"a"
    p.append(b"b")
    pid = os.fork()
    if pid == 0:
        try:
            next(follow)
        except ec.ClosedError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert [record.value for record in follow] == [b"b"]


KILLED = """
import os, signal, sys, time
import eventcore as ec
p = ec.open_partition(sys.argv[1], fsync="never", config={"segment.bytes": 16384})
first, count = p.log_end_offset, int(sys.argv[2])
for i in range(first, first + count):
    p.append(b"%d" % i * 10)
    time.sleep(0.0002)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.sampled
@pytest.mark.parametrize("spin", [0.0, 0.001, 30.0])
def test_a_tail_waits_through_the_deaths_of_writers(folder: Path, spin: float) -> None:
    with ec.open_partition(folder, config={"segment.bytes": 16384}):
        pass
    with ec.open_partition(folder, "r") as reader:
        follow, seen = reader.tail(0, timeout=PATIENCE_S, spin=spin), []
        for count in (100, 300, 1):
            writer = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(count)])
            seen += [next(follow) for _ in range(count)]
            assert writer.wait(PATIENCE_S) == -signal.SIGKILL
        assert follow.position == 401
    assert [record.offset for record in seen] == list(range(401))
    assert [record.value for record in seen] == [b"%d" % i * 10 for i in range(401)]


@pytest.mark.nightly
def test_it_spins_no_longer_than_it_is_told(open_log: Open) -> None:
    p = open_log()
    cpu, began = time.thread_time(), time.monotonic()
    assert list(p.tail(timeout=2.5, spin=0.5)) == []
    assert 0.01 < time.thread_time() - cpu < 0.65, "it spins once, not at the beginning of every sleep"
    assert time.monotonic() - began >= 2.5


@pytest.mark.parametrize("spin", [0.0, 20.0])
def test_many_small_segments_while_it_waits(folder: Path, spin: float) -> None:
    """Another process rolls with nearly every batch: the end moves from map to map."""
    config = {"segment.bytes": 4096, "segment.index.bytes": 4096}
    with ec.open_partition(folder, config=config):
        pass
    code = WRITER.replace("16384", "4096").replace('b"%d" % i * 10', 'b"%d|" % i * 300')
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=PATIENCE_S, spin=spin)
        writer = subprocess.Popen([sys.executable, "-c", code, str(folder), "60"])
        try:
            seen = [next(follow) for _ in range(60)]
        finally:
            assert writer.wait(PATIENCE_S) == 0
    assert [record.value for record in seen] == [b"%d|" % i * 300 for i in range(60)]


def test_async_and_plain_iteration_take_turns(open_log: Open) -> None:
    p, pick = open_log(), seeded(1)
    follow = open_log(mode="r").tail(0, timeout=PATIENCE_S, spin=0.001)

    async def one() -> ec.Record:
        return await anext(follow)

    seen = []
    for at in range(40):
        timer = later(lambda at=at: p.append(b"%d" % at), 0.002)  # type: ignore[misc]
        seen.append(next(follow) if pick.random() < 0.5 else asyncio.run(one()))
        timer.join()
    assert [record.offset for record in seen] == list(range(40))

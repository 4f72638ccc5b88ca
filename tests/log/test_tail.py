"""Following a log: in a thread, in asyncio, and from another process; and readers of a log that changes its shape."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Open


def test_a_tail_with_a_timeout_ends(open_log: Open) -> None:
    p = open_log()
    p.extend([b"a", b"b"])
    assert [r.value for r in p.tail(0, timeout=0.05)] == [b"a", b"b"]
    assert list(p.tail(timeout=0.05)) == []
    with pytest.raises(ec.OffsetOutOfRange):
        p.tail(3)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_tail_wakes_for_what_another_thread_appends(open_log: Open, mode: str) -> None:
    p = open_log()
    reader = p if mode == "rw" else open_log(mode="r")
    follow = reader.tail(0, timeout=20)
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
    assert sorted(waits)[10] < 0.2


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_async_for(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"0")
    reader = p if mode == "rw" else open_log(mode="r")

    async def follow() -> list[bytes | None]:
        seen = []
        async for record in reader.tail(0, timeout=20):
            seen.append(record.value)
            if len(seen) == 10:
                break
        return seen

    async def both() -> list[bytes | None]:
        task = asyncio.create_task(follow())
        for i in range(1, 10):
            await asyncio.sleep(0.005)
            p.append(b"%d" % i)
        return await asyncio.wait_for(task, 20)

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
        follow = reader.tail(0, timeout=30)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(count)])
        try:
            seen = [next(follow) for _ in range(count)]
        finally:
            assert writer.wait(60) == 0
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

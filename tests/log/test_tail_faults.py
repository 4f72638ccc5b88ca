"""A tail that is interrupted, meets errors, is cancelled, or ends: it never skips a record, and tells nothing twice."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.errors import StorageError
from eventcore.log.tailing import Tail
from tests.log.conftest import Open
from tests.log.interrupting import interrupted

MINUTE = 60.0
LOG_CODE = os.path.join("eventcore", "log") + os.sep


def reader_of(p: ec.Partition, open_log: Open, mode: str) -> ec.Partition:
    return p if mode == "rw" else open_log(mode="r")


@pytest.mark.sampled
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize(("only", "stride"), [(LOG_CODE + "tailing.py", 1), (LOG_CODE, 3)])
def test_an_interrupt_anywhere_loses_nothing(open_log: Open, mode: str, only: str, stride: int) -> None:
    """Ctrl-C at one step, then one goes on with the same tail: no gap, and nothing again that was handed out."""
    p = open_log(segment_bytes=4096)
    for at in range(3):
        p.append(b"%d" % at)
    p.roll()
    p.extend([b"3", b"4"])
    log, step, hit = reader_of(p, open_log, mode), 1, True
    while hit:
        follow, seen = log.tail(0, timeout=0), []

        def run(follow: Tail = follow, seen: list[int] = seen) -> None:
            for record in follow:
                seen.append(record.offset)

        hit = interrupted(step, only, run)
        seen.extend(record.offset for record in follow)
        assert seen == list(range(5)), step
        step += stride
    assert step > 40


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_an_interrupt_where_the_follower_stands(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"0")
    log, step, hit = reader_of(p, open_log, mode), 1, True
    while hit:
        end = p.log_end_offset
        follow = log.tail(end - 1, timeout=0)
        seen = [next(follow).offset]
        follow._look()  # places the follower
        p.extend([b"x", b"y"])

        def run(follow: Tail = follow, seen: list[int] = seen) -> None:
            for record in follow:
                seen.append(record.offset)

        hit = interrupted(step, LOG_CODE + "tailing.py", run)
        seen.extend(record.offset for record in follow)
        assert seen == [end - 1, end, end + 1], step
        step += 7


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("error", [StorageError("an error of the disk"), KeyboardInterrupt(), MemoryError()])
def test_an_error_skips_nothing(
    open_log: Open, mode: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = open_log()
    p.extend([b"%d" % at for at in range(1000)])
    p.roll()  # a follower stands in the last segment only
    log = reader_of(p, open_log, mode)
    chunks, left = log.chunks, [1]

    def failing(*arguments: Any) -> Iterator[list[ec.Record]]:
        for chunk in chunks(*arguments):
            if left:
                left.pop()
                raise error
            yield chunk

    monkeypatch.setattr(log, "chunks", failing)
    follow = log.tail(0, timeout=0)
    with pytest.raises(type(error)):
        next(follow)
    assert follow.position == 0
    assert [record.offset for record in follow] == list(range(1000))


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_what_has_ended_stays_so(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"0")
    log = reader_of(p, open_log, mode)
    follow = log.tail(0, timeout=0.01)
    assert [record.offset for record in follow] == [0]
    p.append(b"1")
    with pytest.raises(StopIteration):
        next(follow)

    async def all_of(follow: Tail) -> list[int]:
        return [record.offset async for record in follow]

    assert asyncio.run(all_of(follow)) == []
    again = log.tail(follow.position, timeout=0.01)
    assert asyncio.run(all_of(again)) == [1]
    p.append(b"2")
    assert asyncio.run(all_of(again)) == []
    assert list(again) == []
    assert [record.offset for record in log.tail(again.position, timeout=0)] == [2]


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_close_ends_every_way_to_wait(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"0")
    log, ended, waits = reader_of(p, open_log, mode), [], threading.Event()

    def follow() -> None:
        tail = log.tail(0)
        next(tail)
        waits.set()
        with suppress(StopIteration):
            try:
                next(tail)
            except ec.ClosedError as error:
                ended.append(error)

    async def follow_in_loop() -> None:
        tail = log.tail(0)
        await tail.__anext__()
        waiting = asyncio.create_task(_next_of(tail))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(log.close)
        with pytest.raises(ec.ClosedError):
            await asyncio.wait_for(waiting, MINUTE)

    thread = threading.Thread(target=follow)
    thread.start()
    assert waits.wait(MINUTE)
    asyncio.run(follow_in_loop())
    thread.join(MINUTE)
    assert len(ended) == 1


async def _next_of(tail: Tail) -> ec.Record:
    return await tail.__anext__()


@pytest.mark.parametrize("timeout", [None, MINUTE])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_cancellation_is_not_lost(open_log: Open, mode: str, timeout: float | None) -> None:
    """It comes in the same turn of the loop as the record that the task waits for."""
    p = open_log()
    log = reader_of(p, open_log, mode)

    async def follow(me: int, tasks: list[asyncio.Task[None]]) -> None:
        async for _ in log.tail(0, timeout=timeout):
            if me == 0:
                tasks[1].cancel()
                return

    async def both() -> bool:
        tasks: list[asyncio.Task[None]] = []
        tasks += [asyncio.create_task(follow(me, tasks)) for me in range(2)]
        while len(_subscribers(log)) < 2:
            await asyncio.sleep(0)
        await asyncio.to_thread(p.append, b"stop")
        await asyncio.wait(tasks, timeout=MINUTE)
        return tasks[1].cancelled()

    for _ in range(5):
        assert asyncio.run(both())
        p.truncate(0)


def _subscribers(log: ec.Partition) -> tuple[Callable[[], None], ...]:
    inner: Any = log._log
    return (inner._subscribers if log.mode == "rw" else inner._watcher.subscribers).callbacks  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_the_loop_gets_its_turn_during_a_backlog(open_log: Open, mode: str) -> None:
    p = open_log()
    p.extend([b"x"] * 5000)
    log = reader_of(p, open_log, mode)

    async def main() -> int:
        turns, done = 0, False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        follow = log.tail(0)
        for _ in range(5000):
            await follow.__anext__()
        done = True
        await task
        return turns

    assert asyncio.run(main()) >= 30


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("what", ["end", "standing"])
def test_the_loop_does_not_wait_for_a_look(
    open_log: Open, mode: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is just changing the set of segments lets readers wait, decompression takes its time."""
    p = open_log()
    p.append(b"0")
    p.roll()  # a follower, which need not ask, stands in the last segment only
    log, go, looks = reader_of(p, open_log, mode), threading.Event(), threading.Event()
    real = getattr(log, what)

    def slow(*arguments: Any) -> Any:
        looks.set()
        assert go.wait(MINUTE)
        return real(*arguments)

    async def main() -> int:
        follow = log.tail(0 if what == "end" else 1, timeout=MINUTE)
        monkeypatch.setattr(log, what, slow)
        task = asyncio.create_task(_next_of(follow))
        while not looks.is_set():
            await asyncio.sleep(0.001)
        p.append(b"1")
        go.set()  # only a loop that runs gets here
        return (await task).offset

    go_on = threading.Timer(MINUTE / 4, go.set)
    go_on.start()
    try:
        assert asyncio.run(main()) == (0 if what == "end" else 1)
        assert go_on.is_alive(), "the loop stood still"
    finally:
        go_on.cancel()


def test_who_is_cancelled_during_a_look_misses_nothing(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither records, nor the news of a truncation, which is told once."""
    p = open_log()
    p.extend([b"%d" % at for at in range(10)])
    p.roll()

    def held(follow: Tail, what: str) -> tuple[threading.Event, threading.Event]:
        looks, go, real = threading.Event(), threading.Event(), getattr(p, what)

        def slow(*arguments: Any) -> Any:
            found = real(*arguments)
            looks.set()
            assert go.wait(MINUTE)
            return found

        monkeypatch.setattr(p, what, slow)
        return looks, go

    async def cancel_in(follow: Tail, what: str) -> None:
        looks, go = held(follow, what)
        task = asyncio.create_task(_next_of(follow))
        while not looks.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.undo()
        go.set()

    async def main() -> list[int]:
        follow = p.tail(0, timeout=MINUTE)
        await cancel_in(follow, "end")
        seen = [(await follow.__anext__()).offset for _ in range(10)]
        p.truncate(5)
        p.append(b"new")
        await cancel_in(follow, "truncated_to")
        with pytest.raises(ec.LogTruncated):
            await follow.__anext__()
        assert follow.position == 5
        seen.append(next(follow).offset)
        return seen

    assert asyncio.run(main()) == [*range(10), 5]


def test_a_plain_look_waits_for_the_one_of_a_cancelled_task(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    p = open_log()
    p.extend([b"0", b"1"])
    p.roll()
    follow, looks, go, real = p.tail(0, timeout=MINUTE), threading.Event(), threading.Event(), p.end

    def slow(committed: bool) -> int:
        looks.set()
        assert go.wait(MINUTE)
        return real(committed)

    async def main() -> list[int]:
        task = asyncio.create_task(_next_of(follow))
        while not looks.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        plain = asyncio.create_task(asyncio.to_thread(lambda: [record.offset for record in islice(follow, 2)]))
        await asyncio.sleep(0.01)
        go.set()
        return await plain

    monkeypatch.setattr(p, "end", slow)
    assert asyncio.run(main()) == [0, 1]


def test_a_loop_that_is_closed_meanwhile(open_log: Open) -> None:
    """What was subscribed for it is told, and nobody minds."""
    p, follow = open_log(), None

    async def leave() -> None:
        nonlocal follow
        follow = p.tail(timeout=MINUTE).__anext__()
        task = asyncio.ensure_future(follow)
        while not _subscribers(p):
            await asyncio.sleep(0)
        asyncio.get_running_loop().stop()
        _ = task

    loop = asyncio.new_event_loop()
    leaving = loop.create_task(leave())
    loop.run_forever()
    assert leaving.done()
    pending = asyncio.all_tasks(loop)
    callbacks = _subscribers(p)
    loop.close()
    assert callbacks
    for callback in callbacks:
        callback()
    assert p.append(b"x") == 0
    for task in pending:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_an_async_timeout_ends_once_nothing_came(open_log: Open, folder: Path) -> None:
    p = open_log()

    async def follow() -> list[int]:
        return [record.offset async for record in p.tail(0, timeout=0.2)]

    async def main() -> list[int]:
        task = asyncio.create_task(follow())
        await asyncio.sleep(0.01)
        p.append(b"0")
        return await asyncio.wait_for(task, MINUTE)

    began = time.monotonic()
    assert asyncio.run(main()) == [0]
    assert time.monotonic() - began >= 0.2

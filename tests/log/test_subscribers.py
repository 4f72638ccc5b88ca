"""Who is told that the end moved: callbacks that raise, come and go, and the thread of a reader that calls them."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.errors import StorageError
from eventcore.log.subscribers import Subscribers

from .conftest import Open

MINUTE = 60.0


def fails() -> None:
    raise RuntimeError("a bug in somebody's callback")


def watcher_of(reader: ec.Partition) -> threading.Thread | None:
    return reader._log._watcher.thread  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_callback_that_raises_harms_nobody(open_log: Open, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    p = open_log()
    log, told, ends = p if mode == "rw" else open_log(mode="r"), threading.Semaphore(0), [0]
    log.subscribe(fails)
    log.subscribe(lambda: (ends.append(log.high_watermark), told.release()))  # type: ignore[func-returns-value]
    with caplog.at_level(logging.ERROR, "eventcore"):
        for at in range(2):
            assert p.append(b"x") == at
            while ends[-1] != at + 1:
                assert told.acquire(timeout=MINUTE)
    assert "a bug in somebody's callback" in caplog.text
    log.close()
    p.close()


def test_an_interrupted_callback_silences_nobody() -> None:
    subscribers, told = Subscribers(), []

    def interrupted() -> None:
        raise KeyboardInterrupt

    subscribers.add(lambda: told.append(1))
    subscribers.add(interrupted)
    subscribers.add(lambda: told.append(3))
    with pytest.raises(KeyboardInterrupt):
        subscribers.notify()
    assert told == [1, 3]


def test_no_subscription_is_lost_or_left_behind() -> None:
    """Threads that come and go, beside one that stays; each change reads and replaces what there is."""
    subscribers, told = Subscribers(), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def come_and_go() -> None:
        for _ in range(2000):
            subscribers.add(lambda: None)()

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for at in range(1000):
            subscribers.add(lambda at=at: told.append(at))  # type: ignore[misc]
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(subscribers.callbacks) == 1000
    subscribers.notify()
    assert told == list(range(1000))


def test_a_change_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by force: one is held between reading what there is and replacing it, while another comes."""
    held, go, added = threading.Event(), threading.Event(), threading.Event()

    class Slow(Subscribers):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "callbacks" and threading.current_thread() is first:
                held.set()
                assert go.wait(MINUTE)
            super().__setattr__(name, value)

    first = threading.Thread(target=lambda: subscribers.add(fails))
    subscribers = Slow()
    first.start()
    assert held.wait(MINUTE)
    second = threading.Thread(target=lambda: (subscribers.add(print), added.set()))
    second.start()
    added.wait(0.05)  # either way the verdict is the count
    go.set()
    first.join()
    second.join()
    assert len(subscribers.callbacks) == 2


def test_one_callback_twice_leaves_once() -> None:
    subscribers, told = Subscribers(), []
    callback: Callable[[], None] = lambda: told.append(1)  # noqa: E731
    leave = subscribers.add(callback)
    subscribers.add(callback)
    leave()
    leave()
    subscribers.notify()
    assert told == [1]


@pytest.mark.sampled
def test_the_watcher_survives_a_transient_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, say, while it looks at the folder after a roll."""
    p = ec.open_partition(folder, fsync="never")
    with p, ec.open_partition(folder, "r") as reader:
        told, list_it = threading.Semaphore(0), type(reader._log.disk).list
        reader.subscribe(told.release)
        assert told.acquire(timeout=MINUTE)
        failed = threading.Event()

        def transiently(*arguments: Any) -> list[str]:
            if threading.current_thread() is watcher_of(reader) and not failed.is_set():
                failed.set()
                raise StorageError("too many open files", path=str(folder))
            return list_it(*arguments)

        monkeypatch.setattr(type(reader._log.disk), "list", transiently)
        p.append(b"a")
        p.roll()
        assert failed.wait(MINUTE)
        while reader.high_watermark < 1:
            pass
        seen = threading.Event()
        reader.subscribe(lambda: seen.set() if reader.high_watermark == 2 else None)
        p.append(b"b")
        assert seen.wait(MINUTE)


@pytest.mark.sampled
def test_the_watcher_ends_with_the_last_subscription_and_comes_again(open_log: Open) -> None:
    p, reader, told = open_log(), open_log(mode="r"), threading.Semaphore(0)
    assert watcher_of(reader) is None
    for count in range(2):
        leave = reader.subscribe(told.release)
        thread = watcher_of(reader)
        assert thread is not None
        p.append(b"x")
        assert told.acquire(timeout=MINUTE)
        leave()
        thread.join(MINUTE)
        assert not thread.is_alive(), count


@pytest.mark.sampled
def test_a_forgotten_reader_is_let_go(open_log: Open, folder: Path) -> None:
    open_log()
    reader = ec.open_partition(folder, "r")
    reader.subscribe(lambda reader=reader: reader.high_watermark)  # type: ignore[misc]
    thread, known = watcher_of(reader), weakref.ref(reader._log)
    del reader
    gc.collect()
    assert thread is not None
    while thread.is_alive():
        gc.collect()
        thread.join(0.1)
    gc.collect()
    assert known() is None


def test_who_can_leave_keeps_the_reader(open_log: Open, folder: Path) -> None:
    p, told = open_log(), threading.Semaphore(0)
    leave = ec.open_partition(folder, "r").subscribe(told.release)
    gc.collect()
    assert told.acquire(timeout=MINUTE)
    p.append(b"x")
    assert told.acquire(timeout=MINUTE)
    leave()


@pytest.mark.sampled
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_subscribers_are_told_of_a_close(open_log: Open, mode: str) -> None:
    p = open_log()
    p.append(b"x")
    log, told = p if mode == "rw" else open_log(mode="r"), threading.Semaphore(0)
    log.subscribe(told.release)
    while told.acquire(timeout=0.0 if mode == "rw" else 1.0):
        pass
    log.close()
    assert told.acquire(timeout=MINUTE)
    with pytest.raises(ec.ClosedError):
        log.subscribe(told.release)


PROPERTIES = """
    log_start_offset log_end_offset high_watermark last_stable_offset durable_offset leader_epoch io segments
""".split()
CALLS: dict[str, Callable[[ec.Partition], object]] = {
    **{name: lambda p, name=name: getattr(p, name) for name in PROPERTIES},  # type: ignore[misc]
    "len": len,
    "iter": iter,
    "index": lambda p: p[0],
    "slice": lambda p: p[:],
    "read": lambda p: p.read(),
    "columns": lambda p: p.columns(),
    "fetch": lambda p: p.fetch(0),
    "tail": lambda p: p.tail(),
    "truncations": lambda p: p.truncations(),
    "truncated_to": lambda p: p.truncated_to(),
    "signal": lambda p: p.signal(),
    "wait": lambda p: p.wait(0, 0.0),
    "end": lambda p: p.end(),
    "since": lambda p: p.since(),
    "standing": lambda p: p.standing(),
    "producers": lambda p: p.producers(),
    "producer": lambda p: p.producer(1),
    "epoch_at": lambda p: p.epoch_at(0),
    "end_offset_for_epoch": lambda p: p.end_offset_for_epoch(0),
    "offset_for_time": lambda p: p.offset_for_time(0),
    "verify": lambda p: p.verify(),
    "batches": lambda p: next(p.batches()),
}


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("name", CALLS)
def test_a_closed_handle_answers_nothing(open_log: Open, mode: str, name: str) -> None:
    """One rule for both: what it is (path, mode, config, recovery) may be asked, what is in it not."""
    p = open_log()
    p.append(b"x")
    log = p if mode == "rw" else open_log(mode="r")
    CALLS[name](log)
    log.close()
    with pytest.raises(ec.ClosedError):
        CALLS[name](log)
    assert (log.mode, log.path.name) == (mode, "events-0")
    assert log.config is not None
    assert log.recovery is not None


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_running_iteration_of_a_closed_handle(open_log: Open, mode: str) -> None:
    p = open_log(segment_bytes=4096)
    for _ in range(40):
        p.append(b"x" * 200)
    log = p if mode == "rw" else open_log(mode="r")
    values, chunks = log.read_values(), log.chunks(0, 40)
    next(values), next(chunks)
    log.close()
    for running in (values, chunks):
        with pytest.raises(ec.ClosedError):
            list(running)


@pytest.mark.sampled
@pytest.mark.parametrize("error", [StorageError("too many open files"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["list", "exists", "changed_ns", "locked", "open"])
@pytest.mark.parametrize("writer", ["lives", "gone"])
def test_a_look_at_the_folder_that_fails_is_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: str, writer: str
) -> None:
    """Whatever call it dies of: what was not looked at is not taken for known."""
    with ec.open_partition(folder, fsync="never") as p:
        p.append(b"first")
        reader = ec.open_partition(folder, "r")
    if writer == "lives":
        p = ec.open_partition(folder, fsync="never")
        assert len(reader) == 1
    with reader:
        make = ec.open_partition(folder, fsync="never") if writer == "gone" else p
        make.append(b"second")
        make.roll()
        make.append(b"third")
        if writer == "gone":
            make.close()
        real, disk = getattr(type(reader._log.disk), call), type(reader._log.disk)
        for nth in range(20):
            left = [nth]

            def failing(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    raise error
                return real(*arguments, **options)

            monkeypatch.setattr(disk, call, failing)
            try:
                values = [record.value for record in reader.read()]
            except type(error):
                monkeypatch.setattr(disk, call, real)
                values = [record.value for record in reader.read()]
            monkeypatch.setattr(disk, call, real)
            assert values == [b"first", b"second", b"third"], nth
            reader._log._changed_ns = -1  # look again
            if writer == "lives":
                p.append(b"fourth")
                p.roll()
                p.truncate(3)
    p.close()

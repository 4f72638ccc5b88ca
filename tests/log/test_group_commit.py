"""Group commit: who waits shares a sync, nobody waits for ever, an error gets to everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.errors import StorageFenced
from eventcore.log import group_commit
from eventcore.log.group_commit import GroupCommit

PATIENCE_S = 120.0


class Log:
    """Appends are counted; a sync takes a while."""

    def __init__(self) -> None:
        self.end = self.durable = self.syncs = self.at_once = 0
        self.lock = threading.Lock()
        self.failure: Exception | None = None
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self.commits = GroupCommit(self.sync, lambda: self.durable)

    def append(self) -> int:
        with self.lock:
            self.end += 1
            return self.end

    def sync(self) -> None:
        self.at_once += 1
        assert self.at_once == 1, "two syncs at once"
        target = self.end
        self.began.set()
        time.sleep(0.002)
        assert self.may_end.wait(PATIENCE_S)
        self.syncs += 1
        self.at_once -= 1
        if self.failure:
            raise self.failure
        self.durable = target


def in_threads(count: int, act: Callable[[], None]) -> None:
    threads = [threading.Thread(target=act, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it waits for ever"


def test_each_of_many_is_durable() -> None:
    log = Log()

    def append() -> None:
        for _ in range(50):
            end = log.append()
            log.commits.wait_for(end)
            assert log.durable >= end

    in_threads(8, append)
    assert log.durable == 400
    assert log.syncs <= 400


def test_all_who_come_during_a_sync_share_the_next_one() -> None:
    log = Log()
    for number in range(1, 11):
        log.may_end.clear()
        log.began.clear()
        threads = [threading.Thread(target=lambda: log.commits.wait_for(log.append()), daemon=True) for _ in range(8)]
        threads[0].start()
        assert log.began.wait(PATIENCE_S)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(log.commits._waiting) == 7)
        log.may_end.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert (log.durable, log.syncs) == (8 * number, 2 * number)


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_error_gets_to_everybody_who_is_not_durable() -> None:
    log, errors = Log(), []
    log.failure = StorageFenced("the disk")

    def append() -> None:
        with pytest.raises(StorageFenced):
            log.commits.wait_for(log.append())
        errors.append(1)

    in_threads(8, append)
    assert len(errors) == 8
    log.failure = None
    log.commits.wait_for(log.append())
    assert log.durable == 9


@pytest.mark.parametrize("leads", [False, True])
def test_who_is_interrupted_keeps_nobody_waiting(leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting; with `leads` it comes just when the waiter was told to lead."""
    log = Log()
    log.may_end.clear()

    class Interrupted(group_commit._Waiter):
        """The second caller's lock raises in `acquire`."""

        def __init__(self, end: int) -> None:
            super().__init__(end)
            if end == 2:
                self.released = self  # type: ignore[assignment]

        def acquire(self, timeout: float) -> None:
            if leads:
                log.may_end.set()
                while not self.leads:
                    time.sleep(0.001)
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    monkeypatch.setattr(group_commit, "_Waiter", Interrupted)
    leader = threading.Thread(target=log.commits.wait_for, args=(log.append(),), daemon=True)
    leader.start()
    assert log.began.wait(PATIENCE_S)  # it syncs what was there before the next append, and not yet to the end
    interrupted = log.append()
    with pytest.raises(KeyboardInterrupt):
        log.commits.wait_for(interrupted)
    log.may_end.set()
    in_threads(3, lambda: log.commits.wait_for(log.append()))
    leader.join(PATIENCE_S)
    assert log.durable == 5


def test_closing_while_others_append_hangs_nobody(tmp_path: Path) -> None:
    for number in range(10):
        p = ec.open_partition(tmp_path / f"{number}", "rw", "always")

        def append(p: ec.Partition = p) -> None:
            with suppress(ec.ClosedError):
                while True:
                    p.append(b"x")

        closer = threading.Timer(0.01, p.close)
        closer.start()
        in_threads(4, append)
        closer.join(PATIENCE_S)
        with ec.open_partition(tmp_path / f"{number}", "r") as r:
            assert r.recovery.clean
            assert len(r) == p._log.log_end_offset

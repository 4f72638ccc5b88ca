"""Every system call fails, one after the other, with every error it can have: nothing acknowledged is ever lost.

Each case: a scenario runs while its k-th call fails (ENOSPC, EIO, ..., fewer bytes moved), once or from then on. Then
the fault goes away, and

  * only a typed error came out: DiskFull for ENOSPC, StorageFenced for a failed sync of the log;
  * a handle that is not fenced does the same again, successfully; one that is refuses all, with StorageFenced;
  * the folder, opened again, holds what was acknowledged, in order, without a gap, and nothing that was not sent;
  * no descriptor, map or lock is left.

CI runs a sample of the cases, `-m nightly` all of them. EVENTCORE_DEPTH=10 with `-m nightly` adds to each case a
second fault, in the opening that follows it.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from tests.crash.failing_disk import COMES_FROM, SHORT, Call, Fault, SystemCalls, maps_below, open_descriptors
from tests.crash.failing_scenarios import SCENARIOS, Scenario, Session, State, StillClock
from tests.scale import DEPTH

DEEP = DEPTH >= 10
EVERYWHERE = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EMFILE, errno.EROFS)
SOMEWHERE = (errno.EDQUOT, errno.EAGAIN, errno.ESTALE, errno.EFBIG, SHORT)
STICKY = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, SHORT)
FULL = (errno.ENOSPC, errno.EDQUOT)
TAKES_NO_SPACE = ("ftruncate", "scandir", "lstat", "open", "fstat", "close")
IN_PLACE = ("eventcore.recovery", ".txnindex")
"""What is written there has its space already."""


@pytest.fixture
def ground(memory_path: Path) -> Iterator[Path]:
    """A folder in memory, if the machine has such."""
    gc.collect()
    gc.freeze()  # so that the collections of each case are cheap
    yield memory_path
    gc.unfreeze()


def faults_of(calls: list[Call]) -> Iterator[Fault]:
    """Every fault that a scenario which makes these calls can meet."""
    for at, call in enumerate(calls, 1):
        for error in (*EVERYWHERE, *SOMEWHERE):
            sources = COMES_FROM.get(error)
            if error in EVERYWHERE or sources is None or call.kind in sources:
                yield Fault(at, error)
        for error in STICKY:
            sources = COMES_FROM.get(error)
            if sources is None or call.kind in sources:
                yield Fault(at, error, sticky=True)
        if call.kind in ("replace", "rename", "unlink", "mkdir"):
            yield Fault(at, errno.EIO, late=True)


class Case:
    """One scenario under one fault, in a folder of its own."""

    def __init__(self, ground: Path, scenario: Scenario, fault: Fault | None) -> None:
        self.folder = ground / "case" / "events-0"
        self.scenario = scenario
        self.fault = fault
        self.calls: list[Call] = []

    def run(self) -> None:
        """Raises AssertionError."""
        before = open_descriptors()
        try:
            self._run()
        finally:
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        if open_descriptors() != before:
            gc.collect()  # an error's traceback may hold frames
        left = {fd: path for fd, path in open_descriptors().items() if before.get(fd) != path}
        for fd in left:  # so that the next case is judged for itself
            os.close(int(fd))
        assert not left, f"left open: {sorted(left.values())}"

    def _run(self) -> None:
        session = self.scenario.session(self.folder)
        self.folder.parent.mkdir(exist_ok=True)
        self.scenario.prepare(session)
        was_open = session.p is not None
        error = self._act(session)
        self._judge(error, was_open)
        if session.p is not None and isinstance(error, ec.StorageFenced):
            self._refuses(session)
        elif not session.closed:
            self.scenario.act(session)
            if session.p is not None:
                session.append()
                session.states = [self._seen(session.log, session.states)]
        session.close()
        self._reopen(session)

    def _act(self, session: Session) -> ec.EventCoreError | None:
        with SystemCalls(self.fault) as calls:
            try:
                self.scenario.act(session)
            except ec.EventCoreError as error:
                return error
            finally:
                self.calls, self.failed = calls.calls, calls.failed
        return None

    def _judge(self, error: ec.EventCoreError | None, was_open: bool) -> None:
        """Whether this error, or none, is a right answer to what failed."""
        if not self.failed:
            assert self.fault is None
            assert error is None
            return
        assert self.fault is not None
        first = self.failed[0]
        if self.fault.error == SHORT:
            assert error is None, "moving fewer bytes than asked for is no error"
        elif first.is_sync:
            assert error is not None, "a failed sync was believed"
            if was_open and first.path.endswith(".log"):
                assert isinstance(error, ec.StorageFenced)
        elif self.fault.error in FULL:
            full = (ec.DiskFull, ec.StorageFenced) if self._may_fence() else (ec.DiskFull,)
            in_opening = not was_open and any(call.is_sync for call in self.failed)  # which then is refused
            assert error is None or in_opening or isinstance(error, full), f"{type(error).__name__} for a full disk"
        assert error is None or isinstance(error, ec.StorageError)

    def _may_fence(self) -> bool:
        """A truncation that was begun and fails is for the next opening to complete, whatever stopped it. Nor is it
        for want of space that a call fails which takes none.
        """
        return "truncate" in self.scenario.act.__name__ or any(
            call.is_sync or call.kind in TAKES_NO_SPACE or (call.kind == "pwrite" and call.path.endswith(IN_PLACE))
            for call in self.failed
        )

    def _refuses(self, session: Session) -> None:
        """A fenced handle takes nothing, and shows nothing that is not durable."""
        p = session.log
        for call in (lambda: p.append(b"x"), p.sync, p.roll, lambda: p.truncate(0)):
            with pytest.raises(ec.StorageFenced):
                call()
        assert p.high_watermark <= p.durable_offset
        for states in [session.states]:
            seen = [(record.offset, record.value) for record in p]
            assert any(state.records()[: len(seen)] == seen for state in states)

    def _reopen(self, session: Session) -> None:
        with self._open(session) as p:
            assert p.recovery.damage == []
            state = self._seen(p, session.states)
            assert p.verify().problems == []
            assert p.append(b"last") == len(state.values)
        state = State(state.start, (*state.values, b"last"))
        with ec.open_partition(self.folder, "r", config=session.config) as p:
            assert p.recovery.clean
            self._seen(p, [state])

    def _open(self, session: Session) -> ec.Partition:
        return ec.open_partition(self.folder, "rw", "always", session.config, clock=StillClock())

    def _seen(self, p: ec.Partition, states: list[State]) -> State:
        """The one of the possible logs that the handle shows."""
        seen = [(record.offset, record.value) for record in p]
        for state in states:
            shown = (state.start, len(state.values), state.records())
            if shown == (p.log_start_offset, p.log_end_offset, seen):
                return state
        raise AssertionError(
            f"none of {len(states)} possible logs: [{p.log_start_offset}, {p.log_end_offset}) with"
            f" {[(offset, value and value[:12]) for offset, value in seen]}; the last possible one is"
            f" {[(offset, value[:12]) for offset, value in states[-1].records()]}"
        )


def calls_of(ground: Path, scenario: Scenario) -> list[Call]:
    """The system calls a scenario makes."""
    case = Case(ground, scenario, None)
    case.run()
    return case.calls


def failures_of(ground: Path, name: str, faults: Iterator[Fault]) -> tuple[int, list[str]]:
    """Run a scenario under each fault; how many cases there were, and what went wrong."""
    count, wrong = 0, []
    for fault in faults:
        count += 1
        case = Case(ground, SCENARIOS[name], fault)
        try:
            case.run()
        except Exception as error:
            first = case.failed[0] if getattr(case, "failed", None) else None
            wrong.append(f"{name}: {fault} ({first}): {type(error).__name__}: {str(error)[:300]}")
    return count, wrong


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_call_fails_with_every_error(ground: Path, name: str) -> None:
    calls = calls_of(ground, SCENARIOS[name])
    count, wrong = failures_of(ground, name, faults_of(calls))
    print(f"{name}: {len(calls)} calls, {count} cases, {count - len(wrong)} right")
    for _ in range(2):  # what is part of a cycle; then what had a finalizer in it
        gc.collect()
    assert maps_below(ground) == []
    assert wrong == []


@pytest.mark.sampled
@pytest.mark.parametrize("name", SCENARIOS)
def test_some_calls_fail(ground: Path, name: str) -> None:
    calls = calls_of(ground, SCENARIOS[name])
    count, wrong = failures_of(ground, name, itertools.islice(faults_of(calls), 3, None, 41))
    assert count
    assert wrong == []

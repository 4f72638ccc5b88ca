"""Ctrl-C at every system call of every operation, before and after it took effect; and the program goes on.

Or at every step of the engine where the interpreter would run a signal handler: the first time each place is come to.

    python -m tests.crash.interrupts                            # all cases at calls, and a table
    python -m tests.crash.interrupts --steps                    # at steps of the engine
    python -m tests.crash.interrupts --only roll                # those whose name has that in it
    python -m tests.crash.interrupts --case 'roll, always/12/after'     # or .../12/step

After the interrupt

  1. the same handle goes on: each call works, or raises StorageFenced or ClosedError; what it shows is what may be
     there, its invariants hold, and what it says to be durable is: a power cut that takes all that was not synced
     leaves it;
  2. it is closed, which may raise an error of ours;
  3. the folder, opened again, holds everything acknowledged, readable, nothing that was not sent, and verifies;
  4. no lock, descriptor or thread is left, and nothing took a minute.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import eventcore as ec
from tests.crash.failing_disk import Call, open_descriptors
from tests.crash.failing_scenarios import StillClock
from tests.crash.interrupted_session import SCENARIOS, Wrong, session_of
from tests.crash.interrupting_disk import Interrupt, Interrupts, RestartedDisk, held_locks
from tests.log.interrupting import Tracer, tracing

BOUND_S = 60.0
ENGINE = str(Path(ec.__file__).parent) + os.sep
REFUSALS = (ec.StorageFenced, ec.ClosedError)
KINDS = (
    *("lost", "unreadable", "damage", "verify", "undurable", "transaction", "invariant", "reader"),
    *("wrong error", "untyped", "refused", "lock", "descriptor", "thread", "swallowed", "hang"),
)


class Step(NamedTuple):
    """The `at`-th step of the engine's Python code (from 1) raises KeyboardInterrupt."""

    at: int

    def __str__(self) -> str:
        return f"{self.at}/step"


class Violation(NamedTuple):
    """A promise that was not kept, and when that was seen."""

    kind: str
    when: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.when}: {self.text}"


class Case:
    """One scenario under one interrupt, in a folder of its own."""

    def __init__(
        self,
        ground: Path,
        name: str,
        interrupt: Interrupt | Step | None,
        bound_s: float = BOUND_S,
        *,
        traced: bool = False,
    ) -> None:
        self.ground, self.folder = ground, ground / "case" / "events-0"
        self.scenario_name, self.scenario, self.interrupt = name, SCENARIOS[name], interrupt
        self.bound_s = bound_s
        self.traced = traced or isinstance(interrupt, Step)
        self.tracer = Tracer(0, ENGINE)
        self.found: list[Violation] = []
        self.calls: list[Call] = []
        self.interrupted: Call | None = None
        self.where = ""
        self._cuts = itertools.count()

    @property
    def name(self) -> str:
        """Reproduces it."""
        return f"{self.scenario_name}/{self.interrupt}"

    def run(self) -> list[Violation]:
        """What was wrong."""
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        self.folder.parent.mkdir()
        with Interrupts() as self._calls:
            worker = threading.Thread(target=self._work, name=self.name, daemon=True)
            worker.start()
            worker.join(self.bound_s)
        if worker.is_alive():
            frames = traceback.extract_stack(sys._current_frames()[worker.ident or 0])
            self._wrong("hang", "", " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-6:-1]))
        self.calls, self.interrupted = self._calls.calls, self._calls.interrupted
        for fd in self._calls.excused:
            if str(fd) in open_descriptors() and descriptors.get(str(fd)) != open_descriptors().get(str(fd)):
                os.close(fd)
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        if not worker.is_alive():
            self._left_behind(descriptors, threads)
        return self.found

    def _left_behind(self, descriptors: dict[str, str], threads: set[threading.Thread]) -> None:
        if open_descriptors() != descriptors:
            gc.collect()  # an error's traceback may hold frames
        left = {fd: path for fd, path in open_descriptors().items() if descriptors.get(fd) != path}
        for fd in left:  # so that the next case is judged for itself
            os.close(int(fd))
        if left and not isinstance(self.interrupt, Step):  # a number on its way from one line to the next is nobody's
            self._wrong("descriptor", "at the end", ", ".join(sorted(Path(path).name for path in left.values())))
        for thread in set(threading.enumerate()) - threads:
            if thread.name != "eventcore-populate":
                gc.collect()
                thread.join(self.bound_s)
        alive = {thread.name for thread in set(threading.enumerate()) - threads} - {"eventcore-populate"}
        if alive:
            self._wrong("thread", "at the end", ", ".join(sorted(alive)))

    def _wrong(self, kind: str, when: str, text: object) -> None:
        if all(kind != found.kind for found in self.found):
            self.found.append(Violation(kind, when, str(text)[:400]))

    def _work(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._wrong("untyped", "the harness", "".join(traceback.format_exception(error))[-1500:])

    # -- the program -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.session = session = session_of(self.scenario, self.folder)
        self.scenario.prepare(session)
        if session.p is None:
            self._calls.settle(self.folder)
        self._act()
        refused = False
        if session.p is not None:
            refused = self._go_on()
        elif session.reader is not None or self.interrupt is not None:
            self._try("again", lambda: self.scenario.act(session))
        self._close()
        self._reopen(again=refused)

    def _act(self) -> None:
        """Under the interrupt."""
        at = self.interrupt
        self._calls.arm(at if isinstance(at, Interrupt) else None)
        self.tracer = Tracer(at.at if isinstance(at, Step) else 0, ENGINE)
        try:
            with tracing(self.tracer) if self.traced else nullcontext():
                self.scenario.act(self.session)
        except KeyboardInterrupt as error:
            self.where = _engine_line(error)
        except Exception as error:
            self._wrong(*_judged(error, "under the interrupt"))
            self.where = _engine_line(_interrupt_of(error))
        else:
            if self._calls.interrupted is not None or self.tracer.raised:
                self._wrong("swallowed", "under the interrupt", self._calls.interrupted or self.tracer.raised)
        finally:
            self._calls.disarm()

    def _try(self, when: str, step: Callable[[], object]) -> bool:
        """False if it was refused, or wrong."""
        try:
            step()
        except Wrong as error:
            self._wrong(error.kind, when, error)
        except REFUSALS:
            return False
        except Exception as error:
            self._wrong(*_judged(error, when))
        else:
            return True
        return False

    def _go_on(self) -> bool:
        """The same handle again, whether it was refused."""
        session = self.session
        self._try("look at the handle", lambda: self._inspect(whole=False))
        works = [
            self._try("append", session.append),
            self._try("again", lambda: self.scenario.act(session)),
            self._try("extend over segments", lambda: session.extend(16)),
            self._try("sync", session.sync),
        ]
        self._try("look at the handle then", lambda: self._inspect(whole=all(works)))
        if session.reader is not None and not session.closed:
            self._try("read beside it", session.reader.verify)
        return not all(works)

    def _inspect(self, *, whole: bool) -> None:
        session, p = self.session, self.session.log
        log: Any = p._log
        if session.closed:
            return
        held = held_locks(log) + held_locks(session.reader)
        if held:
            raise Wrong("lock", f"held by nobody: {', '.join(held)}")
        if not (log.is_fenced or log._lock.unfinished):
            try:
                log.check()
            except AssertionError as error:
                raise Wrong("invariant", str(error).split("\n")[0] or _last_line(error)) from error
        session.look(p, whole=whole)
        promised = p.durable_offset if session.fsync != "always" else max(p.durable_offset, session.promised)
        self._survives(promised)

    def _survives(self, promised: int) -> None:
        """A power cut takes all that was not synced."""
        session, target = self.session, self.ground / "case" / f"cut-{next(self._cuts)}" / "events-0"
        target.parent.mkdir()
        if not self._calls.power_cut(self.folder, target):
            if promised:
                raise Wrong("undurable", f"promised to {promised}, and the folder was never synced")
            return
        try:
            with ec.open_partition(
                target, "rw", "never", session.config, clock=StillClock(), disk=RestartedDisk()
            ) as p:
                if p.recovery.damage:
                    raise Wrong("undurable", f"damage after a power cut: {p.recovery}")
                states = self._kept(p, promised)
                if p.log_end_offset < min(promised, *(len(state.values) for state in states)):
                    raise Wrong("undurable", f"promised to {promised}, after a power cut it ends at {p.log_end_offset}")
        except ec.EventCoreError as error:
            raise Wrong("undurable", f"after a power cut: {type(error).__name__}: {error}") from error

    def _kept(self, p: ec.Partition, promised: int) -> list[Any]:
        """The logs that it may be: all that was promised, and of the rest whatever got to the disk."""
        seen = {record.offset: record.value for record in p.read()}
        kept = []
        for state in self.session.states:
            records = dict(state.records())
            needed = {at for at in records if at < promised} - self.session.optional
            if needed <= seen.keys() and all(records.get(at) == value for at, value in seen.items()):
                kept.append(state)
        if not kept:
            raise Wrong("undurable", f"after a power cut: [{p.log_start_offset}, {p.log_end_offset}), {sorted(seen)}")
        return kept

    def _close(self) -> None:
        session = self.session
        if session.reader is not None:
            self._try("close the reader", session.reader.close)
        if session.p is None:
            return
        try:
            session.p.close()
        except ec.EventCoreError:
            pass
        except Exception as error:
            self._wrong(*_judged(error, "close"))
        self._try("close again", session.p.close)

    def _reopen(self, *, again: bool) -> None:
        session, fsync = self.session, self.session.fsync
        session.p, session.closed = None, False
        session.fsync = "always"
        if not self._try("reopen", session.open) or session.p is None:
            if not self.found:
                self._wrong("refused", "reopen", "it is fenced, or closed")
            return
        try:
            self._try("look at it, reopened", self._look_reopened)
            if again and not self._ends():
                session.reader = None if session.tail is None else session.reader
                self._try("again, reopened", lambda: self.scenario.act(session)) or self._refused_reopened()
            self._try("append, reopened", session.append) or self._refused_reopened()
            self._try("look at it, reopened, then", lambda: self._inspect(whole=True))
        finally:
            self._try("close, reopened", session.close)
            if session.reader is not None:
                session.reader.close()
            session.fsync = fsync
        self._try("read what was closed", self._read_closed)

    def _ends(self) -> bool:
        """Whether the operation closes the handle, or is about one that is gone."""
        return self.scenario_name.startswith(("close", "retire", "writer's tail", "tail"))

    def _refused_reopened(self) -> None:
        if not self.found:
            self._wrong("refused", "reopened", "it is fenced, or closed")

    def _look_reopened(self) -> None:
        p = self.session.log
        if p.recovery.damage:
            raise Wrong("damage", str(p.recovery))
        self.session.states = self.session.look(p, whole=True)
        problems = p.verify().problems
        if problems:
            raise Wrong("verify", str(problems[0]))

    def _read_closed(self) -> None:
        with ec.open_partition(self.folder, "r", config=self.session.config) as p:
            if not p.recovery.clean:
                raise Wrong("damage", f"not clean after a clean close: {p.recovery}")
            self.session.look(p, whole=True)


def _judged(error: BaseException, when: str) -> tuple[str, str, str]:
    """The violation that an error is; refusals under the interrupt are none of ours."""
    if isinstance(error, Wrong):
        return error.kind, when, str(error)
    if isinstance(error, ec.LogLocked):
        return "lock", when, str(error)
    kind = "wrong error" if isinstance(error, ec.EventCoreError) else "untyped"
    return kind, when, f"{type(error).__name__}: {str(error)[:200]} ({_last_line(error)})"


def _interrupt_of(error: BaseException) -> BaseException:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen or error


def _last_line(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _engine_line(error: BaseException) -> str:
    """Where the engine was: the lines above the disk."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/eventcore/" in f.filename]
    above = [f for f in frames if not f.filename.endswith(("/disk.py", "/disk_locks.py", "/file_lock.py"))]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(above[-3:]))


# -- all of them -------------------------------------------------------------------------------------------------------


def calls_of(ground: Path, name: str) -> list[Call]:
    """The system calls a scenario makes under the interrupt, and that nothing is wrong without one."""
    case = Case(ground, name, None)
    found = case.run()
    assert not found, f"{name} without an interrupt: {[str(one) for one in found]}"
    return case.calls


def steps_of(ground: Path, name: str) -> Iterator[Step]:
    """The first step at each place of the engine's code that a scenario comes to."""
    case = Case(ground, name, None, traced=True)
    found = case.run()
    assert not found, f"{name} without an interrupt: {[str(one) for one in found]}"
    return map(Step, sorted(case.tracer.places.values()))


def interrupts_of(calls: list[Call]) -> Iterator[Interrupt]:
    """Every interrupt of these calls."""
    for at in range(1, len(calls) + 1):
        yield Interrupt(at, False)
        yield Interrupt(at, True)


def parse(name: str) -> tuple[str, Interrupt | Step]:
    """The inverse of `Case.name`."""
    scenario, at, when = name.rsplit("/", 2)
    return scenario, Step(int(at)) if when == "step" else Interrupt(int(at), when == "after")


def chosen_of(ground: Path, name: str, every: int, *, steps: bool) -> list[Interrupt | Step]:
    """Every so many-th of a scenario's interrupts, at calls or at steps, and the last one."""
    found: list[Interrupt | Step] = [*(steps_of(ground, name) if steps else interrupts_of(calls_of(ground, name)))]
    return [*found[:-1:every], *found[-1:]]


def run_all(ground: Path, names: list[str], chosen: argparse.Namespace, show: Callable[[Case], None]) -> int:
    """The cases of the scenarios; prints a table, returns how many cases were wrong."""
    wrong = 0
    rows: list[tuple[str, int, int, Counter[str]]] = []
    for name in names:
        count, bad, kinds = 0, 0, Counter[str]()
        for interrupt in chosen_of(ground, name, chosen.every, steps=chosen.steps):
            case = Case(ground, name, interrupt, chosen.bound)
            found = case.run()
            count += 1
            bad += bool(found)
            kinds.update({one.kind for one in found})
            if found:
                show(case)
        rows.append((name, count, bad, kinds))
        wrong += bad
    used = [kind for kind in KINDS if any(kinds[kind] for *_, kinds in rows)]
    print(f"{'operation':32} {'cases':>6} {'wrong':>6}  " + " ".join(f"{kind:>12}" for kind in used))
    for name, count, bad, kinds in rows:
        print(f"{name:32} {count:6d} {bad:6d}  " + " ".join(f"{kinds[kind] or '':>12}" for kind in used))
    print(f"{'in all':32} {sum(row[1] for row in rows):6d} {wrong:6d}")
    return wrong


def _show(case: Case) -> None:
    call = case.interrupted
    at = f"{call.kind} {Path(call.path).name}" if call is not None else case.tracer.raised
    print(f"{case.name}: {at} [{case.where}]", flush=True)
    for one in case.found:
        print(f"    {one}")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.interrupts")
    parser.add_argument("--case", help="one case, by its name")
    parser.add_argument("--only", default="", help="scenarios with this in their names")
    parser.add_argument("--steps", action="store_true", help="at steps of the engine, not at system calls")
    parser.add_argument("--every", type=int, default=1, help="every so many-th case")
    parser.add_argument("--bound", type=float, default=BOUND_S, help="seconds a case may take")
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        if chosen.case:
            case = Case(Path(folder), *parse(chosen.case), chosen.bound)
            case.run()
            _show(case)
            return int(bool(case.found))
        names = [name for name in SCENARIOS if chosen.only in name]
        gc.collect()
        gc.freeze()
        return int(bool(run_all(Path(folder), names, chosen, _show)))


if __name__ == "__main__":
    sys.exit(main())

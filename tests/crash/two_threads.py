"""Two threads on one handle: one is held at a system call of its operation, the other does another one meanwhile.

    python -m tests.crash.two_threads                              # all pairs, all calls, and a table
    python -m tests.crash.two_threads --only roll                  # pairs with one of these
    python -m tests.crash.two_threads --case 'append/roll/7'       # the append is held at its seventh call

What the second thread cannot do before the first one is let go it does then: it is given a moment, and what comes of
the two may not depend on how long that is. Then

  1. both have returned, or raised what the other one's operation gives a reason for;
  2. the disk is healthy: nobody is fenced;
  3. the invariants of the log hold, what was acknowledged is there, readable, and durable as promised;
  4. closed and opened again it is the same, and verifies.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import eventcore as ec
from tests.crash.failing_disk import SystemCalls
from tests.crash.failing_scenarios import CONFIG, StillClock, value_of

MOMENT_S = 0.02
BOUND_S = 60.0
PREPARED = 32


class Held(SystemCalls):
    """Holds one thread before its `at`-th call, until it is let go."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.count = at, 0
        self.holds, self.go = threading.Event(), threading.Event()
        self.thread = 0

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if threading.get_ident() == self.thread:
                self.count += 1
                if self.count == self.at:
                    self.holds.set()
                    self.go.wait()
            return real(*arguments, **keywords)

        return call


class Table:
    """The log and what was done to it."""

    def __init__(self, folder: Path, fsync: str) -> None:
        self.folder, self.fsync = folder, fsync
        self.p = self.open()
        self.reader: ec.Partition | None = None
        self.written = 0
        self.values: dict[int, bytes] = {}
        self._mutex = threading.Lock()

    def open(self, mode: str = "rw") -> ec.Partition:
        """A handle on the folder."""
        return ec.open_partition(self.folder, mode, self.fsync, CONFIG, clock=StillClock())  # type: ignore[arg-type]

    def next_values(self, count: int) -> list[bytes]:
        """Values that no other record has."""
        with self._mutex:
            self.written += count
            return [value_of(number) for number in range(self.written - count, self.written)]

    def note(self, first: int, values: list[bytes]) -> None:
        """They were acknowledged at these offsets."""
        with self._mutex:
            self.values.update(enumerate(values, first))


Operation = Callable[[Table], None]


def append(table: Table) -> None:
    """Two records, a batch each; the second one may roll."""
    for value in table.next_values(2):
        table.note(table.p.append(value), [value])


def extend(table: Table) -> None:
    """One call, several batches, more than a segment takes."""
    values = table.next_values(16)
    table.note(table.p.extend(values).start, values)


def produce(table: Table) -> None:
    """An idempotent producer."""
    (value,) = table.next_values(1)
    info = table.p.append_sequenced([value], 7, 0)
    table.note(info.first_offset, [value])


def transact(table: Table) -> None:
    """A transaction that is aborted."""
    (value,) = table.next_values(1)
    info = table.p.append_sequenced([value], 8, 0, transactional=True)
    table.note(info.first_offset, [value])
    table.p.end_transaction(8, 0, commit=False)


def roll(table: Table) -> None:
    """A new segment."""
    table.p.roll()


def sync(table: Table) -> None:
    """Everything is durable."""
    end = table.p.log_end_offset
    table.p.sync()
    assert table.p.durable_offset >= min(end, table.p.log_end_offset)


def truncate(table: Table) -> None:
    """The end is cut, over segments."""
    table.p.truncate(20)


def delete_records(table: Table) -> None:
    """The start moves up, over segments."""
    table.p.delete_records(14)


def set_epoch(table: Table) -> None:
    """A new leader epoch."""
    table.p.set_leader_epoch(table.p.leader_epoch + 1)


def close(table: Table) -> None:
    """For good."""
    table.p.close()


def read(table: Table) -> None:
    """Everything, by the writer's handle."""
    check_seen([(record.offset, record.value) for record in table.p.read()], table)


def read_columns(table: Table) -> None:
    """Everything, as columns."""
    batch = table.p.columns()
    check_seen([(int(batch.offset[row]), batch.value(row)) for row in range(len(batch))], table)


def read_one(table: Table) -> None:
    """One record, by its offset."""
    assert table.p[16].value == table.values[16]


def tail(table: Table) -> None:
    """What is there, by a tail of the writer's handle."""
    check_seen([(record.offset, record.value) for record in table.p.tail(table.p.log_start_offset, timeout=0)], table)


def other_reader(table: Table) -> None:
    """A handle of its own, as another process has it."""
    with table.open("r") as reader:
        check_seen([(record.offset, record.value) for record in reader.read()], table)


def verify(table: Table) -> None:
    """The check of all files."""
    problems = table.p.verify().problems
    assert not problems, problems


def check_seen(seen: list[tuple[int, bytes | None]], table: Table) -> None:
    """Nothing that was never written, and in order."""
    offsets = [at for at, _ in seen]
    assert offsets == sorted(set(offsets)), "offsets twice, or out of order"
    with table._mutex:
        known = set(map(value_of, range(table.written)))
    assert {value for _, value in seen} <= known, "a value that nobody wrote"


OPERATIONS: dict[str, Operation] = {
    found.__name__.replace("_", " "): found
    for found in (
        *(append, extend, produce, transact, roll, sync, truncate, delete_records, set_epoch, close),
        *(read, read_columns, read_one, tail, other_reader, verify),
    )
}
READS = {"read", "read columns", "read one", "tail", "other reader", "verify"}
REASONS: dict[str, tuple[type[BaseException], ...]] = {
    "close": (ec.ClosedError,),
    "truncate": (ec.LogTruncated, ec.OffsetOutOfRange),
    "delete records": (ec.OffsetOutOfRange,),
}
"""What an operation may give another one a reason to raise."""


class Case:
    """A pair of operations, one of them held at one of its calls."""

    def __init__(self, ground: Path, first: str, second: str, at: int, fsync: str = "always") -> None:
        self.ground, self.first, self.second, self.at, self.fsync = ground, first, second, at, fsync
        self.was_held = False
        self.found: list[str] = []

    @property
    def name(self) -> str:
        """Reproduces it."""
        return f"{self.first}/{self.second}/{self.at}/{self.fsync}"

    def run(self) -> list[str]:
        """What was wrong."""
        folder = self.ground / "case" / "events-0"
        folder.parent.mkdir()
        try:
            table = Table(folder, self.fsync)
            for value in table.next_values(PREPARED):  # a batch each: a truncation cuts no other one
                table.note(table.p.append(value), [value])
            table.p.append_sequenced([self._plain(table)], 7, 0)
            ends = self._run_both(table)
            if ends is not None:
                self._judge(table, ends)
        except Exception as error:
            self.found.append(f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)
        return self.found

    def _plain(self, table: Table) -> bytes:
        (value,) = table.next_values(1)
        table.note(PREPARED, [value])
        return value

    def _run_both(self, table: Table) -> tuple[BaseException | None, ...] | None:
        ends: dict[str, BaseException | None] = {}

        def work(slot: str, name: str, held: Held | None = None) -> None:
            if held is not None:
                held.thread = threading.get_ident()
            try:
                OPERATIONS[name](table)
                ends[slot] = None
            except BaseException as error:
                ends[slot] = error
            finally:
                if held is not None:
                    held.thread = 0
                    held.holds.set()

        with Held(self.at) as held:
            one = threading.Thread(target=work, args=("first", self.first, held), daemon=True)
            one.start()
            held.holds.wait(BOUND_S)
            self.was_held = held.count >= self.at
            other = threading.Thread(target=work, args=("second", self.second), daemon=True)
            other.start()
            other.join(MOMENT_S if self.was_held else 0)
            held.go.set()
            for thread in (one, other):
                thread.join(BOUND_S)
        if one.is_alive() or other.is_alive():
            self.found.append("hang")
            return None
        return ends["first"], ends["second"]

    def _judge(self, table: Table, ends: tuple[BaseException | None, ...]) -> None:
        for name, beside, error in ((self.first, self.second, ends[0]), (self.second, self.first, ends[1])):
            allowed = REASONS.get(beside, ())
            if error is not None and not isinstance(error, allowed):
                self.found.append(f"{name} raised {type(error).__name__}: {error}")
        log: Any = table.p._log
        if log.is_fenced:
            self.found.append("a healthy disk was fenced")
        if "close" not in (self.first, self.second):
            log.check()
            if self.fsync == "always" and table.p.durable_offset < table.p.log_end_offset:
                self.found.append(f"durable below {table.p.durable_offset} of {table.p.log_end_offset}")
            self._compare(table, table.p)
        table.p.close()
        table.p = table.open()
        self._compare(table, table.p)
        if table.p.recovery.damage or not table.p.recovery.clean:
            self.found.append(f"opened again: {table.p.recovery}")
        problems = table.p.verify().problems
        if problems:
            self.found.append(f"verify: {problems[0]}")
        table.p.close()

    def _compare(self, table: Table, p: ec.Partition) -> None:
        """What was acknowledged is there, and nothing else; an append may have come before what was cut."""
        seen = {record.offset: record.value for record in p.read()}
        start, cut = p.log_start_offset, "truncate" in (self.first, self.second)
        if not seen.keys() <= table.values.keys():
            self.found.append(f"offsets that nobody was told of: {sorted(seen.keys() - table.values.keys())}")
        for offset, value in table.values.items():
            if offset < start or (cut and offset >= 20 and offset not in seen):
                continue
            if seen.get(offset) != value:
                self.found.append(f"offset {offset} is {str(seen.get(offset))[:20]}, not {value[:20]!r}")
                return


def calls_of(ground: Path, first: str, second: str, fsync: str) -> Iterator[Case]:
    """The cases of a pair, each run, until the first operation has no more calls."""
    at = 1
    while True:
        case = Case(ground, first, second, at, fsync)
        case.run()
        yield case
        if not case.was_held or case.found[:1] == ["hang"]:
            return
        at += 1


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.two_threads")
    parser.add_argument("--case", help="one case, by its name")
    parser.add_argument("--only", default="", help="pairs in which this operation is")
    parser.add_argument("--fsync", default="always")
    chosen = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        if chosen.case:
            first, second, at, *fsync = chosen.case.split("/")
            case = Case(Path(folder), first, second, int(at), *fsync)
            print(case.name, case.run() or "right")
            return int(bool(case.found))
        wrong, counts = 0, Counter[str]()
        gc.freeze()
        for first in OPERATIONS:
            for second in OPERATIONS:
                if chosen.only not in (first, second, ""):
                    continue
                for case in calls_of(Path(folder), first, second, chosen.fsync):
                    counts[first] += 1
                    wrong += bool(case.found)
                    if case.found:
                        print(case.name, case.found, flush=True)
        for name, count in counts.items():
            print(f"{name:16} {count:6d}")
        print(f"{sum(counts.values())} cases, {wrong} wrong")
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

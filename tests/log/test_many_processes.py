"""One process writes, many read: while segments roll, the log is truncated, records are deleted, readers are killed.

Every value tells its offset and its generation, of which each truncation begins a new one. A violation is a record
that says another offset, a gap, a generation that falls along the log or that was cut off before the read began, an
error other than those a truncation explains, a hang, a death. `-m nightly` runs eight readers for a minute;
`EVENTCORE_DEPTH=10 python -m pytest -m nightly tests/log/test_many_processes.py` for ten.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from tests.scale import DEPTH, seeded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")

MINUTE = 60.0 * DEPTH
CONFIG = {"segment.bytes": 65536, "segment.index.bytes": 4096, "index.interval.bytes": 1024}
KEPT = 20_000
"""Records that a writer leaves behind when it deletes."""
PATIENCE_S = 240.0
"""What waits for an event is a failure after that long, on whatever machine."""
_TRUNCATION = struct.Struct("<Q")
_OFFSET_BITS = 40


def value_of(offset: int, generation: int) -> bytes:
    return b"%d:%d|" % (offset, generation) + b"x" * (offset * 7919 % 200)


class Board:
    """A page all processes share: when to stop, the latest truncation that was completed, what each reader has seen."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        self.seen = memoryview(self.page).cast("Q")[2:]
        """Right records, by the number of the reader."""

    @property
    def stopped(self) -> bool:
        return self.page[0] != 0

    def stop(self) -> None:
        self.page[0] = 1

    def note(self, generation: int, offset: int) -> None:
        _TRUNCATION.pack_into(self.page, 8, generation << _OFFSET_BITS | offset)

    def truncation(self) -> tuple[int, int]:
        """(generation that began with it, offset)"""
        (word,) = _TRUNCATION.unpack_from(self.page, 8)
        return word >> _OFFSET_BITS, word & (1 << _OFFSET_BITS) - 1


class Child:
    """A forked process that runs `work` and reports what it returns, or the error it ended with."""

    def __init__(self, work: Callable[[], dict[str, Any]]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            try:
                report = work()
            except BaseException as error:
                report = {"trouble": f"{type(error).__name__}: {error}", "at": traceback.format_exc()[-900:]}
            os.write(write, json.dumps(report).encode())
            os._exit(0)
        os.close(write)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Let it sleep; it does so when this returns."""
        self.kill(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def report(self) -> dict[str, Any]:
        """Wait for its end. Fails if it was killed."""
        with os.fdopen(self._read, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert not os.WIFSIGNALED(status), f"killed by signal {os.WTERMSIG(status)}"
        return json.loads(data)  # type: ignore[no-any-return]

    def bury(self) -> None:
        self.kill(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)


def wait_until(what: str, happens: Callable[[], bool]) -> None:
    """Fails if it does not happen at all; when is nobody's promise."""
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def write(folder: Path, board: Board, seed: int, *, reshape: bool = True) -> dict[str, Any]:
    """Append, and now and then truncate or delete, until the board says stop."""
    pick, generation, done = random.Random(seed), 0, 0
    ends: deque[int] = deque(maxlen=100)  # truncated in its midst, a batch would go whole and leave a gap
    with stopping_all(board), ec.open_partition(folder, "rw", "never", CONFIG) as p:
        while not board.stopped:
            end = p.log_end_offset
            ends.append(end)
            p.extend([value_of(offset, generation) for offset in range(end, end + pick.randrange(1, 40))])
            done += 1
            time.sleep(0.0002)
            if reshape and pick.random() < 0.005:
                to = pick.choice([end for end in ends if end >= p.log_start_offset])
                p.truncate(to)
                ends.clear()
                generation += 1
                board.note(generation, to)
            elif reshape and p.log_end_offset - p.log_start_offset > 2 * KEPT:
                p.delete_records(p.log_end_offset - KEPT)
        return {"appends": done, "generation": generation, "end": p.log_end_offset}


@contextmanager
def stopping_all(board: Board) -> Iterator[None]:
    """Whoever ends, ends it for all: nobody waits for what cannot come any more."""
    try:
        yield
    finally:
        board.stop()


class Checker:
    """Compares the records of one read with what they must be, and counts them."""

    def __init__(self, board: Board, number: int) -> None:
        self._seen, self._number = board.seen, number
        self._cut_in, self._cut_at = board.truncation()
        self._last: tuple[int, int] | None = None

    def see(self, offset: int, value: bytes | None) -> None:
        said, generation = map(int, bytes(value or b"").split(b"|")[0].split(b":"))
        assert said == offset, f"the record at {offset} says {said}"
        assert value == value_of(offset, generation), f"offset {offset} holds something else"
        assert offset < self._cut_at or generation >= self._cut_in, f"{offset} was cut off in {self._cut_in}"
        if self._last is not None:
            assert offset == self._last[0] + 1, f"{offset} follows {self._last[0]}"
            assert generation >= self._last[1], f"generation {generation} follows {self._last[1]} at {offset}"
        self._last = (offset, generation)
        self._seen[self._number] += 1


def _some_range(p: ec.Partition) -> tuple[int, int]:
    """What may be read; each of the two is as true as it was when it was looked at."""
    start, end = p.log_start_offset, p.high_watermark
    if start >= end:
        raise ec.OffsetOutOfRange("truncated meanwhile")
    return start, end


def _scan(p: ec.Partition, board: Board, number: int, pick: random.Random) -> None:
    checker = Checker(board, number)
    for record in p.read(pick.randrange(*_some_range(p))):
        checker.see(record.offset, record.value)


def _point(p: ec.Partition, board: Board, number: int, pick: random.Random) -> None:
    """One record, then many in a row, which look at nothing but the table."""
    start, end = _some_range(p)
    for offset in [pick.randrange(start, end) for _ in range(20)] * 5:
        Checker(board, number).see(offset, p[offset].value)


def _columns(p: ec.Partition, board: Board, number: int, pick: random.Random) -> None:
    checker, since = Checker(board, number), p.since()
    start = pick.randrange(*_some_range(p))
    found = p.columns(start, start + 500)
    rows = [(int(found.offset[row]), found.value(row)) for row in range(len(found))]
    if p.truncations() != since:
        raise ec.OffsetOutOfRange("a truncation zeroes the bytes that columns point to")
    for offset, value in rows:
        checker.see(offset, value)


def _tail(p: ec.Partition, board: Board, number: int, pick: random.Random) -> None:
    checker = Checker(board, number)
    for record in islice(p.tail(max(p.log_start_offset, p.high_watermark - 100), timeout=0.3), 3000):
        checker.see(record.offset, record.value)


READS = {"scan": _scan, "point": _point, "columns": _columns, "tail": _tail, "reopen": _scan}


def read(folder: Path, board: Board, kind: str, number: int) -> dict[str, Any]:
    """Read in one way until the board says stop."""
    pick, overtaken = random.Random(number), 0
    with stopping_all(board), ExitStack() as opened:
        p = opened.enter_context(ec.open_partition(folder, "r"))
        while not board.stopped:
            try:
                if p.high_watermark > p.log_start_offset:
                    READS[kind](p, board, number, pick)
            except ec.OffsetOutOfRange:  # truncated or deleted meanwhile
                overtaken += 1
            if kind == "reopen":
                opened.close()
                p = opened.enter_context(ec.open_partition(folder, "r"))
    return {"kind": kind, "seen": board.seen[number], "overtaken": overtaken}


def begin(folder: Path, board: Board, **options: bool) -> Child:
    """A writer that has written something."""
    writer = Child(lambda: write(folder, board, 1, **options))
    wait_until("the writer gets going", lambda: _end(folder) > 100 or board.stopped)
    return writer


def _end(folder: Path) -> int:
    with suppress(ec.EventCoreError), ec.open_partition(folder, "r") as p:
        return p.high_watermark
    return 0


def run(folder: Path, readers: int, *, seconds: float = 0, truncations: int, seen: int) -> None:
    """For so long, and until there were so many truncations and each reader has seen so many records."""
    board = Board()
    writer = begin(folder, board)
    kinds = [list(READS)[at % len(READS)] for at in range(readers)]
    children = [Child(lambda kind=kind, at=at: read(folder, board, kind, at)) for at, kind in enumerate(kinds)]  # type: ignore[misc]

    def is_enough() -> bool:
        return board.truncation()[0] >= truncations and min(board.seen[:readers]) >= seen

    time.sleep(seconds)
    try:
        wait_until("everybody gets somewhere", lambda: is_enough() or board.stopped)
    finally:
        board.stop()
        reports = [child.report() for child in children]
        wrote = writer.report()
        print(wrote, *reports, sep="\n")
    assert [report["trouble"] for report in [wrote, *reports] if "trouble" in report] == []
    with ec.open_partition(folder, "rw") as p:
        assert p.recovery.clean
        assert p.verify().problems == []


@pytest.mark.sampled
def test_some_readers(folder: Path) -> None:
    run(folder, 5, truncations=10, seen=3000)


@pytest.mark.nightly
@pytest.mark.timeout(MINUTE * 2)
def test_eight_readers_for_a_minute(folder: Path) -> None:
    run(folder, 8, seconds=MINUTE, truncations=int(MINUTE / 10), seen=int(MINUTE * 10))


@pytest.mark.sampled
@pytest.mark.parametrize("kills", [15, pytest.param(200, marks=pytest.mark.nightly)])
def test_killed_readers_harm_nobody(folder: Path, kills: int) -> None:
    board, pick = Board(), seeded(3)
    writer = begin(folder, board)
    witness = Child(lambda: read(folder, board, "scan", 0))
    for at in range(1, kills + 1):
        kind = pick.choice(list(READS))
        victim = Child(lambda kind=kind, at=at: read(folder, board, kind, at))  # type: ignore[misc]
        time.sleep(pick.random() * 0.03)
        victim.bury()
    before, seen = board.truncation()[0], board.seen[0]
    try:
        wait_until(
            "the writer and the witness go on",
            lambda: (board.truncation()[0] > before and board.seen[0] > seen + 100) or board.stopped,
        )
    finally:
        board.stop()
        wrote, saw = writer.report(), witness.report()
    assert "trouble" not in wrote, wrote
    assert "trouble" not in saw, saw
    with ec.open_partition(folder, "rw") as p:
        assert p.recovery.clean


def test_a_writer_that_sleeps_stops_no_reader(folder: Path) -> None:
    """Reads end, and so does a wait; if they waited for the writer, this test would not end."""
    with sleeping_writer(folder) as p:
        end = p.high_watermark
        assert sum(1 for _ in p.read(0)) == end
        assert list(p.tail(end, timeout=0.5)) == []
    with ec.open_partition(folder, "r") as p:
        assert next(p.tail(end, timeout=PATIENCE_S)).offset == end


@pytest.mark.nightly
def test_a_reader_of_a_writer_that_sleeps_takes_its_time_and_no_more(folder: Path) -> None:
    with sleeping_writer(folder) as p:
        end, cpu, began = p.high_watermark, time.process_time(), time.monotonic()
        assert sum(1 for _ in p.read(0)) == end
        assert list(p.tail(end, timeout=0.5)) == []
        assert 0.4 < time.monotonic() - began < 3
        assert time.process_time() - cpu < 0.3, "it spins"


@contextmanager
def sleeping_writer(folder: Path) -> Iterator[ec.Partition]:
    """A reader of what a process has written that is stopped, and goes on at the end, for a moment.

    It may be stopped in the midst of an append, but not of a roll: readers would wait for the end of that.
    """
    board = Board()
    writer = Child(lambda: _append_to_one_segment(folder, board))
    wait_until("something is written", lambda: _end(folder) > 100 or board.stopped)
    with ec.open_partition(folder, "r") as p:
        writer.stop()
        end = p.high_watermark
        try:
            yield p
            writer.kill(signal.SIGCONT)
            wait_until("the writer goes on", lambda: p.high_watermark > end or board.stopped)
        finally:
            writer.kill(signal.SIGCONT)
            board.stop()
            wrote = writer.report()
    assert "trouble" not in wrote, wrote


def _append_to_one_segment(folder: Path, board: Board) -> dict[str, Any]:
    with stopping_all(board), ec.open_partition(folder, "rw", "never", {"segment.bytes": 1 << 28}) as p:
        while not board.stopped:
            p.append(b"x")
            time.sleep(0.0005)
    return {}


def _switches() -> int:
    """How often this process was woken up."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


@pytest.mark.nightly
def test_an_idle_reader_sleeps(folder: Path) -> None:
    seconds = 10
    with ec.open_partition(folder, "rw", "never") as p:
        p.append(b"x")

        def idle() -> dict[str, Any]:
            with ec.open_partition(folder, "r") as reader:
                list(reader.tail(0, timeout=0.01))
                woken, cpu = _switches(), time.process_time()
                assert list(reader.tail(timeout=seconds)) == []
                return {"woken": _switches() - woken, "cpu": time.process_time() - cpu}

        report = Child(idle).report()
        print(report)
        if ec.build_info()["kernels"] == "native":  # the pure ones have no futex: they look now and then
            assert report["woken"] <= seconds + 1
        assert report["cpu"] < 0.02 * seconds

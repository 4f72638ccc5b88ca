"""How long a record takes from one process to another: eventcore's tail, a socket pair, a pipe, a queue."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple

import eventcore as ec
from bench.peers.answers import Answer, Measure
from bench.peers.rounds import Ground, ask, warm

PAUSE_NS = 100_000
"""Between two messages, so that each finds a reader who waits for it."""
_STAMP = struct.Struct("=q")
_REST = bytes(100 - _STAMP.size)
_SIZE = 100
_PATIENCE_S = 120.0


class Line(NamedTuple):
    """A way for messages of `_SIZE` bytes into another process."""

    send: Callable[[bytes], object]
    receiver: Callable[[], Callable[[], bytes]]
    """Called in the other process; what it returns waits for the next message."""


def _log(folder: Path, stack: ExitStack, **how: Any) -> Line:
    path = folder / "log-0"
    writer = stack.enter_context(ec.open_partition(path, "rw", "never", {"segment.bytes": 16 << 20}))

    def receiver() -> Callable[[], bytes]:
        records = ec.open_partition(path, "r").tail(0, timeout=_PATIENCE_S, **how)
        return lambda: next(records).value or b""

    return Line(writer.append, receiver)


def _spinning(folder: Path, stack: ExitStack) -> Line:
    return _log(folder, stack, spin=_PATIENCE_S)


def _sockets(folder: Path, stack: ExitStack) -> Line:
    mine, other = socket.socketpair()
    for end in (mine, other):
        end.settimeout(None)
        stack.callback(end.close)
    return Line(mine.send, lambda: lambda: other.recv(_SIZE))


def _pipe(folder: Path, stack: ExitStack) -> Line:
    out, into = os.pipe()
    for end in (out, into):
        stack.callback(os.close, end)
    return Line(lambda data: os.write(into, data), lambda: lambda: os.read(out, _SIZE))


def _queue(folder: Path, stack: ExitStack) -> Line:
    queue = multiprocessing.get_context("fork").Queue()
    stack.callback(queue.join_thread)
    stack.callback(queue.close)
    return Line(queue.put, lambda: lambda: queue.get(timeout=_PATIENCE_S))


LINES: dict[str, Callable[[Path, ExitStack], Line]] = {
    "eventcore, spinning": _spinning,
    "eventcore, asleep": _log,
    "socketpair": _sockets,
    "pipe": _pipe,
    "multiprocessing.Queue": _queue,
}


def on_its_way(line: Line, count: int) -> list[int]:
    """Nanoseconds of `count` messages, from before they are sent until the other process has them."""
    out, into = os.pipe()
    received = mmap.mmap(-1, mmap.PAGESIZE)
    pid = os.fork()
    if pid == 0:
        try:
            _report(line, count, into, received)
        finally:
            os._exit(0)
    os.close(into)
    _stay_on(0)
    with open(out, "rb") as answers:
        answers.read(1)  # it listens
        for number in range(count):
            _let_it_wait(received, number)
            line.send(_STAMP.pack(perf_counter_ns()) + _REST)
        times = array("q", answers.read())
    os.waitpid(pid, 0)
    assert len(times) == count, "the reader came to an early end"
    return times.tolist()


def _let_it_wait(received: mmap.mmap, number: int) -> None:
    """Until the reader has all there is and has had time to wait for more: nothing ever queues up.

    Without sleeping, as a busy writer would, but the threads of this process (a queue has one) come to their turn.
    """
    while _STAMP.unpack_from(received)[0] < number:
        time.sleep(0)
    until = perf_counter_ns() + PAUSE_NS
    while perf_counter_ns() < until:
        time.sleep(0)


def _report(line: Line, count: int, into: int, received: mmap.mmap) -> None:
    """The other process."""
    _stay_on(-1)
    times, receive = array("q"), line.receiver()
    os.write(into, b"!")
    for number in range(1, count + 1):
        data = receive()
        times.append(perf_counter_ns() - _STAMP.unpack_from(data)[0])
        _STAMP.pack_into(received, 0, number)
    with open(into, "wb") as answers:
        answers.write(times.tobytes())


def _stay_on(number: int) -> None:
    """One processor for the writer and one for the reader, where there are two and the system lets us choose."""
    if hasattr(os, "sched_setaffinity") and len(found := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, {found[number]})


@contextmanager
def _apart() -> Iterator[None]:
    """Writer and reader on processors of their own."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def tail(ground: Ground) -> Iterator[Answer]:
    """The median of each round, and what one in a hundred exceeds."""
    lines, missing = dict(LINES), {}
    if "spin" not in signature(ec.Partition.tail).parameters:
        missing["eventcore, spinning"] = "not available in this version"
        del lines["eventcore, spinning"]
    slow: dict[str, list[float]] = {name: [] for name in lines}

    def turn(name: str) -> Measure:
        def measure() -> float:
            with ground.fresh() as folder, ExitStack() as stack, _apart():
                warm(32 << 20)
                line = lines[name](folder, stack)
                times = sorted(_measured(line, ground.scale.messages))
            slow[name].append(times[len(times) * 99 // 100] / 1e9)
            return median(times) / 1e9

        return measure

    turns = {name: turn(name) for name in lines}
    title = "From append in one process to the record in another"
    yield ask("tail", f"{title}: median", "time", turns, ground.scale.rounds, missing)
    yield Answer("tail-p99", f"{title}: 99th percentile", "time", slow, missing)


def _measured(line: Line, count: int) -> list[int]:
    """Without the first tenth, in which both sides come to speed."""
    return on_its_way(line, count)[count // 10 :]

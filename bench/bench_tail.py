"""The end of a log in shared memory: what a publication costs, and how soon another process knows.

`python -m bench.bench_tail` prints the ratios against their goals; `pytest bench/bench_tail.py --benchmark-enable
--benchmark-group-by=group` gives every figure; with `--benchmark-disable` it is a check of the results alone.
Goals for half a round trip between two processes: spinning on `load`, >= 15 x quicker than a socket pair; asleep in
`wait`, at most 1.1 x as long as a socket pair, since any wake-up by the kernel costs the same.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import pytest

from bench.interleaved import report

PATIENCE_NS = 120_000_000_000
LAST = -1
"""What the other process is told when it may go."""
Trip = Callable[[], int]


def publisher(kind: str) -> Callable[[], int]:
    tail, state = import_module(f"eventcore._{kind}.tail"), bytearray(4096)

    def publish() -> int:
        tail.publish(state, 1, 2, 3, 4)
        return int(tail.load(state, tail.HIGH_WATERMARK))

    return publish


@contextmanager
def child(serve: Callable[[], None]) -> Iterator[None]:
    """Another process for as long as the block lasts; the block's end must have told it to go."""
    pid = os.fork()
    if pid == 0:
        try:
            serve()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.waitpid(pid, 0)


def follow(tail: Any, state: Any, word: int, seen: int, asleep: bool) -> int:
    """Wait until the word is no longer `seen`."""
    while True:
        signal = tail.signal(state) if asleep else 0
        now: int = tail.load(state, word)
        if now != seen:
            return now
        if asleep:
            tail.wait(state, signal, PATIENCE_NS)


@contextmanager
def shared_memory(kind: str, asleep: bool) -> Iterator[Trip]:
    tail, state = import_module(f"eventcore._{kind}.tail"), mmap.mmap(-1, 4096)
    ping, pong = tail.LOG_END, tail.DURABLE

    def serve() -> None:
        turn = 0
        while turn != LAST:
            turn = follow(tail, state, ping, turn, asleep)
            tail.store(state, pong, turn)
            tail.wake(state)

    def trip() -> int:
        turn: int = tail.load(state, ping) + 1
        tail.store(state, ping, turn)
        tail.wake(state)
        return follow(tail, state, pong, turn - 1, asleep)

    with child(serve):
        try:
            yield trip
        finally:
            tail.store(state, ping, LAST)
            tail.wake(state)


@contextmanager
def socket_pair() -> Iterator[Trip]:
    mine, other = socket.socketpair()

    def serve() -> None:
        mine.close()
        while data := other.recv(8):
            other.send(data)

    turn = 0

    def trip() -> int:
        nonlocal turn
        turn += 1
        mine.send(turn.to_bytes(8, "little"))
        return int.from_bytes(mine.recv(8), "little")

    with child(serve):
        other.close()
        try:
            yield trip
        finally:
            mine.close()


def kinds() -> list[str]:
    """Pure is always there."""
    found = []
    for kind in ("pure", "native"):
        with suppress(ModuleNotFoundError):
            import_module(f"eventcore._{kind}.tail")
            found.append(kind)
    return found


@pytest.mark.parametrize("kind", kinds())
def test_publish(benchmark: Any, kind: str) -> None:
    benchmark.group = "publish and load"
    assert benchmark(publisher(kind)) == 2


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is a fork")


@needs_fork
@pytest.mark.parametrize("asleep", [False, True], ids=["spinning", "asleep"])
@pytest.mark.parametrize("kind", kinds())
def test_round_trip(benchmark: Any, kind: str, asleep: bool) -> None:
    benchmark.group = "round trip between processes"
    with shared_memory(kind, asleep) as trip:
        first = trip()
        assert [trip(), trip()] == [first + 1, first + 2]
        benchmark(trip)


@needs_fork
def test_round_trip_of_a_socket_pair(benchmark: Any) -> None:
    benchmark.group = "round trip between processes"
    with socket_pair() as trip:
        assert [trip(), trip()] == [1, 2]
        benchmark(trip)


def main() -> dict[str, dict[str, float]]:
    """{title: {contestant: its time ÷ native's}}."""
    figures = {}
    title = "publish and load"
    figures[title] = report(title, {kind: publisher(kind) for kind in kinds()}, 1, {"pure": 5})
    for asleep, goal in ((False, 15.0), (True, 1 / 1.1)):
        with shared_memory("native", asleep) as trip, socket_pair() as peer:
            rows = {"native": trip, "socket pair": peer}
            title = "half a round trip, " + ("asleep on the futex" if asleep else "spinning")
            figures[title] = report(title, rows, 2, {"socket pair": goal})
    return figures


if __name__ == "__main__":
    main()

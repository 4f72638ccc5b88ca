"""How long a record is on its way into the hands of a reader in another process, against other ways between processes.

`python -m bench.bench_follow` prints the table; `pytest bench/bench_follow.py` is a check of the results alone. One
process sends single messages, one every `--gap` seconds, another takes them; the ways take turns, round by round. Times
are `time.perf_counter_ns`, which both processes share, in the hands of Python on both sides:

    sent        from before the call that sends until the other has the message
    returned    from after that call; below 0 where the other had it before the call was over

`append, spinning` and `append, asleep` are `Partition.append` (fsync="never") and `Partition.tail`. `published` leaves
the append out: the records are in the log already, and are shown to the reader one by one by `tail.publish`, so it is
what reading itself takes. `half a round trip` is of messages sent there and back without a pause in between.
Spinning is for those who have a processor for it: where others want both processors too, all of this is noise.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile

GOAL_US = 1.5
GOALS = {"socket pair": 15.0, "half a round trip": 15.0, "multiprocessing.Queue": 30.0}
"""How many times longer than `published` they take, at least."""
PATIENCE_S = 120.0
_NUMBER = struct.Struct("=q")
now = time.perf_counter_ns


class Way(NamedTuple):
    """A way from the sender to the receiver: what sends a number, what makes that which receives it in the process that
    will, and what reads the number from it. The time is taken before that is read.
    """

    send: Callable[[int], object]
    receiver: Callable[[], Callable[[], Any]]
    read: Callable[[Any], int]
    is_round_trip: bool = False
    has_thread: bool = False


class Times(NamedTuple):
    """Nanoseconds of every message."""

    sent: list[int]
    returned: list[int]


def number(data: Any) -> int:
    return int(_NUMBER.unpack(data)[0])


def tail_of(folder: Path, spin: float) -> Callable[[], Callable[[], ec.Record]]:
    return lambda: ec.open_partition(folder, "r").tail(0, timeout=PATIENCE_S, spin=spin).__next__


def value_of(record: ec.Record) -> int:
    return number(record.value)


def by_log(opened: ExitStack, folder: Path, spin: float) -> Way:
    writer = opened.enter_context(ec.open_partition(folder, "rw", "never"))
    return Way(lambda at: writer.append(_NUMBER.pack(at)), tail_of(folder, spin), value_of)


def by_publication(opened: ExitStack, folder: Path, count: int) -> Way:
    """The log is complete; only the end that readers see moves."""
    writer = opened.enter_context(ec.open_partition(folder, "rw", "never"))
    for at in range(count):
        writer.append(_NUMBER.pack(at))
    state = StateFile(Disk(), folder / STATE_NAME, create=False)
    state.publish(0, 0, count, 0)
    return Way(lambda at: state.publish(0, at + 1, count, 0), tail_of(folder, PATIENCE_S), value_of)


def by_pipe() -> Way:
    read, write = os.pipe()
    return Way(lambda at: os.write(write, _NUMBER.pack(at)), lambda: partial(os.read, read, _NUMBER.size), number)


def by_socket() -> Way:
    mine, other = socket.socketpair()
    return Way(lambda at: mine.send(_NUMBER.pack(at)), lambda: partial(other.recv, _NUMBER.size), number)


def there_and_back() -> Way:
    mine, other = socket.socketpair()

    def send(at: int) -> None:
        mine.send(_NUMBER.pack(at))
        assert number(mine.recv(_NUMBER.size)) == at

    def receive() -> bytes:
        data = other.recv(_NUMBER.size)
        other.send(data)
        return data

    return Way(send, lambda: receive, number, is_round_trip=True)


def by_queue() -> Way:
    queue = multiprocessing.get_context("fork").Queue()
    return Way(queue.put, lambda: queue.get, int, has_thread=True)


def ways(opened: ExitStack, ground: Path, count: int) -> dict[str, Way]:
    """Every way, for `count` messages."""
    return {
        "published": by_publication(opened, ground / "published-0", count),
        "append, spinning": by_log(opened, ground / "spinning-0", PATIENCE_S),
        "append, asleep": by_log(opened, ground / "asleep-0", 0.0),
        "socket pair": by_socket(),
        "half a round trip": there_and_back(),
        "pipe": by_pipe(),
        "multiprocessing.Queue": by_queue(),
    }


def receive_all(found: dict[str, Way], rounds: int, size: int, ready: int) -> None:
    """The other process: for each block say that it is about to wait, take it, answer with the arrivals."""
    gc.disable()
    receivers = {name: way.receiver() for name, way in found.items()}
    for at in range(rounds):
        for name, receive in receivers.items():
            arrived, read = [0] * size, found[name].read
            os.write(ready, b"r")
            for slot in range(size):
                message = receive()
                arrived[slot] = now()
                assert read(message) == at * size + slot, "a message was lost, or came twice"
            os.write(ready, struct.pack(f"={size}q", *arrived))


def send_block(way: Way, first: int, size: int, gap_ns: int) -> Times:
    """Send messages at the pace; (before each call, after it)."""
    before, after = [0] * size, [0] * size
    due = now()
    for slot in range(size):
        due += 0 if way.is_round_trip else gap_ns
        while now() < due:
            if way.has_thread:
                time.sleep(0)  # it needs the lock that whoever looks at the clock would hold
        before[slot] = now()
        way.send(first + slot)
        after[slot] = now()
    return Times(before, after)


@contextmanager
def receiving(found: dict[str, Way], rounds: int, size: int) -> Iterator[int]:
    """Another process that receives; yields where it answers."""
    answers, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            receive_all(found, rounds, size, ready)
        finally:
            os._exit(0)
    os.close(ready)
    try:
        yield answers
    finally:
        os.close(answers)
        os.waitpid(pid, 0)


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        assert more, "the receiver died"
        data += more
    return data


def measure(ground: Path, rounds: int, size: int, gap_s: float) -> dict[str, Times]:
    """{way: the times of all its messages}."""
    with ExitStack() as opened:
        found = ways(opened, ground, rounds * size)
        times = {name: Times([], []) for name in found}
        with receiving(found, rounds, size) as answers:
            for at in range(rounds):
                for name, way in found.items():
                    read_exactly(answers, 1)
                    time.sleep(0.002)
                    stamps = send_block(way, at * size, size, int(gap_s * 1e9))
                    arrived = struct.unpack(f"={size}q", read_exactly(answers, 8 * size))
                    _add(times[name], way, stamps, arrived)
        return times


def _add(times: Times, way: Way, stamps: Times, arrived: tuple[int, ...]) -> None:
    if way.is_round_trip:
        halves = [(after - before) // 2 for before, after in zip(stamps.sent, stamps.returned, strict=True)]
        times.sent.extend(halves)
        times.returned.extend(halves)
        return
    times.sent.extend(there - before for before, there in zip(stamps.sent, arrived, strict=True))
    times.returned.extend(there - after for after, there in zip(stamps.returned, arrived, strict=True))


def test_everything_arrives(tmp_path: Path) -> None:
    times = measure(tmp_path, 2, 10, 0.0)
    assert {len(list(found.sent)) for found in times.values()} == {20}
    assert all(min(found.sent) > 0 for found in times.values())


def summary(values: list[int]) -> tuple[float, float]:
    """(p50, p99) in microseconds."""
    cuts = quantiles(values, n=100)
    return cuts[49] / 1000, cuts[98] / 1000


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main(rounds: int = 9, size: int = 500, gap_s: float = 100e-6) -> dict[str, dict[str, float]]:
    """{way: its percentiles in microseconds, and how many times as long as `published` it takes}."""
    gc.disable()
    with tempfile.TemporaryDirectory() as ground:
        times = measure(Path(ground), rounds, size, gap_s)
    gc.enable()
    figures: dict[str, dict[str, float]] = {}
    least = summary(times["published"].sent)[0]
    print(f"\nOne message every {gap_s * 1e6:g} us into the hands of another process, {rounds * size} messages, in us")
    print(f"  {'':<24}{'sent p50':>10}{'p99':>10}{'returned p50':>14}{'p99':>10}{'÷ published':>13}")
    for name, found in times.items():
        (p50, p99), (after, after_p99) = summary(found.sent), summary(found.returned)
        figures[name] = {"p50": p50, "p99": p99, "after p50": after, "after p99": after_p99, "ratio": p50 / least}
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"  goal {goal:g}x: {_verdict(p50 / least >= goal)}"
        print(f"  {name:<24}{p50:>10.2f}{p99:>10.1f}{after:>14.2f}{after_p99:>10.1f}{p50 / least:>12.1f}x{verdict}")
    beyond = figures["append, spinning"]["after p50"]
    for what, taken in (("published", least), ("beyond the append", beyond)):
        print(f"  {what}: {taken:.2f} us  goal at most {GOAL_US:g} us: {_verdict(taken <= GOAL_US)}")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gap", type=float, default=100e-6, help="seconds from one message to the next")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=500, help="messages a round")
    given = parser.parse_args()
    main(given.rounds, given.size, given.gap)

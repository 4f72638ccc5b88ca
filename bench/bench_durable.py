"""Durable appends: what a commit costs, and how many threads share one.

`python -m bench.bench_durable [--folder F]` prints the table; `pytest bench/bench_durable.py` is a check of the results
alone. With `fsync="always"` concurrent appenders share a sync (group commit). Goal: eight threads acknowledge at least
2.2 times as many records a second as one. The folder should be on the disk in question: in memory a sync costs nothing.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import pytest

import eventcore as ec

THREADS = (1, 2, 4, 8)
GOAL = 2.2
VALUE = b"x" * 100


def appends(p: ec.Partition, threads: int, seconds: float) -> float:
    """Acknowledged records a second, one a call."""
    counts = [0] * threads
    start = time.perf_counter()
    until = start + seconds

    def append(number: int) -> None:
        while not counts[number] or time.perf_counter() < until:
            p.append(VALUE)
            counts[number] += 1

    workers = [threading.Thread(target=append, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def measure(folder: Path, seconds: float, rounds: int) -> dict[int, float]:
    """Medians of interleaved rounds, by the number of threads."""
    rates: dict[int, list[float]] = {threads: [] for threads in THREADS}
    gc.disable()
    try:
        with ec.open_partition(folder / "events-0", "rw", "always") as p:
            for _ in range(rounds):
                for threads, found in rates.items():
                    found.append(appends(p, threads, seconds))
            assert p.durable_offset == p.log_end_offset == len(p)
    finally:
        gc.enable()
    return {threads: median(found) for threads, found in rates.items()}


@pytest.mark.parametrize("threads", THREADS)
def test_every_append_that_returned_is_durable(tmp_path: Path, threads: int) -> None:
    with ec.open_partition(tmp_path / "events-0", "rw", "always") as p:
        assert appends(p, threads, 0.02) > 0
        assert p.durable_offset == p.log_end_offset > 0


def main(folder: str | None = None) -> dict[str, float]:
    """The table, and the goal."""
    with tempfile.TemporaryDirectory(dir=folder) as ground:
        rates = measure(Path(ground), 0.5, 9)
    print("\nDurable appends of one 100-byte record, fsync=always")
    for threads, rate in rates.items():
        print(f"  {threads} thread{'s' if threads > 1 else ' '}{rate:>12,.0f} /s{rate / rates[1]:>8.2f}x")
    ratio = rates[8] / rates[1]
    print(f"  8 threads ÷ 1: {ratio:.2f}  goal {GOAL:g}: {'met' if ratio >= GOAL else 'MISSED'}")
    return {f"{threads} threads": rate for threads, rate in rates.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where to write; a temporary folder of the system if not given")
    main(parser.parse_args().folder)

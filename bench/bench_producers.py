"""Idempotent producers: what one costs beside a plain append, in memory, and when the old ones are looked for.

`python -m bench.bench_producers` prints the figures; `pytest bench/bench_producers.py` is a check of the results alone.
Goals: an idempotent append of 100 records at most 1.15 times a plain one; 1,000,000 producer ids in at most 200 MB,
and at most 100 ms to find those that expire.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import pytest

import eventcore as ec
from bench.compare import MEMORY
from bench.interleaved import medians
from eventcore import _kernels as kernels

MOST_TIMES_PLAIN = 1.15
MOST_BYTES = 200
MOST_EXPIRY_MS = 100.0
_NOW = 1_700_000_000_000


def append_cost(folder: Path, rounds: int = 15, least_s: float = 0.02) -> float:
    """How many times a plain append of 100 records an idempotent one takes."""
    items = [(b"key-%06d" % n, b"%0100d" % n) for n in range(100)]
    config = {"preallocate": True}
    with (
        ec.open_partition(folder / "plain-0", "rw", "never", config) as plain,
        ec.open_partition(folder / "once-0", "rw", "never", config) as once,
    ):
        send = partial(once.append_sequenced, items, ec.producer_id_of("bench"))
        seconds = medians({"plain": partial(plain.extend, items), "once": send}, rounds, least_s)
        assert once.next_sequence(ec.producer_id_of("bench")) == len(once)
    return seconds["once"] / seconds["plain"]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def table_of(count: int) -> kernels.producers.ProducerTable:
    """Idle producers that have written five batches each, which is all that is kept."""
    table = kernels.producers.ProducerTable()
    for sequence in range(kernels.producers.CACHED_BATCHES):
        for producer_id in range(count):
            table.note(producer_id, 0, sequence, 0, sequence * count + producer_id, _NOW, False, _NOW)
    return table


def many(count: int) -> tuple[float, float, float]:
    """Bytes of one of so many producers, ms to look for those that expire, ms to write a snapshot's body."""
    gc.collect()
    before = resident_bytes()
    table = table_of(count)
    size = (resident_bytes() - before) / count
    expiry = median(_ms(partial(table.expire, _NOW - 1)) for _ in range(5))
    dump = median(_ms(table.dump) for _ in range(3))
    assert len(table) == count
    return size, expiry, dump


def _ms(call: partial[object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


@pytest.mark.sampled
def test_what_is_measured_is_there(tmp_path: Path) -> None:
    assert append_cost(tmp_path, 1, 0.001) > 0
    table = table_of(100)
    assert {len(one.batches) for one in table.all()} == {5}
    assert (table.expire(_NOW - 1), table.expire(_NOW), len(table)) == (0, 100, 0)


def main(count: int = 1_000_000) -> None:
    """The figures, and the goals."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        cost = append_cost(Path(folder))
    size, expiry, dump = many(count)
    print("\nIdempotent producers")
    for text, found, goal in (
        ("append of 100 records ÷ a plain one", cost, MOST_TIMES_PLAIN),
        (f"bytes of each of {count:,}", size, MOST_BYTES),
        ("ms to look for those that expire", expiry, MOST_EXPIRY_MS),
    ):
        print(f"  {text:<40}{found:>8.2f}  goal {goal:g}: {'met' if found <= goal else 'MISSED'}")
    print(f"  {'ms to write them all':<40}{dump:>8.2f}")


if __name__ == "__main__":
    main()

"""Walk the batches of a log, hopping from header to header or checking every CRC: native and pure.

`python -m bench.bench_batch` prints the ratios against their goals; `pytest bench/bench_batch.py --benchmark-enable
--benchmark-group-by=group` gives every figure; with `--benchmark-disable` it is a check of the results alone.
Goals: native >= 50 x pure, both ways.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from bench.bench_encode import engine, pairs
from bench.interleaved import report

BATCHES = 64
Scan = Callable[[], Any]


def log(count: int = BATCHES, records: int = 10) -> bytes:
    data = bytearray(engine("pure", pairs(records))())
    out = bytearray()
    for number in range(count):
        struct.pack_into(">q", data, 0, number * records)
        out += data
    return bytes(out)


def scan(kind: str, data: bytes, verify: bool) -> Scan:
    batch, rows = import_module(f"eventcore._{kind}.batch"), array("q", bytes(64 * BATCHES))

    def call() -> Any:
        return batch.scan(data, 0, len(data), rows, verify), rows

    return call


def find(kind: str, data: bytes) -> Scan:
    batch = import_module(f"eventcore._{kind}.batch")
    return lambda: batch.find_offset(data, 0, len(data), BATCHES * 10 - 1)


def contestants(work: str) -> dict[str, Scan]:
    """What is built here; pure is always there."""
    data, found = log(), {}
    for kind in ("pure", "native"):
        with suppress(ModuleNotFoundError):
            found[kind] = find(kind, data) if work == "find" else scan(kind, data, work == "verify")
    return found


WORKS = ("hop", "verify", "find")


@pytest.mark.parametrize("name", contestants("hop"))
@pytest.mark.parametrize("work", WORKS)
def test_batches(benchmark: Any, work: str, name: str) -> None:
    benchmark.group = f"{work} {BATCHES} batches of 10"
    every = contestants(work)
    assert benchmark(every[name]) == every["pure"]()


def main() -> dict[str, dict[str, float]]:
    """{title: {contestant: its time ÷ native's}}."""
    figures = {}
    for work in WORKS:
        title = f"{work} {BATCHES} batches of 10 records, a batch"
        figures[title] = report(title, contestants(work), BATCHES, {"pure": 50})
    return figures


if __name__ == "__main__":
    main()

"""Partition operations through the public API, with the kernels of this process (`EVENTCORE_KERNELS`).

`pytest bench/bench_partition.py --benchmark-enable` measures them; `python -m bench` runs them under both kernels and
divides. fsync="never" except where the name says durable: the disk's time is not the engine's. Records have 10-byte
keys and 100-byte values.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from bench.interleaved import medians

BATCH = 1000
BATCHES = 100
Operation = Callable[[], object]


def pairs(count: int = BATCH) -> list[tuple[bytes, bytes]]:
    return [(b"key-%06d" % n, b"%0100d" % n) for n in range(count)]


class Bench:
    """One log of BATCHES batches to read from, and fresh ones to append to."""

    def __init__(self, folder: Path, batches: int = BATCHES) -> None:
        self._folder = folder
        self._count = itertools.count()
        self.total = batches * BATCH
        self.full = self._new()
        for _ in range(batches):
            self.full.extend(pairs())
        self.full.sync()

    def _new(self, **options: Any) -> ec.Partition:
        return ec.open_partition(self._folder / f"events-{next(self._count)}", **{"fsync": "never", **options})

    def operations(self) -> dict[str, tuple[Operation, int]]:
        """Name → (what to call, how many records a call handles)."""
        rng = random.Random(1)
        items, full, total = pairs(), self.full, self.total
        single, many, durable = self._new(), self._new(), self._new(fsync="always")
        zstd = self._new(config={"compression.type": "zstd"})
        encoded = client_batch(self._new())
        clients = self._new()
        return {
            "append, one record a call": (lambda: single.append(b"v" * 100, b"k" * 10), 1),
            "append, durable, one record a call": (lambda: durable.append(b"v" * 100, b"k" * 10), 1),
            "extend, 1,000 records": (lambda: many.extend(items), BATCH),
            "extend, 1,000 records, zstd": (lambda: zstd.extend(items), BATCH),
            **self._new_operations(items),
            "append_batches, 1,000 records": (lambda: clients.append_batches(encoded), BATCH),
            "read to Records": (lambda: sum(1 for _ in full.read(0)), total),
            "read to columns": (lambda: len(full.columns()), total),
            "fetch 1 MiB": (lambda: full.fetch(0, 1 << 20).next_offset, 1 << 20 >> 7),
            "p[i], random": (lambda: full[rng.randrange(total)], 1),
            "offset_for_time": (lambda: full.offset_for_time(1), 1),
            "verify": (lambda: full.verify().records, total),
            "open for reading": (lambda: ec.open_partition(full.path, "r").close(), 1),
        }

    def _new_operations(self, items: list[tuple[bytes, bytes]]) -> dict[str, tuple[Operation, int]]:
        """Those that a version may lack."""
        found: dict[str, tuple[Operation, int]] = {}
        full: Any = self.full
        if hasattr(full, "extend_columns"):
            columns, target = Columns(items), self._new()
            found["extend_columns, 1,000 records"] = (
                lambda: target.extend_columns(columns.values, columns.keys),
                BATCH,
            )
        if hasattr(full, "read_tuples"):
            found["read to tuples"] = (lambda: sum(1 for _ in full.read_tuples(0)), self.total)
        if hasattr(full, "read_lazy"):
            found["read to lazy records"] = (lambda: sum(1 for _ in full.read_lazy(0)), self.total)
        return found


class Columns:
    """Records as Arrow has them: data end to end, and offsets into it."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.keys, self.values = ((b"".join(part), _offsets(part)) for part in zip(*pairs, strict=True))


def _offsets(parts: tuple[bytes, ...]) -> array[int]:
    return array("q", itertools.accumulate(map(len, parts), initial=0))


def client_batch(partition: ec.Partition) -> bytes:
    """A batch as a producer sends it: base offset 0, no leader epoch."""
    partition.extend(pairs())
    data = bytearray(partition.fetch(0).data)
    data[12:16] = b"\xff\xff\xff\xff"
    return bytes(data)


def measure(batches: int = BATCHES) -> dict[str, float]:
    """Seconds a record, for each operation."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as folder:
        operations = Bench(Path(folder), batches).operations()
        rounds = 5 if ec.build_info()["kernels"] == "native" else 1
        seconds = medians({name: call for name, (call, _) in operations.items()}, rounds, 0.02 if rounds > 1 else 0)
        return {name: seconds[name] / operations[name][1] for name in operations}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), 2)


OPTIONAL = sum(hasattr(ec.Partition, name) for name in ("extend_columns", "read_tuples", "read_lazy"))


@pytest.mark.parametrize("number", range(12 + OPTIONAL))
def test_operation(bench: Bench, number: int, benchmark: Any) -> None:
    title, (call, count) = list(bench.operations().items())[number]
    benchmark.group = title
    benchmark.extra_info["records"] = count
    result = benchmark(call)
    if title.startswith("read to"):
        assert result == bench.total
    if title == "verify":
        assert result == bench.total


if __name__ == "__main__":
    json.dump(measure(*map(int, sys.argv[1:])), sys.stdout)

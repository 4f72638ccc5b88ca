"""Decode batches of 10-byte keys and 100-byte values, CRC checked: native, pure, aiokafka (Cython), kafka-python.

`python -m bench.bench_decode` prints the ratios against their goals; `pytest bench/bench_decode.py --benchmark-enable
--benchmark-group-by=group` gives every figure; with `--benchmark-disable` it is a check of the results alone.
Goals (batches of 100 and 1,000): columns >= 8 x aiokafka and >= 50 x pure, and a scan of the CRCs alone takes >= 0.4 of
their time; records >= 2.2 x aiokafka and >= 20 x pure. The clients' offset, timestamp, key and value are touched.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from bench.bench_encode import MANY, engine, pairs
from bench.interleaved import report

EVERY = (0, 1 << 62)
Row = tuple[int, int, bytes | None, bytes | None]
Decode = Callable[[], Any]


def log(count: int) -> bytes:
    """A batch of `count` records, as the pure twin writes it."""
    return bytes(engine("pure", pairs(count))())


def records(kind: str, data: bytes) -> Decode:
    read, size = import_module(f"eventcore._{kind}.decode").read_records, len(data)
    return lambda: read(data, 0, size, *EVERY, 1 << 30, 0)[0]


def columns(kind: str, data: bytes, count: int) -> Decode:
    read, size = import_module(f"eventcore._{kind}.decode").read_columns, len(data)
    table = tuple(array("q", bytes(8 * count)) for _ in range(6))

    def decode() -> Any:
        read(data, 0, size, *EVERY, table, 0, 0)
        return table

    return decode


def client(module: str, data: bytes) -> Decode:
    reader = import_module(f"{module}.record.default_records").DefaultRecordBatch

    def decode() -> Any:
        batch = reader(bytearray(data))
        assert batch.validate_crc()
        return [(record.offset, record.timestamp, record.key, record.value) for record in batch]

    return decode


def contestants(count: int) -> dict[str, Decode]:
    """What is installed and built here; pure is always there."""
    data = log(count)
    found: dict[str, Decode] = {"pure": records("pure", data), "pure columns": columns("pure", data, count)}
    with suppress(ModuleNotFoundError):
        found |= {"native": records("native", data), "native columns": columns("native", data, count)}
    for name, module in (("aiokafka", "aiokafka"), ("kafka-python", "kafka")):
        with suppress(ModuleNotFoundError):
            found[name] = client(module, data)
    return found


NAMES = list(contestants(1))


def rows_of(name: str, found: Any, data: bytes) -> list[Row]:
    if not name.endswith("columns"):
        return [tuple(row[:4]) for row in found]
    return [
        (offset, timestamp, data[key : key + key_length], data[value : value + value_length])
        for offset, timestamp, key, key_length, value, value_length in zip(*found, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_decode(benchmark: Any, count: int, name: str) -> None:
    benchmark.group = f"decode a batch of {count}"
    all_of_them = contestants(count)
    found = rows_of(name, benchmark(all_of_them[name]), log(count))
    assert found == rows_of("pure", all_of_them["pure"](), b"")
    assert [(key, value) for _, _, key, value in found] == pairs(count)


def big_log() -> bytes:
    """More than the caches hold."""
    batch = bytearray(log(1000))
    out = bytearray()
    for base_offset in range(0, MANY * 1000, 1000):
        batch[:8] = base_offset.to_bytes(8, "big")
        out += batch
    return bytes(out)


def scan_all(data: bytes) -> dict[str, Decode]:
    """The whole log, into a table of a few batches that is used again and again, as a scan does."""
    kernels = {name: import_module(f"eventcore._native.{name}") for name in ("batch", "decode")}
    rows, table = array("q", bytes(64 * MANY)), tuple(array("q", bytes(8 * 8000)) for _ in range(6))
    read, scan, size = kernels["decode"].read_columns, kernels["batch"].scan, len(data)

    def walk() -> None:
        position = 0
        while position < size:
            position = read(data, position, size, *EVERY, table, 0, 0)[1]

    return {"native": walk, "crc only": lambda: scan(data, 0, size, rows)}


def main() -> dict[str, dict[str, float]]:
    """{title: {contestant: its time ÷ native's}}."""
    figures = {}
    for count in (1, 100, 1000):
        every = contestants(count)
        clients = {name: every[name] for name in ("aiokafka", "kafka-python") if name in every}
        rows = {"native": every["native"], "pure": every["pure"], **clients}
        goals = {"pure": 20.0, "aiokafka": 2.2} if count > 1 else {}
        title = f"decode batches of {count} to records, a record"
        figures[title] = report(title, rows, count, goals)
        rows = {"native": every["native columns"], "pure": every["pure columns"], **clients}
        goals = {"pure": 50.0, "aiokafka": 8.0} if count > 1 else {}
        title = f"decode batches of {count} to columns, a record"
        figures[title] = report(title, rows, count, goals)
    title = f"decode {MANY} batches of 1000 to columns, a record"
    figures[title] = report(title, scan_all(big_log()), MANY * 1000, {"crc only": 0.4})
    return figures


if __name__ == "__main__":
    main()

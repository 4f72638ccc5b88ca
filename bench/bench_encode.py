"""Encode batches of 10-byte keys and 100-byte values: native, pure, aiokafka's Cython builder, kafka-python.

`python -m bench.bench_encode` prints the ratios against their goals; `pytest bench/bench_encode.py --benchmark-enable
--benchmark-group-by=group` gives every figure; with `--benchmark-disable` it is a check of the results alone.
Goals (batches of 100 and 1,000 from a list of pairs): native >= 7 x aiokafka, >= 50 x pure. Columns: memcpy of the
payload takes at least half as long.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import accumulate
from typing import Any

import pytest

from bench.interleaved import report

NOW = 1_700_000_000_000
ROOM = 1 << 18
MANY = 512
"""Batches of 1,000 in a target that no cache holds."""
Encode = Callable[[], bytes]


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"key-%06d" % n, b"%0100d" % n) for n in range(count)]


def engine(kind: str, items: list[tuple[bytes, bytes]]) -> Encode:
    kernel, buf = import_module(f"eventcore._{kind}.encode"), bytearray(ROOM)
    end = kernel.encode(buf, 0, ROOM, items, 0, 0, -1, 0, NOW)[0]
    view = memoryview(buf)[:end]

    def encode() -> Any:
        kernel.encode(buf, 0, ROOM, items, 0, 0, -1, 0, NOW)
        return view

    return encode


def column_arguments(items: list[tuple[bytes, bytes]]) -> tuple[Any, ...]:
    out: list[Any] = []
    for column in zip(*items, strict=True):
        out += [b"".join(column), array("q", accumulate(map(len, column), initial=0)), None]
    return (*out, array("q", [NOW]) * len(items))


def engine_columns(kind: str, items: list[tuple[bytes, bytes]]) -> Encode:
    kernel, buf = import_module(f"eventcore._{kind}.encode"), bytearray(ROOM)
    arguments = (buf, 0, ROOM, len(items), 0, *column_arguments(items), 0, -1, 0, NOW)
    view = memoryview(buf)[: kernel.encode_columns(*arguments)[0]]

    def encode() -> Any:
        kernel.encode_columns(*arguments)
        return view

    return encode


def client(module: str, items: list[tuple[bytes, bytes]]) -> Encode:
    """A client's batch builder: aiokafka's and kafka-python's have one ancestor and one interface."""
    builder_class = import_module(f"{module}.record.default_records").DefaultRecordBatchBuilder

    def encode() -> Any:
        builder = builder_class(2, 0, 0, -1, -1, -1, ROOM)
        append = builder.append
        for offset, (key, value) in enumerate(items):
            append(offset, NOW, key, value, [])
        return builder.build()

    return encode


def many_columns(kind: str, items: list[tuple[bytes, bytes]], target: bytearray) -> Encode:
    """Batch after batch into a target larger than the caches, as a log is."""
    kernel, arguments = import_module(f"eventcore._{kind}.encode"), column_arguments(items)

    def encode() -> Any:
        position = 0
        for base_offset in range(0, MANY * len(items), len(items)):
            position = kernel.encode_columns(
                target, position, len(target), len(items), 0, *arguments, base_offset, -1, 0, NOW
            )[0]
        return memoryview(target)[:position]

    return encode


def many_memcpy(items: list[tuple[bytes, bytes]], target: bytearray) -> Encode:
    """What the machine takes to copy keys and values there, with no framing, no CRC and no Python between."""
    payload = b"".join(key + value for key, value in items)
    size, view = len(payload), memoryview(target)

    def copy() -> Any:
        for at in range(0, MANY * size, size):
            view[at : at + size] = payload
        return view

    return copy


def contestants(count: int) -> dict[str, Encode]:
    """What is installed and built here; pure is always there."""
    items = pairs(count)
    found: dict[str, Encode] = {"pure": engine("pure", items), "pure columns": engine_columns("pure", items)}
    with suppress(ModuleNotFoundError):
        found |= {"native": engine("native", items), "native columns": engine_columns("native", items)}
    for name, module in (("aiokafka", "aiokafka"), ("kafka-python", "kafka")):
        with suppress(ModuleNotFoundError):
            found[name] = client(module, items)
    return found


NAMES = list(contestants(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_encode(benchmark: Any, count: int, name: str) -> None:
    benchmark.group = f"encode a batch of {count}"
    all_of_them = contestants(count)
    data = bytes(benchmark(all_of_them[name]))
    # Only the leader epoch may differ: the clients write 0 or -1, the log writes its own.
    expected = bytes(all_of_them["pure"]())
    assert data[:12] + data[16:] == expected[:12] + expected[16:]


def main() -> dict[str, dict[str, float]]:
    """{title: {contestant: its time ÷ native's}}."""
    figures = {}
    for count in (1, 100, 1000):
        goals = {"pure": 50.0, "aiokafka": 7.0} if count >= 100 else {}
        rows = {name: call for name, call in contestants(count).items() if "columns" not in name}
        title = f"encode batches of {count} from pairs, a record"
        figures[title] = report(title, rows, count, goals)
    items, target = pairs(1000), bytearray(MANY * 125_000)
    rows = {"native": many_columns("native", items, target), "memcpy": many_memcpy(items, target)}
    title = f"encode {MANY} batches of 1000 from columns, a record"
    figures[title] = report(title, rows, MANY * 1000, {"memcpy": 0.5})
    columns = contestants(1000)
    rows = {"native": columns["native columns"], "pure": columns["pure columns"]}
    title = "encode a batch of 1000 from columns, a record"
    figures[title] = report(title, rows, 1000, {"pure": 50})
    return figures


if __name__ == "__main__":
    main()

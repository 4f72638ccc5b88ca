"""CRC-32C from Python, by size: native, its kernels, pure, and google-crc32c as the peer.

`python -m bench.bench_crc32c` prints the ratios against their goals; `pytest bench/bench_crc32c.py --benchmark-enable
--benchmark-group-by=group` gives every figure, with `--benchmark-disable` a check of the results alone. Aims,
each against the same run: native >= 1.6 x google-crc32c from 4 KiB to 1 MiB and no slower at 64 B, native >= 50 x pure
from 4 KiB on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from bench.interleaved import report
from eventcore._pure import crc32c as pure

Crc32c = Callable[[bytes], int]

SIZES = {"64 B": 64, "512 B": 512, "4 KiB": 4 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20}


def contestants() -> dict[str, Crc32c]:
    """What is installed and built here; a missing one is left out, pure is always there."""
    found: dict[str, Crc32c] = {"pure": pure.crc32c}
    with suppress(ModuleNotFoundError):
        native = import_module("eventcore._native.crc32c")
        found["native"] = native.crc32c
        found |= {f"native-{name}": partial(native.crc32c_with, name) for name in native.available()}
    with suppress(ModuleNotFoundError):
        found["google-crc32c"] = import_module("google_crc32c").value
    return found


CONTESTANTS = contestants()


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_crc32c(benchmark: Any, size: int, name: str) -> None:
    data = random.Random(size).randbytes(size)
    benchmark.group = f"crc32c of {size} B"
    benchmark.extra_info["bytes"] = size
    peer = CONTESTANTS.get("google-crc32c", pure.crc32c)
    assert benchmark(CONTESTANTS[name], data) == peer(data)


def main() -> dict[str, dict[str, float]]:
    names, found = ("native", "google-crc32c", "pure"), {}
    for title, size in SIZES.items():
        data = random.Random(size).randbytes(size)
        goals = {"pure": 50.0, "google-crc32c": 1.0 if size == 64 else 1.6} if size != 512 else {}
        rows = {name: partial(CONTESTANTS[name], data) for name in names if name in CONTESTANTS}
        found[title] = report(f"CRC-32C of {title}, a call", rows, 1, goals)
    return found


if __name__ == "__main__":
    main()

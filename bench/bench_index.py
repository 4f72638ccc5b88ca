"""Look up random offsets in an offset index of 262,144 entries: native, pure, numpy's searchsorted.

`python -m bench.bench_index` prints the ratios against their goals; `pytest bench/bench_index.py --benchmark-enable
--benchmark-group-by=group` gives every figure; with `--benchmark-disable` it is a check of the results alone.
Goals: one look-up a call >= 5 x searchsorted of one; an array of them >= 2 x searchsorted of the array. numpy searches
int64 keys of its own, in the machine's order: it could not search the file.
"""

from __future__ import annotations

import random
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import accumulate, cycle
from typing import Any

import pytest

from bench.interleaved import report

FULL, SMALL = 1 << 18, 1 << 10
TARGETS = 1000
Look = Callable[[], list[int]]


def keys(entries: int) -> list[int]:
    chance = random.Random(19)
    return list(accumulate(chance.randint(1, 50) for _ in range(entries)))


def one_by_one(kind: str, data: bytes, entries: int, groups: Any) -> Look:
    find = import_module(f"eventcore._{kind}.index").find_offset
    return lambda: [found[1] if (found := find(data, entries, target)) else 0 for target in next(groups)]


def all_at_once(kind: str, data: bytes, entries: int, groups: Any) -> Look:
    find, out = import_module(f"eventcore._{kind}.index").find_offsets, array("q", bytes(8 * TARGETS))
    arrays = cycle([array("q", next(groups)) for _ in range(16)])

    def look() -> Any:
        find(data, entries, next(arrays), out)
        return out

    return look


def searchsorted(offsets: list[int], groups: Any, at_once: bool) -> Look:
    import numpy as np

    sorted_keys, search = np.array(offsets), np.searchsorted
    if not at_once:
        return lambda: [search(sorted_keys, target, "right") - 1 for target in next(groups)]
    arrays = cycle([np.array(next(groups)) for _ in range(16)])
    return lambda: search(sorted_keys, next(arrays), "right") - 1


def contestants(entries: int, at_once: bool) -> dict[str, Look]:
    """What is installed and built here; pure is always there. Each call looks up other targets: caches stay honest."""
    offsets = keys(entries)
    data = b"".join(struct.pack(">ii", offset, row) for row, offset in enumerate(offsets))
    chance = random.Random(20)
    groups = [[chance.randint(offsets[0], offsets[-1]) for _ in range(TARGETS)] for _ in range(16)]
    found: dict[str, Look] = {}
    for kind in ("pure", "native"):
        with suppress(ModuleNotFoundError):
            found[kind] = (all_at_once if at_once else one_by_one)(kind, data, entries, cycle(groups))
    with suppress(ModuleNotFoundError):
        found["searchsorted"] = searchsorted(offsets, cycle(groups), at_once)
    found["bisect"] = lambda: [bisect_right(offsets, target) - 1 for target in groups[0]]
    return found


NAMES = list(contestants(1, False))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at_once", [False, True])
def test_index(benchmark: Any, at_once: bool, name: str) -> None:
    entries = FULL if benchmark.enabled else SMALL
    benchmark.group = f"{TARGETS} look-ups, {'at once' if at_once else 'one by one'}"
    expected = contestants(entries, at_once)["bisect"]()
    assert list(contestants(entries, at_once)[name]()) == expected
    benchmark(contestants(entries, at_once)[name])


def main() -> dict[str, dict[str, float]]:
    """{title: {contestant: its time ÷ native's}}."""
    figures = {}
    for at_once, goals in ((False, {"searchsorted": 5.0, "pure": 5.0}), (True, {"searchsorted": 2.0, "pure": 50.0})):
        title = f"look up in {FULL} entries, {'at once' if at_once else 'one a call'}"
        figures[title] = report(title, contestants(FULL, at_once), TARGETS, goals)
    return figures


if __name__ == "__main__":
    main()

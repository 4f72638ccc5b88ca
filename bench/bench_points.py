"""Point reads: what `p[i]` costs in batches of 1, 100, 1,000 and 10,000 records, native beside the reader of ranges.

`python -m bench.bench_points` prints the costs and the ratio of the dearest to the cheapest against its goal;
`pytest bench/bench_points.py` is a check of the results alone. `known` asks for offsets all over a log that was read
from before; `anew` opens the log for each turn, so that its table is empty and the first reads look batches up, check
and take them in. The comparison with other stores is `python -m bench.peers --only point`.
"""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import eventcore as ec

SIZES = (1, 100, 1000, 10_000)
FULL, SMALL = 200_000, 2000
ROUNDS = 7
MOST_SPREAD = 2.0
"""How many times the cost at the cheapest batch size the dearest may cost."""


def written(folder: Path, records: int, size: int) -> Path:
    with ec.open_partition(folder / f"events-{size}", fsync="never") as p:
        for at in range(0, records, size):
            p.extend([(b"key-%06d" % n, b"%0100d" % n) for n in range(at, min(at + size, records))])
    return folder / f"events-{size}"


@contextmanager
def logs(records: int) -> Iterator[dict[int, Path]]:
    """A closed log for each size of batches."""
    with tempfile.TemporaryDirectory(prefix="eventcore-") as folder:
        yield {size: written(Path(folder), records, size) for size in SIZES}


def turn(get: Callable[[int], object], offsets: list[int]) -> float:
    """Seconds a read."""
    start = perf_counter()
    for offset in offsets:
        get(offset)
    return (perf_counter() - start) / len(offsets)


def known(paths: dict[int, Path], records: int, reads: int = 5000) -> dict[int, float]:
    """The median cost of a read by size of batches, where the table has all of the log; sizes take turns."""
    draw, times = random.Random(1), {size: list[float]() for size in paths}
    opened = {size: ec.open_partition(path, "r") for size, path in paths.items()}
    for p in opened.values():
        for offset in range(0, records, 50):
            p.__getitem__(offset)
    for _ in range(ROUNDS):
        for size, p in opened.items():
            times[size].append(turn(p.__getitem__, [draw.randrange(records) for _ in range(reads)]))
    for p in opened.values():
        p.close()
    return {size: median(found) for size, found in times.items()}


def anew(paths: dict[int, Path], records: int, reads: int = 5000) -> dict[int, float]:
    """The same for reads through handles that are opened for them."""
    draw, times = random.Random(2), {size: list[float]() for size in paths}
    for _ in range(ROUNDS):
        for size, path in paths.items():
            with ec.open_partition(path, "r") as p:
                times[size].append(turn(p.__getitem__, [draw.randrange(records) for _ in range(reads)]))
    return {size: median(found) for size, found in times.items()}


def test_points() -> None:
    with logs(SMALL) as paths:
        for path in paths.values():
            with ec.open_partition(path, "r") as p:
                for offset in random.Random(3).sample(range(SMALL), 100):
                    record = p[offset]
                    assert (record.offset, record.value) == (offset, b"%0100d" % offset)
        for figures in (known(paths, SMALL, 10), anew(paths, SMALL, 10)):
            assert all(cost > 0 for cost in figures.values())


def main() -> dict[str, dict[str, float]]:
    """{title: {size of batches: µs a read}}."""
    figures = {}
    gc.disable()
    with logs(FULL) as paths:
        for title, ask in (("known", known), ("anew", anew)):
            costs = ask(paths, FULL)
            figures[title] = {f"{size:,}": cost * 1e6 for size, cost in costs.items()}
            spread = max(costs.values()) / min(costs.values())
            verdict = f"  goal {MOST_SPREAD:g}x: {'met' if spread <= MOST_SPREAD else 'MISSED'}" if ask is known else ""
            print(f"\np[i], {title}: the dearest costs {spread:.2f}x the cheapest{verdict}")
            for size, cost in figures[title].items():
                print(f"  batches of {size:<10} {cost:10.2f} µs")
    gc.enable()
    return figures


if __name__ == "__main__":
    main()

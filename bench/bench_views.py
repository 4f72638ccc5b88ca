"""A view that starts from its checkpoint, beside full replays of its topic.

`python -m bench.bench_views` prints the figures; `pytest bench/bench_views.py` is a check of the results alone. The
view is that of examples/balances.py: 5,000,000 movements of 50,000 accounts in four partitions, 1,000 of them behind
its checkpoint. It is replayed by columns, the fastest way, where an application can fold arrays; and by plain loops
over tuples and over records, in which it can do anything. Every start begins with a closed store, whose files are in
the page cache; opening it and its partitions is timed by itself. The states are compared in every round.

Goals: once the partitions are open, the checkpoint is at least 100 times faster than the replay by columns; opening
included, than the fastest replay by record.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import eventcore as ec
from bench.compare import MEMORY

LEAST = 100
EVENTS, SINCE = 5_000_000, 1_000
_EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "balances.py"
_CONFIG = {"store.housekeeping.enable": False}


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_balances", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


balances: Any = example()


def opened(folder: Path) -> ec.Store:
    return ec.open(folder, fsync="never", config=_CONFIG)


def build(folder: Path, events: int, since: int) -> None:
    """So many movements, a checkpoint, and some that came since."""
    with opened(folder) as store:
        balances.append_movements(store, events)
        checkpoint = store.checkpoint("balances")
        view, count = balances.start(checkpoint)
        assert count == events
        checkpoint.save(view.state)
        balances.append_movements(store, since, seed=1)


def from_checkpoint(store: ec.Store) -> Any:
    return balances.start(store.checkpoint("balances"))[0]


def by_tuples(store: ec.Store) -> Any:
    """As an application folds that looks at every record: into lists, which are faster than arrays at that."""
    totals, counts = [0] * balances.ACCOUNTS, [0] * balances.ACCOUNTS
    number_of = int.from_bytes
    for partition in store.topic(balances.TOPIC):
        for key, value in partition.read_tuples(fields=("key", "value")):
            account = number_of(key, "big")
            totals[account] += number_of(value, "big", signed=True)
            counts[account] += 1
    return balances.Balances(np.array([totals, counts]))


def by_records(store: ec.Store) -> Any:
    totals, counts = [0] * balances.ACCOUNTS, [0] * balances.ACCOUNTS
    number_of = int.from_bytes
    for partition in store.topic(balances.TOPIC):
        for record in partition.read():
            account = number_of(record.key or b"", "big")
            totals[account] += number_of(record.value or b"", "big", signed=True)
            counts[account] += 1
    return balances.Balances(np.array([totals, counts]))


STARTS: dict[str, Callable[[ec.Store], Any]] = {
    "checkpoint": from_checkpoint,
    "replay by columns": balances.replay,
    "replay by tuples": by_tuples,
    "replay by records": by_records,
}


class Took(NamedTuple):
    """Seconds to open the store and its partitions, and from there to the view."""

    opening: float
    view: float

    @property
    def in_all(self) -> float:
        return self.opening + self.view


def start(folder: Path, how: Callable[[ec.Store], Any]) -> tuple[Took, Any]:
    """What it took to get from the closed store to the view, and the view."""
    gc.collect()
    began = perf_counter()
    with opened(folder) as store:
        for partition in store.topic(balances.TOPIC):
            _ = partition.high_watermark
        is_open = perf_counter()
        view = how(store)
        return Took(is_open - began, perf_counter() - is_open), view


def seconds(folder: Path, rounds: int) -> dict[str, Took]:
    """The medians of each, in rounds that take turns. Raises AssertionError if a state differs."""
    times: dict[str, list[Took]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        views = []
        for name, how in STARTS.items():
            took, view = start(folder, how)
            times[name].append(took)
            views.append(view)
        assert all(view == views[0] for view in views)
    return {name: Took(*map(median, zip(*found, strict=True))) for name, found in times.items()}


@pytest.mark.sampled
def test_what_is_measured_is_there(tmp_path: Path) -> None:
    build(tmp_path, 5_000, 100)
    assert all(took.view > 0 for took in seconds(tmp_path, 1).values())


def main() -> None:
    """The figures, and the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.bench_views", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=MEMORY, help="on which file system")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        build(Path(name), options.events, SINCE)
        found = seconds(Path(name), options.rounds)
    print(f"\nStart of a view of {options.events:,} events, {SINCE:,} behind its checkpoint; the states are equal")
    print(f"  {'ms':<20}{'opening':>10}{'view':>10}{'in all':>10}{'view':>10}{'in all':>10}")
    first = found["checkpoint"]
    for name, took in found.items():
        times = "".join(f"{one * 1e3:>10,.1f}" for one in (*took, took.in_all))
        print(f"  {name:<20}{times}{took.view / first.view:>8,.0f} x{took.in_all / first.in_all:>8,.0f} x")
    for text, ratio in (
        ("the view, replayed by columns", found["replay by columns"].view / first.view),
        ("opening included, replayed by tuples", found["replay by tuples"].in_all / first.in_all),
    ):
        print(f"  {text}: {ratio:,.0f} x  goal {LEAST}: {'met' if ratio >= LEAST else 'MISSED'}")


if __name__ == "__main__":
    main()

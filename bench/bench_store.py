"""A store of many partitions: to open, append to all, close and open again; descriptors and disk on the way.

python -m bench.bench_store [--partitions 5000] [--topics 50] [--fsync always] [--folder DIR] [--check]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

import eventcore as ec
from bench.compare import MEMORY

T = TypeVar("T")
MOST_DESCRIPTORS = 1000
MOST_REOPEN_S = 2.0
MOST_UNTOUCHED_BYTES = 64 << 10


class Figures(NamedTuple):
    """What was measured; times in seconds."""

    partitions: int
    create: float
    append: float
    append_again: float
    close: float
    reopen: float
    reopen_read_all: float
    descriptors: int
    untouched_bytes: int
    touched_bytes: int


def timed(act: Callable[[], T]) -> tuple[float, T]:
    """How long it took, and what came of it."""
    started = time.perf_counter()
    found = act()
    return time.perf_counter() - started, found


def descriptors() -> int:
    """How many this process has open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return len(os.listdir(folder))
    return 0


def disk_bytes(folder: Path) -> int:
    """What a folder takes of the disk, itself included."""
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*")))


def append_to_all(store: ec.Store) -> int:
    """A record to each partition; the most descriptors that were open."""
    most = 0
    for name in store.topics:
        for partition in store.topic(name):
            partition.append(b"x" * 100)
        most = max(most, descriptors())
    return most


def measure(folder: Path, partitions: int, topics: int, fsync: str) -> Figures:
    """All of it, in an empty folder."""
    each = partitions // topics
    quiet, before = {"store.housekeeping.enable": False}, descriptors()
    store = ec.open(folder, fsync=fsync, config=quiet)  # type: ignore[arg-type]
    create, _ = timed(lambda: [store.create_topic(f"topic-{number:04}", each) for number in range(topics)])
    untouched = disk_bytes(folder / "topic-0000-0")
    append, most = timed(lambda: append_to_all(store))
    again, more = timed(lambda: append_to_all(store))
    close, _ = timed(store.close)
    touched = disk_bytes(folder / "topic-0000-0")

    def reopen() -> ec.Store:
        found = ec.open(folder, config=quiet)
        assert len(found.topics) == topics
        found.topic("topic-0000")[0].append(b"y")
        return found

    reopened, store = timed(reopen)
    read_all, count = timed(lambda: sum(len(partition) for name in store.topics for partition in store.topic(name)))
    assert count == 2 * each * topics + 1, count
    store.close()
    most = max(most, more) - before
    return Figures(each * topics, create, append, again, close, reopened, read_all, most, untouched, touched)


@pytest.mark.sampled
def test_a_small_store_keeps_its_limits() -> None:
    """The same with few partitions, so that it cannot rot."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        found = measure(Path(folder) / "store", 300, 3, "never")
    assert found.partitions == 300
    if ec.build_info()["kernels"] == "native":  # Python's mmap keeps a descriptor of each map
        assert found.descriptors <= MOST_DESCRIPTORS
    assert found.untouched_bytes <= MOST_UNTOUCHED_BYTES
    assert found.touched_bytes <= MOST_UNTOUCHED_BYTES


def main() -> int:
    """Print the figures; with --check exit 1 if one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=5000)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--fsync", default="always", choices=("always", "interval", "never"))
    parser.add_argument("--folder", type=Path, help="where to put it; default: a temporary folder")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    parent = Path(tempfile.mkdtemp(prefix="bench-store-", dir=arguments.folder))
    try:
        found = measure(parent / "store", arguments.partitions, arguments.topics, arguments.fsync)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    for name, value in found._asdict().items():
        print(f"{name:<16} {value:,.3f}" if isinstance(value, float) else f"{name:<16} {value:,}")
    good = (
        found.descriptors <= MOST_DESCRIPTORS
        and found.reopen <= MOST_REOPEN_S
        and max(found.untouched_bytes, found.touched_bytes) <= MOST_UNTOUCHED_BYTES
    )
    return 0 if good or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())

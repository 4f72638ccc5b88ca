"""Snapshots and restore: how long they take, what they cost on disk, and what appends notice of them.

`python -m bench.bench_snapshot [--gib 10] [--folder D]` prints the figures; `pytest bench/bench_snapshot.py` is a check
of the results alone. Store, snapshots and copies are on one file system, and synced before anything is measured.
Goals: the first snapshot in 2 s, with 1 % more disk at most; a restore, which checks and syncs everything, at no less
than half the speed of `cp -r` and `sync` (the speed beside `cp -r` alone, which leaves what it can in memory, is shown
too); the 99th percentile of an append at most doubled while snapshots are taken, each of them reading the whole store.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np

import eventcore as ec

MOST_SECONDS = 2.0
MOST_DISK = 0.01
LEAST_RESTORE = 0.5
MOST_APPEND = 2.0
GIB = 1 << 30
_CONFIG = {"store.housekeeping.enable": False}
_PARTITIONS = 4
_VALUE = 1000
_A_CALL = 1000


def fill(store: ec.Store, size: int, segment: int = GIB) -> None:
    """About so many bytes, in segments, all of them on the disk."""
    if "records" not in store.topics:
        store.create_topic("records", _PARTITIONS, {"segment.bytes": min(segment, (1 << 31) - 1)})
    values = [(b"key-%06d" % at, os.urandom(_VALUE)) for at in range(_A_CALL)]
    for number in range(_PARTITIONS):
        partition = store.topic("records")[number]
        for _ in range(max(1, size // _PARTITIONS // (_VALUE * _A_CALL))):
            partition.extend(values)
    sync(store.path)


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sync(folder: Path) -> None:
    """As `sync` does it, for this folder alone: others' bytes are not waited for."""
    for path in [*files(folder), *(one for one in folder.rglob("*") if one.is_dir()), folder]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def disk_use(*folders: Path) -> int:
    """Bytes of blocks; those of a file with several names count once."""
    found = {}
    for folder in folders:
        for path in files(folder) if folder.exists() else ():
            status = path.stat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def forget(folder: Path) -> None:
    """Have the system read the files from the disk when they are read next."""
    for path in files(folder):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_through(folder: Path) -> None:
    """Have the system keep the files in memory, as far as there is room."""
    for path in files(folder):
        with path.open("rb", buffering=0) as file:
            while file.read(8 << 20):
                pass


def cached(folder: Path) -> float:
    """What share of the files is in the page cache, as util-linux's fincore finds it; NaN without that."""
    if shutil.which("fincore") is None:
        return math.nan
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *files(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, told.split())) / sum(path.stat().st_size for path in files(folder))


def timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


# -- snapshots -----------------------------------------------------------------------------------------------------


def measure_snapshots(store: ec.Store, place: Path, rounds: int) -> dict[str, float]:
    """Seconds of the first snapshot, warm and cold, and of the next one with 1 % new; and what share of the store the
    first takes of the disk."""
    found: dict[str, list[float]] = {"first": [], "first, cold": [], "next": [], "share": [], "cached": []}
    for _ in range(rounds):
        for name, prepare in (("first, cold", forget), ("first", read_through)):
            shutil.rmtree(place, ignore_errors=True)
            sync(store.path)
            prepare(store.path)
            found["cached"] += [cached(store.path)] if name == "first" else []
            found[name].append(timed(lambda: store.snapshot(place)))
            found["share"].append(disk_use(store.path, place) / disk_use(store.path) - 1)
        fill(store, disk_use(store.path) // 100)
        found["next"].append(timed(lambda: store.snapshot(place)))
    assert ec.snapshots(place).verify(2) == []
    return {name: median(values) for name, values in found.items()}


# -- restore -------------------------------------------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def copy_synced(source: Path, target: Path) -> None:
    """Until the copy is on the disk, as a restored store is."""
    copy(source, target)
    sync(target)


def measure_restore(store: Path, place: Path, ground: Path, rounds: int, *, warm: bool) -> dict[str, float]:
    """Seconds of a restore, and of copies of the same bytes. `warm`: what is read is in memory, if it fits."""
    contestants: dict[str, Callable[[Path], object]] = {
        "restore": lambda target: ec.restore(place, target),
        "cp -r, sync": lambda target: copy_synced(store, target),
        "cp -r": lambda target: copy(store, target),
    }
    found: dict[str, list[float]] = {name: [] for name in [*contestants, "cached"]}
    for _ in range(rounds):
        for name, call in contestants.items():
            target = ground / "copy"
            (read_through if warm else forget)(store)
            found["cached"].append(cached(store))
            found[name].append(timed(lambda call=call, target=target: call(target)))  # type: ignore[misc]
            sync(target)  # nobody pays for writing another's bytes
            shutil.rmtree(target)
    return {name: median(values) for name, values in found.items()}


# -- appends -------------------------------------------------------------------------------------------------------


@contextmanager
def snapshots_meanwhile(store: ec.Store, place: Path) -> Iterator[list[int]]:
    """One after the other, each the first at its place: so each reads the store. How many there were."""
    stop, taken = threading.Event(), [0]

    def work() -> None:
        while not taken[0] or not stop.is_set():
            shutil.rmtree(place, ignore_errors=True)
            store.snapshot(place)
            taken[0] += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield taken
    finally:
        stop.set()
        worker.join()


def append_p99(partition: ec.Partition, seconds: float) -> float:
    times, end = [], perf_counter() + seconds
    while not times or perf_counter() < end:
        for _ in range(100):
            start = perf_counter()
            partition.append(b"v" * 100, b"key")
            times.append(perf_counter() - start)
        sleep(0.001)
    return float(np.percentile(times, 99))


def measure_appends(store: ec.Store, place: Path, rounds: int, seconds: float) -> dict[str, float]:
    """The 99th percentile of an append by itself, and beside snapshots."""
    if "appended" not in store.topics:
        store.create_topic("appended", 1)
    partition = store.topic("appended")[0]
    found: dict[str, list[float]] = {"alone": [], "beside snapshots": []}
    append_p99(partition, seconds / 4)
    for _ in range(rounds):
        found["alone"].append(append_p99(partition, seconds))
        with snapshots_meanwhile(store, place) as taken:
            found["beside snapshots"].append(append_p99(partition, seconds))
        assert taken[0]
    return {name: median(values) for name, values in found.items()}


# -- all of it -----------------------------------------------------------------------------------------------------


def line(text: str, figure: str, goal: str = "", met: bool = True) -> None:
    verdict = f"  goal {goal}: {'met' if met else 'MISSED'}" if goal else ""
    print(f"  {text:<58}{figure:>12}{verdict}")


def measure(ground: Path, size: int, segment: int = GIB, rounds: int = 3, seconds: float = 4.0) -> dict[str, float]:
    """All figures of a store of so many bytes, printed."""
    path, place = ground / "store", ground / "kept"
    figures: dict[str, float] = {}
    with ec.open(path, fsync="never", config=_CONFIG) as store:
        fill(store, size, segment)
        figures |= measure_snapshots(store, place, rounds)
        full = disk_use(path)
        print(f"\nSnapshots of {full / GIB:.2f} GiB, segments of {segment / GIB:g} GiB; medians of {rounds} rounds")
        first, share = figures["first"], figures["share"]
        text = f"first snapshot, {figures['cached']:.0%} of the files in the page cache"
        line(text, f"{first:.2f} s", f"{MOST_SECONDS:g} s", first <= MOST_SECONDS)
        line("  what it takes of the disk", f"{share:.4%}", f"{MOST_DISK:.0%}", share <= MOST_DISK)
        line("first snapshot, nothing cached", f"{figures['first, cold']:.2f} s")
        line("next snapshot, 1 % new", f"{figures['next']:.2f} s")
        shutil.rmtree(place)
        store.snapshot(place)
    for warm in (True, False):
        found = measure_restore(path, place, ground, rounds, warm=warm)
        print(f"Restore, all CRCs checked, all files synced; {found.pop('cached'):.0%} of the files cached before")
        for name, taken in found.items():
            line(name, f"{taken:.2f} s")
        ratio = found["cp -r, sync"] / found["restore"]
        line("speed beside cp -r, sync", f"{ratio:.2f}", f"{LEAST_RESTORE:g}", ratio >= LEAST_RESTORE)
        line("speed beside cp -r", f"{found['cp -r'] / found['restore']:.2f}")
        figures |= {f"{name}, {'warm' if warm else 'cold'}": taken for name, taken in found.items()}
    print("99th percentile of an append")
    for mode in ("never", "always"):
        with ec.open(path, fsync=mode, config=_CONFIG) as store:  # type: ignore[arg-type]
            read_through(path)
            found = measure_appends(store, place, rounds, seconds)
        ratio = found["beside snapshots"] / found["alone"]
        for name, taken in found.items():
            line(f'fsync="{mode}", {name}', f"{taken * 1e6:.1f} µs")
        line("  ratio", f"{ratio:.2f}", f"{MOST_APPEND:g}", ratio <= MOST_APPEND)
        figures[f"append, {mode}"] = ratio
    return figures


def test_what_is_measured_is_there(tmp_path: Path) -> None:
    found = measure(tmp_path, 4 << 20, 1 << 20, rounds=1, seconds=0.05)
    assert min(found[name] for name in ("first", "first, cold", "next", "restore, warm", "append, never")) > 0


def main() -> None:
    """The figures, and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is measured; the current folder")
    options = parser.parse_args()
    folder = options.folder or Path.cwd()
    if shutil.disk_usage(folder).free < 3 * options.gib * GIB:  # the store, one copy, and as much room for the disk
        sys.exit(f"three times {options.gib:g} GiB must be free in {folder}")
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-", dir=folder) as name:
        measure(Path(name), int(options.gib * GIB), rounds=options.rounds)


if __name__ == "__main__":
    main()

"""Compaction beside a plain Python loop over aiokafka's Cython reader and builder with a dict, in the same run.

`python -m bench.bench_compaction` runs all of it: 8,000,000 records of 120 bytes (about 1 GB in memory, twice),
10,000,000 keys, appends meanwhile. The loop and the engine read the same log. Ratios are of processor time, which other
work on the machine disturbs less than the clock; that stands beside it. The engine's time is all of `compact`: both
passes, every dropped key compared, indexes, seals and the swap. `pytest bench/bench_compaction.py` runs a tiny version.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from tests.parity.twins import load

RECORDS, KEYS = 8_000_000, 10_000_000
BATCH = 1000
GOALS = {0.1: 12.0, 0.5: 8.0}
MAP_GOAL, PURE_GOAL, BYTES_GOAL, EXTRA_GOAL, APPEND_GOAL = 10.0, 50.0, 22.0, 64 << 20, 2.0
VALUE = b"v" * 98
CONFIG = {"cleanup.policy": "compact", "segment.bytes": (1 << 30) + (1 << 29), "file.delete.delay.ms": 0}
SEED = 7


def fill(folder: Path, records: int, share: float) -> None:
    """A log of records with 10-byte keys, of which a `share` is distinct, in batches of 1,000."""
    ids = np.random.default_rng(SEED).integers(0, max(int(records * share), 1), records)
    with ec.open_partition(folder, fsync="never", config=CONFIG) as partition:
        for start in range(0, records, BATCH):
            partition.extend([(b"%010d" % key, VALUE) for key in ids[start : start + BATCH].tolist()])
        partition.roll()


def python_loop(folder: Path) -> bytearray:
    """What one writes without an engine: two passes, a dict, whole batches rebuilt."""
    from aiokafka.record._crecords.default_records import (  # type: ignore[import-not-found]
        DefaultRecordBatchBuilder,
    )
    from aiokafka.record.memory_records import MemoryRecords

    data, latest, out = (folder / "0".zfill(20)).with_suffix(".log").read_bytes(), {}, bytearray()
    read = MemoryRecords(data)
    while read.has_next():
        batch = read.next_batch()
        assert batch.validate_crc()
        for record in batch:
            latest[record.key] = record.offset
    read = MemoryRecords(data)
    while read.has_next():
        batch = read.next_batch()
        builder, base, count = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 24), batch.base_offset, 0
        for record in batch:
            if latest[record.key] == record.offset:
                builder.append(record.offset - base, record.timestamp, record.key, record.value, record.headers)
                count += 1
        if count:
            out += builder.build()
    return out


def measured(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """(processor seconds, seconds, result)."""
    wall, start = time.perf_counter(), time.process_time()
    result = call()
    return time.process_time() - start, time.perf_counter() - wall, result


def compacted(folder: Path, copy: Path, map_bytes: int = 512 << 20) -> tuple[float, float, ec.CompactionReport]:
    """Compact a copy of the folder."""
    shutil.copytree(folder, copy)
    try:
        with ec.open_partition(copy, fsync="never", config=CONFIG) as partition:
            processor, wall, report = measured(lambda: partition.compact(map_bytes=map_bytes))
            return processor, wall, report
    finally:
        shutil.rmtree(copy)


def compare(place: Path, records: int, share: float, rounds: int = 3) -> dict[str, float]:
    """Seconds of both, in turns; medians."""
    folder = place / f"log-{share}-0"
    fill(folder, records, share)
    ours, theirs = [], []
    for number in range(rounds):
        ours.append(compacted(folder, place / f"copy-{number}-0"))
        theirs.append(measured(lambda: python_loop(folder)))
        if share == max(GOALS) and number:
            break  # it takes minutes
    report = ours[0][2]
    assert report.records_before == records
    assert abs(report.bytes_after - len(theirs[0][2])) < report.bytes_after / 50
    shutil.rmtree(folder)
    engine, loop = (statistics.median(one[0] for one in found) for found in (ours, theirs))
    walls = [statistics.median(one[1] for one in found) for found in (ours, theirs)]
    size = report.bytes_before
    print(
        f"\ncompact {records:,} records, {share:.0%} distinct: {engine:.2f} s ({size / engine / 1e6:,.0f} MB/s), "
        f"the loop {loop:.2f} s; by the clock {walls[0]:.2f} and {walls[1]:.2f}"
    )
    return {f"loop, {share:.0%} distinct": verdict(loop / engine, GOALS[share])}


def verdict(ratio: float, goal: float) -> float:
    """Say whether a goal was met."""
    print(f"  {ratio:.1f}x, goal {goal:g}x: {'met' if ratio >= goal else 'MISSED'}")
    return ratio


def keyed_log(keys: int) -> bytearray:
    """Batches of records with distinct keys of 16 bytes and empty values."""
    out, at = bytearray(keys * 32 + keys // BATCH * 80 + 100), 0
    for start in range(0, keys, BATCH):
        items = [(b"%016x" % (key * 0x9E3779B97F4A7C15 % (1 << 64)), b"") for key in range(start, start + BATCH)]
        at, _, _ = kernels.encode.encode(out, at, len(out), items, 0, start, 0, 0, 1, -1, -1, -1)
    del out[at:]
    return out


def mapped(log: bytearray, keys: int, kind: Any = kernels) -> Any:
    """The offset map of a log, with its CRCs and records checked on the way."""
    found = kind.offset_map.OffsetMap(keys * 4 // 3 + 2, 0, b"secret of a map!")
    assert found.map_batches(found.attach(log), 0, len(log), 0, 7) == len(log)
    assert len(found) == keys
    return found


def compare_maps(keys: int) -> dict[str, float]:
    """The map beside a dict that gets the same keys, which exist already."""
    log = keyed_log(keys)
    names = [b"%016x" % (key * 0x9E3779B97F4A7C15 % (1 << 64)) for key in range(keys)]

    def fill_dict() -> dict[bytes, int]:
        found = {}
        for offset, key in enumerate(names):
            found[key] = offset
        return found

    ours, theirs = [], []
    for _ in range(3):
        processor, _, found = measured(lambda: mapped(log, keys))
        ours.append(processor)
        per_key = found.memory / keys
        del found
        theirs.append(measured(fill_dict)[0])
    engine, loop = statistics.median(ours), statistics.median(theirs)
    rates = f"{keys / engine / 1e6:.1f} M/s, {per_key:.1f} bytes a key; dict {keys / loop / 1e6:.2f} M/s"
    print(f"\nmap {keys:,} keys: {rates}")
    print(f"  goal {BYTES_GOAL:g} bytes a key: {'met' if per_key <= BYTES_GOAL else 'MISSED'}")
    return {"dict": verdict(loop / engine, MAP_GOAL), "bytes a key": per_key}


def compare_kernels(records: int) -> dict[str, float]:
    """Native beside pure: both halves of a compaction of one log in memory."""
    rng = np.random.default_rng(SEED)
    log, at = bytearray(records * 130), 0
    for start in range(0, records, BATCH):
        items = [(b"%010d" % key, VALUE) for key in rng.integers(0, records // 10 + 1, BATCH).tolist()]
        at, _, _ = kernels.encode.encode(log, at, len(log), items, 0, start, 0, 0, 1, -1, -1, -1)
    del log[at:]
    times = {}
    for kind in (load("native"), load("pure")):
        if kind is None:
            return {}
        times[kind.kind] = measured(lambda kind=kind: clean_all(kind, log, records))[0]  # type: ignore[misc]
    print(f"\nboth kernels, {records:,} records: native {times['native'] * 1e3:.1f} ms, pure {times['pure']:.2f} s")
    return {"pure": verdict(times["pure"] / times["native"], PURE_GOAL)}


def clean_all(kind: SimpleNamespace, log: bytearray, records: int) -> int:
    """Map and clean a log; the bytes that are left."""
    found = kind.offset_map.OffsetMap(records, 0, b"secret of a map!")
    ordinal = found.attach(log)
    found.map_batches(ordinal, 0, len(log), 0, 7)
    cleaner, out, position = kind.clean.Cleaner(found, 0, 1, b""), bytearray(1 << 20), 0
    cleaner.begin(0, 4096, (1 << 31) - 1)
    while position < len(log):
        position, _, _ = cleaner.clean(log, ordinal, position, len(log), out, 0, 7)
    return int(cleaner.size)


def anonymous() -> int:
    """Bytes of memory of this process that no file stands behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def slots_for(keys: int) -> int:
    """Bytes of the map's slots once it has grown to so many keys: a power of two, at most three quarters full."""
    slots = 1 << 12
    while slots - slots // 4 < keys:
        slots *= 2
    return slots * kernels.offset_map.SLOT_SIZE


def measure_memory(place: Path, records: int) -> dict[str, float]:
    """The most memory that a compaction has beside its offset map; half of the records have a key of their own."""
    if not Path("/proc/self/status").exists():
        return {}
    folder, most = place / "memory-0", 0
    fill(folder, records, 0.5)
    with ec.open_partition(folder, fsync="never", config=CONFIG) as partition:
        before, reports = anonymous(), list[ec.CompactionReport]()
        worker = threading.Thread(target=lambda: reports.append(partition.compact(map_bytes=512 << 20)))
        worker.start()
        while worker.is_alive():
            most = max(most, anonymous())
            time.sleep(0.002)
    shutil.rmtree(folder)
    extra = most - before - slots_for(reports[0].records_after)
    print(f"\na compaction takes {extra / (1 << 20):.0f} MiB beside its map of {reports[0].records_after:,} keys")
    print(f"  goal {EXTRA_GOAL >> 20} MiB: {'met' if extra <= EXTRA_GOAL else 'MISSED'}")
    return {"extra bytes": float(extra)}


def compare_appends(place: Path, records: int) -> dict[str, float]:
    """The 99th percentile of an append with and without a compaction in another thread."""
    folder = place / "busy-0"
    fill(folder, records, 0.1)
    with ec.open_partition(folder, fsync="never", config=CONFIG) as partition:
        quiet = _append_p99(partition, lambda: time.perf_counter() < stop) if (stop := time.perf_counter() + 2) else 0
        worker = threading.Thread(target=lambda: partition.compact(map_bytes=512 << 20))
        worker.start()
        busy = _append_p99(partition, worker.is_alive)
        worker.join()
    print(f"\nan append, 99th percentile: {quiet * 1e6:.1f} µs, while it compacts {busy * 1e6:.1f} µs")
    print(f"  {busy / quiet:.2f}x, goal {APPEND_GOAL:g}x: {'met' if busy / quiet <= APPEND_GOAL else 'MISSED'}")
    return {"append p99": busy / quiet}


def _append_p99(partition: ec.Partition, goes_on: Callable[[], bool]) -> float:
    times: list[float] = []
    while not times or goes_on():  # what goes on may have ended before the first one
        for _ in range(100):
            start = time.perf_counter()
            partition.append(VALUE, b"key")
            times.append(time.perf_counter() - start)
        time.sleep(0.001)
    return float(np.percentile(times, 99))


def main(records: int = RECORDS, keys: int = KEYS, pure: int = 20_000) -> dict[str, float]:
    """Measure everything."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-", dir=memory if memory.is_dir() else None) as name:
        place = Path(name)
        found = compare_kernels(pure) | compare_maps(keys)
        for share in GOALS:
            found |= compare(place, records, share)
        return found | measure_memory(place, records // 4) | compare_appends(place, records // 4)


def test_a_tiny_one(tmp_path: Path) -> None:
    fill(tmp_path / "log-0", 20_000, 0.1)
    _, _, report = compacted(tmp_path / "log-0", tmp_path / "copy-0")
    assert report.records_before == 20_000
    assert 1_900 < report.records_after <= 2_000
    pytest.importorskip("aiokafka", reason="pip install aiokafka")
    assert abs(len(python_loop(tmp_path / "log-0")) - report.bytes_after) < report.bytes_after / 50


@pytest.mark.sampled
@pytest.mark.parametrize("part", ["keys", "kernels", "memory", "appends"])
def test_tiny_parts(tmp_path: Path, part: str) -> None:
    if part == "keys":
        assert compare_maps(10_000)["bytes a key"] <= BYTES_GOAL
    elif part == "kernels":
        compare_kernels(2_000)
    elif part == "memory":
        assert measure_memory(tmp_path, 20_000).get("extra bytes", 0) <= EXTRA_GOAL
    else:
        compare_appends(tmp_path, 8_000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--keys", type=int, default=KEYS)
    main(**vars(parser.parse_args()))

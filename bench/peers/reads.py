"""Reading what was written: scans, random reads by offset, bytes on disk, opening."""

from __future__ import annotations

import random
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import eventcore as ec
from bench.peers.answers import Answer, Measure
from bench.peers.records import batches
from bench.peers.rounds import Ground, ask, seconds, warm
from bench.peers.stores import PEERS, EventCore, Lmdb, Store, installed, size_on_disk

_NEW = "not available in this version"
_STEP = 50_000
"""Records that a scan to columns takes in one call: their arrays stay in the caches."""


def _peers() -> tuple[list[type[Store]], dict[str, str]]:
    here = [store for store in PEERS if installed(store.name)]
    return here, {store.name: "not installed" for store in PEERS if store not in here}


def written(ground: Ground, store: type[Store], size: int = 1000) -> Path:
    """The closed log of a store, written in batches of `size`; kept for the next question."""
    key = (store.name, size)
    if key not in ground.logs:
        folder = ground.logs[key] = ground.new()
        log = store(folder)
        for batch in batches(ground.scale.records, size):
            log.append_one(batch.values[0], batch.keys[0]) if size == 1 else log.append_batch(batch)
        log.close()
    return ground.logs[key]


def _drain(ground: Ground, rows: Any) -> None:
    """Take every row, as a loop that does nothing would, only faster; see that it was the last one."""
    assert deque(rows, maxlen=1)[0][0] == ground.scale.records - 1


def scan(ground: Ground) -> Iterator[Answer]:
    """Everything in order: by handles that are new in each round, so that eventcore has not checked a CRC before and
    no store has anything in memory of its own; and by handles that have read it all before.
    """
    readers, missing = _readers(ground)
    new = {who: partial(_scan_anew, ground, *reader) for who, reader in readers.items()}
    yield ask("scan", "Scan all records, newly opened", "rate", new, ground.scale.rounds, missing)
    with ExitStack() as stack:
        again: dict[str, Measure] = {}
        for who, (opened, way) in readers.items():
            handle = opened()
            stack.callback(handle.close)
            way(handle)
            again[who] = partial(_scan_again, ground, handle, way)
        yield ask("scan-again", "Scan all records again", "rate", again, ground.scale.rounds, missing)


Reader = tuple[Callable[[], Any], Callable[[Any], object]]
"""(open it, read all of it)"""


def _readers(ground: Ground) -> tuple[dict[str, Reader], dict[str, str]]:
    """Every way to scan that there is here, and the others with the reason."""
    here, missing = _peers()
    ways: dict[str, tuple[str, Callable[[Any], object]]] = {
        "tuples": ("read_tuples", lambda p: _drain(ground, p.read_tuples(0))),
        "Records": ("read", lambda p: _drain(ground, p.read(0))),
        "lazy records": ("read_lazy", lambda p: deque(p.read_lazy(0), maxlen=0)),
        "lazy records, values taken": ("read_lazy", lambda p: deque((row.value for row in p.read_lazy(0)), maxlen=0)),
        "columns": ("columns", _all_columns),
        "columns, all in one call": ("columns", lambda p: len(p.columns())),
    }
    open_log = partial(ec.open_partition, written(ground, EventCore) / "log-0", "r")
    readers: dict[str, Reader] = {}
    for name, (method, way) in ways.items():
        if hasattr(ec.Partition, method):
            readers[f"eventcore, {name}"] = open_log, way
        else:
            missing[f"eventcore, {name}"] = _NEW
    for store in here:
        readers[store.name] = partial(store, written(ground, store)), lambda log: _drain(ground, log.scan())
    return readers, missing


def _all_columns(partition: Any) -> None:
    total = len(partition)
    assert sum(len(partition.columns(at, min(at + _STEP, total))) for at in range(0, total, _STEP)) == total


def _scan_anew(ground: Ground, opened: Callable[[], Any], way: Callable[[Any], object]) -> float:
    handle = opened()
    try:
        return _scan_again(ground, handle, way)
    finally:
        handle.close()


def _scan_again(ground: Ground, handle: Any, way: Callable[[Any], object]) -> float:
    warm(ground.scale.segment)
    return seconds(lambda: way(handle)) / ground.scale.records


def point_reads(ground: Ground) -> Iterator[Answer]:
    """One record by its offset, at random. Only eventcore's cost may depend on the size of the batches."""
    here, missing = _peers()
    with ExitStack() as stack:
        peers: dict[str, Measure] = {}
        for store in here:
            log = store(written(ground, store))
            stack.callback(log.close)
            peers[store.name] = _gets(ground, log.get)
            if isinstance(log, Lmdb):
                get, end = log.getter()
                stack.callback(end)
                peers["lmdb, one transaction"] = _gets(ground, get)
        for size in (1, 100, 1000, 10_000):
            with ec.open_partition(written(ground, EventCore, size) / "log-0", "r") as partition:
                turns = {"eventcore": _gets(ground, partition.__getitem__, size), **peers}
                title = f"Read a random record, written in batches of {size:,}"
                yield ask(f"point-{size}", title, "time", turns, ground.scale.rounds, missing)


def _gets(ground: Ground, get: Callable[[int], Any], size: int = 100) -> Measure:
    """Every contestant reads the same offsets, others in each round; all have read from all over the log before,
    eventcore from each of the larger batches.
    """
    draw, count, total = random.Random(1), ground.scale.reads, ground.scale.records
    for offset in range(0, total, max(size, 100)):
        get(offset)

    def measure() -> float:
        offsets = [draw.randrange(total) for _ in range(count)]

        def work() -> None:
            for offset in offsets:
                get(offset)

        return seconds(work) / count

    return measure


def disk(ground: Ground) -> Iterator[Answer]:
    """Bytes a record after closing. What the peers take does not depend on the size of the batches."""
    here, missing = _peers()
    count = ground.scale.records
    for size in (1, 100, 1000):
        folders = {"eventcore": written(ground, EventCore, size), **{p.name: written(ground, p) for p in here}}
        costs = {name: [size_on_disk(folder) / count] for name, folder in folders.items()}
        title = f"Bytes on disk of a record, written in batches of {size:,}"
        yield Answer(f"disk-{size}", title, "bytes", costs, missing)


def opening(ground: Ground) -> Iterator[Answer]:
    """Open for writing after a clean close: the logs of the other questions, and a large one."""
    here, missing = _peers()
    size = min(ground.scale.large_log, shutil.disk_usage(ground.path).free // 3)
    with ground.fresh() as large:
        _write_large(large, size)
        turns: dict[str, Measure] = {
            "eventcore, the large log": partial(_open, EventCore, large),
            "eventcore": partial(_open, EventCore, written(ground, EventCore)),
        }
        turns |= {store.name: partial(_open, store, written(ground, store)) for store in here}
        title = f"Open after a clean close: {ground.scale.records:,} records; the large log has {size / 2**20:,.0f} MiB"
        yield ask("open", title, "time", turns, ground.scale.rounds, missing)


def _write_large(folder: Path, size: int) -> None:
    """A log of `size` bytes in segments of 1 GiB, in batches of 1 MB."""
    records = [bytes(10_000)] * 100
    with ec.open_partition(folder / "log-0", "rw", "never", {"segment.bytes": 1 << 30}) as partition:
        for _ in range(size // 1_000_000 + 1):
            partition.extend(records)


def _open(store: type[Store], folder: Path) -> float:
    opened: list[Store] = []
    try:
        return seconds(lambda: opened.append(store(folder)))
    finally:
        opened[0].close()

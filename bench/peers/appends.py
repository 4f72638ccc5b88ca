"""Appending: how many records a second, in batches and one a call, on present and on new pages, and from columns."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import eventcore as ec
from bench.bench_partition import Columns
from bench.peers.answers import Answer, Measure
from bench.peers.records import Batch, batches, now_ms
from bench.peers.rounds import Ground, ask, seconds, warm
from bench.peers.stores import PEERS, EventCore, SqliteOff, Store, installed
from eventcore import _kernels as kernels

_BYTES_A_RECORD = 300
"""Page cache and heap that the hungriest store makes new for one record."""
_NEW = "not available in this version"
Opened = Callable[[Path], Store]


def steady(ground: Ground, folder: Path, durable: bool = False) -> EventCore:
    """eventcore with the pages of its segment present."""
    return EventCore(folder, durable, segment_bytes=ground.scale.segment, preallocate=True)


def _contestants() -> tuple[dict[str, Opened], dict[str, str]]:
    """The peers that are here, the others with the reason. eventcore is added by each question."""
    stores = [*PEERS, SqliteOff]
    here: dict[str, Opened] = {store.name: store for store in stores if installed(store.name)}
    return here, {store.name: "not installed" for store in stores if store.name not in here}


def _turn(ground: Ground, opened: Opened, work: Callable[[Store], tuple[float, int]], count: int) -> float:
    """Seconds a record of `work` on a fresh store."""
    with ground.fresh() as folder:
        warm(count * _BYTES_A_RECORD + ground.scale.segment)
        store = opened(folder)
        try:
            taken, records = work(store)
        finally:
            store.close()
    return taken / records


def _in_batches(count: int, size: int, before: int) -> Callable[[Store], tuple[float, int]]:
    """Time `count` records in batches of `size`, after `before` others that are not timed."""
    first, then = batches(before, size), batches(count, size)

    def work(store: Store) -> tuple[float, int]:
        append = store.append_batch
        for batch in first:
            append(batch)
        return seconds(lambda: [append(batch) for batch in then]), len(then) * size

    return work


def _one_by_one(count: int, before: int) -> Callable[[Store], tuple[float, int]]:
    """Time `count` calls with one record each, after `before` others."""

    def work(store: Store) -> tuple[float, int]:
        append = store.append_one
        pairs = [pair for batch in batches(count + before, 1000) for pair in batch.pairs]

        def all_of(pairs: list[tuple[bytes, bytes]]) -> None:
            for key, value in pairs:
                append(value, key)

        all_of(pairs[:before])
        return seconds(lambda: all_of(pairs[before : before + count])), count

    return work


def appends(ground: Ground) -> Iterator[Answer]:
    """In batches and one by one, steady; batches of 1,000 into a cold segment, too."""
    scale = ground.scale
    count, warm_up = scale.records, scale.records // 10
    works = {
        "append-1000": ("Append batches of 1,000, steady", _in_batches(count, 1000, warm_up)),
        "append-1000-cold": ("Append batches of 1,000 into new files", _in_batches(count, 1000, 0)),
        "append-100": ("Append batches of 100, steady", _in_batches(count, 100, warm_up)),
        "append-1": ("Append one record a call, steady", _one_by_one(scale.singles, scale.singles // 10)),
    }
    for name, (title, work) in works.items():
        peers, missing = _contestants()
        stores = {"eventcore": EventCore if name.endswith("cold") else partial(steady, ground), **peers}
        turns: dict[str, Measure] = {who: partial(_turn, ground, opened, work, count) for who, opened in stores.items()}
        yield ask(name, title, "rate", turns, scale.rounds, missing)


def columns_in(ground: Ground) -> Iterator[Answer]:
    """Columns of 1,000 records: eventcore, a bare copy of the bytes, and Arrow's own stream format."""
    count = ground.scale.records
    parts = {id(batch): batch for batch in batches(count, 1000)}
    columns = {key: Columns(batch.pairs) for key, batch in parts.items()}
    order = [columns[id(batch)] for batch in batches(count, 1000)]
    turns: dict[str, Measure] = {}
    missing = {}
    with ExitStack() as stack:
        if hasattr(ec.Partition, "extend_columns"):
            turns["eventcore"] = partial(_turn, ground, partial(steady, ground), partial(_extend_columns, order), count)
        else:
            missing["eventcore"] = _NEW
        turns["memcpy"] = _memcpy(stack.enter_context(ground.fresh()), order)
        turns["memcpy, a key or value at a time"] = _memcpy(stack.enter_context(ground.fresh()), order, in_parts=True)
        try:
            turns["pyarrow IPC"] = _arrow_stream(ground, list(parts.values()), len(order))
            turns["pyarrow IPC, present pages"] = _arrow_stream(ground, list(parts.values()), len(order), present=True)
        except ImportError:
            missing["pyarrow IPC"] = "not installed"
        yield ask("columns-in", "Columns in, 1,000 records a call", "rate", turns, ground.scale.rounds, missing)


def _extend_columns(order: list[Columns], store: Any) -> tuple[float, int]:
    extend = store.partition.extend_columns

    def work() -> None:
        for columns in order:
            extend(columns.values, columns.keys)

    extend(order[0].values, order[0].keys)  # the first append of a log writes its leader epoch, too
    return seconds(work), len(order) * 1000


def _memcpy(folder: Path, order: list[Columns], in_parts: bool = False) -> Measure:
    """Keys and values, end to end, into a mapped file whose pages are present: no framing, no CRC. A batch is one copy;
    or, `in_parts`, a copy each key and value, record by record, in one call of a kernel.
    """
    size = sum(len(columns.keys[0]) + len(columns.values[0]) for columns in order)
    with (folder / "memcpy").open("w+b") as file:
        os_file = file.fileno()
        file.truncate(size)
        target = mmap.mmap(os_file, size)
    target[::4096] = bytes(len(range(0, size, 4096)))
    payload = [columns.keys[0] + columns.values[0] for columns in order]

    def work() -> None:
        at = 0
        for data in payload:
            target[at : at + len(data)] = data
            at += len(data)

    def work_in_parts() -> None:
        at, copy_parts = 0, kernels.gather.copy_parts
        for data, (positions, lengths) in zip(payload, parts, strict=True):
            at += copy_parts(data, positions, lengths, view[at : at + len(data)])

    view, parts = memoryview(target), [_interleaved(columns) for columns in order] if in_parts else []
    return lambda: seconds(work_in_parts if in_parts else work) / (len(order) * 1000)


def _interleaved(columns: Columns) -> tuple[Any, Any]:
    """Where the parts of key 0, value 0, key 1, ... lie in the keys with the values behind them: positions, lengths."""
    keys, values = (np.asarray(offsets) for _, offsets in (columns.keys, columns.values))
    positions = np.stack([keys[:-1], values[:-1] + len(columns.keys[0])], 1).reshape(-1)
    return positions, np.stack([np.diff(keys), np.diff(values)], 1).reshape(-1)


def _arrow_stream(ground: Ground, parts: list[Batch], count: int, present: bool = False) -> Measure:
    """`write_batch` of ready record batches: into a new file, or into the mapping of one whose pages are present."""
    pa = import_module("pyarrow")
    ready = []
    for batch in parts:
        offsets, times = range(len(batch.keys)), [now_ms()] * len(batch.keys)
        arrays = [pa.array(offsets, pa.int64()), pa.array(times, pa.int64()), pa.array(batch.keys, pa.binary())]
        ready.append(pa.record_batch([*arrays, pa.array(batch.values, pa.binary())], ["offset", "ts", "key", "value"]))
    order = [ready[number % len(ready)] for number in range(count)]

    def write(sink: Any) -> None:
        with pa.ipc.new_stream(sink, ready[0].schema) as writer:
            for batch in order:
                writer.write_batch(batch)

    def measure() -> float:
        with ground.fresh() as folder:
            path = str(folder / "log.arrows")
            warm(count * 1000 * _BYTES_A_RECORD)
            if present:
                with pa.OSFile(path, "wb") as sink:
                    write(sink)
            with pa.memory_map(path, "r+") if present else pa.OSFile(path, "wb") as sink:
                return seconds(lambda: write(sink)) / (count * 1000)

    return measure

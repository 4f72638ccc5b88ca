"""Durable appends: every batch on stable storage before the call returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.bench_durable import appends
from bench.bench_encode import engine, pairs
from bench.peers.answers import Answer, Measure
from bench.peers.appends import steady
from bench.peers.records import batches
from bench.peers.rounds import Ground, ask, seconds, warm
from bench.peers.stores import PEERS, EventCore, Store, installed

THREADS = 32
_FEWER = {1: 1, 100: 4, 1000: 8}
"""Of large batches fewer are written in a turn."""
MACHINE = "the machine (pwrite, O_DSYNC)"


def durable(ground: Ground) -> Iterator[Answer]:
    """Batches of 1, 100 and 1,000, from one thread. The stores stay open, and grow, from round to round."""
    peers = [store for store in PEERS if installed(store.name)]
    missing = {store.name: "not installed" for store in PEERS if store not in peers}
    for size, fewer in _FEWER.items():
        commits = max(ground.scale.commits // fewer, 2)
        with ExitStack() as stack:
            folder = stack.enter_context(ground.fresh())
            turns: dict[str, Measure] = {}
            for name, opened in {"eventcore": partial(steady, ground), **{peer.name: peer for peer in peers}}.items():
                path = folder / name
                path.mkdir()
                store: Store = opened(path, durable=True)
                stack.callback(store.close)
                turns[name] = partial(_commit, ground, store, size, commits)
                turns[name]()  # the first commits make files and grow them
            turns[MACHINE] = _raw(ground, folder / "raw", size, commits, stack)
            title = f"Durable batches of {size:,}" if size > 1 else "Durable, one record a call"
            yield ask(f"durable-{size}", title, "rate", turns, ground.scale.rounds, missing)


def _commit(ground: Ground, store: Store, size: int, commits: int) -> float:
    """Seconds a record."""
    ready = batches(commits * size, size)
    warm(ground.scale.segment)

    def work() -> None:
        for batch in ready:
            store.append_batch(batch)

    def one_by_one() -> None:
        for batch in ready:
            store.append_one(batch.values[0], batch.keys[0])

    return seconds(one_by_one if size == 1 else work) / (commits * size)


def _raw(ground: Ground, path: Path, size: int, commits: int, stack: ExitStack) -> Measure:
    """The same bytes into blocks that were written before, one after the other: nothing above the system is less."""
    data = bytes(engine("pure", pairs(size))())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    stack.callback(os.close, fd)
    os.write(fd, bytes(len(data) * commits))

    def measure() -> float:
        warm(ground.scale.segment)
        return seconds(lambda: [os.pwrite(fd, data, n * len(data)) for n in range(commits)]) / (commits * size)

    return measure


def threads(ground: Ground) -> Iterator[Answer]:
    """Many threads that append one record a call share commits."""
    with ground.fresh() as folder:
        store = steady(ground, folder, durable=True)
        turns = {
            f"eventcore, {count} thread{'s' * (count > 1)}": partial(_shared, ground, store, count)
            for count in (1, THREADS)
        }
        try:
            title = f"Durable, one record a call, from {THREADS} threads and from one"
            yield ask("durable-threads", title, "rate", turns, ground.scale.rounds)
        finally:
            store.close()


def _shared(ground: Ground, store: EventCore, count: int) -> float:
    warm(ground.scale.segment)
    return 1 / max(appends(store.partition, count, ground.scale.seconds), 1e-3)  # none at all on a busy disk

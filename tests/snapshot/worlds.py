"""Stores that are made, and what they hold, for the tests of snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import eventcore as ec

QUIET = {"store.housekeeping.enable": False}
World = dict[tuple[str, int], list[tuple[Any, ...]]]


def open_store(path: Path, **config: Any) -> ec.Store:
    """A store without threads that leaves syncs to the system."""
    return ec.open(path, fsync="never", config={**QUIET, **config})


def look(store: ec.Store, *, committed: bool = True) -> World:
    """Every record of the topics that programs have made, by partition."""
    found: World = {}
    for name in store.topics:
        if not name.startswith("__"):
            for partition in store.topic(name):
                found[name, partition.number] = records(partition, committed=committed)
    return found


def records(partition: ec.Partition, stop: int | None = None, *, committed: bool = True) -> list[tuple[Any, ...]]:
    """What readers of a partition see."""
    isolation = "read_committed" if committed else "read_uncommitted"
    start = partition.log_start_offset
    read = partition.read(start, partition.high_watermark if stop is None else stop, isolation=isolation)  # type: ignore[arg-type]
    return [(one.offset, one.timestamp, one.key, one.value, tuple(one.headers)) for one in read]


def look_at(path: Path) -> World:
    """What a store that nobody has open holds; it must be clean and sound."""
    with open_store(path) as store:
        assert store.was_clean
        assert not store.problems
        assert not store.transactions.hanging()
        for name in store.topics:
            for partition in store.topic(name):
                assert not partition.verify().problems
        return look(store)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

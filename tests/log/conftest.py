"""Fixtures of the log tests: partitions in a temporary folder that are verified when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec

NOW = 1_700_000_000_000


class FakeClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "events-0"


Open = Callable[..., ec.Partition]


@pytest.fixture
def open_log(folder: Path, clock: FakeClock) -> Iterator[Open]:
    """`open_log(**config)` opens the folder with a fake clock and without fsync, for speed."""
    opened: list[ec.Partition] = []

    def open_it(mode: str = "rw", fsync: str = "never", **config: Any) -> ec.Partition:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        partition = ec.open_partition(folder, mode, fsync, settings, clock=clock)  # type: ignore[arg-type]
        opened.append(partition)
        return partition

    yield open_it
    for partition in opened:
        partition.close()
    if folder.exists() and list(folder.glob("*.log")):
        with ec.open_partition(folder, "r") as partition:
            assert partition.verify().problems == []

"""Fixtures of the store tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec

NOW = 1_700_000_000_000
DAY = 86_400_000
OpenStore = Callable[..., ec.Store]


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
    return tmp_path / "store"


@pytest.fixture
def open_store(folder: Path, clock: FakeClock) -> Iterator[OpenStore]:
    """`open_store(**config)` opens the folder with a fake clock, without fsync and without a thread."""
    opened: list[ec.Store] = []

    def open_it(mode: str = "rw", fsync: str = "never", cluster_id: str | None = None, **config: Any) -> ec.Store:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        settings.setdefault("store.housekeeping.enable", False)
        store = ec.open(folder, mode, fsync, settings, cluster_id=cluster_id, clock=clock)  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, to see that nothing has changed."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        )
    return found

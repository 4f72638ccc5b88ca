"""Measuring: contestants take turns, in rounds, each on warm memory.

A machine's speed moves from minute to minute; the ratio of two medians of interleaved rounds moves far less.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.interleaved import repeats
from bench.peers.answers import Answer, Measure

_PAGE = 4096


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    records: int
    """In a log that is appended to in batches, or read."""
    singles: int
    """Appended one a call."""
    commits: int
    """Durable appends of one record a turn; of larger batches fewer."""
    reads: int
    """Random reads a turn."""
    messages: int
    """To a reader in another process, a turn."""
    large_log: int
    """Bytes of the large log that is opened."""
    seconds: float
    """A turn of the questions that count what happens in a time."""
    segment: int
    """Bytes of eventcore's segments where their pages are present; what a turn appends fits in."""

    @property
    def least_s(self) -> float:
        """How long a turn of calls without a disk lasts, at least."""
        return self.seconds / 10


FULL = Scale(7, 500_000, 50_000, 400, 5000, 2000, 4 << 30, 0.3, 128 << 20)
QUICK = Scale(3, 100_000, 10_000, 60, 1000, 500, 256 << 20, 0.1, 32 << 20)
TINY = Scale(2, 10_000, 100, 4, 10, 20, 1 << 20, 0.02, 4 << 20)
"""For the suite: the figures mean nothing, everything runs."""


class Ground:
    """A folder on the file system that is measured, where contestants get folders of their own."""

    def __init__(self, path: Path, scale: Scale) -> None:
        self.path = path
        self.scale = scale
        self.logs: dict[tuple[str, int], Path] = {}
        """Written logs that several questions read, by store and size of the batches."""
        self._count = itertools.count()

    def new(self) -> Path:
        """A fresh folder."""
        folder = self.path / f"{next(self._count)}"
        folder.mkdir()
        return folder

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A fresh folder that goes afterwards, and with it what of it the system has not written yet."""
        folder = self.new()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def ground(folder: str | None, scale: Scale) -> Iterator[Ground]:
    """A Ground in `folder`, or where the system has its temporary files."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-", dir=folder) as path:
        yield Ground(Path(path), scale)


def warm(size: int) -> None:
    """Touch `size` bytes of memory and give them back.

    Under a hypervisor memory that has been free for seconds belongs to the host; getting a page back costs a hundred
    times what a page costs that the guest still has. Whoever makes pages first after a pause would pay for it, in
    anonymous memory and in the page cache alike; so everybody's turn begins with memory that is here already.
    """
    with mmap.mmap(-1, size) as memory:
        memory[::_PAGE] = bytes(-(-size // _PAGE))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def repeated(call: Callable[[], object], count: int, least_s: float) -> Measure:
    """The time of one of `count` operations; a turn repeats a fast call until it takes `least_s`."""
    often = 0

    def measure() -> float:
        nonlocal often
        often = often or repeats(call, least_s)
        start = perf_counter()
        for _ in range(often):
            call()
        return (perf_counter() - start) / often / count

    return measure


def ask(
    name: str,
    title: str,
    unit: str,
    contestants: Mapping[str, Measure],
    rounds: int,
    missing: Mapping[str, str] | None = None,
) -> Answer:
    """Let all contestants take turns; who begins changes from round to round."""
    costs: dict[str, list[float]] = {who: [] for who in contestants}
    names = list(contestants)
    with collection_off():
        for turn in range(rounds if names else 0):
            first = turn % len(names)
            for who in names[first:] + names[:first]:
                costs[who].append(contestants[who]())
    return Answer(name, title, unit, costs, dict(missing or {}))


@contextmanager
def collection_off() -> Iterator[None]:
    """No garbage collection inside; what was there before is collected first."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

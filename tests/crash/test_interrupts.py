"""Ctrl-C at every system call of every operation: see `interrupts`."""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.interrupted_session import SCENARIOS
from tests.crash.interrupts import Case, calls_of, interrupts_of

SAMPLED_EVERY = 41


@pytest.fixture
def ground() -> Iterator[Path]:
    """In memory, if there is some; what other tests have left is not looked at."""
    memory = Path("/dev/shm")
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
    gc.unfreeze()


def wrong_of(ground: Path, name: str, every: int) -> list[str]:
    """What was wrong in every so many-th case of a scenario, the first and the last one among them."""
    interrupts = list(interrupts_of(calls_of(ground, name)))
    chosen = {*itertools.islice(interrupts, 0, None, every), *interrupts[-1:]}
    wrong = []
    for interrupt in sorted(chosen):
        case = Case(ground, name, interrupt)
        wrong += [f"{case.name}: {found}" for found in case.run()]
    return wrong


@pytest.mark.sampled
@pytest.mark.parametrize("name", SCENARIOS)
def test_some_interrupts(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, SAMPLED_EVERY) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interrupt(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, 1) == []

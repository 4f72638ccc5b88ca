"""Ctrl-C at every system call of every operation: see `interrupts`."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import scale
from tests.crash.interrupted_session import SCENARIOS
from tests.crash.interrupts import Case, chosen_of

SAMPLED_EVERY, SAMPLED_STEPS, NIGHTLY_STEPS = 41, 101, 5


@pytest.fixture
def ground() -> Iterator[Path]:
    """In memory, if there is some; what other tests have left is not looked at."""
    memory = Path("/dev/shm")
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
    gc.unfreeze()


def wrong_of(ground: Path, name: str, every: int, *, steps: bool = False) -> list[str]:
    """What was wrong in every so many-th case of a scenario."""
    wrong = []
    for interrupt in chosen_of(ground, name, every, steps=steps):
        case = Case(ground, name, interrupt)
        wrong += [f"{case.name}: {found}" for found in case.run()]
    return wrong


@pytest.mark.sampled
@pytest.mark.parametrize("name", SCENARIOS)
def test_some_interrupts(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, SAMPLED_EVERY) == []


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(SCENARIOS)[::4])
def test_some_interrupts_between_calls(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, SAMPLED_STEPS, steps=True) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interrupt(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, 1) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCENARIOS)
def test_interrupts_at_every_place(ground: Path, name: str) -> None:
    assert wrong_of(ground, name, max(NIGHTLY_STEPS // scale.DEPTH, 1), steps=True) == []

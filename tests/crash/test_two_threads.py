"""Two threads on one handle, one held at a system call: see `two_threads`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.two_threads import OPERATIONS, Case, calls_of

SAMPLED = (2, 9, 31)
"""The calls at which the first operation is held, beside one without."""


@pytest.fixture
def ground() -> Iterator[Path]:
    """In memory, if there is some."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.sampled
@pytest.mark.parametrize("first", OPERATIONS)
def test_some_pairs(ground: Path, first: str) -> None:
    wrong = []
    for turn, second in enumerate(OPERATIONS):
        case = Case(ground, first, second, SAMPLED[turn % len(SAMPLED)], ("always", "never")[turn % 2])
        wrong += [f"{case.name}: {found}" for found in case.run()]
    assert wrong == []


@pytest.mark.nightly
@pytest.mark.parametrize("fsync", ["always", "never"])
@pytest.mark.parametrize("first", OPERATIONS)
def test_every_pair_at_every_call(ground: Path, first: str, fsync: str) -> None:
    wrong, count = [], 0
    for second in OPERATIONS:
        for case in calls_of(ground, first, second, fsync):
            count += 1
            wrong += [f"{case.name}: {found}" for found in case.found]
    print(f"{first}, {fsync}: {count} cases, {len(wrong)} wrong")
    assert wrong == []

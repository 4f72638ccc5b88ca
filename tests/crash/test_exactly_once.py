"""Exactly once, whenever the process is killed; see `exactly_once.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec
from eventcore.store.coordinator import TransactionCoordinator
from eventcore.store.groups import GroupCoordinator
from tests.crash import exactly_once
from tests.crash.exactly_once import Totals
from tests.scale import DEPTH, SEED


@pytest.mark.sampled
def test_a_few_kills(memory_path: Path) -> None:
    totals = exactly_once.run(8, 3, memory_path, Totals())
    assert totals.wrong == []
    assert totals.records


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_kills(memory_path: Path) -> None:
    kills = 500 * DEPTH
    totals = exactly_once.run(kills, 7 + SEED, memory_path, Totals())
    assert totals.wrong == []
    assert totals.kills >= kills


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["offsets are committed beside the transaction", "nobody ends what was begun"])
def test_the_harness_sees_what_is_wrong(memory_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what.startswith("offsets"):

        def commit(self: ec.Transaction, consumer: ec.Consumer) -> None:
            GroupCoordinator.commit(consumer._groups, consumer.group, consumer.positions, consumer.member_id)

        monkeypatch.setattr(ec.Transaction, "commit_offsets", commit)
    else:
        monkeypatch.setattr(TransactionCoordinator, "_settled", lambda self, name: self._log.states().get(name))
    assert exactly_once.run(200, 3, memory_path, Totals()).wrong

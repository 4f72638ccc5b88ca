"""No power loss, at any moment of any of these histories, takes back what was promised.

CI looks at some states of every scenario, the night at 500,000 distinct ones, of each scenario as many.
The last tests break the engine on purpose: then bad states must be found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventcore.disk import Disk
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.epochs import EpochCache
from eventcore.log.partition_log import PartitionLog
from eventcore.log.producer_store import ProducerStore
from eventcore.log.segment import Segment
from tests.crash.crash_states import Limits, Search, Tally, find, kill, quiet, record, search_in_processes
from tests.crash.scenarios import RANDOM, SCENARIOS
from tests.scale import DEPTH, SEED

STATES = 500_000 * DEPTH
OF_A_STORE = 200_000 * DEPTH
CLEANING = ("roll", "fill", "delete", "retention", "compact", "swap", "restart", "random")
"""What the scenarios begin with in which segments begin and go, or take the place of others."""
FEW = Limits(exhaustive=4, samples=1, nested_every=25, shuffled=True)
ANYWHERE = Limits(exhaustive=64, samples=8, nested_every=1 << 40, shuffled=True)


def _search(names: list[str], quota: int, limits: Limits, seed: int = 0, enough: int = 1) -> Tally:
    search = Search(1 << 40, limits, enough)
    with quiet():
        for name in names:
            session, oracle = record(name, seed)
            search.history(f"{name}:{seed}:", session, oracle, quota=quota)
    return search.tally


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_some_crash_states(name: str) -> None:
    tally = _search([name], 40, FEW, seed=random.Random(name).randrange(1000))
    assert not tally.bad, "\n".join(tally.reports.values())
    assert tally.distinct >= 40


@pytest.mark.nightly
@pytest.mark.timeout(3600 * DEPTH)
def test_every_crash_state_of_small_histories() -> None:
    tally = search_in_processes(STATES, 2, first_seed=SEED)
    print(tally)
    assert not tally.bad, "\n".join(tally.reports.values())
    assert tally.distinct >= STATES
    assert tally.histories >= len(SCENARIOS)
    assert tally.nested >= 1000, "too few in recoveries"
    assert sum(count for name, count in tally.scenarios.items() if name.startswith(CLEANING)) >= OF_A_STORE
    assert min(tally.kinds[kind] for kind in ("all", "torn", "prefix", "lost", "kept", "random")) >= 500


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["compact", "compact unsynced"])
def test_a_writer_that_was_killed_in_a_swap(name: str) -> None:
    """Its names are in the cache alone: whoever acts on them makes them durable first."""
    session, _ = record(name, 0)
    moments = [one.number for one in session.disk.boundaries if "swaps." in one.operation and "sync" in one.operation]
    assert len(moments) >= 2
    search = Search(1 << 40, FEW, enough=1)
    with quiet():
        for moment in moments:
            again, oracle = kill(name, 0, moment)
            search.history(f"{name}:0:k{moment}/", again, oracle, quota=1000, depth=1)
    assert not search.tally.bad, "\n".join(search.tally.reports.values())
    assert search.tally.distinct > 300


@pytest.mark.sampled
def test_names_that_the_deletion_of_what_was_before_them_relies_on() -> None:
    """A segment goes for good while the next one's name might be lost: that takes more states than a sample has."""
    tally = _search(["delete records unsynced"], 5000, ANYWHERE, seed=209)
    assert not tally.bad, "\n".join(tally.reports.values())
    assert tally.distinct > 1000


def test_a_state_is_found_again_by_its_name() -> None:
    search = Search(300, Limits(nested_every=30))
    seen = []
    search._check = lambda found, oracle, session, depth: seen.append(found)  # type: ignore[method-assign]
    session, oracle = record("roll", 0)
    search.history("roll:0:", session, oracle, quota=200)
    assert find(seen[-1].name)[0].image == seen[-1].image


# -- with a broken engine it fails -----------------------------------------------------------------------------


def _nothing(*arguments: object, **keywords: object) -> None:
    """In place of what keeps a promise."""


def _replace_without_sync(disk: Disk, path: Path, data: bytes) -> None:
    """A rename over a file whose content may come to the disk later."""
    fd = disk.open(path.with_name(path.name + ".tmp"), write=True, create=True)
    disk.pwrite_all(fd, data, 0)
    disk.close(fd)
    disk.rename(path.with_name(path.name + ".tmp"), path)
    disk.sync_dir(path.parent)


def _replace_in_place(disk: Disk, path: Path, data: bytes) -> None:
    """The old content goes before the new one is there."""
    fd = disk.open(path, write=True, create=True)
    disk.cut(fd, 0)
    disk.pwrite_all(fd, data, 0)
    disk.sync(fd)
    disk.close(fd)
    disk.sync_dir(path.parent)


def _acknowledge_before_sync(log: PartitionLog, end: int) -> None:
    """What `always` must not do."""
    log.durable_offset = log._cap = end


BROKEN: dict[str, tuple[Any, str, Callable[..., Any], list[str]]] = {
    "acknowledged before the sync": (PartitionLog, "sync_to", _acknowledge_before_sync, ["always", "interval"]),
    "the log is not synced": (Segment, "sync", _nothing, ["always", "roll"]),
    "the indexes are not synced": (Segment, "sync_indexes", _nothing, ["roll", "fill", "reopen", "transactions"]),
    "truncated without a note": (Checkpoints, "announce_truncation", _nothing, ["truncate over segments"]),
    "deleted before the start is durable": (Checkpoints, "move_log_start", _nothing, ["delete records"]),
    "epochs outlive a truncation": (EpochCache, "truncate_from_end", _nothing, ["epochs"]),
    "producers outlive a truncation": (ProducerStore, "truncate", _nothing, ["producers truncated"]),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_engine_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, scenarios = BROKEN[name]
    monkeypatch.setattr(owner, attribute, replacement)
    tally = _search(scenarios, 1 << 40, ANYWHERE)
    assert tally.bad, f"{tally}"


@pytest.mark.sampled
def test_the_scenarios_that_find_them_are_good() -> None:
    names = sorted({name for *_, scenarios in BROKEN.values() for name in scenarios})
    tally = _search(names, 100, ANYWHERE)
    assert not tally.bad, "\n".join(tally.reports.values())
    assert set(names).isdisjoint(RANDOM)

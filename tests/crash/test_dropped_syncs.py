"""Every sync of the engine keeps some promise: without it, at least one history is lost or shown wrong.

A call site is the line of the engine that asks for a sync; functions that only pass the wish on are looked through.
Each site found in a full run of the scenarios, recoveries included, is dropped in turn for whole runs: the disk then
takes the call and keeps nothing. The oracle must object. A site that no history misses is superfluous, or a scenario
is missing; what is in `KEPT_ANYWAY` is neither, and says why.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import lru_cache

import pytest

from tests.crash.crash_recording import Site
from tests.crash.crash_states import Limits, Search, quiet, record, recover, states_of
from tests.crash.scenarios import SCENARIOS

KEPT_ANYWAY: dict[tuple[str, str], str] = {}
"""Site without its line → the promise that no history here shows broken."""

_LOOK = Limits(exhaustive=8, samples=2, shuffled=True)
_SEARCH = Limits(exhaustive=256, samples=16, nested_every=40, shuffled=True)
_STATES = 4000
"""Of one scenario, before the next one is tried."""


class Sites:
    """Where the engine asks for a sync, and the scenarios that do so: in their own histories, and in recoveries."""

    def __init__(self) -> None:
        self.played: dict[Site, list[str]] = defaultdict(list)
        self.recovered: dict[Site, list[str]] = defaultdict(list)

    def look(self, name: str) -> None:
        """Play one scenario, and recoveries of some of its crash states."""
        session, oracle = record(name, 0)
        for site in session.disk.sites:
            self.played[site].append(name)
        in_recoveries: set[Site] = set()
        for number, found in enumerate(states_of(f"{name}:0:", session, _LOOK)):
            if number % 25 == 0:
                in_recoveries |= recover(found, session, 0, oracle).disk.sites
        for site in in_recoveries:
            self.recovered[site].append(name)

    def all(self) -> list[Site]:
        """Every site."""
        return sorted(self.played.keys() | self.recovered.keys())

    def scenarios(self, site: Site) -> list[str]:
        """Those that come by the site, the most promising first."""
        played = self.played[site]
        return [*played, *(name for name in self.recovered[site] if name not in played)]


@lru_cache(maxsize=1)
def sites() -> Sites:
    """All call sites."""
    found = Sites()
    with quiet():
        for name in SCENARIOS:
            found.look(name)
    return found


def without_line(site: Site) -> tuple[str, str]:
    """What stays the same when the code above it changes."""
    return site[0], site[1].rpartition(":")[0]


def missed(site: Site | None, name: str, wanted: int) -> tuple[str | None, int]:
    """A bad state of a scenario with a site dropped, None if there is none; and how many states were looked at."""
    dropped = frozenset([site] if site else [])
    search = Search(wanted, _SEARCH, enough=1)
    session, oracle = record(name, 0, dropped=dropped)
    search.history(f"{name}:0:", session, oracle)
    return next(iter(search.tally.reports.values()), None), search.tally.distinct


def catch(site: Site) -> tuple[str, str, int] | None:
    """The scenario that cannot do without a sync, what went wrong in it, and after how many states."""
    for name in sites().scenarios(site):
        bad, looked_at = missed(site, name, _STATES)
        if bad is not None:
            return name, bad, looked_at
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_dropped_sync_is_caught() -> None:
    uncaught, told, looked = [], [], dict[str, int]()
    with quiet():
        for site in sites().all():
            caught = catch(site)
            told.append(f"{site}: {caught and (caught[0], caught[2], caught[1].splitlines()[0])}")
            if caught is None and without_line(site) not in KEPT_ANYWAY:
                uncaught.append(site)
            elif caught is not None:
                looked[caught[0]] = max(looked.get(caught[0], 0), caught[2] + 100)
        for name, count in looked.items():
            bad, _ = missed(None, name, count)
            assert bad is None, f"a bad state without any sync dropped: {bad}"
    print("\n".join(told))
    assert not uncaught, f"{len(uncaught)} of {len(sites().all())} call sites keep no promise: {uncaught}"


def test_no_reason_is_left_over() -> None:
    names = {without_line(site) for site in sites().all()}
    assert KEPT_ANYWAY.keys() <= names


def test_a_dropped_sync_is_caught() -> None:
    """Some of the above, for every day: the syncs of the log, and of a name."""
    wanted = {("sync", "eventcore.log.partition_log.sync_to"), ("sync_dir", "eventcore.log.local._delete")}
    some = [site for site in sites().all() if without_line(site) in wanted]
    assert len(some) == len(wanted)
    random.Random(1).shuffle(some)
    for site in some:
        assert catch(site), site

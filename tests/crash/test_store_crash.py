"""No power loss leaves half a topic, brings one back, or loses what a store has promised; and every sync is needed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import pytest

from eventcore.files import json_file
from eventcore.log.checkpoints import Checkpoints
from eventcore.store.coordinator import TransactionCoordinator
from tests.crash.crash_recording import BY_TEST, Site
from tests.crash.crash_states import Limits, lacking_states, quiet
from tests.crash.oracle import image_key
from tests.crash.store_search import judge, search
from tests.crash.store_session import STORE_SCENARIOS, record_store

FEW = Limits(exhaustive=16, samples=4, shuffled=True)
MANY = Limits(exhaustive=256, samples=64, shuffled=True)
TRANSACTIONAL = ("transactions", "offsets of groups")
MANY_TRANSACTIONS = 17_000


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(STORE_SCENARIOS))
def test_some_crash_states_of_a_store(name: str) -> None:
    count, bad = search(name, FEW, 60)
    assert not bad, "\n".join(bad)
    assert count >= 60


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(STORE_SCENARIOS))
def test_many_crash_states_of_a_store(name: str) -> None:
    """Of transactions and offsets 34,000, beside those that the search of one partition does (`crash_states`)."""
    quota = MANY_TRANSACTIONS if name in TRANSACTIONAL else 2_000
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        shares = [pool.submit(search, name, MANY, quota, process, 2) for process in range(2)]
        found = [share.result() for share in shares]
    bad = [one for _, some in found for one in some]
    assert not bad, "\n".join(bad)
    assert sum(count for count, _ in found) >= quota


# -- with a broken engine it fails -----------------------------------------------------------------------------


def _nothing(*arguments: object, **keywords: object) -> None:
    """In place of what keeps a promise."""


BROKEN: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "topics are made without a note": (json_file, "read", _nothing, "topics"),
    "what was decided is not finished": (TransactionCoordinator, "settle", _nothing, "transactions"),
    "decided before the records are durable": (TransactionCoordinator, "_sync", _nothing, "transactions"),
    "deleted before the start is durable": (Checkpoints, "move_log_start", _nothing, "cleaned"),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly) if "decided" in name else name for name in BROKEN]
)
def test_a_broken_store_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, scenario = BROKEN[name]
    monkeypatch.setattr(owner, attribute, replacement)
    assert search(scenario, FEW, 5_000, enough=1)[1]


# -- every sync is needed --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def store_sites() -> dict[Site, list[str]]:
    """Where the store's own modules ask for a sync, and in which scenarios."""
    found: dict[Site, list[str]] = {}
    with quiet():
        for name in STORE_SCENARIOS:
            for site in record_store(name).disk.sites - {BY_TEST}:
                if site[1].startswith("eventcore.store."):
                    found.setdefault(site, []).append(name)
    return found


def caught(site: Site) -> str | None:
    """What goes wrong without a sync."""
    for name in store_sites()[site]:
        session = record_store(name, frozenset([site]))
        seen: set[int] = set()
        for found in lacking_states("", session):  # type: ignore[arg-type]
            key = hash((image_key(found.image), id(found.expected[-1])))
            if key not in seen:
                seen.add(key)
                bad: list[str] = []
                judge(found, bad)
                if bad:
                    return bad[0]
    return None


HARMLESS = {
    "eventcore.store.kafka_files.note_cleaned": "what is cleaned again is only work",
    "eventcore.store.kafka_files.write_all": "for a broker: we open the folder as well without",
    "eventcore.store.kafka_files.know_log_starts": "for a broker",
    "eventcore.store.kafka_files.set_clean_mark": "for a broker; without it partitions are looked at once more",
    "eventcore.store.kafka_files.take_clean_mark": "for a broker, which must not believe an old mark",
}


@pytest.mark.sampled
@pytest.mark.parametrize("function", ["catalog.create", "doomed.note"])
def test_a_dropped_sync_of_a_store_is_caught(function: str) -> None:
    """Some of them, for every day."""
    some = [site for site in store_sites() if f"eventcore.store.{function}:" in site[1]]
    assert some
    for site in some:
        assert caught(site), site


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_every_dropped_sync_of_a_store_is_caught() -> None:
    with quiet():
        found = {site: caught(site) for site in store_sites()}
    uncaught = {site[1].rpartition(":")[0] for site, bad in found.items() if bad is None}
    assert uncaught - HARMLESS.keys() == set(), found

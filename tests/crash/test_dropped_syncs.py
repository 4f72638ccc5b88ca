"""Every sync of the engine keeps some promise: without it, at least one history is lost or shown wrong.

A call site is the line of the engine that asks for a sync; functions that only pass the wish on are looked through.
Each site found in a run of the scenarios, recoveries included, is dropped in turn for whole runs: the disk then takes
the call and keeps nothing. What it should have kept is taken away at every later moment, and the oracle must object.
A site that no history misses is superfluous, or a scenario is missing.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import pytest

import eventcore
from tests.crash.crash_recording import BY_TEST, PASSES_ON, Site
from tests.crash.crash_states import Limits, kill, lacking_states, quiet, record, recover, states_of
from tests.crash.oracle import FOLDER, Oracle, Violation, image_key
from tests.crash.scenarios import SCENARIOS
from tests.crash.session import Session

_LOOK = Limits(exhaustive=8, samples=2, shuffled=True)
_RECOVERIES = 16
"""Of each scenario: crash states whose recovery is looked at; and as many moments for a kill, besides those before
a folder is synced."""


class Sites:
    """Where the engine asks for a sync, and the scenarios that do so: in their own histories, and in recoveries."""

    def __init__(self) -> None:
        self.played: dict[Site, list[str]] = defaultdict(list)
        self.recovered: dict[Site, list[str]] = defaultdict(list)

    def look(self, name: str) -> None:
        """Play one scenario, and recoveries of some of its crash states."""
        session, oracle = record(name, 0)
        for site in session.disk.sites - {BY_TEST}:
            self.played[site].append(name)
        for site in {site for again in recoveries(name, session, oracle) for site in again.disk.sites}:
            self.recovered[site].append(name)

    def all(self) -> list[Site]:
        """Every site."""
        return sorted(self.played.keys() | self.recovered.keys())


def recoveries(name: str, session: Session, oracle: Oracle) -> Iterator[Session]:
    """Of some crash states, and of some moments at which the writer is killed, from all over the history."""
    for found in islice(states_of(f"{name}:0:", session, _LOOK), 0, _RECOVERIES * 25, 25):
        yield recover(found, session, 0, oracle)
    moments = session.disk.boundaries
    chosen = {one.number for one in moments if one.operation.startswith("sync the folder")}
    for boundary in sorted({*chosen, *range(len(moments) // _RECOVERIES, len(moments), len(moments) // _RECOVERIES)}):
        yield kill(name, 0, boundary, session.dropped)[0]


@lru_cache(maxsize=1)
def sites() -> Sites:
    """All call sites."""
    found = Sites()
    with quiet():
        for name in SCENARIOS:
            found.look(name)
    return found


def catch(site: Site) -> tuple[str, str] | None:
    """The scenario that cannot do without a sync, and what went wrong in it."""
    for name in sites().played[site]:
        session, oracle = record(name, 0, dropped=frozenset([site]))
        if bad := first_bad(session, oracle):
            return name, bad
    for name in sites().recovered[site]:
        session, oracle = record(name, 0, dropped=frozenset([site]))
        for again in recoveries(name, session, oracle):
            if bad := first_bad(again, oracle):
                return f"a recovery of {name}", bad
    return None


def first_bad(session: Session, oracle: Oracle) -> str | None:
    """The first state that breaks a promise."""
    seen = set()
    for found in lacking_states("", session):
        key = (image_key(found.image), tuple(id(world) for world, _ in found.expected))
        if key not in seen:
            seen.add(key)
            try:
                oracle.check(found.image, found.expected, session.kept)
            except Violation as violation:
                return "; ".join([str(violation), *found.state.describe()])
    return None


def asking() -> set[str]:
    """`module.function` of all code that calls a sync, and does not do so for its own caller."""
    source = Path(eventcore.__file__).parent
    found = set()
    for path in source.rglob("*.py"):
        module = ".".join(("eventcore", *path.relative_to(source).with_suffix("").parts))
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and (module, function.name) not in PASSES_ON:
                called = {node.func.attr for node in ast.walk(function) if isinstance(node, ast.Call)
                          and isinstance(node.func, ast.Attribute)}  # fmt: skip
                if called & {"sync", "sync_dir", "sync_indexes", "replace_file"}:
                    found.add(f"{module}.{function.name}")
    return found


ELSEWHERE = {
    "eventcore.log.repair._write_swap": "test_crash_in_repair.py",
    **dict.fromkeys(
        (
            "eventcore.files.checkpoint.write_topic_id",
            "eventcore.files.json_file.write",
            "eventcore.files.meta_properties.write",
        ),
        "of a store: test_store_crash.py",
    ),
    **dict.fromkeys(
        (f"eventcore.files.view_file.{name}" for name in ("_write_synced", "remove", "write")),
        "of a view: test_view_checkpoint.py",
    ),
    **dict.fromkeys(
        (f"eventcore.disk.{name}" for name in ("copy", "sync_away", "unshare")),
        "of a snapshot: test_snapshot_crash.py",
    ),
}
"""Not found in the scenarios, and why."""


ASKING = """
    disk.copy
    disk.sync_away
    disk.unshare
    files.checkpoint._write_lines
    files.checkpoint.write_topic_id
    files.json_file.write
    files.meta_properties.write
    files.producer_snapshot.write
    files.recovery_point.__init__
    files.recovery_point.settle
    files.recovery_point.write
    files.seal.write
    files.view_file._write_synced
    files.view_file.remove
    files.view_file.write
    log.checkpoints.before_recovery
    log.checkpoints.write
    log.clean_offset.lower
    log.cleaned_segment._write_synced
    log.cleaned_segment.finish
    log.compaction._take_place
    log.durability._sync
    log.local.put_back
    log.local.restart_at
    log.local.roll
    log.partition_log._announce_truncation
    log.partition_log._close_cleanly
    log.partition_log.truncate
    log.quarantine.copy
    log.recovery._cut_tail
    log.recovery.seal
    log.repair._write_swap
    log.segment.seal
    log.segment.truncate
    log.swaps._remove_replaced
    log.swaps.prepare
""".split()
"""Who asks for a sync. One that is taken out by mistake would leave no call site that could be dropped."""


def test_nobody_has_stopped_asking() -> None:
    others = ("eventcore.store.", "eventcore.snapshot.")
    asked = {name.removeprefix("eventcore.") for name in asking() if not name.startswith(others)}
    assert asked == set(ASKING)


@pytest.mark.sampled
def test_every_sync_of_the_engine_is_one_of_them() -> None:
    seen = {site[1].rpartition(":")[0] for site in sites().all()}
    others = ("eventcore.store.", "eventcore.snapshot.")  # see test_store_crash.py, test_snapshot_crash.py
    asked = {name for name in asking() if not name.startswith(others)}
    assert asked - seen == ELSEWHERE.keys()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_every_dropped_sync_is_caught() -> None:
    with quiet():
        caught = {site: catch(site) for site in sites().all()}
    for site, found in caught.items():
        print(site, found)
    uncaught = [site for site, found in caught.items() if found is None]
    assert not uncaught, f"{len(uncaught)} of {len(caught)} call sites keep no promise: {uncaught}"
    assert len(caught) >= 20


@pytest.mark.sampled
@pytest.mark.parametrize("function", ["durability._sync", "checkpoints.write", "quarantine.copy", "segment.seal"])
def test_a_dropped_sync_is_caught(function: str) -> None:
    """Some of the above, for every day."""
    some = [site for site in sites().all() if f"eventcore.log.{function}:" in site[1]]
    assert some
    with quiet():
        for site in some:
            assert catch(site), site


@pytest.mark.sampled
def test_nothing_is_bad_while_none_is_dropped() -> None:
    session, oracle = record("truncate over segments", 0)
    session.disk.spared = {file.number: 0 for file in session.disk.boundaries[-1].files} | {str(FOLDER): 0}
    assert first_bad(session, oracle) is None

"""No power loss leaves half a snapshot or half a restore, or takes one; and every sync is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from eventcore.disk import Disk
from eventcore.snapshot import manifest, restoring
from eventcore.snapshot.archive import Snapshots
from eventcore.snapshot.folder_place import FolderPlace
from tests.crash.crash_recording import BY_TEST, Site
from tests.crash.crash_states import Limits, lacking_states, quiet
from tests.crash.snapshot_session import (
    SNAPSHOT_SCENARIOS,
    Judge,
    look_at,
    record_snapshots,
    search,
    small_links,
    state_key,
)

FEW = Limits(exhaustive=16, samples=4, shuffled=True)
MANY_STATES = 2_400


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(SNAPSHOT_SCENARIOS))
def test_some_crash_states_of_snapshots(name: str) -> None:
    count, bad = search(name, FEW, 40)
    assert not bad, "\n".join(bad)
    assert count >= 40


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_crash_states_of_snapshots() -> None:
    """Each scenario in a process of its own."""
    quota = MANY_STATES // len(SNAPSHOT_SCENARIOS)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = [share.result() for share in [pool.submit(search, name, FEW, quota) for name in SNAPSHOT_SCENARIOS]]
    bad = [one for _, some in found for one in some]
    assert not bad, "\n".join(bad)
    assert sum(count for count, _ in found) >= MANY_STATES


# -- with a broken engine it fails -----------------------------------------------------------------------------


def _nothing(*arguments: object, **keywords: object) -> None:
    """In place of what keeps a promise."""


def _settle_manifests_alone(self: Any) -> None:
    for folder in [one for one in self._unsettled if one.name == manifest.FOLDER.strip("/")]:
        self._disk.sync_dir(folder)
    self._unsettled.clear()


def _write_objects_unsynced(self: Any, path: Path, data: memoryview) -> None:
    fd = self._disk.open(path, write=True, create=True)
    self._disk.pwrite_all(fd, data, 0)
    if path.parent.name == manifest.FOLDER.strip("/"):
        self._disk.sync(fd)
    self._disk.close(fd)


def _prune_objects_first(self: Snapshots, keep_last: int = 1) -> list[int]:
    found = self.all()
    self._sweep(found[-keep_last:])
    removed = [one.number for one in found[:-keep_last]]
    self.place.remove(map(manifest.name_of, removed))
    return removed


def _keep_for_the_newest(self: Snapshots, kept: Any) -> None:
    needed = self.latest().objects()
    self.place.remove(name for name in self.place.sizes(manifest.OBJECTS) if name not in needed)


def _fetch_unsynced(place: Any, file: Any, disk: Disk, staging: Path, stop: threading.Event) -> int:
    with mock.patch.object(disk, "sync", _nothing):
        return _FETCH(place, file, disk, staging, stop)


_FETCH = restoring._fetch_file

BROKEN: dict[str, tuple[Any, str, Callable[..., Any], str, str]] = {
    "a manifest before its objects have names": (FolderPlace, "settle", _settle_manifests_alone, "taken", "snapshot"),
    "objects that are not synced": (FolderPlace, "_write_synced", _write_objects_unsynced, "taken", "snapshot"),
    "objects are pruned before manifests": (Snapshots, "prune", _prune_objects_first, "truncated", "prune"),
    "what an older one needs is pruned": (Snapshots, "_sweep", _keep_for_the_newest, "truncated", "prune"),
    "linked segments are cut in place": (Disk, "unshare", _nothing, "truncated", ""),
    "a restore is named before it is synced": (restoring, "_fetch_file", _fetch_unsynced, "restored", "restore"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_snapshots_are_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, scenario, during = BROKEN[name]
    monkeypatch.setattr(owner, attribute, replacement)
    assert search(scenario, FEW, 5_000, enough=1, during=during)[1]


# -- every sync is needed --------------------------------------------------------------------------------------


MOMENTS = ("acknowledged", "rename", "unlink")


def _is_ours(site: Site) -> bool:
    return site[1].startswith(("eventcore.snapshot.", "eventcore.disk.copy:", "eventcore.disk.unshare:"))


@lru_cache(maxsize=1)
def snapshot_sites() -> dict[Site, list[str]]:
    """Where snapshots ask for a sync, and in which scenarios."""
    found: dict[Site, list[str]] = {}
    with quiet():
        for name in SNAPSHOT_SCENARIOS:
            for site in filter(_is_ours, record_snapshots(name).disk.sites - {BY_TEST}):
                found.setdefault(site, []).append(name)
    return found


def caught(site: Site) -> str | None:
    """What goes wrong without a sync; the power goes where a call ends, or a name is about to change."""
    for name in sorted(snapshot_sites()[site], key=[*reversed(SNAPSHOT_SCENARIOS)].index):
        session, judge, seen = record_snapshots(name, frozenset([site])), Judge(), set()
        if "snapshot" in site[1]:
            session.disk.boundaries = [one for one in session.disk.boundaries if one.operation.startswith(MOMENTS)]
        with small_links():
            for found in lacking_states("", session):  # type: ignore[arg-type]
                if state_key(found) not in seen:
                    seen.add(state_key(found))
                    bad: list[str] = []
                    look_at(found, judge, bad)
                    if bad:
                        return bad[0]
    return None


@pytest.mark.sampled
@pytest.mark.parametrize("function", ["taking.take", "folder_place.create"])
def test_a_dropped_sync_of_snapshots_is_caught(function: str) -> None:
    """Some of them, for every day."""
    some = [site for site in snapshot_sites() if f"eventcore.snapshot.{function}:" in site[1]]
    assert some
    for site in some:
        assert caught(site), site

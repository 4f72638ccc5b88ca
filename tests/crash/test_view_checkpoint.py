"""No power loss parts a view's state from its offsets, or leaves offsets beyond what is durable.

Views are saved by the writer, by a process that reads beside him, and by one that reads when he was killed; nothing is
synced but by that. Of every state that a crash may leave: what was saved last is there as it was saved, or what was
being saved; records are appended where the crash has cut; then what `load` and `unread` give equals a full replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

import eventcore as ec
from eventcore.store.view_checkpoint import ViewCheckpoint
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.crash_states import Found, Limits, lacking_states, quiet, states_of
from tests.crash.memory_disk import Image, MemoryDisk
from tests.crash.oracle import PARENT, Clock, Violation, image_key
from tests.crash.session import CONFIG
from tests.crash.store_session import STORE

SETTINGS = {**CONFIG, "store.housekeeping.enable": False}
FEW = Limits(exhaustive=16, samples=4, shuffled=True)
MANY = Limits(exhaustive=256, samples=64, shuffled=True)


class Saved(NamedTuple):
    """A pair that was saved."""

    state: bytes
    offsets: tuple[tuple[tuple[str, int], int], ...]


Expected = tuple[Saved | None, ...]


def opened(disk: MemoryDisk, mode: str = "rw") -> ec.Store:
    return ec.open(STORE, mode, "never", SETTINGS, clock=Clock(), disk=disk)  # type: ignore[arg-type]


def fold(checkpoint: ViewCheckpoint) -> bytes:
    """All values, each with its partition."""
    saved = checkpoint.load()
    state = bytes(saved.data) if saved else b""
    for partition, start, stop in checkpoint.unread("a"):
        for value in partition.read_values(start, stop):
            state += b"%d %s\n" % (partition.number, value)
    return state


class ViewSession:
    """A history; `expected[k]` is what is saved after `k` calls."""

    def __init__(self, dropped: frozenset[Site] = frozenset()) -> None:
        self.disk = RecordingDisk({PARENT: {}}, dropped=dropped)
        self.expected: list[Saved | None] = [None]
        self._sent = 0
        self._kept: list[ec.Store] = []
        self.play()

    def in_flight(self, begun: int, returned: int) -> Expected:
        return tuple(self.expected[returned : begun + 1])

    def step(self, what: str, act: Callable[[], Saved | None]) -> None:
        self.disk.begin(what)
        saved = act()
        self.disk.acknowledge(what)
        self.expected.append(saved or self.expected[-1])

    def append(self, store: ec.Store, number: int, count: int) -> None:
        """Enough for several segments, if it is some tens."""
        values = [b"%d" % at + bytes(100) for at in range(self._sent, self._sent + count)]
        self._sent += count

        def act() -> None:
            store.topic("a")[number].extend(values)

        self.step("append", act)

    def save(self, store: ec.Store) -> None:
        def act() -> Saved:
            checkpoint = store.checkpoint("view")
            state = fold(checkpoint)
            checkpoint.save(lambda file: file.writelines([state[:50], state[50:]]))
            return Saved(state, tuple(sorted(checkpoint.offsets.items())))

        self.step("save", act)

    def killed(self, store: ec.Store) -> None:
        """His locks are gone; what he has written is in the page cache."""
        self._kept.append(store)
        self.disk._locked.clear()

    def play(self) -> None:
        store = opened(self.disk)
        store.create_topic("a", 2)
        self.append(store, 0, 3)
        self.save(store)
        self.append(store, 1, 50)
        self.append(store, 0, 1)
        self.save(store)
        self.append(store, 0, 40)
        with opened(self.disk, "r") as reader:
            self.save(reader)
            self.append(store, 1, 2)
            self.save(reader)
        self.append(store, 0, 60)
        self.append(store, 1, 1)
        self.killed(store)
        with opened(self.disk, "r") as reader:
            self.save(reader)
        with opened(self.disk) as store:
            self.append(store, 1, 2)
            self.save(store)


def judge(image: Image, expected: Expected) -> None:
    """Raises Violation."""
    with opened(MemoryDisk(image, boot=1000)) as store:
        if not store.has_topic("a"):
            if None not in expected:
                raise Violation("the topic is gone")
            return
        for partition in store.topic("a"):
            partition.extend([b"after %d" % at + bytes(100) for at in range(120)])
        saved = store.checkpoint("view").load()
        found = None if saved is None else Saved(bytes(saved.data), tuple(sorted(saved.offsets.items())))
        if found not in expected:
            raise Violation(f"{found} where {expected} may be: {store.checkpoint('view').reason}")
        replayed = [b"%d %s" % (one.number, value) for one in store.topic("a") for value in one.read_values()]
        if sorted(fold(store.checkpoint("view")).split(b"\n")[:-1]) != sorted(replayed):
            raise Violation("what was saved and what came since is not what a replay gives")


def search(states: Iterable[Found], quota: int) -> tuple[int, list[str]]:
    """How many distinct states were looked at, and what was bad; one bad one is enough."""
    seen: set[tuple[int, int]] = set()
    for found in states:
        key = (image_key(found.image), id(found.expected[-1]))
        if key in seen:
            continue
        seen.add(key)
        try:
            judge(found.image, found.expected)  # type: ignore[arg-type]
        except Exception as error:
            return len(seen), ["\n  ".join([f"{found.name}: {error!r}", *found.state.describe()])]
        if len(seen) >= quota:
            break
    return len(seen), []


def check(limits: Limits, quota: int) -> int:
    with quiet():
        count, bad = search(states_of("view:", ViewSession(), limits), quota)  # type: ignore[arg-type]
    assert not bad, bad[0]
    return count


@pytest.mark.sampled
def test_some_crash_states() -> None:
    assert check(FEW, 150) >= 150


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_crash_states() -> None:
    assert check(MANY, 5_000) >= 5_000


def test_offsets_beyond_what_is_durable_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViewCheckpoint, "_make_durable", lambda *arguments: None)
    with quiet():
        assert search(states_of("view:", ViewSession(), FEW), 2_000)[1]  # type: ignore[arg-type]


def sites() -> set[Site]:
    with quiet():
        return {one for one in ViewSession().disk.sites if "view_" in one[1]}


@pytest.mark.sampled
def test_every_sync_is_needed() -> None:
    found = sites()
    assert len(found) == 3
    with quiet():
        for site in found:
            session = ViewSession(frozenset([site]))
            assert search(lacking_states("", session), 5_000)[1], f"{site} is not missed"  # type: ignore[arg-type]

"""Small histories of a store of which snapshots are taken, pruned and restored, and what must hold after a power loss.

1. a snapshot is there whole, and becomes the store that it was taken of, or it is not there; one that was acknowledged
   is there until it is pruned;
2. a restored folder is whole and closed cleanly, or it is not there: then the same call makes it, whatever is beside
   it; and neither changes a byte of the snapshots;
3. the store keeps what it has promised (`store_session`), whatever of it is linked; to recover and use it changes no
   snapshot;
4. one more snapshot can be taken, and the others pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import eventcore as ec
from eventcore.config import LogConfig
from eventcore.snapshot import restoring, taking
from eventcore.snapshot.archive import Snapshots
from eventcore.snapshot.folder_place import FolderPlace
from eventcore.snapshot.manifest import OBJECTS
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.crash_states import Found, Limits, quiet, states_of
from tests.crash.memory_disk import Image, LinkedBytes, MemoryDisk
from tests.crash.oracle import PARENT, Clock, KnownPath, Violation, image_key
from tests.crash.session import CONFIG
from tests.crash.store_session import SETTINGS, STORE, StoreSession, StoreWorld, check_on, look, open_found

KEPT: Path = KnownPath(PARENT, "kept")
FRESH: Path = KnownPath(PARENT, "fresh")
LINKED_FROM = 1024
"""Files of more bytes are linked, or stored by themselves: segments here have 4,096 at most."""


RESTORED_EVERY = 8
"""Of the snapshots that are taken after a crash, one of so many is restored; all are verified."""


class Place(FolderPlace):
    """One object at a time: the recording disk is for one thread."""

    threads = 1


class Restored(NamedTuple):
    """What a restored folder holds, and how it was asked for."""

    world: StoreWorld
    asked: Mapping[str, Any]


class World(NamedTuple):
    """All that was promised after one call."""

    store: StoreWorld
    promised: StoreWorld
    """What of the store must be there; less than all if appends are not synced."""
    snapshots: Mapping[int, StoreWorld]
    restored: Mapping[str, Restored]


@contextmanager
def small_links() -> Iterator[None]:
    """Small segments are linked, too, a snapshot of few bytes has several packs, and a restore maps little."""
    with (
        mock.patch.object(taking, "_SMALL", LINKED_FROM),
        mock.patch.object(taking, "_PACK_BYTES", 2048),
        mock.patch.object(restoring, "LogConfig", partial(LogConfig.of, CONFIG)),
    ):
        yield


class SnapshotSession(StoreSession):
    """One life of a store and its snapshots."""

    def __init__(self, dropped: frozenset[Site] = frozenset(), *, fsync: Any = "always") -> None:
        super().__init__(dropped)
        self.disk = RecordingDisk({PARENT: {}}, dropped=dropped)
        self.disk.leaves_locks = True
        self.fsync = fsync
        self.calls = list[str]()
        self.worlds: list[World] = [World({}, {}, {}, {})]
        self._world = self.worlds[0]

    def in_flight(self, begun: int, returned: int) -> tuple[World, ...]:  # type: ignore[override]
        """What may be found while a call is under way, or after it."""
        after = self.worlds[begun : begun + 1] if begun != returned else []
        return (self.worlds[returned], *after)

    def step(self, what: str, act: Callable[[], object]) -> None:
        """Do something, and note what there is then."""
        self.calls.append(what)
        self.disk.begin(what)
        act()
        self.disk.acknowledge(what)
        found = look(self._store) if self._store is not None else self._world.store
        is_lazy = self.fsync == "never" and what.startswith("append")
        self._world = self._world._replace(store=found, promised=self._world.promised if is_lazy else found)
        self.worlds.append(self._world)

    def only_during(self, call: str) -> None:
        """Forget all moments but those within calls of this name."""
        self.disk.boundaries = [
            one
            for one in self.disk.boundaries
            if one.step != one.acknowledged and self.calls[one.step - 1].startswith(call)
        ]

    def open(self) -> None:
        """Open the store."""

        def act() -> None:
            self._store = ec.open(STORE, fsync=self.fsync, config=SETTINGS, clock=self.clock, disk=self.disk)

        self.step("open", act)

    def die(self) -> None:
        """The process is killed; the next one finds what it has left, synced or not."""
        self._store = None
        self.disk._locked.clear()

    def fill(self, name: str, partition: int, count: int) -> None:
        """Records of 400 bytes: ten or so fill a segment."""
        values = [b"%s %d" % (name.encode(), at) + b"." * 400 for at in range(self._sent, self._sent + count)]
        self._sent += count
        self.step(f"append to {name}-{partition}", lambda: self.store.topic(name)[partition].extend(values))

    def truncate(self, name: str, partition: int, end: int) -> None:
        """As a follower does."""
        self.step(f"truncate {name}-{partition}", lambda: self.store.topic(name)[partition].truncate(end))

    def snapshot(self) -> None:
        """Take one."""

        def act() -> None:
            number = taking.take(self.store, Place(self.disk, KEPT)).number
            snapshots = {**self._world.snapshots, number: look(self.store)}
            self._world = self._world._replace(snapshots=snapshots)

        self.step("snapshot", act)

    def prune(self, keep_last: int = 1) -> None:
        """Remove old ones."""

        def act() -> None:
            removed = Snapshots(Place(self.disk, KEPT)).prune(keep_last=keep_last)
            snapshots = {number: one for number, one in self._world.snapshots.items() if number not in removed}
            self._world = self._world._replace(snapshots=snapshots)

        self.step("prune", act)

    def restore(self, name: str, world: StoreWorld, **asked: Any) -> None:
        """Make a store of a snapshot, which must hold this."""

        def act() -> None:
            restoring.restore(Place(self.disk, KEPT), KnownPath(PARENT, name), self.disk, self.clock, **asked)
            self._world = self._world._replace(restored={**self._world.restored, name: Restored(world, asked)})

        self.step(f"restore {name}", act)


# -- the judge -----------------------------------------------------------------------------------------------------


class Judge:
    """Checks crash states. What has the same files is looked at once."""

    def __init__(self) -> None:
        self._good: set[object] = set()
        self._more = 0

    def check(self, image: Image, expected: tuple[World, ...]) -> None:
        """Everything above. Raises Violation."""
        try:
            self._check(image, expected)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def _check(self, image: Image, expected: tuple[World, ...]) -> None:
        before, after = expected[0], expected[-1]
        kept = below(image, KEPT)
        numbers = set(Snapshots(Place(_disk(image), KEPT)).numbers())
        if not before.snapshots.keys() & after.snapshots.keys() <= numbers:
            raise Violation(f"snapshots {numbers}, where {[*before.snapshots]} or {[*after.snapshots]} are promised")
        for number in sorted(numbers):
            if number not in {**before.snapshots, **after.snapshots}:
                raise Violation(f"snapshot {number}, where {[*before.snapshots]} or {[*after.snapshots]} may be")
            world = {**before.snapshots, **after.snapshots}[number]
            self._once(("snapshot", number, id(world)), kept, partial(_check_snapshot, kept, number, world))
        for name, restored in {**before.restored, **after.restored}.items():
            self._check_restored(image, kept, name, restored, must=name in before.restored)
        self._check_source(image, before, after)

    def _once(self, what: tuple[object, ...], image: Image, ask: Callable[[], None]) -> None:
        key = (what, image_key(image))
        if key not in self._good:
            ask()
            self._good.add(key)

    def _check_restored(self, image: Image, kept: Image, name: str, restored: Restored, *, must: bool) -> None:
        path = KnownPath(PARENT, name)
        staging = below(image, KnownPath(PARENT, name + restoring.SUFFIX))
        found = below(image, path)
        if str(path) in found:
            self._once((name,), found, lambda: _check_store(_disk(found), path, restored.world))
            return
        if must:
            raise Violation(f"{name} is gone")
        whole = {**kept, **staging}
        self._once((name,), whole, lambda: _check_restore(whole, path, restored))

    def _check_source(self, image: Image, before: World, after: World) -> None:
        """The store and its snapshots together: they share files."""
        both, store = {**below(image, KEPT), **below(image, STORE)}, below(image, STORE)
        linked = [
            (folder, name)
            for folder, files in both.items()
            for name, content in files.items()
            if isinstance(content, LinkedBytes)
        ]
        promises = (tuple(sorted(linked)), id(before.promised), id(after.store))
        self._once(("source", promises), store, lambda: _check_source(both, (before.promised, after.store)))
        self._once(("one more", promises), both, lambda: self._check_goes_on(both))

    def _check_goes_on(self, image: Image) -> None:
        disk = _disk(image)
        with open_found(disk) as store:
            world, archive = look(store), Snapshots(Place(disk, KEPT))
            number = taking.take(store, archive.place).number
            archive.prune()
        if archive.numbers() != [number] or archive.verify(number):
            raise Violation(f"snapshots {archive.numbers()} after a prune: {archive.verify(number)}")
        if set(archive.read(number).objects()) != set(archive.place.sizes(OBJECTS)):
            raise Violation("a prune leaves what nobody needs")
        self._more += 1
        if self._more % RESTORED_EVERY == 1:
            _check_snapshot(below(disk.image(), KEPT), number, world)


def _check_source(image: Image, expected: tuple[StoreWorld, StoreWorld]) -> None:
    disk = _disk(image)
    check_on(disk, expected)
    _same(below(image, KEPT), below(disk.image(), KEPT), "the store")


def _disk(image: Image) -> MemoryDisk:
    disk = MemoryDisk(image, boot=1000)
    disk.leaves_locks = True
    return disk


def below(image: Image, path: Path) -> Image:
    """The part of an image that is in a folder."""
    return {PARENT: {}} | {
        folder: files for folder, files in image.items() if folder == str(path) or folder.startswith(f"{path}/")
    }


def _same(kept: Image, now: Image, who: str) -> None:
    for folder, files in kept.items():
        for name, content in files.items():
            if now.get(folder, {}).get(name) != content:
                raise Violation(f"{who} has changed {folder}/{name}")


def _check_snapshot(kept: Image, number: int, world: StoreWorld) -> None:
    problems = Snapshots(Place(_disk(kept), KEPT)).verify(number)
    if problems:
        raise Violation(f"snapshot {number}: {problems}")
    _check_restore(kept, FRESH, Restored(world, {"number": number}))


def _check_restore(image: Image, path: Path, restored: Restored) -> None:
    """The call makes it, of nothing or of what one before has left."""
    disk = _disk(image)
    restoring.restore(Place(disk, KEPT), path, disk, Clock(), **restored.asked)
    _same(below(image, KEPT), below(disk.image(), KEPT), "a restore")
    left = [folder for folder in disk.folders if restoring.SUFFIX in folder]
    names = disk.entries(path) & {restoring.NOTE, restoring.NOTE + ".tmp", restoring._LOCK}
    if left or names:
        raise Violation(f"a restore leaves {left} and {names}")
    _check_store(disk, path, restored.world)


def _check_store(disk: MemoryDisk, path: Path, world: StoreWorld) -> None:
    with open_found(disk, path) as store:
        clean = [one.recovery.clean for name in store.topics for one in store.topic(name) if len(one)]
        if not store.was_clean or not all(clean) or store.problems:
            raise Violation(f"a restored store is not clean: {store.was_clean}, {clean}, {store.problems}")
        found = look(store)
        if found != world:
            raise Violation(f"{path.name} has {_short(found)}, not {_short(world)}")
        store.topics and store.topic(store.topics[-1])[0].append(b"goes on")


def _short(world: StoreWorld) -> str:
    return str(world).replace("." * 400, "")


# -- histories -----------------------------------------------------------------------------------------------------


def _begin(session: SnapshotSession) -> None:
    session.open()
    session.create("tx.a", 2)
    session.coordinator_log()
    session.group_log()
    session.create("one", 1, retention_ms=10**14)
    session.transact("billing-1", ("tx.a", 0), ("tx.a", 1), group="g")


def _taken(session: SnapshotSession) -> None:
    _begin(session)
    session.fill("one", 0, 14)
    session.snapshot()
    session.fill("one", 0, 8)
    session.transact("billing-2", ("tx.a", 0), ("tx.a", 1), group="h")
    session.snapshot()
    session.append("one", 0, 2)
    session.prune()
    session.snapshot()
    session.close()


def _open_transaction(session: SnapshotSession) -> None:
    _begin(session)
    session.append("one", 0, 2)
    session.begin("billing-2", "tx.a")
    session.snapshot()
    session.transact("billing-2", ("tx.a", 1), ("tx.a", 0))
    session.snapshot()
    session.delete("one")
    session.snapshot()
    session.prune(keep_last=2)
    session.close()


def _restored(session: SnapshotSession) -> None:
    _begin(session)
    session.fill("one", 0, 14)
    early = session.worlds[-1].store
    session.clock.now += 60_000
    session.fill("one", 0, 8)
    session.snapshot()
    newest = session.worlds[-1].store
    session.restore("again", newest)
    session.append("one", 0, 1)
    session.restore("early", early, until=session.clock.now)
    topic = newest["one"]
    cut = topic._replace(partitions=(topic.partitions[0][:11],))
    session.restore("cut", {**newest, "one": cut}, until={("one", 0): 11})
    session.close()


def _truncated(session: SnapshotSession) -> None:
    """A closed segment that is linked is cut in place."""
    session.open()
    session.create("one", 1)
    session.fill("one", 0, 30)
    session.snapshot()
    session.truncate("one", 0, 14)
    session.fill("one", 0, 3)
    session.snapshot()
    session.truncate("one", 0, 5)
    session.snapshot()
    session.prune(keep_last=2)
    session.fill("one", 0, 8)
    session.close()


def _killed(session: SnapshotSession) -> None:
    """The store's process dies beside its snapshots, and the next one goes on."""
    session.open()
    session.create("one", 2)
    session.fill("one", 0, 24)
    session.snapshot()
    session.append("one", 0, 2)
    session.die()
    session.open()
    session.truncate("one", 0, 12)
    session.die()
    session.open()
    session.fill("one", 0, 10)
    session.snapshot()
    session.close()


def _unsynced(session: SnapshotSession) -> None:
    """Appends are not synced, but snapshots are."""
    session.fsync = "never"
    session.open()
    session.create("one", 2)
    session.fill("one", 0, 14)
    session.fill("one", 1, 3)
    session.snapshot()
    session.fill("one", 0, 12)
    session.snapshot()
    session.prune()
    session.close()


SNAPSHOT_SCENARIOS: dict[str, Callable[[SnapshotSession], None]] = {
    "taken": _taken,
    "open transaction": _open_transaction,
    "restored": _restored,
    "truncated": _truncated,
    "killed": _killed,
    "unsynced": _unsynced,
}


def record_snapshots(name: str, dropped: frozenset[Site] = frozenset()) -> SnapshotSession:
    """Play one of them."""
    session = SnapshotSession(dropped)
    with small_links():
        SNAPSHOT_SCENARIOS[name](session)
    return session


def state_key(found: Found) -> tuple[int, int]:
    """Equal for states that are the same, and must keep the same promises."""
    return image_key(found.image), id(found.expected[-1])


def search(name: str, limits: Limits, quota: int, enough: int = 5, during: str = "") -> tuple[int, list[str]]:
    """How many distinct states were checked, and what was bad; `during` calls of one name, or at any time."""
    seen: set[tuple[int, int]] = set()
    bad, judge = list[str](), Judge()
    with quiet(), small_links():
        session = record_snapshots(name)
        if during:
            session.only_during(during)
        for found in states_of(f"{name}:", session, limits):  # type: ignore[arg-type]
            if state_key(found) not in seen:
                seen.add(state_key(found))
                look_at(found, judge, bad)
            if len(seen) >= quota or len(bad) >= enough:
                break
    return len(seen), bad


def look_at(found: Found, judge: Judge, bad: list[str]) -> None:
    """Look at one state."""
    try:
        judge.check(found.image, found.expected)  # type: ignore[arg-type]
    except Violation as violation:
        bad.append("\n  ".join([f"{found.name}: {violation}", *found.state.describe()]))

"""Small histories of a store on a recording disk, and what must hold of it after a power loss.

1. a topic is there with all of its partitions, its id and its configuration, or not at all;
2. of a call that was acknowledged everything is there, of the one under way all or, record by record, a part;
3. nothing that was deleted is there again;
4. an opening finds nothing wrong, takes records and new topics, and leaves a store that is closed cleanly;
5. of a transaction (topics whose names begin with TRANSACTIONAL, and offsets of groups) one sees all or nothing, in
   all partitions; what was acknowledged is decided for good, and what was not can be taken over;
6. no group is beyond the end of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import eventcore as ec
from eventcore.format import group_log, transaction_log
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.memory_disk import Image, MemoryDisk
from tests.crash.oracle import PARENT, Clock, KnownPath, Violation
from tests.crash.session import CONFIG

STORE: Path = KnownPath(PARENT, "store")
SETTINGS = {**CONFIG, "store.housekeeping.enable": False, "store.open.partitions": 2}


TRANSACTIONAL = "tx."
OFFSETS = "tx.offsets"
"""In place of a topic: how far the groups are."""
WHO = ("billing-1", "billing-2")
GROUPS = ("g", "h")


class TopicWorld(NamedTuple):
    """What a topic holds: what was set for it, and the values of each partition from some offset on."""

    config: tuple[tuple[str, Any], ...]
    partitions: tuple[tuple[bytes, ...], ...]
    starts: tuple[int, ...]


StoreWorld = dict[str, TopicWorld]


def look(store: ec.Store) -> StoreWorld:
    """What a store holds."""
    found = {}
    for name in store.topics:
        if name in (transaction_log.TOPIC, group_log.TOPIC):
            continue
        topic = store.topic(name)
        values = tuple(tuple(_committed(partition)) for partition in topic)
        starts = tuple(partition.log_start_offset for partition in topic)
        found[name] = TopicWorld(tuple(sorted(store.own_config(name).items())), values, starts)
    if store.has_topic(group_log.TOPIC):
        found[OFFSETS] = TopicWorld((), tuple(_offsets(store, group) for group in GROUPS), ())
    return found


def _offsets(store: ec.Store, group: str) -> tuple[bytes, ...]:
    if store.groups.pending(group):
        raise Violation(f"group {group} waits for a transaction that nobody has")
    places = store.groups.offsets(group)
    for (topic, number), committed in places.items():
        end = store.topic(topic)[number].log_end_offset
        if committed.offset > end:
            raise Violation(f"group {group} is at {committed.offset} of {topic}-{number}, which ends at {end}")
    return tuple(b"%s-%d %d" % (topic.encode(), number, at.offset) for (topic, number), at in sorted(places.items()))


def _committed(partition: ec.Partition) -> Iterator[bytes]:
    for record in partition.read(partition.log_start_offset, isolation="read_committed"):
        yield record.value or b""


class StoreSession:
    """One life of a store. `expected[k]` is what `k` returned calls have promised."""

    def __init__(self, dropped: frozenset[Site] = frozenset()) -> None:
        self.disk = RecordingDisk({PARENT: {}}, dropped=dropped)
        self.clock = Clock()
        self.expected: list[StoreWorld] = [{}]
        self._store: ec.Store | None = None
        self._sent = 0

    @property
    def store(self) -> ec.Store:
        """The open store."""
        assert self._store is not None
        return self._store

    def in_flight(self, begun: int, returned: int) -> tuple[StoreWorld, ...]:
        """What may be found while a call is under way, or after it."""
        after = self.expected[begun : begun + 1] if begun != returned else []
        return (self.expected[returned], *after)

    def step(self, what: str, act: Callable[[], object]) -> None:
        """Do something, and note what the store holds then."""
        self.disk.begin(what)
        act()
        self.disk.acknowledge(what)
        self.expected.append(look(self._store) if self._store is not None else self.expected[-1])

    def open(self) -> None:
        """Open the store."""

        def act() -> None:
            self._store = ec.open(STORE, config=SETTINGS, clock=self.clock, disk=self.disk)

        self.step("open", act)

    def close(self) -> None:
        """Close it."""
        store, self._store = self.store, None
        self.step("close", store.close)

    def create(self, name: str, partitions: int, **config: Any) -> None:
        """Make a topic."""
        values = {key.replace("_", "."): value for key, value in config.items()}
        self.step(f"create {name}", lambda: self.store.create_topic(name, partitions, values))

    def configure(self, name: str, **config: Any) -> None:
        """Change its configuration."""
        values = {key.replace("_", "."): value for key, value in config.items()}
        self.step(f"configure {name}", lambda: self.store.configure_topic(name, values))

    def delete(self, name: str) -> None:
        """Remove it."""
        self.step(f"delete {name}", lambda: self.store.delete_topic(name))

    def append(self, name: str, partition: int, count: int = 1) -> None:
        """Records to one partition."""
        values = [b"%s %d" % (name.encode(), number) for number in range(self._sent, self._sent + count)]
        self._sent += count
        self.step(f"append to {name}-{partition}", lambda: self.store.topic(name)[partition].extend(values))

    def coordinator_log(self) -> None:
        """Of one partition: fifty would be much of the same."""
        self.step("make its log", lambda: self.store.internal_topic(transaction_log.TOPIC, 1, CONFIG))

    def group_log(self) -> None:
        """Of one partition, too."""
        self.step("make the groups' log", lambda: self.store.internal_topic(group_log.TOPIC, 1, CONFIG))

    def commit(self, group: str, *partitions: tuple[str, int]) -> None:
        """A group has done with all that is in these partitions."""

        def act() -> None:
            self.store.groups.commit(
                group, {key: self.store.topic(key[0])[key[1]].high_watermark for key in partitions}
            )

        self.step(f"commit of {group}", act)

    def commit_as_reader(self, group: str, *partitions: tuple[str, int]) -> None:
        """The same, by a process that only reads."""

        def act() -> None:
            with ec.open(STORE, "r", config={"store.open.partitions": 2}, clock=self.clock, disk=self.disk) as store:
                store.groups.commit(group, {key: store.topic(key[0])[key[1]].high_watermark for key in partitions})

        self.step(f"commit of {group} by a reader", act)

    def transact(
        self, who: str, *partitions: tuple[str, int], commit: bool = True, flush: bool = False, group: str = ""
    ) -> None:
        """A record to each of the partitions, in a transaction, and a group that has done with what was in them."""
        values = [b"%d" % (self._sent + at) for at in range(len(partitions))]
        self._sent += len(partitions)

        def act() -> None:
            tx = self.store.transaction(who)
            if group:
                ends = {key: self.store.topic(key[0])[key[1]].high_watermark for key in partitions}
                tx.commit_offsets(group, ends)
            for (topic, number), value in zip(partitions, values, strict=True):
                tx.append(topic, value, partition=number)
                if flush:
                    tx.flush()
            tx.flush()
            tx.commit() if commit else tx.abort()

        self.step(f"{'commit' if commit else 'abort'} {who}", act)

    def begin(self, who: str, topic: str) -> None:
        """A transaction that nobody ends."""

        def act() -> None:
            tx = self.store.transaction(who)
            tx.append(topic, b"never", partition=0)
            tx.flush()

        self.step(f"begin {who}", act)

    def delete_records(self, name: str, partition: int, before: int) -> None:
        """Move a partition's start."""
        self.step(f"delete records of {name}", lambda: self.store.topic(name)[partition].delete_records(before))

    def housekeep(self, days: int = 0) -> None:
        """Later, look after everything."""
        self.clock.now += days * 86_400_000 + 60_000
        self.step("housekeep", lambda: self.store.housekeep())


def check(image: Image, expected: tuple[StoreWorld, ...]) -> None:
    """Everything above. Raises Violation."""
    check_on(MemoryDisk(image, boot=1000), expected)


def check_on(disk: MemoryDisk, expected: tuple[StoreWorld, ...]) -> None:
    """The same of a disk that has more on it."""
    try:
        store = open_found(disk)
        found = look(store)
        _compare(found, expected)
        if store.problems:
            raise Violation(f"problems: {store.problems}")
        if store.has_topic(transaction_log.TOPIC):
            _take_over_transactions(store, found)
        else:
            _use_topics(store, found)
        last = look(store)
        store.close()
        again = open_found(disk)
        clean = [partition.recovery.clean for name in again.topics for partition in again.topic(name) if len(partition)]
        if not again.was_clean or not all(clean) or look(again) != last:
            raise Violation(f"after a clean close: {again.was_clean}, {clean}, {look(again)} where {last} was left")
        again.close()
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}") from error


def _use_topics(store: ec.Store, found: StoreWorld) -> None:
    """Make new ones, and those that were made or deleted; use those that are there."""
    store.create_topic("new.one", 2)
    store.topic("new.one").append(b"after", partition=1)
    for name in ("one", "two"):
        store.create_topic(name, 1, exist_ok=True) if name not in found else store.topic(name)[0].append(b"after")


def _take_over_transactions(store: ec.Store, found: StoreWorld) -> None:
    """Whoever comes next under the same names."""
    topics = [name for name in found if name.startswith(TRANSACTIONAL) and name != OFFSETS]
    for who in WHO if topics else ():
        with store.transaction(who) as tx:
            for topic in topics:
                tx.append(topic, b"taken over", partition=0)
    if store.transactions.hanging():
        raise Violation(f"it hangs: {store.transactions.hanging()}")
    for name in topics:
        topic, before = look(store)[name], found[name]
        values = [topic.partitions[0][: -len(WHO)], *topic.partitions[1:]]
        if values != list(before.partitions) or topic.partitions[0][-2:] != (b"taken over",) * len(WHO):
            raise Violation(f"{name}: {topic} after a take-over, {before} before it")


def open_found(disk: MemoryDisk, path: Path = STORE) -> ec.Store:
    """It may have more open at a time, which takes a fifth of the time."""
    config = {**SETTINGS, "store.open.partitions": 64}
    return ec.open(path, config=config, clock=Clock(1_700_000_000_000 + 3_600_000), disk=disk)


def _compare(found: StoreWorld, expected: tuple[StoreWorld, ...]) -> None:
    before, after = expected[0], expected[-1]
    worlds = [_transactional(world) for world in expected]
    if _transactional(found) not in worlds and len(_transactional(found)) == len(worlds[0]):
        raise Violation(f"a part of a transaction: {_transactional(found)} where {worlds} may be")
    for name in found.keys() | before.keys() | after.keys():
        allowed = [world.get(name) for world in expected]
        topic = found.get(name)
        if topic in allowed:
            continue
        known = [world for world in allowed if world is not None]
        if topic is None or len(known) < 2 or not _is_between(topic, *known[:2]):
            raise Violation(f"{name}: {topic} where {allowed} may be")


def _transactional(world: StoreWorld) -> StoreWorld:
    return {name: topic for name, topic in world.items() if name.startswith(TRANSACTIONAL)}


def _is_between(found: TopicWorld, before: TopicWorld, after: TopicWorld) -> bool:
    """Whether some records of the call under way are there, and some are not."""
    if found.config not in (before.config, after.config) or len(found.partitions) != len(before.partitions):
        return False
    return all(_is_partly(*one) for one in zip(found.partitions, before.partitions, after.partitions, strict=True))


def _is_partly(values: tuple[bytes, ...], old: tuple[bytes, ...], new: tuple[bytes, ...]) -> bool:
    return values in (old, new) or (values[: len(old)] == old and new[: len(values)] == values)


def _topics(session: StoreSession) -> None:
    session.open()
    session.create("one", 2, retention_ms=1000)
    session.append("one", 1, 2)
    session.create("two", 1)
    session.append("two", 0)
    session.configure("one", retention_ms=None, segment_bytes=8192)
    session.append("one", 0)
    session.close()


def _deleted(session: StoreSession) -> None:
    session.open()
    session.create("one", 3)
    session.create("two", 1, cleanup_policy="compact")
    session.append("one", 0, 3)
    session.append("one", 2)
    session.delete("one")
    session.append("two", 0)
    session.housekeep()
    session.create("one", 2)
    session.append("one", 1)
    session.delete("one")
    session.close()
    session.open()
    session.housekeep()
    session.close()


def _cleaned(session: StoreSession) -> None:
    session.open()
    session.create("one", 2, retention_ms=86_400_000)
    session.append("one", 0, 40)
    session.append("one", 1, 2)
    session.delete_records("one", 1, 1)
    session.housekeep()
    session.append("one", 0)
    session.housekeep(days=2)
    session.append("one", 0)
    session.close()
    session.open()
    session.housekeep(days=2)
    session.close()


def _transactions(session: StoreSession) -> None:
    session.open()
    session.create("tx.a", 2)
    session.create("tx.b", 1)
    session.coordinator_log()
    session.transact("billing-1", ("tx.a", 0), ("tx.a", 1), ("tx.b", 0))
    session.transact("billing-2", ("tx.b", 0), ("tx.a", 1), flush=True)
    session.transact("billing-1", ("tx.a", 0), ("tx.b", 0), commit=False)
    session.begin("billing-2", "tx.a")
    session.transact("billing-2", ("tx.a", 0), ("tx.a", 0), ("tx.b", 0))
    session.close()
    session.open()
    session.transact("billing-1", ("tx.b", 0), ("tx.a", 0))
    session.close()


def _offsets_of_groups(session: StoreSession) -> None:
    session.open()
    session.create("tx.a", 2)
    session.create("tx.b", 1)
    session.coordinator_log()
    session.group_log()
    session.append("tx.a", 0, 3)
    session.commit("g", ("tx.a", 0))
    session.transact("billing-1", ("tx.a", 0), ("tx.b", 0), group="g")
    session.commit("h", ("tx.a", 0), ("tx.b", 0))
    session.append("tx.b", 0)
    session.commit_as_reader("g", ("tx.b", 0))
    session.transact("billing-2", ("tx.b", 0), ("tx.a", 1), group="h", flush=True)
    session.transact("billing-1", ("tx.b", 0), ("tx.a", 0), group="g", commit=False)
    session.commit("g", ("tx.a", 1), ("tx.a", 0))
    session.close()
    session.open()
    session.transact("billing-1", ("tx.a", 0), ("tx.a", 1), group="g")
    session.close()


STORE_SCENARIOS: dict[str, Callable[[StoreSession], None]] = {
    "topics": _topics,
    "deleted": _deleted,
    "cleaned": _cleaned,
    "transactions": _transactions,
    "offsets of groups": _offsets_of_groups,
}


def record_store(name: str, dropped: frozenset[Site] = frozenset()) -> StoreSession:
    """Play one of them."""
    session = StoreSession(dropped)
    STORE_SCENARIOS[name](session)
    return session

"""Small histories of one log, played on a recording disk: what is done, and what each call promised."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.files import names
from eventcore.format import control
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.log.reader import batches
from eventcore.types import Record
from tests.crash.crash_choices import BoundaryChoices
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.memory_disk import Image
from tests.crash.oracle import FOLDER, PARENT, Clock, Expected, Sent, World, identify

CONFIG: Mapping[str, Any] = {
    "segment.bytes": 4096,
    "segment.index.bytes": 256,
    "index.interval.bytes": 300,
    "max.message.bytes": 1200,
}
EMPTY: Image = {PARENT: {}, str(FOLDER): {}}
NOTHING: Expected = ((World(), 0),)


class Session:
    """One life of a writer, from a folder in some state on. `expected[k]` is what k returned calls have promised."""

    def __init__(
        self,
        rng: random.Random,
        *,
        image: Image = EMPTY,
        expected: Expected = NOTHING,
        fsync: str = "always",
        config: LogConfig | None = None,
        boot: int = 1,
        allocates: bool = True,
        dropped: frozenset[Site] = frozenset(),
        kept: frozenset[bytes] = frozenset(),
        disk: RecordingDisk | None = None,
    ) -> None:
        self.rng = rng
        self.fsync = fsync
        self.allocates = allocates
        self.dropped = dropped
        self.kept = kept
        self.config = config or LogConfig.of(CONFIG)
        self.disk = disk or RecordingDisk(image, boot=boot, allocates=allocates, dropped=dropped)
        self.expected: list[Expected] = [expected]
        self.clock = Clock()
        self.world = expected[0][0]
        self._opened: Partition | None = None
        self._sent = boot * 10_000

    @property
    def log(self) -> Partition:
        """The open partition."""
        assert self._opened is not None
        return self._opened

    def in_flight(self, begun: int, returned: int) -> Expected:
        """What may be found while a call is under way, or after it."""
        known = self.expected[returned]
        if begun == returned or begun >= len(self.expected):
            return known
        promised = min(promised for _, promised in known)
        return (*known, *((world, min(promised, world.end)) for world, _ in self.expected[begun]))

    def _step(self, what: str, act: Callable[[], object], after: Callable[[], World]) -> None:
        self.disk.begin(what)
        act()
        self.disk.acknowledge(what)
        self.world = after()
        self.expected.append(((self.world, self.world.durable),))

    def _changed(self, start: int, records: list[Sent | None], durable: int) -> World:
        """The world after a call, with where its batches end."""
        end = len(records)
        ends = {at for at in self.world.ends if at <= end} | {end}
        if self._opened is not None:
            segments = self.log.segments
            ends |= {header.next_offset for _, _, header in batches(segments, segments.first.base_offset, end)}
            durable = max(durable, self.log.durable_offset)
        return World(start, records, ends, durable)

    def _same(self) -> World:
        return self._changed(self.world.start, list(self.world.records), self.world.durable)

    # -- calls -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the folder; what is found then is promised."""

        def act() -> None:
            self._opened = Partition(PartitionLog(self.disk, FOLDER, self.config, self.clock, self.fsync))

        def after() -> World:
            found = identify(self.log, self.expected[-1])
            return World(found.start, found.world.records[: found.end], found.world.ends, found.end)

        self._step("open", act, after)

    def tick(self, seconds: float = 1.5) -> None:
        """Let time pass: the next sync is followed by a checkpoint."""
        self.clock.now += int(seconds * 1000)

    def _values(self, count: int, size: int = 0) -> list[bytes]:
        self._sent += count
        numbers = range(self._sent - count, self._sent)
        return [(b"%d." % number) * ((size or self.rng.choice((5, 30, 120))) // 5) for number in numbers]

    def _records(self, values: list[bytes], **fields: Any) -> list[Sent]:
        first, now = self.world.end, self.clock.now_ms()
        epoch = fields.pop("epoch", self.log.leader_epoch)
        return [Sent(Record(first + at, now, None, value, ()), epoch, **fields) for at, value in enumerate(values)]

    def _add(self, what: str, sent: list[Sent], act: Callable[[], object]) -> None:
        def after() -> World:
            durable = self.world.end + len(sent) if self.fsync == "always" else self.world.durable
            return self._changed(self.world.start, [*self.world.records, *sent], durable)

        self._step(what, act, after)

    def append(self, count: int = 1, size: int = 0) -> None:
        """Records one by one."""
        for value in self._values(count, size):
            self._add(f"append at {self.world.end}", self._records([value]), lambda value=value: self.log.append(value))  # type: ignore[misc]

    def extend(self, count: int, size: int = 0) -> None:
        """Records in one call: several batches if they are many."""
        values = self._values(count, size)
        self._add(f"extend at {self.world.end} by {count}", self._records(values), lambda: self.log.extend(values))

    def sync(self) -> None:
        """All that was appended is promised."""
        self._step("sync", lambda: self.log.sync(), lambda: self._promised())

    def _promised(self) -> World:
        return self._changed(self.world.start, list(self.world.records), self.world.end)

    def roll(self) -> None:
        """A new segment."""
        self._step("roll", lambda: self.log.roll(), self._same)

    def set_leader_epoch(self, epoch: int) -> None:
        """Later records carry it."""
        self._step(f"epoch {epoch}", lambda: self.log.set_leader_epoch(epoch), self._same)

    def truncate(self, offset: int) -> None:
        """Cut the end; of a batch that holds the offset nothing stays."""
        offset = min(offset, self.world.end)
        kept = max((end for end in self.world.ends if end <= offset), default=0)

        def after() -> World:
            start = min(self.world.start, offset)
            records = [*self.world.records[:kept], *[None] * (offset - kept)]
            if start == offset:
                records = [None] * offset
            ends = {kept, offset}
            world = self._changed(start, records, min(self.world.durable, kept))
            return World(start, records, (world.ends | ends), min(world.durable, max(kept, start)))

        self._step(f"truncate to {offset}", lambda: self.log.truncate(offset), after)

    def delete_records(self, before: int) -> None:
        """Move the start."""
        before = min(before, self.log.high_watermark)

        def after() -> World:
            return self._changed(max(self.world.start, before), list(self.world.records), self.world.durable)

        self._step(f"delete records below {before}", lambda: self.log.delete_records(before), after)

    def produce(self, producer: int, epoch: int, sequence: int, count: int = 1, *, transactional: bool = False) -> None:
        """A client's batch of an idempotent producer."""
        values = self._values(count)
        data = self._batch([(None, value) for value in values], (producer, epoch, sequence), 0x10 * transactional)
        sent = [
            one._replace(producer=(producer, epoch, sequence + at), transactional=transactional)
            for at, one in enumerate(self._records(values))
        ]
        self._add(f"produce {producer}/{sequence} at {self.world.end}", sent, lambda: self.log.append_batches(data))

    def end_transaction(self, producer: int, epoch: int, *, commit: bool) -> None:
        """A marker, as it comes from a leader."""
        kind = control.COMMIT if commit else control.ABORT
        key, value = control.marker_record(kind, 0)
        data = self._batch([(key, value)], (producer, epoch, -1), 0x30, base=self.world.end)
        sent = Sent(Record(self.world.end), self.log.leader_epoch, (producer, epoch, -1), marker=int(commit))
        what = f"{'commit' if commit else 'abort'} {producer} at {self.world.end}"
        self._add(what, [sent], lambda: self.log.append_batches(data, "replica"))

    def _batch(self, items: list[Any], producer: tuple[int, int, int], attributes: int, base: int = 0) -> bytes:
        buf, now = bytearray(4096), self.clock.now_ms()
        epoch = self.log.leader_epoch if base else -1
        records = [Record(-1, now, key, value) for key, value in items]
        end, _, _ = kernels.encode.encode(buf, 0, len(buf), records, 0, base, epoch, attributes, now, *producer)
        return bytes(buf[:end])

    def merge(self, *bases: int) -> None:
        """Leave a complete `.swap` of some segments, as a cleaner does."""
        paths = [FOLDER / names.file_name(base, names.LOG) for base in bases]

        def act() -> None:
            fd = self.disk.open(paths[0].with_name(paths[0].name + names.SWAP), write=True, create=True)
            self.disk.pwrite_all(fd, b"".join(self.disk.read_file(path, 1 << 20) for path in paths), 0)
            self.disk.sync(fd)
            self.disk.close(fd)
            self.disk.sync_dir(FOLDER)

        self._step("merge", act, lambda: self._changed(self.world.start, list(self.world.records), self.world.end))

    def close(self) -> None:
        """Close cleanly: everything is promised."""
        log, self._opened = self.log, None
        self._step("close", log.close, self._closed)

    def _closed(self) -> World:
        world = self._promised()
        world.closed = True
        return world

    def reopen(self) -> None:
        """Close and open again."""
        self.close()
        self.open()


def _always(session: Session) -> None:
    session.open()
    session.append(3)
    session.tick()
    session.append(2)
    session.extend(3)
    session.close()


def _never(session: Session) -> None:
    session.open()
    session.append(4)
    session.extend(6, 300)
    session.close()


def _interval(session: Session) -> None:
    session.open()
    for count in (2, 1, 3):
        session.append(count)
        session.tick()
        session.sync()
    session.append()
    session.reopen()
    session.append()
    session.sync()


def _extend(session: Session) -> None:
    session.open()
    session.extend(12, 300)
    session.extend(5, 120)
    session.close()


def _roll(session: Session) -> None:
    session.open()
    session.append(2, 120)
    session.roll()
    session.append(2)
    session.roll()
    session.append()
    session.close()


def _roll_unsynced(session: Session) -> None:
    session.open()
    session.append(2, 300)
    session.roll()
    session.append(2, 300)
    session.roll()
    session.append(1)
    session.sync()
    session.append(1)


def _fill(session: Session) -> None:
    """Segments that roll because they are full."""
    session.open()
    session.extend(18, 600)
    session.tick()
    session.append(1)
    session.sync()
    session.append(3)


def _truncate_inside(session: Session) -> None:
    session.open()
    session.append(6, 120)
    session.tick()
    session.append(1)
    session.truncate(4)
    session.append(2)
    session.truncate(5)
    session.append(2)


def _segments(session: Session) -> None:
    session.open()
    for _ in range(3):
        session.append(3, 120)
        session.roll()
    session.append(2)


def _truncate_over(session: Session) -> None:
    _segments(session)
    session.truncate(4)
    session.append(2)
    session.roll()
    session.append(1)


def _truncate_to_base(session: Session) -> None:
    _segments(session)
    session.truncate(6)
    session.append(2)


def _truncate_below(session: Session) -> None:
    _segments(session)
    session.delete_records(5)
    session.truncate(2)
    session.append(2)
    session.tick()
    session.append(1)


def _truncate_unsynced(session: Session) -> None:
    """Much that never came to the disk, cut and written anew."""
    session.open()
    session.append(4, 300)
    session.roll()
    session.append(4, 300)
    session.truncate(6)
    session.append(2)
    session.truncate(2)
    session.append(3, 300)
    session.sync()


def _delete(session: Session) -> None:
    _segments(session)
    session.delete_records(1)
    session.delete_records(7)
    session.append()
    session.delete_records(session.world.end)
    session.append()
    session.close()


def _delete_unsynced(session: Session) -> None:
    _segments(session)
    session.delete_records(7)
    session.append()
    session.delete_records(session.world.end)
    session.append()
    session.sync()


def _reopen(session: Session) -> None:
    session.open()
    session.append(2)
    session.reopen()
    session.append(2)
    session.reopen()
    session.roll()
    session.append(1)
    session.reopen()


def _epochs(session: Session) -> None:
    session.open()
    session.append(2)
    session.set_leader_epoch(3)
    session.append(2)
    session.roll()
    session.set_leader_epoch(5)
    session.append(1)
    session.truncate(3)
    session.append(1)
    session.delete_records(3)
    session.close()


def _producers(session: Session) -> None:
    session.open()
    session.produce(7, 0, 0, 2)
    session.produce(8, 0, 0)
    session.produce(7, 0, 2)
    session.roll()
    session.tick()
    session.produce(7, 0, 3, 2)
    session.produce(8, 1, 0)
    session.tick()
    session.produce(7, 0, 5)
    session.truncate(session.world.end - 1)
    session.produce(7, 0, 5)
    session.close()


def _producers_truncated(session: Session) -> None:
    """Snapshots of what a truncation took away must not be believed."""
    session.open()
    session.produce(7, 0, 0)
    session.tick()
    session.produce(7, 0, 1)
    session.truncate(1)
    session.produce(8, 0, 0)
    session.tick()
    session.produce(8, 0, 1)
    session.truncate(2)
    session.produce(8, 0, 1)
    session.close()


def _transactions(session: Session) -> None:
    session.open()
    session.produce(7, 0, 0, transactional=True)
    session.append()
    session.end_transaction(7, 0, commit=False)
    session.produce(8, 0, 0, transactional=True)
    session.tick()
    session.produce(7, 0, 1, transactional=True)
    session.end_transaction(8, 0, commit=True)
    session.roll()
    session.end_transaction(7, 0, commit=False)
    session.append()
    session.reopen()
    session.append()


def _swap(session: Session) -> None:
    """A cleaner that merged two segments has died with the new one complete."""
    _segments(session)
    session.close()
    session.merge(0, 3)
    session.open()
    session.append()
    session.close()


def _delete_in_the_cache(session: Session) -> None:
    _segments(session)
    session.delete_records(7)


def _restart(session: Session) -> None:
    """The log start is durable, the records behind it are gone (rule S8)."""
    session.open()
    session.append(2)
    session.close()


def _random(session: Session) -> None:
    """Anything, in any order."""
    rng = session.rng
    sequences: dict[int, int] = {}
    session.open()
    for _ in range(rng.randint(4, 12)):
        action = rng.choice(_ACTIONS)
        if action == "produce":
            producer, count = rng.randint(7, 8), rng.randint(1, 3)
            known = session.world.producers(session.world.end).get(producer)
            sequences[producer] = known[1][-1][0] + 1 if known and known[1] else 0
            session.produce(producer, 0, sequences[producer], count)
        else:
            _RANDOM[action](session, rng)
    if rng.random() < 0.5:
        session.close()


_RANDOM: dict[str, Callable[[Session, random.Random], None]] = {
    "append": lambda session, rng: session.append(rng.randint(1, 3)),
    "extend": lambda session, rng: session.extend(rng.randint(2, 10), rng.choice((0, 300))),
    "tick": lambda session, rng: session.tick(),
    "sync": lambda session, rng: session.sync(),
    "roll": lambda session, rng: session.roll(),
    "truncate": lambda session, rng: session.truncate(rng.randint(0, session.world.end)),
    "delete": lambda session, rng: session.delete_records(rng.randint(0, session.world.end)),
    "epoch": lambda session, rng: session.set_leader_epoch(session.log.leader_epoch + 1),
    "reopen": lambda session, rng: session.reopen(),
}
_ACTIONS = (*["append"] * 4, *["extend"] * 3, *["produce"] * 3, *["truncate"] * 2, *_RANDOM)


def play_recovery(session: Session) -> None:
    """What is done with a folder that a crash left."""
    session.open()
    session.append()
    if session.rng.random() < 0.5:
        session.tick()
        session.extend(3, 300)
        session.truncate(session.world.end - 2)
    session.close()


class Scenario(NamedTuple):
    """What is played, and how the log is opened."""

    play: Callable[[Session], None]
    fsync: str = "always"
    config: tuple[tuple[str, Any], ...] = ()
    allocates: bool = True
    before: Callable[[Session], None] | None = None
    """Played first; then the power goes, and of what was not synced only the names are left."""

    def record(self, rng: random.Random, fork_at: int = -1, dropped: frozenset[Site] = frozenset()) -> Session:
        """Play it on a new recording disk."""
        config = LogConfig.of({**CONFIG, **dict(self.config)})
        image, expected = EMPTY, NOTHING
        if self.before:
            first = Session(rng, fsync=self.fsync, config=config, allocates=self.allocates)
            self.before(first)
            last = first.disk.boundaries[-1]
            image = BoundaryChoices(last, {}).unsynced_lost().image()
            expected = first.in_flight(last.step, last.acknowledged)
        session = Session(
            rng,
            image=image,
            expected=expected,
            fsync=self.fsync,
            config=config,
            boot=2,
            allocates=self.allocates,
            dropped=dropped,
        )
        session.disk.fork_at = fork_at
        self.play(session)
        return session


SCENARIOS: dict[str, Scenario] = {
    "always": Scenario(_always),
    "always by pwrite": Scenario(_always, allocates=False),
    "never": Scenario(_never, "never"),
    "interval": Scenario(_interval, "never"),
    "interval by pwrite": Scenario(_interval, "never", allocates=False),
    "extend": Scenario(_extend),
    "extend compressed": Scenario(_extend, config=(("compression.type", "gzip"),)),
    "roll": Scenario(_roll),
    "roll unsynced": Scenario(_roll_unsynced, "never"),
    "fill": Scenario(_fill),
    "fill unsynced": Scenario(_fill, "never"),
    "truncate inside": Scenario(_truncate_inside),
    "truncate over segments": Scenario(_truncate_over),
    "truncate to a base": Scenario(_truncate_to_base),
    "truncate below the first": Scenario(_truncate_below),
    "truncate unsynced": Scenario(_truncate_unsynced, "never"),
    "truncate by pwrite": Scenario(_truncate_over, allocates=False),
    "delete records": Scenario(_delete),
    "delete records unsynced": Scenario(_delete_unsynced, "never"),
    "reopen": Scenario(_reopen),
    "epochs": Scenario(_epochs),
    "producers": Scenario(_producers),
    "producers truncated": Scenario(_producers_truncated),
    "transactions": Scenario(_transactions),
    "transactions unsynced": Scenario(_transactions, "never"),
    "swap": Scenario(_swap),
    "restart": Scenario(_restart, "never", before=_delete_in_the_cache),
    "random": Scenario(_random),
    "random unsynced": Scenario(_random, "never"),
    "random compressed": Scenario(_random, "never", config=(("compression.type", "zstd"),)),
    "random by pwrite": Scenario(_random, "never", allocates=False),
}
RANDOM = [name for name in SCENARIOS if name.startswith("random")]
"""Those that are another history with every seed."""

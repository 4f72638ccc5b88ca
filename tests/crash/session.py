"""One life of a writer on a recording disk: what is done, and what each call promised."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.files import names
from eventcore.format import control
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.log.reader import batches
from eventcore.types import Record
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.memory_disk import Image
from tests.crash.oracle import FOLDER, PARENT, Clock, Expected, Sent, World, identify

CONFIG: Mapping[str, Any] = {
    "segment.bytes": 4096,
    "segment.index.bytes": 256,
    "index.interval.bytes": 300,
    "max.message.bytes": 1200,
    "producer.id.expiration.ms": (1 << 63) - 1,
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
        self.own_producers = False
        """Whether batches and markers are encoded here, not by a client and a leader."""
        self.world = expected[0][0]
        self._opened: Partition | None = None
        self._sent = boot * 10_000
        self.horizons: dict[int, int] = {}
        """When each tombstone was first cleaned."""

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
            ends = {
                at for at in found.world.ends if at <= found.end
            }  # a truncation inside of a batch leaves none there
            return World(found.start, found.world.records[: found.end], ends, found.end)

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

    def retain(self, days: int) -> None:
        """Let time pass, and what is older than `retention.ms` go; what that is, other tests say."""
        self.clock.now += days * 86_400_000

        def after() -> World:
            return self._changed(self.log.log_start_offset, list(self.world.records), self.world.durable)

        self._step(f"retain {days} days later", lambda: self.log.retain(), after)

    def produce(self, producer: int, epoch: int, sequence: int, count: int = 1, *, transactional: bool = False) -> None:
        """A batch of an idempotent producer: from a client, or of our own."""
        values = self._values(count)
        data = self._batch([(None, value) for value in values], (producer, epoch, sequence), 0x10 * transactional)
        sent = [
            one._replace(producer=(producer, epoch, sequence + at), transactional=transactional)
            for at, one in enumerate(self._records(values))
        ]

        def act() -> None:
            if self.own_producers:
                self.log.append_sequenced(values, producer, epoch, sequence, transactional=transactional)
            else:
                self.log.append_batches(data)

        self._add(f"produce {producer}/{sequence} at {self.world.end}", sent, act)

    def end_transaction(self, producer: int, epoch: int, *, commit: bool) -> None:
        """A marker, as it comes from a leader, or from a coordinator of our own."""
        kind = control.COMMIT if commit else control.ABORT
        key, value = control.marker_record(kind, 0)
        data = self._batch([(key, value)], (producer, epoch, -1), 0x30, base=self.world.end)
        sent = Sent(Record(self.world.end), self.log.leader_epoch, (producer, epoch, -1), marker=int(commit))
        what = f"{'commit' if commit else 'abort'} {producer} at {self.world.end}"

        def act() -> None:
            if self.own_producers:
                self.log.end_transaction(producer, epoch, commit=commit)
            else:
                self.log.append_batches(data, "replica")

        self._add(what, [sent], act)

    def _batch(self, items: list[Any], producer: tuple[int, int, int], attributes: int, base: int = 0) -> bytes:
        buf, now = bytearray(4096), self.clock.now_ms()
        epoch = self.log.leader_epoch if base else -1
        records = [Record(-1, now, key, value) for key, value in items]
        end, _, _ = kernels.encode.encode(buf, 0, len(buf), records, 0, base, epoch, attributes, now, *producer)
        return bytes(buf[:end])

    def merge(self, *bases: int) -> None:
        """Leave a complete `.swap` of some segments, as a cleaner does: it has its name once it is on the disk."""
        paths = [FOLDER / names.file_name(base, names.LOG) for base in bases]

        def act() -> None:
            cleaned = paths[0].with_name(paths[0].name + names.CLEANED)
            fd = self.disk.open(cleaned, write=True, create=True)
            self.disk.pwrite_all(fd, b"".join(self.disk.read_file(path, 1 << 20) for path in paths), 0)
            self.disk.sync(fd)
            self.disk.close(fd)
            self.disk.rename(cleaned, paths[0].with_name(paths[0].name + names.SWAP))
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

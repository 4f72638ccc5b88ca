"""What must hold of a log after a power loss, whatever the disk kept.

A `World` is the log as its writer saw it after one call; an `Expected` are the worlds that a crash at some moment may
leave, each with the offset up to which it was promised. `check` opens what the crash left and finds

  1. every record that was acknowledged as durable, at its offset, equal;
  2. no record that was never there, and no old one behind an acknowledged truncation;
  3. no gap: of what was not acknowledged a prefix of whole batches, and no damage reported;
  4. indexes, epochs and producers that say what the batches say;
  5. nothing that a second recovery does otherwise;
  6. a log that takes appends;
  7. nothing to read but what lies above the recovery point, and nothing at all after a clean close;
  8. files that are written as a whole as they were written: a broker would open them before we do;
  9. and somebody who only reads finds the same before any writer comes (asked of one state in so many).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.errors import StorageError
from eventcore.files import checkpoint, names, producer_snapshot, recovery_point, seal
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.log import clean_offset, quarantine
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.log.shared_log import SharedLog
from eventcore.types import Record
from tests.crash.memory_disk import Image, MemoryDisk, mask_state

PARENT = "/log"
NOW = 1_700_000_000_000
_BOOT = 1000
_READ_EVERY = 8
_OURS = {STATE_NAME, recovery_point.NAME}
"""They count openings, so that one more changes them."""


class KnownPath(PosixPath):
    """A path that keeps what is made of it: the engine asks for the same few names again and again."""

    def __truediv__(self, name: Any) -> KnownPath:
        child = self.__dict__.get(name)
        if child is None:
            first, _, rest = str(name).partition("/")
            if rest:
                return self / first / rest
            child = self.__dict__[name] = super().__truediv__(name)
            child.__dict__[".."] = self
        return child  # type: ignore[no-any-return]

    @property
    def parent(self) -> KnownPath:
        """The folder it was made from."""
        return self.__dict__.get("..") or super().parent

    def with_name(self, name: str) -> KnownPath:
        """Its neighbour."""
        return self.parent / name

    def resolve(self, strict: bool = False) -> KnownPath:
        """There are no links in memory."""
        return self


FOLDER: Path = KnownPath(PARENT, "events-0")


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.now


class Sent(NamedTuple):
    """One record that was given to the log, and what its batch says."""

    record: Record
    epoch: int = 0
    producer: tuple[int, int, int] = (-1, -1, -1)
    """Producer id, its epoch, and the sequence of this record."""
    transactional: bool = False
    marker: int = -1
    """The kind of a transaction marker; -1 for a record."""


class World:
    """The log after one call. `records` is indexed by offset; None where there is nothing (any more)."""

    def __init__(
        self,
        start: int = 0,
        records: Sequence[Sent | None] = (),
        ends: Iterable[int] = (0,),
        durable: int = 0,
    ) -> None:
        self.start = start
        self.records = tuple(records)
        self.ends = frozenset(ends)
        self.durable = durable
        self.closed = False
        """Whether it was closed cleanly, and not opened since."""
        self._known: dict[tuple[int, int], tuple[list[Record], list[int]]] = {}

    @property
    def end(self) -> int:
        """The log end offset."""
        return len(self.records)

    def view(self, start: int, end: int) -> tuple[list[Record], list[int]]:
        """The records of a range, and their epochs."""
        known = self._known.get((start, end))
        if known is None:
            sent = [sent for sent in self.records[start:end] if sent is not None]
            records = [one.record for one in sent if one.marker < 0]
            known = self._known[start, end] = (records, [one.epoch for one in sent])
        return known

    def refusal(self, start: int, end: int, promised: int) -> str | None:
        """Why a log that reaches from `start` to `end` cannot be this one; None if it can."""
        if start != self.start:
            return f"starts at {start}, not {self.start}"
        if end < self._solid(min(promised, self.end)):
            return f"ends at {end}, below the acknowledged {promised}"
        if end > self.end or (end not in self.ends and end != start):
            return f"ends at {end}, where no batch ended"
        return None

    def _solid(self, end: int) -> int:
        """Where the records below `end` end: a truncation inside of a batch leaves an end that no batch marks."""
        while end > self.start and self.records[end - 1] is None:
            end -= 1
        return end

    @cache  # noqa: B019 - there are few worlds, and they are forgotten together
    def producers(self, end: int) -> dict[int, tuple[int, list[tuple[int, int]], int]]:
        """Of each producer: its epoch, (sequence, offset) of each record of that epoch, where its transaction began."""
        found: dict[int, tuple[int, list[tuple[int, int]], int]] = {}
        for offset, sent in enumerate(self.records[:end]):
            if sent is None or sent.producer[0] < 0:
                continue
            number, epoch, sequence = sent.producer
            known, batches, open_from = found.get(number, (epoch, [], -1))
            batches = batches if known == epoch else []
            if sent.marker >= 0:
                open_from = -1
            else:
                batches = [*batches, (sequence, offset)]
                open_from = offset if sent.transactional and open_from < 0 else open_from
            found[number] = (epoch, batches, open_from)
        return found

    @cache  # noqa: B019
    def committed(self, start: int, end: int) -> list[Record]:
        """What a reader of committed data sees."""
        stable = min((first for _, _, first in self.producers(end).values() if first >= 0), default=end)
        seen: list[Record] = []
        for offset in range(start, min(stable, end)):
            sent = self.records[offset]
            if sent is not None and sent.marker < 0 and not self._aborted(offset, end):
                seen.append(sent.record)
        return seen

    def _aborted(self, offset: int, end: int) -> bool:
        sent = self.records[offset]
        if sent is None or not sent.transactional:
            return False
        later = (one for one in self.records[offset:end] if one is not None and one.producer[0] == sent.producer[0])
        return next((one.marker == 0 for one in later if one.marker >= 0), False)


Expected = tuple[tuple[World, int], ...]
"""The worlds that may be found, each with the offset below which nothing may be missing."""


def image_key(image: Image) -> int:
    """Equal for images that are the same to an opening."""
    files = (
        (folder, tuple(sorted((name, mask_state(name, content)) for name, content in files.items())))
        for folder, files in sorted(image.items())
    )
    return hash(tuple(files))


class Violation(AssertionError):
    """A promise that was not kept."""


class Found(NamedTuple):
    """What an opening made of a crash state."""

    world: World
    start: int
    end: int


class Oracle:
    """Checks crash states of logs of one configuration."""

    def __init__(self, config: LogConfig, *, allocates: bool = True) -> None:
        self.config = config
        self._allocates = allocates
        self._settled: set[int] = set()
        self._checked = 0

    def open(self, image: Image) -> tuple[MemoryDisk, Partition]:
        """Open what a crash left, after a restart of the machine."""
        disk = MemoryDisk(image, boot=_BOOT, allocates=self._allocates)
        return disk, Partition(PartitionLog(disk, FOLDER, self.config, Clock(NOW + 3_600_000), "always"))

    def put_aside(self, image: Image) -> frozenset[bytes]:
        """What a recovery of this image takes out of the log: it must be found in the quarantine ever after."""
        return _quarantined(self.open(image)[0].image())

    def check(self, image: Image, expected: Expected, kept: frozenset[bytes] = frozenset()) -> Found:
        """Everything above. Raises Violation. `kept` is what must be in the quarantine.

        Most crash states are recovered to one of a few logs; what only its files tell, and what a second recovery makes
        of them, is asked once.
        """
        try:
            check_whole_files(image)
            disk, partition = self.open(image)
            found = identify(partition, expected)
            self._checked += 1
            if self._checked % _READ_EVERY == 1 % _READ_EVERY:
                self.check_reader(image, found)
            check_effort(partition, image)
            if all(world.closed for world, _ in expected) and not partition.recovery.clean:
                raise Violation("an opening after a clean close found it unclean")
            recovered = disk.image()
            check_quarantine(partition, recovered, kept)
            check_contents(partition, found)
            key = hash((image_key(recovered), found.start, found.end))
            if key not in self._settled:
                check_files(partition, found)
                self._check_again(recovered, found)
                self._settled.add(key)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error
        return found

    def check_reader(self, image: Image, found: Found) -> None:
        """Before anybody recovers it, a reader finds what a recovery does, and changes nothing."""
        if not image.get(str(FOLDER), {}).keys() & _OURS:
            return  # it had not begun
        disk = MemoryDisk(image, boot=_BOOT, allocates=self._allocates)
        reader = Partition(SharedLog(disk, FOLDER, self.config))
        if (reader.log_start_offset, reader.log_end_offset) != (found.start, found.end):
            ends = f"{reader.log_start_offset} to {reader.log_end_offset}"
            raise Violation(f"a reader sees {ends}, a writer {found.start} to {found.end}")
        if list(reader.read(found.start)) != found.world.view(found.start, found.end)[0]:
            raise Violation("a reader sees other records than a writer")
        check_contents(reader, found)
        reader.close()
        if disk.image() != image or disk.open_paths():
            raise Violation(f"a reader has changed something, or keeps {disk.open_paths()} open")

    def _check_again(self, recovered: Image, found: Found) -> None:
        """A second recovery finds and leaves the same; then the log takes appends, and is whole after a clean close."""
        disk, partition = self.open(recovered)
        _same_files(recovered, disk.image(), "a second recovery")
        _same_range(partition, found.start, found.end)
        check_contents(partition, found)
        check_files(partition, found)
        _append(partition, found.end)
        partition.close()
        closed = disk.image()
        disk, partition = self.open(closed)
        _same_range(partition, found.start, found.end + 1)
        if not partition.recovery.clean:
            raise Violation("an opening after a clean close found it unclean")
        if [record.value for record in partition.read(found.end)] != [b"after"]:
            raise Violation("what was appended after the recovery is gone after a clean close")
        partition.close()
        _same_files(closed, disk.image(), "an opening after a clean close")


def identify(partition: Partition, expected: Expected) -> Found:
    """Which of the expected worlds the log is. Raises Violation if it is none."""
    start, end = partition.log_start_offset, partition.log_end_offset
    if partition.recovery.damage:
        raise Violation(f"damage was reported: {partition.recovery}")
    if partition.high_watermark != end or partition.durable_offset != end:
        raise Violation(f"high watermark {partition.high_watermark}, durable {partition.durable_offset}, end {end}")
    records = list(partition.read(start))
    reasons = []
    for world, promised in expected:
        reason = world.refusal(start, end, promised)
        if reason is None and records != world.view(start, end)[0]:
            reason = _difference(records, world.view(start, end)[0])
        if reason is None:
            return Found(world, start, end)
        reasons.append(reason)
    raise Violation("; or ".join(dict.fromkeys(reasons)))


def _difference(found: list[Record], wanted: list[Record]) -> str:
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            return f"offset {one.offset} holds {_short(one)}, not {_short(other)}"
    return f"{len(found)} records, not {len(wanted)}: offsets {[r.offset for r in found]}"


def _short(record: Record) -> str:
    return f"({record.offset}, {record.timestamp}, {(record.value or b'')[:16]!r})"


def check_whole_files(image: Image) -> None:
    """Checkpoints, seals and snapshots are whole, and so is the recovery point with the snapshot it speaks of."""
    files = image.get(str(FOLDER), {})
    for name, content in files.items():
        parsed = names.parse_file_name(name)
        reader = _WHOLE.get(parsed[1] if parsed else name)
        if reader is not None and not _reads(reader, content):
            raise Violation(f"{name} is not whole")
    point = point_of(image)
    if point.snapshot_crc >= 0 and point.recovery_point > point.log_start_offset:
        snapshot = files.get(names.file_name(point.recovery_point, names.SNAPSHOT))
        if snapshot is None:
            raise Violation(f"the snapshot of recovery point {point.recovery_point} is missing")


def _size_of_recovery_file(disk: MemoryDisk, path: Path) -> None:
    if len(disk.read_file(path, 1 << 20)) != recovery_point.SIZE:
        raise StorageError("a recovery file that is cut")


_WHOLE: dict[str, Callable[[MemoryDisk, Path], object]] = {
    names.SEAL: seal.read,
    names.SNAPSHOT: producer_snapshot.read,
    EPOCHS_NAME: checkpoint.read_epochs,
    recovery_point.NAME: _size_of_recovery_file,
}


@lru_cache(maxsize=10_000)
def _reads(reader: Callable[[MemoryDisk, Path], object], content: bytes) -> bool:
    try:
        reader(MemoryDisk({PARENT: {"file": content}}), KnownPath(PARENT, "file"))
    except StorageError:
        return False
    return True


def point_of(image: Image) -> RecoveryPoint:
    """What the image's recovery file says."""
    return _point_in(image.get(str(FOLDER), {}).get(recovery_point.NAME, b""))


@lru_cache(maxsize=10_000)
def _point_in(content: bytes) -> RecoveryPoint:
    return recovery_point.read(MemoryDisk({PARENT: {"file": content}}), KnownPath(PARENT, "file"))


def check_effort(partition: Partition, image: Image) -> None:
    """Recovery has read only what no recovery point vouched for. To end a truncation or a swap takes more.

    So does a segment that was just sealed, and then lost its end: such a seal speaks against all of its last block.
    """
    point, report, files = point_of(image), partition.recovery, image.get(str(FOLDER), {})
    if point.truncate_to >= 0 or any(name.endswith(names.SWAP) for name in files):
        return
    above = point.position if names.file_name(point.base_offset, names.SEAL) in files else 0
    for name, content in files.items():
        base, suffix = names.parse_file_name(name) or (0, "")
        if suffix == names.LOG and base >= point.base_offset:
            above += len(content) - (point.position if base == point.base_offset else 0)
    if report.scanned_bytes > above:
        raise Violation(f"{report.scanned_bytes} bytes were read, where {above} lie above recovery point {point}")


def check_files(partition: Partition, found: Found) -> None:
    """Indexes and the clean offset say what the batches say."""
    report = partition.verify()
    if not report.ok:
        raise Violation(f"verify: {report.problems}")
    log: Any = partition._log
    clean_below = clean_offset.own(log.disk, FOLDER)
    if clean_below > found.end:
        raise Violation(f"said to be clean below {clean_below}, and ends at {found.end}")


def check_contents(partition: Partition, found: Found) -> None:
    """Epochs, producers and transactions, as they are in memory, say what the batches say."""
    log: Any = partition._log
    log.check() if partition.mode == "rw" else None
    world, start, end = found
    epochs = world.view(start, end)[1]
    known = [log.epochs.epoch_at(offset) for offset in range(start, end) if world.records[offset] is not None]
    if known != epochs:
        raise Violation(f"the epochs of offsets {start} to {end} are {known}, not {epochs}")
    _check_producers(partition, world, start, end)
    if any(sent is not None and sent.transactional for sent in world.records[:end]):
        committed = list(partition.read(start, isolation="read_committed"))
        if committed != world.committed(start, end):
            raise Violation(f"committed: {_difference(committed, world.committed(start, end))}")


def check_quarantine(partition: Partition, recovered: Image, kept: frozenset[bytes]) -> None:
    """Nothing that was cut is lost."""
    report, there = partition.recovery, _quarantined(recovered)
    if report.cut_bytes and not report.quarantined:
        raise Violation(f"{report.cut_bytes} bytes were cut and not kept")
    for content in kept - there:
        raise Violation(f"{len(content)} bytes that were cut are not in the quarantine")


def _quarantined(image: Image) -> frozenset[bytes]:
    files = image.get(f"{FOLDER}/{quarantine.NAME}", {})
    return frozenset(content.rstrip(b"\0") for content in files.values())


def _check_producers(partition: Partition, world: World, start: int, end: int) -> None:
    wanted = world.producers(end)
    known = {producer.producer_id: producer for producer in partition.producers()}
    if not known.keys() <= wanted.keys():
        raise Violation(f"producers {sorted(known)}, of which only {sorted(wanted)} have written")
    for number, (epoch, batches, open_from) in wanted.items():
        producer = known.get(number)
        if producer is None:
            if any(offset >= start for _, offset in batches):
                raise Violation(f"producer {number} is forgotten")
            continue
        cached = [(batch.last_sequence, batch.last_offset) for batch in producer.batches]
        if (producer.epoch, producer.txn_first_offset) != (epoch, open_from) or not set(cached) <= set(batches):
            raise Violation(f"{producer}, where {(epoch, batches, open_from)} was written")
        ends = [batch for batch in batches if batch[1] + 1 in world.ends]  # the last records of batches
        there = [batch for batch in ends[-kernels.producers.CACHED_BATCHES :] if batch[1] >= start]
        if there and cached[-len(there) :] != there:
            raise Violation(f"{producer}, where the last batches were {there}")


def _same_range(partition: Partition, start: int, end: int) -> None:
    if (partition.log_start_offset, partition.log_end_offset) != (start, end):
        found = (partition.log_start_offset, partition.log_end_offset)
        raise Violation(f"opened again it reaches from {found[0]} to {found[1]}, not from {start} to {end}")


def _append(partition: Partition, end: int) -> None:
    offset = partition.append(b"after")
    if offset != end or partition[end].value != b"after":
        raise Violation(f"an append after the recovery got offset {offset}, not {end}")


def _same_files(before: Image, after: Image, what: str) -> None:
    for folder in before.keys() | after.keys():
        one, other = before.get(folder, {}), after.get(folder, {})
        for name in (one.keys() | other.keys()) - _OURS:
            if one.get(name) != other.get(name):
                sizes = [len(content) if content is not None else None for content in (one.get(name), other.get(name))]
                raise Violation(f"{what} changed {name}: {sizes[0]} bytes before, {sizes[1]} after")

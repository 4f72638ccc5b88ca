"""Whole partitions: batches from hostile clients and leaders, and folders in which one file is hostile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import eventcore as ec
from eventcore.config import LogConfig
from eventcore.errors import (
    CorruptRecord,
    EventCoreError,
    Fenced,
    InvalidRecord,
    InvalidTxnState,
    OutOfOrderSequence,
    RecordTooLarge,
    StorageError,
    Truncated,
    UnsupportedFormat,
)
from eventcore.files.state_file import MAGIC, VERSION, tail
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.format import compression, control
from eventcore.log.folder_lock import LOCK_NAME
from eventcore.log.partition import Partition
from tests.crash.memory_disk import Image, MemoryDisk
from tests.crash.oracle import KnownPath
from tests.fuzz.kernel_targets import HEADER_PLACES, batch_seeds, seal_batches
from tests.fuzz.target import Target
from tests.parity import twins

FOLDER: Path = KnownPath("/logs", "events-0")
CONFIG = LogConfig.of(
    {"segment.bytes": 8192, "segment.index.bytes": 256, "index.interval.bytes": 300, "max.message.bytes": 4096}
)
logging.getLogger("eventcore").setLevel(logging.CRITICAL)  # what a recovery did is logged, and here it always does
REFUSED = (
    CorruptRecord,
    Fenced,
    InvalidRecord,
    InvalidTxnState,
    OutOfOrderSequence,
    RecordTooLarge,
    Truncated,
    UnsupportedFormat,
)
"""What an append of encoded batches may say."""
_MEMORY = 4 << 20
"""The files of a partition in memory, with their maps, some of them several times."""
_FACTOR = 256


class _Clock:
    """It stands still."""

    def now_ms(self) -> int:
        return twins.NOW


def open_on(disk: MemoryDisk, mode: Any = "rw") -> Partition:
    """The partition in the folder of a disk in memory."""
    return ec.open_partition(FOLDER, mode, "never", CONFIG, clock=_Clock(), disk=disk)


# -- appends ---------------------------------------------------------------------------------------------------


class _Session:
    """A partition that takes what comes, until a new one is due."""

    def __init__(self) -> None:
        self.partition: Partition | None = None
        self.left = 0

    def get(self) -> Partition:
        """The partition to append to."""
        if self.partition is None:
            self.partition, self.left = open_on(MemoryDisk({str(FOLDER.parent): {}})), 40
            self.partition.append(b"first")
        self.left -= 1
        return self.partition

    def put_back(self, partition: Partition, end: int) -> None:
        """After an input. One that makes the offsets jump is followed by a close, where that may show."""
        if self.left <= 0 or partition.log_end_offset - end > 1 << 20:
            self.partition = None
            partition.close()

    def drop(self) -> None:
        """Go on with a new one; this one is in an unknown state."""
        self.partition = None


_SESSION = _Session()


def _append(origin: Any) -> Callable[[memoryview], None]:
    def run(data: memoryview) -> None:
        partition = _SESSION.get()
        end = partition.log_end_offset
        try:
            _append_and_read(partition, bytearray(data), origin)
            _SESSION.put_back(partition, end)
        except BaseException:
            _SESSION.drop()
            raise

    return run


def _append_and_read(partition: Partition, data: bytearray, origin: Any) -> None:
    end, producers = partition.log_end_offset, partition.producers()
    if origin == "replica":
        _place(data, end)
    try:
        info = partition.append_batches(data, origin)
    except REFUSED as error:
        if partition.log_end_offset != end or partition.producers() != producers:
            raise AssertionError("refused, and yet appended") from error
        return
    if not info.duplicate and partition.log_end_offset != info.last_offset + 1:
        raise AssertionError(f"{info}, but the log ends at {partition.log_end_offset}")
    if origin == "client":
        list(partition.read(info.first_offset))
    else:
        with suppress(StorageError):  # a leader's records are believed until somebody reads them
            list(partition.read(end))
    with suppress(StorageError):
        partition.columns(end, min(partition.high_watermark, end + 1000))


def _place(data: bytearray, end: int) -> None:
    """Base offsets of the input count from the log end, unless they are absurd."""
    position = 0
    while len(data) - position >= 61:
        base = int.from_bytes(data[position : position + 8], "big", signed=True)
        if 0 <= base < 1 << 40:
            data[position : position + 8] = (base + end).to_bytes(8, "big")
        length = int.from_bytes(data[position + 8 : position + 12], "big", signed=True)
        if length < 49:
            return
        position += length + 12


def client_seeds() -> list[bytes]:
    """Batches as producers send them: each codec, with and without a producer."""
    area = b"".join(twins.RECORDS)
    latest = twins.NOW + 5  # of the records
    seeds = [twins.batch(area, 3, base_offset=0, max_timestamp=latest)]
    for codec in range(1, 5):
        packed = compression.compress(codec, None, area)
        seeds.append(twins.batch(packed, 3, base_offset=0, attributes=codec, max_timestamp=latest))
    seeds += [
        twins.batch(area, 3, base_offset=0, attributes=attributes, producer=(7, 0, 0), max_timestamp=latest)
        for attributes in (0, 0x10)
    ]
    return seeds


def leader_seeds() -> list[bytes]:
    """What a leader's log holds: transactions with their markers, too."""
    found = [*batch_seeds(), *client_seeds()]
    for kind in (control.ABORT, control.COMMIT):
        key, value = control.marker_record(kind, 0)
        data = twins.batch(b"".join(twins.RECORDS), 3, base_offset=0, attributes=0x10, producer=(9, 0, 0))
        marker = twins.batch(twins.record(0, 0, key, value), 1, base_offset=3, attributes=0x30, producer=(9, 0, -1))
        found += [data + marker, marker]
    return found


# -- folders ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _folders() -> tuple[Image, Image]:
    """A folder of three segments as a crash leaves it, and as a clean close does."""
    disk = MemoryDisk({str(FOLDER.parent): {}})
    partition = open_on(disk)
    partition.extend([ec.Record(value=b"v%d" % n * 9, key=b"k", headers=(("h", b"x"),)) for n in range(8)])
    partition.append_batches(client_seeds()[5])
    partition.roll()
    for seed in leader_seeds()[-4:]:
        data = bytearray(seed)
        _place(data, partition.log_end_offset)
        partition.append_batches(data, "replica")
    partition.set_leader_epoch(9)
    partition.extend([b"w" * 30] * 9)
    partition.roll()
    partition.extend([b"x" * 20] * 5)
    partition.sync()
    partition.append(b"last")
    crashed = disk.image()
    partition.close()
    return crashed, disk.image()


def _files(image: Image) -> list[str]:
    return sorted(image[str(FOLDER)])


READ, WRITE, REPAIR, FOLLOW = range(4)


def folder_seeds() -> list[bytes]:
    """Each file of each folder. The first byte says what to do, in which folder and machine; the second, which file."""
    seeds = []
    for which, image in enumerate(_folders()):
        for number, name in enumerate(_files(image)):
            content = image[str(FOLDER)][name].rstrip(b"\0")
            seeds += [bytes([which + 4 * act, number]) + content for act in range(4)]
    return seeds


def fix_folder(data: bytearray, rng: Random) -> None:
    """Batches get their CRCs."""
    if len(data) > 2:
        files = _files(_folders()[data[0] % 2])
        if files[data[1] % len(files)].endswith(".log"):
            content = data[2:]
            seal_batches(content, rng)
            data[2:] = content


def run_folder(data: memoryview) -> None:
    """Read it; open it for writing, use it, open it again; repair it, and read it; or follow its living writer."""
    if len(data) < 2:
        return
    image = _folders()[data[0] % 2]
    files, listed = dict(image[str(FOLDER)]), _files(image)
    files[listed[data[1] % len(listed)]] = bytes(data[2:])
    disk = MemoryDisk({**image, str(FOLDER): files}, boot=data[0] // 2 % 2 + 1)
    act = data[0] // 4 % 4
    if act == READ:
        _use(disk, "r")
    elif act == WRITE:
        if _use(disk, "rw") and not _use(disk, "rw"):
            raise AssertionError("a folder that was opened and closed cannot be opened again")
    elif act == FOLLOW:
        _follow(disk)
    else:
        with suppress(EventCoreError):
            ec.repair_partition(FOLDER, CONFIG, clock=_Clock(), disk=disk)
            _use(disk, "r")
        _all_closed(disk)


def _follow(disk: MemoryDisk) -> None:
    """Read what a writer holds the lock of, whatever its state page says. It is not in the midst of a change: readers
    would wait for the end of that, for as long as the writer lives.
    """
    path = FOLDER / STATE_NAME
    page = bytearray(disk.image()[str(FOLDER)][path.name].ljust(tail.STATE_SIZE, b"\0"))
    page[:12] = MAGIC + VERSION.to_bytes(4, "big")
    tail.store(page, tail.GENERATION, tail.load(page, tail.GENERATION) & ~1)
    disk.replace_file(path, bytes(page))
    lock = disk.lock(FOLDER / LOCK_NAME, "the writer")
    with suppress(EventCoreError), open_on(disk, "r") as partition:
        for act in _uses(partition):
            with suppress(EventCoreError):
                act()
    disk.unlock(lock)
    _all_closed(disk)


def _all_closed(disk: MemoryDisk) -> None:
    if disk.open_paths():
        raise AssertionError(f"still open: {disk.open_paths()}")


def _use(disk: MemoryDisk, mode: str) -> bool:
    """Open, read everything in every way, append, close; False if it cannot be opened."""
    try:
        partition = open_on(disk, mode)
    except EventCoreError:
        _all_closed(disk)
        return False
    try:
        for act in _uses(partition):
            with suppress(EventCoreError):
                act()
        if mode == "rw":
            _appends(partition)
    finally:
        partition.close()
    _all_closed(disk)
    return True


def _uses(partition: Partition) -> Iterator[Callable[[], object]]:
    start = partition.log_start_offset
    yield lambda: list(partition.read())
    yield lambda: list(partition.read(isolation="read_committed"))
    yield lambda: partition.columns(start, min(partition.high_watermark, start + 1000))
    yield lambda: list(partition.batches())
    yield lambda: partition.offset_for_time(twins.NOW)
    yield lambda: partition.end_offset_for_epoch(3)
    yield lambda: partition.fetch(max(start, partition.high_watermark - 3), isolation="read_committed")
    yield partition.verify


def _appends(partition: Partition) -> None:
    """A folder that can be opened for writing takes appends, unless its offsets are used up."""
    end = partition.log_end_offset
    if end >= (1 << 63) - 10:
        return
    offset = partition.append(b"new")
    if offset != end or partition[offset].value != b"new":
        raise AssertionError(f"appended at {offset}, the log ended at {end}")
    with suppress(EventCoreError):
        partition.truncate(max(partition.log_start_offset, end - 3))


_PLACES = HEADER_PLACES
_LOG_PLACES = tuple((at + 2, code) for at, code in HEADER_PLACES)

TARGETS = (
    Target("client", _append("client"), client_seeds, 1.5, seal_batches, _PLACES, memory=_MEMORY, factor=_FACTOR),
    Target("leader", _append("replica"), leader_seeds, 1.5, seal_batches, _PLACES, memory=_MEMORY, factor=_FACTOR),
    Target("folder", run_folder, folder_seeds, 0.2, fix_folder, _LOG_PLACES, memory=_MEMORY, factor=_FACTOR),
)

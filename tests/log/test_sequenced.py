"""Idempotent producers: every way in which up to six batches may be sent, sent again, cut otherwise, or swapped, while
the log is closed, killed, robbed of its snapshots, or rolled in between. Each batch is there once and in order, or is
refused as Kafka would (P1, P2).

`-m nightly` plays them all, 49,800; else every 40th.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import eventcore as ec
from eventcore.clock import SystemClock
from eventcore.config import LogConfig
from eventcore.errors import OutOfOrderSequence
from eventcore.files import names
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.types import BatchInfo
from tests.crash.memory_disk import Image, MemoryDisk
from tests.crash.oracle import FOLDER, PARENT

CACHED = 5
EMPTY: Image = {PARENT: {}, str(FOLDER): {}}

PID = 7
SENDS = 6
SIZES = (1, 3, 2)
"""Records of the batches, in turn."""
NEW, AHEAD, OTHERWISE = -1, -2, -3
"""The batch that follows; the one after it, too early; the last one with a record more. A number: that batch again."""
EVENTS = ("closed", "killed", "killed and robbed", "robbed", "rolled")
CONFIG = LogConfig.of({"segment.bytes": 4096, "segment.index.bytes": 256, "max.message.bytes": 1000})


class Pattern(NamedTuple):
    """What is sent; and what happens before which send."""

    sends: tuple[int, ...]
    event: str
    at: int


def sends(count: int, written: int = 0) -> Iterator[tuple[int, ...]]:
    """All sequences of sends. Of a producer that is not known any sequence is taken as the first, in Kafka, too."""
    if count == 0:
        yield ()
        return
    for send in (NEW, AHEAD, OTHERWISE, *range(written)) if written else (NEW,):
        for rest in sends(count - 1, written + (send == NEW)):
            yield (send, *rest)


def patterns() -> Iterator[Pattern]:
    """Every one of them, with every event at every point."""
    for chosen in sends(SENDS):
        yield Pattern(chosen, "", 0)
        for event, at in itertools.product(EVENTS, range(1, SENDS)):
            yield Pattern(chosen, event, at)


def values(number: int) -> list[bytes]:
    return [b"%d.%d" % (number, part) for part in range(SIZES[number % len(SIZES)])]


def first_sequence(number: int) -> int:
    return sum(len(values(before)) for before in range(number))


class Log:
    """A partition, and what has to be in it."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        """First offset of each batch that was written."""
        self.open(EMPTY)

    def open(self, image: Image) -> None:
        self.disk = MemoryDisk(image)
        self.partition = Partition(PartitionLog(self.disk, FOLDER, CONFIG, SystemClock(), "never"))

    def happens(self, event: str) -> None:
        if event == "rolled":
            self.partition.roll()
            return
        if "killed" not in event:
            self.partition.close()
        image = {folder: dict(files) for folder, files in self.disk.image().items()}
        if "robbed" in event:
            for name in [name for name in image[str(FOLDER)] if name.endswith(names.SNAPSHOT)]:
                del image[str(FOLDER)][name]
        self.partition.close()
        self.open(image)

    def send(self, number: int, *more: bytes) -> BatchInfo:
        return self.partition.append_sequenced([*values(number), *more], PID, 0, first_sequence(number))

    def play(self, pattern: Pattern) -> None:
        for at, send in enumerate(pattern.sends):
            if pattern.event and at == pattern.at:
                self.happens(pattern.event)
            self.check(send)
        wanted = [value for number in range(len(self.offsets)) for value in values(number)]
        assert [record.value for record in self.partition] == wanted
        assert self.partition.next_sequence(PID) == len(wanted)

    def check(self, send: int) -> None:
        written, end = len(self.offsets), self.partition.log_end_offset
        if send == NEW:
            info = self.send(written)
            assert (info.first_offset, info.duplicate) == (end, False)
            self.offsets.append(end)
        elif send >= 0:
            self.again(send, written)
        else:
            with pytest.raises(OutOfOrderSequence):
                self.send(written + 1) if send == AHEAD else self.send(written - 1, b"more")
        assert self.partition.log_end_offset == end + (send == NEW) * len(values(written))

    def again(self, number: int, written: int) -> None:
        if written - number > CACHED:
            with pytest.raises(OutOfOrderSequence):
                self.send(number)
            return
        info, first = self.send(number), self.offsets[number]
        assert info[:2] == (first, first + len(values(number)) - 1)
        assert info.duplicate


@pytest.mark.sampled
@pytest.mark.parametrize("step", [40, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.timeout(1500)
def test_every_pattern(step: int) -> None:
    count = 0
    for number, pattern in enumerate(patterns()):
        if number % step == 0:
            log, count = Log(), count + 1
            try:
                log.play(pattern)
            except BaseException as error:
                raise AssertionError(f"{pattern}: {error}") from error
            log.partition.close()
    assert count >= 49_000 // step


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[ec.Partition]:
    with ec.open_partition(tmp_path / "events-0", fsync="never") as opened:
        yield opened


def test_the_next_one_whatever_it_is(partition: ec.Partition) -> None:
    assert [partition.append_sequenced([b"v"] * 3, PID).first_offset for _ in range(3)] == [0, 3, 6]
    assert partition.next_sequence(PID) == 9
    assert partition.append_sequenced([b"v"] * 3, PID, 0, 6)[:4:3] == (6, True)


def test_records_of_every_kind(partition: ec.Partition) -> None:
    records: list[Any] = [b"v", None, (b"k", b"v"), ec.Record(-1, 5, b"k", None, [("h", b"x")]), memoryview(b"m")]
    for sequence in (0, 5):
        info = partition.append_sequenced(records, PID, 0, sequence)
        assert (info.first_offset, info.last_offset) == (sequence, sequence + 4)
    assert [record.value for record in partition] == [b"v", None, b"v", None, b"m"] * 2
    assert [header.base_sequence for header in partition.batches()] == [0, 5]


def test_a_new_epoch_begins_anew(partition: ec.Partition) -> None:
    partition.append_sequenced([b"a"], PID, 0, 0)
    with pytest.raises(ec.OutOfOrderSequence, match="where 0 is next"):
        partition.append_sequenced([b"b"], PID, 1, 1)
    partition.append_sequenced([b"b"], PID, 1, 0)
    with pytest.raises(ec.InvalidProducerEpoch):
        partition.append_sequenced([b"c"], PID, 0, 1)
    assert partition.next_sequence(PID, 1) == 1


def test_sequences_wrap(partition: ec.Partition) -> None:
    largest = (1 << 31) - 1
    partition.append_sequenced([b"a"] * 2, PID, 0, largest - 2)
    partition.append_sequenced([b"b"] * 3, PID, 0, largest)
    assert partition.next_sequence(PID) == 2
    assert partition.append_sequenced([b"b"] * 3, PID, 0, largest).duplicate


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([],), ec.UsageError),
        (([b"v"], -1), ec.UsageError),
        (([b"v"], 0, -2), ec.UsageError),
        (([b"v"], 1 << 15), ec.UsageError),
        (([b"v"], 0, 1 << 31), ec.UsageError),
        (([b"v" * 2_000_000],), ec.RecordTooLarge),
        ((["text"],), TypeError),
    ],
)
def test_what_cannot_be_appended(partition: ec.Partition, arguments: Any, error: Any) -> None:
    records, *who = arguments
    with pytest.raises(error):
        partition.append_sequenced(records, PID, *who)
    assert (partition.log_end_offset, partition.producers()) == (0, [])
    partition.append_sequenced([b"v"], PID, 0, 0)
    with pytest.raises(error):
        partition.append_sequenced(records, PID, *who)
    assert partition.log_end_offset == 1
    assert partition.append_sequenced([b"w"], PID, 0, 1).first_offset == 1
    with pytest.raises(ec.UsageError):
        partition.append_sequenced([b"v"], -1)


def test_threads_that_send_the_same(partition: ec.Partition) -> None:
    """All of them send all of it; each record is there once."""
    failures: list[BaseException] = []

    def send() -> None:
        for sequence in range(300):
            try:
                partition.append_sequenced([b"%d" % sequence], PID, 0, sequence)
            except ec.OutOfOrderSequence:  # others are ahead by more than five batches
                assert partition.next_sequence(PID) > sequence + 5
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [record.value for record in partition] == [b"%d" % n for n in range(300)]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed(tmp_path: Path, codec: str) -> None:
    with ec.open_partition(tmp_path / "events-0", fsync="never", config={"compression.type": codec}) as partition:
        for sequence in (0, 10, 0, 10):
            info = partition.append_sequenced([b"value"] * 10, PID, 0, sequence)
            assert info.first_offset == sequence
        assert len(partition) == 20


def test_durable_when_it_returns(tmp_path: Path) -> None:
    with ec.open_partition(tmp_path / "events-0", fsync="always") as partition:
        for sequence in range(3):
            partition.append_sequenced([b"v"], PID, 0, sequence)
            assert partition.durable_offset == sequence + 1


def test_a_reader_may_not(tmp_path: Path) -> None:
    ec.open_partition(tmp_path / "events-0").close()
    with ec.open_partition(tmp_path / "events-0", "r") as partition, pytest.raises(ec.ReadOnly):
        partition.append_sequenced([b"v"], PID)


def test_none_of_it_after_a_truncation(partition: ec.Partition) -> None:
    for sequence in range(8):
        partition.append_sequenced([b"v"], PID, 0, sequence)
    partition.truncate(4)
    assert partition.next_sequence(PID) == 4
    with pytest.raises(ec.OutOfOrderSequence):
        partition.append_sequenced([b"v"], PID, 0, 8)
    assert partition.append_sequenced([b"v"], PID, 0, 3).duplicate
    assert partition.append_sequenced([b"v"], PID, 0, 4).first_offset == 4
    assert partition.append_sequenced([b"v"], PID, 0, 5).first_offset == 5

"""A small partition that has everything a folder can have, and all the questions that can be asked of it.

`survey` asks them; `wrong` compares the answers with those of the undamaged folder. An answer may be a refusal, a
typed error: then nothing is said that is not so. Everything else must be equal.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import eventcore as ec
from eventcore.clock import Clock
from eventcore.disk import Disk
from eventcore.files import checkpoint
from eventcore.format import control
from eventcore.format.batch import CONTROL, TRANSACTIONAL
from tests.parity.twins import NOW, batch, record

CONFIG = {
    "segment.bytes": 4096,
    "segment.index.bytes": 240,
    "index.interval.bytes": 100,
    "message.timestamp.after.max.ms": (1 << 63) - 1,
}
TIMES = (10, 20, 10, 20, 5, 30, 30, 20, 40, 40, 40, 35)
"""Of the batches in ms after NOW: out of order, and several times the same."""
_TOPIC_ID = uuid.UUID("6ba7b810-9dad-41d1-80b4-00c04fd430c8")
Answers = dict[tuple[Any, ...], Any]


class StandingClock(Clock):
    """So that two folders made alike are alike."""

    def now_ms(self) -> int:
        return NOW


class Refused(NamedTuple):
    """A typed error instead of an answer, and what had been said before it."""

    kind: str
    before: tuple[Any, ...] = ()


class _Writer:
    """Appends batches as a leader's replica gets them, so that producers and transactions come with them."""

    def __init__(self, partition: ec.Partition) -> None:
        self._partition = partition
        self._batches = 0
        self._sequences: dict[int, int] = {}

    def _time(self) -> int:
        """Each segment begins above the first times of the one before, and below its last ones."""
        self._batches += 1
        return NOW + TIMES[self._batches % len(TIMES)] + 15 * (len(self._partition.segments) - 1)

    def data(self, count: int = 2, *, producer: int = -1, transactional: bool = False, epoch: int = 0) -> None:
        """A batch of `count` records whose values tell them apart."""
        end, time = self._partition.log_end_offset, self._time()
        sequence = self._sequences.get(producer, 0) if producer >= 0 else -1
        self._sequences[producer] = sequence + count
        area = b"".join(record(i, -i, b"k%d" % (end + i), b"value %d" % (end + i)) for i in range(count))
        attributes = TRANSACTIONAL if transactional else 0
        self._append(area, count, attributes, time, (producer, 0 if producer >= 0 else -1, sequence), epoch)

    def marker(self, producer: int, *, commit: bool, epoch: int = 0) -> None:
        """The end of a transaction."""
        key, value = control.marker_record(control.COMMIT if commit else control.ABORT, 3)
        area = record(0, 0, key, value)
        self._append(area, 1, TRANSACTIONAL | CONTROL, self._time(), (producer, 0, -1), epoch)

    def _append(
        self, area: bytes, count: int, attributes: int, time: int, producer: tuple[int, int, int], epoch: int
    ) -> None:
        end = self._partition.log_end_offset
        data = batch(area, count, base_offset=end, leader_epoch=epoch, attributes=attributes, base_timestamp=time,
                     max_timestamp=time, producer=producer)  # fmt: skip
        self._partition.append_batches(data, "replica")


def _fill(partition: ec.Partition) -> None:
    writer = _Writer(partition)
    for epoch in (0, 2, 5):
        writer.data(3, epoch=epoch)
        writer.data(2, producer=7, transactional=True, epoch=epoch)
        writer.data(1, producer=9, transactional=True, epoch=epoch)
        writer.data(2, epoch=epoch)
        writer.marker(7, commit=False, epoch=epoch)
        writer.marker(9, commit=True, epoch=epoch)
        writer.data(2, producer=8, epoch=epoch)
        writer.data(1, producer=9, transactional=True, epoch=epoch)
        if epoch < 5:
            partition.roll()
        writer.marker(9, commit=False, epoch=epoch)
        writer.data(1, producer=7, epoch=epoch)


def build(
    folder: Path, *, closed: bool, log_start: int = 2, at_end: Callable[[ec.Partition], None] = lambda _: None
) -> None:
    """Three segments, two of them sealed, aborted transactions, three epochs, records deleted below `log_start`.

    With `closed` it is closed, else left as a writer that was killed leaves it.
    """
    partition = ec.open_partition(folder, config=CONFIG, clock=StandingClock())
    checkpoint.write_topic_id(Disk(), folder / "partition.metadata", _TOPIC_ID)
    _fill(partition)
    partition.delete_records(log_start)
    at_end(partition)
    if closed:
        partition.close()


def survey(partition: ec.Partition, times: range = range(4, 73, 2)) -> Answers:
    """Everything there is to ask, each with its answer or its refusal."""
    answers: Answers = {}

    def ask(*question: Any, answer: Callable[[], Any]) -> None:
        try:
            answers[question] = answer()
        except ec.StorageError as error:
            answers[question] = Refused(type(error).__name__)

    start, end = partition.log_start_offset, partition.log_end_offset
    answers["ends",] = (start, end, partition.high_watermark, partition.last_stable_offset)
    for isolation in ("read_uncommitted", "read_committed"):
        answers["read", isolation] = _listed(partition.read(isolation=isolation))  # type: ignore[arg-type]
    for offset in range(start, end):
        ask("item", offset, answer=lambda offset=offset: _item(partition, offset))
    for time in times:
        ask("time", time, answer=lambda time=time: partition.offset_for_time(NOW + time))
    for epoch in range(-1, 7):
        ask("epoch", epoch, answer=lambda epoch=epoch: partition.end_offset_for_epoch(epoch))
    answers["producers",] = sorted(
        (p.producer_id, p.epoch, p.batches[-1][1:4], p.coordinator_epoch, p.txn_first_offset)
        for p in partition.producers()
    )
    return answers


def _item(partition: ec.Partition, offset: int) -> ec.Record | None:
    try:
        return partition[offset]
    except ec.OffsetOutOfRange:
        return None  # a marker


def _listed(records: Iterator[ec.Record]) -> tuple[ec.Record, ...] | Refused:
    seen: list[ec.Record] = []
    try:
        for found in records:
            seen.append(found)  # what came before the error counts
    except ec.StorageError as error:
        return Refused(type(error).__name__, tuple(seen))
    return tuple(seen)


def wrong(answers: Answers | Refused, truth: Answers) -> list[str]:
    """The answers that are neither right nor a refusal."""
    if isinstance(answers, Refused):
        return []
    found = []
    for question, right in truth.items():
        answer = answers.get(question, "no answer")
        if isinstance(answer, Refused):
            if answer.before and answer.before != right[: len(answer.before)]:
                found.append(f"{question}: {_difference(answer.before, right[: len(answer.before)])}")
        elif answer != right:
            found.append(f"{question}: {_difference(answer, right)}")
    return found


def _difference(answer: Any, right: Any) -> str:
    if isinstance(answer, tuple) and isinstance(right, tuple) and len(right) > 4:
        too_many = [entry for entry in answer if entry not in right]
        missing = [entry for entry in right if entry not in answer]
        return f"has {too_many[:2]}, lacks {missing[:2]}"
    return f"{answer} instead of {right}"


def refused(answers: Answers | Refused) -> int:
    """How many questions got no answer."""
    if isinstance(answers, Refused):
        return 1
    return sum(isinstance(answer, Refused) for answer in answers.values())


def opened(folder: Path, mode: str) -> Answers | Refused:
    """The survey of a folder, or the refusal to open it."""
    try:
        with ec.open_partition(folder, mode, config=CONFIG, clock=StandingClock()) as partition:  # type: ignore[arg-type]
            return survey(partition)
    except ec.StorageError as error:
        return Refused(type(error).__name__)

"""A repair loses power at any moment: every good record stays readable, and the bad bytes are in the log or aside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

import pytest

from eventcore.config import LogConfig
from eventcore.errors import CorruptRecord, OffsetOutOfRange
from eventcore.files import names
from eventcore.log import quarantine
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.log.repair import repair
from tests.crash.crash_choices import BoundaryChoices, CrashState, FileChoices
from tests.crash.crash_recording import RecordingDisk, Site
from tests.crash.crash_states import quiet, record
from tests.crash.memory_disk import Image, MemoryDisk
from tests.crash.oracle import FOLDER, Clock
from tests.crash.session import CONFIG

LOST = 4
"""The offset whose batch is bad: the middle one of the second segment."""
CONFIGURED = LogConfig.of(CONFIG)


@lru_cache(maxsize=1)
def damaged() -> tuple[Image, dict[int, bytes | None], bytes]:
    """A closed log of four segments with one bad batch; the records that are good; the bad bytes."""
    session, _ = record("delete records", 0)
    until = next(b for b in session.disk.boundaries if b.operation.startswith("begin delete"))
    disk = MemoryDisk(BoundaryChoices(until, {}).newest().image())
    partition = opened(disk)
    good = {one.offset: one.value for one in partition.read() if one.offset != LOST}
    segment = partition.segments.floor(LOST)
    start, end = segment.find(LOST), segment.find(LOST + 1)
    partition.close()
    image = disk.image()
    name = names.file_name(segment.base_offset, names.LOG)
    data = bytearray(image[str(FOLDER)][name])
    data[end - 3] ^= 0xFF
    image[str(FOLDER)][name] = bytes(data)
    return image, good, bytes(data[start:end])


def opened(disk: MemoryDisk) -> Partition:
    """Open it for writing, as an application does."""
    return Partition(PartitionLog(disk, FOLDER, CONFIGURED, Clock(), "always"))


def repaired(dropped: frozenset[Site] = frozenset()) -> RecordingDisk:
    """The record of a whole repair."""
    disk = RecordingDisk(damaged()[0], dropped=dropped)
    report = repair(disk, FOLDER, CONFIGURED, Clock())
    assert [(loss.damage.first_offset, loss.damage.next_offset) for loss in report.losses] == [(LOST, LOST + 1)]
    disk.acknowledge("repair")
    return disk


def bad(state: CrashState) -> str | None:
    """What a crash state has lost."""
    _, good, bad_bytes = damaged()
    disk = MemoryDisk(state.image(), boot=7)
    partition = opened(disk)
    if {offset: value for offset in good for value in [value_at(partition, offset)]} != good:
        return "a good record is lost"
    kept = disk.image().get(f"{FOLDER}/{quarantine.NAME}", {}).values()
    if bad_bytes not in kept and bad_bytes not in b"".join(disk.image()[str(FOLDER)].values()):
        return "the bad bytes are lost"
    return None


def value_at(partition: Partition, offset: int) -> bytes | None:
    try:
        return partition[offset].value
    except (CorruptRecord, OffsetOutOfRange):
        return None


def crash_states(disk: RecordingDisk) -> Iterator[CrashState]:
    """Some of each moment, and all that lacks what a dropped sync was for."""
    known: dict[int, FileChoices] = {}
    for boundary in disk.boundaries:
        choices = BoundaryChoices(boundary, known)
        yield from choices.states(random.Random(boundary.number), exhaustive=16, samples=4)
        yield from choices.lacking({what for what, since in disk.spared.items() if since <= boundary.number})


def first_bad(dropped: frozenset[Site] = frozenset()) -> str | None:
    with quiet():
        for state in crash_states(repaired(dropped)):
            if found := bad(state):
                return "; ".join([found, *state.describe()])
    return None


@pytest.mark.sampled
def test_nothing_good_is_lost() -> None:
    assert first_bad() is None


@pytest.mark.sampled
@pytest.mark.parametrize("function", ["repair._write_swap", "quarantine.copy"])
def test_its_syncs_are_needed(function: str) -> None:
    sites = [site for site in repaired().sites if f"eventcore.log.{function}:" in site[1]]
    assert sites
    for site in sites:
        assert first_bad(frozenset([site])), site

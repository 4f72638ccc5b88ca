"""What a partition's writer leaves for the next opening: how far the log is synced, and a truncation under way."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eventcore.clock import Clock
from eventcore.disk import Disk
from eventcore.errors import DiskFull
from eventcore.files import recovery_point
from eventcore.files.recovery_point import RecoveryFile, RecoveryPoint
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore
from eventcore.log.segment import Segment
from eventcore.log.swaps import first_swapped

_EVERY_BYTES = 16 << 20
_EVERY_MS = 1000
_MANY_PRODUCERS = 20_000
"""A snapshot of so many has a MiB: more of them are written as much less often."""


class Checkpoint(NamedTuple):
    """What may be said of the log once everything appended up to now is synced."""

    point: RecoveryPoint
    active: Segment
    producers: bytes
    bases: list[int]


class Checkpoints:
    """Writes `eventcore.recovery` and the producer snapshot that belongs to it."""

    def __init__(self, disk: Disk, folder: Path, clock: Clock) -> None:
        self._disk, self._folder, self._clock = disk, folder, clock
        self._file = RecoveryFile(disk, folder / recovery_point.NAME)
        self._last_ms = clock.now_ms()

    def before_recovery(self) -> None:
        """Make durable what recovery is going to act on: should it be cut short, the next one must see the same.

        Where it finishes a swap, the next one has to read everything from there on.
        """
        swapped = first_swapped(self._disk, self._folder)
        if swapped is not None:
            self._disk.sync_dir(self._folder)  # what is replaced goes only once the names of the new are durable
        if swapped is not None and swapped < self.point.recovery_point:
            point = replace(self.point, recovery_point=swapped, base_offset=swapped, position=0)
            self._file.write(replace(point, clean=False, snapshot_crc=-1))
        elif not self.point.clean:
            self._file.settle()

    @property
    def point(self) -> RecoveryPoint:
        """What is on the disk."""
        return self._file.point

    def still_clean(self, active: Segment, log_start: int) -> bool:
        """Whether the log is as a clean close has left it: that close speaks for it once the files are as long again.

        What was truncated to and appended to the same end would be something else; but each of them moves the point.
        """
        point = self.point
        same = point.closed_as(active.base_offset, active.log.size) and point.recovery_point == active.next_offset
        return same and point.log_start_offset == log_start and point.index_crcs == active.index_crcs()

    def take(self, local: LocalLog, producers: ProducerStore, log_start: int) -> Checkpoint:
        """The checkpoint of this moment; the caller holds the partition's lock."""
        active = local.active
        active.index_max_timestamp()
        point = RecoveryPoint(
            active.batches_end, active.base_offset, active.log.size, log_start, index_crcs=active.index_crcs()
        )
        return Checkpoint(point, active, producers.state.snapshot(), [s.base_offset for s in local.segments])

    def take_if_due(self, local: LocalLog, producers: ProducerStore, log_start: int) -> Checkpoint | None:
        """`take`, if a checkpoint should follow the next sync: much was appended since the last, or it is long ago."""
        return self.take(local, producers, log_start) if self._due(local, len(producers.state)) else None

    def _due(self, local: LocalLog, producers: int) -> bool:
        grown = local.active.base_offset != self.point.base_offset
        grown = grown or local.active.log.size - self.point.position >= _EVERY_BYTES
        return grown or abs(self._clock.now_ms() - self._last_ms) >= _EVERY_MS * (1 + producers // _MANY_PRODUCERS)

    def write(self, checkpoint: Checkpoint, producers: ProducerStore, *, clean: bool = False) -> None:
        """Durable on return: the next opening need not read what lies below. The log must have been synced before.

        All names in the folder become durable with it: what made files, or removed some, leaves that to a checkpoint.

        On a full disk the snapshot is left out: the next opening replays more batch headers.
        """
        self._last_ms = self._clock.now_ms()
        checkpoint.active.sync_indexes()
        point = replace(checkpoint.point, clean=clean)
        with suppress(DiskFull):
            point = replace(point, snapshot_crc=producers.checkpoint(point.recovery_point, checkpoint.producers))
        self._disk.sync_dir(self._folder)
        write = self._file.write if self.point.truncate_to < 0 else self._file.write_both
        write(point)
        producers.remove_below(point.recovery_point, checkpoint.bases)

    def tidy(self, local: LocalLog, producers: ProducerStore) -> None:
        """Remove what a checkpoint that was cut short has left; a kill may have left the point in the page cache."""
        passed = producers.passed(self.point.recovery_point, [segment.base_offset for segment in local.segments])
        if passed:
            self._file.settle()
            producers.remove(passed)

    def write_if_possible(self, checkpoint: Checkpoint, producers: ProducerStore, *, clean: bool = False) -> None:
        """`write`, or on a full disk leave the point before it, which is as true."""
        with suppress(DiskFull):
            self.write(checkpoint, producers, clean=clean)

    def begin_writing(self) -> None:
        """The log is not as a clean close left it any more; durable on return."""
        self._file.write(replace(self.point, clean=False))

    def move_log_start(self, offset: int) -> None:
        """Before files below it go; durable on return."""
        self._file.write_both(replace(self.point, log_start_offset=offset))

    def announce_truncation(self, local: LocalLog, offset: int, log_start: int) -> None:
        """Before a byte is changed: an opening that finds this note does the truncation again. Durable on return."""
        segments, point = local.segments, self.point
        if offset < segments.first.base_offset:
            self._file.write(RecoveryPoint(offset, offset, 0, log_start, truncate_to=offset))
            return
        kept = segments.floor(offset)
        position, end = kept.cut_at(offset)
        if point.recovery_point > end:
            point = RecoveryPoint(end, kept.base_offset, position, index_crcs=kept.index_crcs(end))
        self._file.write(
            replace(
                point,
                log_start_offset=log_start,
                truncate_to=offset,
                truncate_base=kept.base_offset,
                truncate_position=position,
                clean=False,
            )
        )

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

"""Make a damaged partition whole again: what cannot be read is put aside, what can be read stays at its offsets.

Each segment is read in full. One with bad ranges is written anew without them, by the protocol of a cleaner's swap
(`.cleaned`, `.swap`, live, the folder synced before anything goes), so a crash leaves the old one or the new one. The
bad bytes are copied to `quarantine/` first. Reading then skips the missing offsets, as it does where a cleaner has
been; Kafka reads such a log, too. A repaired log verifies; what was lost is only in the report and in the quarantine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.files import names
from eventcore.files.damage import DamagedRange
from eventcore.log import quarantine
from eventcore.log.partition_log import PartitionLog
from eventcore.log.scan import Doubt, scan_segment
from eventcore.log.segment import Segment

_STEP = 1 << 20


class Loss(NamedTuple):
    """A range of a segment that cannot be read, and where its bytes were put ("" if it had none, or none was put)."""

    path: str
    damage: DamagedRange
    quarantined: str = ""


@dataclass
class RepairReport:
    """What was found, and done unless it was a dry run."""

    segments: int = 0
    bytes: int = 0
    losses: list[Loss] = field(default_factory=list)

    @property
    def lost_offsets(self) -> int:
        """How many offsets cannot be read any more."""
        return sum(loss.damage.next_offset - loss.damage.first_offset for loss in self.losses)


def repair(disk: Disk, folder: Path, config: LogConfig, clock: Clock, *, dry_run: bool = False) -> RepairReport:
    """Open the folder for writing, which recovers it, and repair every segment. Durable on return.

    With `dry_run` nothing is changed beyond what opening changes. Raises LogLocked while somebody writes the folder.
    """
    report = RepairReport()
    log = PartitionLog(disk, folder, config, clock, "always")
    try:
        if find_damage(log.segments.active, None):
            log.roll()
        for segment in list(log.segments)[:-1]:
            _repair(disk, folder, segment, log.segments.next_base(segment), report, dry_run)
    finally:
        log.close()
    if report.losses and not dry_run:
        PartitionLog(disk, folder, config, clock, "always").close()  # takes over what was swapped
    return report


def find_damage(segment: Segment, next_base: int | None) -> list[DamagedRange]:
    """Read all of a segment: its bad ranges by position, none of them overlapping."""
    seen = Segment(segment.disk, segment.folder, segment.base_offset, segment.config, active=False)
    try:
        seen.sealed, limit, seen.log.size = False, segment.log.size, 0
        scan_segment(seen, 0, limit, Doubt(next_base=next_base), lambda row: seen.extend_to(row.size, row.last_offset))
        segment.inspect(0, limit)
        return _merged([*seen.damage, *segment.damage])
    finally:
        seen.close()


def _merged(ranges: list[DamagedRange]) -> list[DamagedRange]:
    merged: list[DamagedRange] = []
    for damage in sorted(ranges):
        last = merged[-1] if merged else None
        if last is not None and (damage.position < last.end_position or damage == last):
            merged[-1] = DamagedRange(
                last.position,
                max(last.end_position, damage.end_position),
                last.first_offset,
                max(last.next_offset, damage.next_offset),
            )
        else:
            merged.append(damage)
    return merged


def _repair(disk: Disk, folder: Path, segment: Segment, next_base: int, report: RepairReport, dry_run: bool) -> None:
    report.segments += 1
    report.bytes += segment.log.size
    damaged = find_damage(segment, next_base)
    for damage in damaged:
        path = "" if dry_run or damage.position == damage.end_position else _put_aside(disk, folder, segment, damage)
        report.losses.append(Loss(str(segment.log.path), damage, path))
    if damaged and not dry_run:
        _write_swap(disk, folder, segment, damaged)


def _put_aside(disk: Disk, folder: Path, segment: Segment, damage: DamagedRange) -> str:
    name = f"{segment.base_offset:020}-{damage.position}"
    return quarantine.copy(disk, folder, name, segment.log.view[damage.position : damage.end_position])


def _write_swap(disk: Disk, folder: Path, segment: Segment, damaged: list[DamagedRange]) -> None:
    """The segment without its bad ranges, under the name that the next opening makes durable and takes over."""
    name = names.file_name(segment.base_offset, names.LOG)
    cleaned = folder / (name + names.CLEANED)
    fd = disk.open(cleaned, write=True, create=True)
    try:
        disk.cut(fd, 0)
        start = at = 0
        for damage in [*damaged, DamagedRange(segment.log.size, segment.log.size, 0, 0)]:
            for position in range(start, damage.position, _STEP):
                data = segment.log.view[position : min(position + _STEP, damage.position)]
                disk.pwrite_all(fd, data, at)
                at += len(data)
            start = damage.end_position
        disk.sync(fd)
    finally:
        disk.close(fd)
    segment.check()
    disk.rename(cleaned, folder / (name + names.SWAP))

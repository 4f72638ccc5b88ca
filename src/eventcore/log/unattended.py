"""A log that nobody is writing, seen read-only: as the next writer would find it. Nothing on the disk is changed.

* After a clean close the files are believed.
* After a crash of one of our writers the recovery is done, in memory: only it knows of a truncation or a swap that
  was cut short, of gaps that an unsynced roll has left, and of tails that were never acknowledged.
* What a stranger has written since, or a folder that was never ours: all but the last segment is believed, that is
  read, CRC and all, and the log ends with its last good batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eventcore.clock import SystemClock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import NotALog, StorageError
from eventcore.files import recovery_point
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, Testament
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.epochs import EpochCache
from eventcore.log.local import list_bases
from eventcore.log.opening import recovered
from eventcore.log.overlay_disk import OverlayDisk
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import RecoveryReport
from eventcore.log.scan import Doubt, scan_segment
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList

_NO_ROOM = 4096


class Unattended(NamedTuple):
    """The log from `start` to `end`, and what goes with it."""

    segments: SegmentList
    start: int
    end: int
    producer_store: ProducerStore
    report: RecoveryReport
    epochs: EpochCache | None = None
    """Those of a recovery; else they are in the folder."""


class _Nobody:
    """Watches a log that does not change."""

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def fencing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def undoing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def rolled(self, new: Segment) -> None:
        pass


def look(disk: Disk, folder: Path, config: LogConfig) -> Unattended:
    """What there is. Raises NotALog for a folder without a segment that was not ours."""
    point = recovery_point.read(disk, folder / recovery_point.NAME)
    if not point.clean and any(disk.exists(folder / name) for name in (recovery_point.NAME, STATE_NAME)):
        return _recovered(disk, folder, config)
    return _believed(disk, folder, config, point)


def open_segments(disk: Disk, folder: Path, config: LogConfig) -> SegmentList:
    """The segments as their names say, the last one to be told where it ends. Raises NotALog if there is none."""
    bases = list_bases(disk, folder)
    if not bases:
        raise NotALog("there is no segment in this folder", path=folder, hint="open it with mode='rw' to create a log")
    segments = [Segment(disk, folder, base, config, active=False) for base in bases]
    for segment, next_base in zip(segments, bases[1:], strict=False):
        segment.next_offset = next_base
    segments[-1].sealed = False
    return SegmentList(segments)


def _recovered(disk: Disk, folder: Path, config: LogConfig) -> Unattended:
    overlay, clock = OverlayDisk(disk, folder), SystemClock()
    checkpoints, testament = Checkpoints(overlay, folder, clock), _testament(disk, folder)
    no_room = replace(config, segment_bytes=_NO_ROOM)  # nothing is appended
    with ExitStack() as opened:
        found = recovered(overlay, folder, no_room, clock, checkpoints, testament, _Nobody(), opened)
        opened.pop_all()
    report = replace(found.report, cut_bytes=0, quarantined=[])  # nothing was
    segments, end = found.local.segments, found.local.end_offset
    return Unattended(segments, found.log_start_offset, end, found.producer_store, report, found.epochs)


def _testament(disk: Disk, folder: Path) -> Testament:
    with suppress(StorageError):
        if disk.exists(folder / STATE_NAME):
            return StateFile(disk, folder / STATE_NAME, create=False, write=False).testament
    return Testament()


def _believed(disk: Disk, folder: Path, config: LogConfig, point: RecoveryPoint) -> Unattended:
    segments = open_segments(disk, folder, config)
    active = segments.active
    report: RecoveryReport | None = None
    if point.closed_as(active.base_offset, active.log.size):
        report = _believe_end(active, point)
    if report is None:
        report = _scan_end(active)
    start = max(point.log_start_offset, segments.first.base_offset)
    end = max(active.next_offset, start)  # rule S8: all that is left may lie below the log start
    store = ProducerStore(disk, folder, write=False)
    store.rebuild(segments, active.next_offset, {} if active.sealed else {active: _keep_aborted(active, point)}, point)
    return Unattended(segments, start, end, store, report)


def _believe_end(active: Segment, point: RecoveryPoint) -> RecoveryReport | None:
    """After a clean close the log ends where the close says; what lies below is checked as it is read."""
    active.sealed = True
    try:
        active.walk_end()
    except StorageError:
        active.next_offset = -1
    if active.next_offset == point.recovery_point:
        return RecoveryReport(clean=True)
    active.next_offset = point.recovery_point
    active.inspect(0, active.log.size)
    active.sealed = bool(active.damage)
    return RecoveryReport(clean=True) if active.sealed else None


def _scan_end(active: Segment) -> RecoveryReport:
    """Read the whole last segment: what lies behind damage must be found, too."""
    limit, active.log.size = _data_end(active), 0
    active.next_offset = active.base_offset
    scan_segment(active, 0, limit, Doubt(), lambda row: active.extend_to(row.size, row.last_offset))
    active.indexes_hold = False
    return RecoveryReport(False, 1, limit, 0, [(str(active.log.path), damaged) for damaged in active.damage])


def _keep_aborted(active: Segment, point: RecoveryPoint) -> int:
    """Up to where the transaction index of an unclean segment is what the recovery point vouches for.

    What follows is replayed into memory.
    """
    start = point.recovery_point
    is_here = active.base_offset == point.base_offset and start <= active.next_offset
    with suppress(StorageError):
        if is_here and active.txn_index.crc(start) == point.index_crcs[2]:
            active.txn_index.keep_in_memory(start)
            return start
    active.txn_index.keep_in_memory(0)
    return active.base_offset


def _data_end(segment: Segment) -> int:
    """Behind it the file has only holes, and on a full file system even looking at one may fail."""
    fd = segment.disk.open(segment.log.path, write=False)
    try:
        return segment.disk.data_end(fd, segment.log.size)
    finally:
        segment.disk.close(fd)

"""From a folder in any state to segments that can be trusted: a numbered procedure, safe to kill and to repeat.

  1. Finish or undo what a crash left of a segment swap (rules S1, S2); remove pending deletes and temporary files.
  2. List the `.log` files; remove index files without one.
  3. After a clean close whose active segment still has the recorded base and size, believe the files.
  4. Otherwise read every segment that reaches above the recovery point, batch by batch, CRC and all, and rebuild its
     indexes. Behind the last good batch of the last segment lies a torn tail: it is cut. A bad range with good
     batches behind it is damage: it is kept, reported, and reading it raises CorruptRecord.
  5. Epochs at or above the end are dropped; producers are replayed from the newest snapshot that can be believed.

Nothing is written that a second run would do differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import UnsupportedFormat
from eventcore.files import names, recovery_point
from eventcore.files.mapped_file import MappedFile
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.format.batch import BatchHeader
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.epochs import EpochCache
from eventcore.log.local import remove_files
from eventcore.log.scan import BatchRow, only_zeros, refuse_other_version, scan_segment
from eventcore.log.segment import Damage, Segment
from eventcore.log.segments import SegmentList

_TEMPORARY = ".tmp"


@dataclass
class RecoveryReport:
    """What opening the log found and did."""

    clean: bool = False
    scanned_segments: int = 0
    scanned_bytes: int = 0
    cut_bytes: int = 0
    damage: list[tuple[str, Damage]] = field(default_factory=list)

    def __str__(self) -> str:
        if self.clean:
            return "clean: nothing had to be read"
        parts = [f"read {self.scanned_bytes} bytes in {self.scanned_segments} segments", f"cut {self.cut_bytes} bytes"]
        parts += [f"damaged: offsets {d.first_offset} to {d.next_offset - 1} in {path}" for path, d in self.damage]
        return ", ".join(parts)


class Recovery:
    """Opens the segments of one folder for writing."""

    def __init__(self, disk: Disk, folder: Path, config: LogConfig, clock: Clock, epochs: EpochCache) -> None:
        self._disk = disk
        self._folder = folder
        self._config = config
        self._clock = clock
        self._epochs = epochs
        self.report = RecoveryReport()
        self.recovered: list[Segment] = []

    def run(self, point: RecoveryPoint) -> SegmentList:
        """Steps 1 to 4 and the epochs of step 5."""
        finish_swaps(self._disk, self._folder)
        bases = list_bases(self._disk, self._folder)
        self._remove_orphans(bases)
        if not bases:
            return self._start_empty(point.log_start_offset)
        self.report.clean = point.closed_as(bases[-1], self._path(bases[-1], names.LOG).stat().st_size)
        trusted_below = point.recovery_point
        segments = []
        for base, next_base in zip(bases, [*bases[1:], None], strict=True):
            believed = self.report.clean if next_base is None else (self.report.clean or next_base <= trusted_below)
            if believed and self._has_indexes(base):
                segments.append(self._believe(base, next_base))
            else:
                segments.append(self._recover(base, next_base))
        self._epochs.truncate_from_end(segments[-1].next_offset)
        return SegmentList(segments)

    def _start_empty(self, base_offset: int) -> SegmentList:
        segment = Segment(self._disk, self._folder, base_offset, self._config, active=True)
        segment.created_ms = self._clock.now_ms()
        self._disk.sync_dir(self._folder)
        return SegmentList([segment])

    def _path(self, base: int, suffix: str) -> Path:
        return self._folder / names.file_name(base, suffix)

    def _has_indexes(self, base: int) -> bool:
        return all(self._disk.exists(self._path(base, suffix)) for suffix in (names.INDEX, names.TIME_INDEX))

    def _remove_orphans(self, bases: list[int]) -> None:
        for name in self._disk.list(self._folder):
            parsed = names.parse_file_name(name)
            if parsed and parsed[1] in names.SEGMENT_SUFFIXES and parsed[0] not in bases:
                self._disk.unlink(self._folder / name)

    def _believe(self, base: int, next_base: int | None) -> Segment:
        segment = Segment(self._disk, self._folder, base, self._config, active=next_base is None)
        segment.created_ms = self._clock.now_ms()
        if next_base is None:
            segment.walk_end()
        else:
            segment.next_offset = next_base
        return segment

    def _recover(self, base: int, next_base: int | None) -> Segment:
        segment = Segment(self._disk, self._folder, base, self._config, active=True)
        segment.created_ms = self._clock.now_ms()
        file_size = segment.log.size
        limit = self._disk.data_end(segment.log.fd, file_size)
        try:
            refuse_other_version(segment, 0, limit)
            segment.reset_indexes()
            scan_segment(segment, 0, limit, next_base, self._take(segment))
        except UnsupportedFormat:
            segment.log.trim(file_size)
            segment.close()
            raise
        self.report.scanned_segments += 1
        self.report.scanned_bytes += limit
        self.report.damage += [(str(segment.log.path), damage) for damage in segment.damage]
        self.recovered.append(segment)
        if next_base is None:
            self._cut_tail(segment, limit)
        else:
            segment.seal()
            segment.log.sync()
            segment.next_offset = max(segment.next_offset, next_base)
        return segment

    def _take(self, segment: Segment) -> Callable[[BatchRow], None]:
        def take(row: BatchRow) -> None:
            if row.leader_epoch > self._epochs.latest:
                self._epochs.assign(row.leader_epoch, row.base_offset)
            segment.add_batch(row.size, row.last_offset, row.max_timestamp)

        return take

    def _cut_tail(self, segment: Segment, limit: int) -> None:
        if not only_zeros(segment.log.view, segment.log.size, limit):
            self.report.cut_bytes += limit - segment.log.size
            capacity = segment.log.capacity
            segment.log.trim(segment.log.size)
            segment.log.grow(capacity)
        segment.log.sync()


def list_bases(disk: Disk, folder: Path) -> list[int]:
    """Base offsets of the segments in a folder, rising."""
    parsed = (names.parse_file_name(name) for name in disk.list(folder))
    return sorted(base for base, suffix in filter(None, parsed) if suffix == names.LOG)


def finish_swaps(disk: Disk, folder: Path) -> None:
    """Complete a swap whose `.swap` files are all there, undo one that was still being written (S1, S2)."""
    files = [name for name in disk.list(folder) if _is_left_over(name)]
    cleaned = [name for name in files if name.endswith(names.CLEANED)]
    swaps = [name for name in files if name.endswith(names.SWAP)]
    first_cleaned = min((int(name[:20]) for name in cleaned), default=None)
    doomed = [name for name in files if name.endswith((names.DELETED, _TEMPORARY))] + cleaned
    if first_cleaned is not None:
        undone = [name for name in swaps if int(name[:20]) >= first_cleaned]
        swaps = [name for name in swaps if name not in undone]
        doomed += undone
    for name in doomed:
        disk.unlink(folder / name)
    for name in [name for name in swaps if name.endswith(names.LOG + names.SWAP)]:
        _remove_replaced(disk, folder, name)
    for name in sorted(swaps, reverse=True):
        disk.rename(folder / name, folder / name[: -len(names.SWAP)])
    if doomed or swaps:
        disk.sync_dir(folder)


def _is_left_over(name: str) -> bool:
    """Whether a file is one of a log's with the suffix of something unfinished; other people's files are not ours."""
    stem, _, suffix = name.rpartition(".")
    own = names.parse_file_name(stem) is not None or stem in (recovery_point.NAME, EPOCHS_NAME)
    return own and f".{suffix}" in (names.DELETED, names.CLEANED, names.SWAP, _TEMPORARY)


def _remove_replaced(disk: Disk, folder: Path, swap: str) -> None:
    """Remove the segments whose offsets a complete `.log.swap` covers: it was written to replace them."""
    start, end = int(swap[:20]), _next_offset(disk, folder / swap)
    for base in list_bases(disk, folder):
        if start <= base < end:
            remove_files(disk, folder, base)
    disk.sync_dir(folder)


def _next_offset(disk: Disk, path: Path) -> int:
    """One beyond the last offset of a segment file that was completed before it got its name."""
    file, position, end = MappedFile(disk, path, write=False), 0, int(path.name[:20])
    while position < file.size:
        header = BatchHeader.read(file.view, position, file.size)
        position, end = position + header.size, header.next_offset
    return end

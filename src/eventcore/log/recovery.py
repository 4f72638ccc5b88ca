"""From a folder in any state to segments that can be trusted: a numbered procedure, safe to kill and to repeat.

  1. Finish or undo what a crash left of a segment swap (rules S1, S2); remove pending deletes and temporary files.
     After a failed sync put into the page cache what the disk really has, above the recovery point.
  2. List the `.log` files; remove index files without one. Finish a truncation that had begun.
  3. After a clean close whose active segment still has the recorded base and size, believe the files.
  4. Otherwise read, from the recovery point on, batch by batch, CRC and all, and rebuild the indexes there. What lies
     behind the last good batch is a torn tail, and cut, if it was never durable and no good batch follows it, or the
     machine was restarted: then even whole batches behind a torn one were never acknowledged. If it was not, all that
     was ever shown is there: behind that log end there is nothing but a torn tail. Whole batches in it are copied to
     `quarantine/` first. Anything else is damage: it is kept, reported, and reading it raises CorruptRecord.
  5. Epochs at or above the end are dropped; producers are replayed from the newest snapshot that can be believed.
  6. A last segment with damage is sealed, so that its seal tells of it, and a new one begun.

Nothing is written that a second run would do differently.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import CorruptRecord, StorageError, UnsupportedFormat
from eventcore.files import names
from eventcore.files.damage import DamagedRange
from eventcore.files.mapped_file import MappedFile
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.files.seal import Seal
from eventcore.files.segment_file import only_zeros
from eventcore.files.state_file import Testament
from eventcore.log import epoch_check, quarantine, sealed
from eventcore.log.epochs import EpochCache
from eventcore.log.local import list_bases, remove_files
from eventcore.log.scan import BatchRow, Doubt, crcs_hold, find_batch, refuse_other_version, scan_segment
from eventcore.log.sealed import SealedBlocks
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.log.swaps import finish_swaps

_STEP = 1 << 20


@dataclass
class RecoveryReport:
    """What opening the log found and did."""

    clean: bool = False
    scanned_segments: int = 0
    scanned_bytes: int = 0
    cut_bytes: int = 0
    damage: list[tuple[str, DamagedRange]] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.clean:
            return "clean: nothing had to be read"
        parts = [f"read {self.scanned_bytes} bytes in {self.scanned_segments} segments", f"cut {self.cut_bytes} bytes"]
        parts += [f"copied what was cut to {path}" for path in self.quarantined]
        parts += [f"damaged: offsets {d.first_offset} to {d.next_offset - 1} in {path}" for path, d in self.damage]
        return ", ".join(parts)


class Recovery:
    """Opens the segments of one folder for writing."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        config: LogConfig,
        clock: Clock,
        epochs: EpochCache,
        point: RecoveryPoint,
        testament: Testament,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._config = config
        self._clock = clock
        self._epochs = epochs
        self._point = point
        self._fenced = testament.fenced
        self._mark = max(point.recovery_point, testament.mark)
        boot_id = disk.boot_id()
        self._forgetful = testament.fenced or (bool(point.boot_id) and point.boot_id != boot_id)
        self._published: int | None = None
        if testament.log_end is not None and point.boot_id == boot_id and any(boot_id) and not testament.fenced:
            self._published = max(testament.log_end, self._mark)
        self.report = RecoveryReport()
        self.recovered: dict[Segment, int] = {}
        """Segments that were read, and the offset from which on."""
        self._unsealed: list[Segment] = []

    def run(self) -> SegmentList:
        """Steps 1 to 4, 6 and the epochs of step 5. If it fails, no file is left open."""
        with ExitStack() as opened:
            self._opened = opened
            segments = self._run()
            opened.pop_all()
        return segments

    def seal(self) -> None:
        """Seal what was read, now that the replay of producers (step 5) has filled the transaction indexes again."""
        for segment in self._unsealed:
            segment.seal()
            segment.log.sync()

    def _run(self) -> SegmentList:
        point = self._point
        finish_swaps(self._disk, self._folder)
        if point.truncate_to >= 0:
            self._mark = min(self._mark, point.truncate_to)
            self._finish_truncation()
        bases = list_bases(self._disk, self._folder)
        self._remove_orphans(bases)
        bases = self._above_start(bases)
        if not bases:
            start = point.log_start_offset
            self._epochs.truncate_from_end(start)
            self._report_missing(start, self._mark)
            return SegmentList([self._new_segment(max(start, self._mark))])
        self.report.clean = point.closed_as(bases[-1], self._size(bases[-1])) and not self._fenced
        if point.clean and not self.report.clean:
            # Somebody else has written since; he may have truncated.
            self._mark, self._forgetful, self._published = 0, False, None
        if self._mark:
            self._report_missing(point.log_start_offset, bases[0])
        segments = self._open_segments(bases)
        epoch_check.check(self._epochs, SegmentList(segments), point.log_start_offset)
        if segments[-1].damage:
            segments.append(self._successor(segments[-1]))
        self._epochs.truncate_from_end(segments[-1].next_offset)
        return SegmentList(segments)

    def _open_segments(self, bases: list[int]) -> list[Segment]:
        segments: list[Segment] = []
        last_with_data = next(
            (base for base in reversed(bases) if self.report.clean or self._has_data(base)), bases[-1]
        )
        for base, next_base in zip(bases, [*bases[1:], None], strict=True):
            believed = self._believe(base, next_base) if self._is_believed(base, next_base) else None
            if believed is not None:
                self._report_damage(believed)
                segments.append(believed)
                continue
            segment, ended = self._recover(base, next_base, empty_behind=base >= last_with_data)
            segments.append(segment)
            if ended:
                self._drop([later for later in bases if later > base])
                break
        return segments

    def _is_believed(self, base: int, next_base: int | None) -> bool:
        """Whether a segment need not be read: all of it was synced, and it was sealed before the recovery point."""
        if not self._has_indexes(base):
            return False
        if self.report.clean or next_base is None:
            return self.report.clean
        return next_base <= self._point.recovery_point and base != self._point.base_offset

    def _report_missing(self, first: int, next_offset: int) -> None:
        """Segments that must have been there before the first one."""
        if first < next_offset:
            self.report.damage.append((str(self._path(first, names.LOG)), DamagedRange(0, 0, first, next_offset)))

    def _new_segment(self, base_offset: int) -> Segment:
        return self._open_segment(base_offset, active=True)

    def _open_segment(self, base: int, *, active: bool, grows: bool = True) -> Segment:
        segment = Segment(self._disk, self._folder, base, self._config, active=active, grows=grows)
        segment.created_ms = self._clock.now_ms()
        self._opened.callback(segment.close)
        return segment

    def _successor(self, damaged: Segment) -> Segment:
        """Appends go on behind damage in a segment of their own."""
        self._unsealed.append(damaged)
        return self._new_segment(damaged.next_offset)

    def _path(self, base: int, suffix: str) -> Path:
        return self._folder / names.file_name(base, suffix)

    def _size(self, base: int) -> int:
        fd = self._disk.open(self._path(base, names.LOG), write=False)
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def _has_data(self, base: int) -> bool:
        fd = self._disk.open(self._path(base, names.LOG), write=False)
        try:
            return self._disk.pread(fd, 12, 0).strip(b"\0") != b""
        finally:
            self._disk.close(fd)

    def _has_indexes(self, base: int) -> bool:
        return all(self._disk.exists(self._path(base, suffix)) for suffix in (names.INDEX, names.TIME_INDEX))

    def _remove_orphans(self, bases: list[int]) -> None:
        for name in self._disk.list(self._folder):
            parsed = names.parse_file_name(name)
            if parsed and parsed[1] in names.SEGMENT_SUFFIXES and parsed[0] not in bases:
                self._disk.unlink(self._folder / name)

    def _above_start(self, bases: list[int]) -> list[int]:
        """The log start is durable before the files below it go; a crash may have brought some of them back.

        They go once the names of those above them are durable: see `LocalLog.tidy`.
        """
        below = {base for base, end in pairwise(bases) if end <= self._point.log_start_offset}
        return [base for base in bases if base not in below]

    def _finish_truncation(self) -> None:
        """Do again what `LocalLog.truncate` had begun; the file is cut, nobody has it mapped for writing."""
        point = self._point
        for base in list_bases(self._disk, self._folder):
            if base > point.truncate_base:
                remove_files(self._disk, self._folder, base)
        path = self._path(point.truncate_base, names.LOG) if point.truncate_base >= 0 else None
        if path is not None and self._disk.exists(path):
            file = MappedFile(self._disk, path, write=True)
            file.zero(min(point.truncate_position, file.capacity), file.capacity)
            file.flush()
            file.close()

    def _drop(self, bases: list[int]) -> None:
        """Segments behind a torn tail were never acknowledged: put them aside."""
        for base in bases:
            if self._has_data(base):
                self.report.quarantined.append(
                    quarantine.copy_file(self._disk, self._folder, self._path(base, names.LOG))
                )
            remove_files(self._disk, self._folder, base)

    def _believe(self, base: int, next_base: int | None) -> Segment | None:
        """The segment as it was left; None if it is not, after all."""
        segment = self._open_segment(base, active=next_base is None)
        try:
            if next_base is None:
                segment.walk_end()
                segment.resume()
            else:
                segment.next_offset = next_base
            if self._indexes_hold(segment):
                return segment
        except StorageError:
            pass  # read in full, it will tell what is wrong with it
        if segment.active:
            segment.log.trim(segment.log.size)  # opening it for writing made it longer
        segment.close()
        return None

    def _indexes_hold(self, segment: Segment) -> bool:
        """The last segment's are as they were at the close, those of the others as they were sealed."""
        if segment.active:
            return segment.index_crcs() == self._point.index_crcs
        return segment.indexes_hold

    def _report_damage(self, segment: Segment) -> None:
        self.report.damage += [(str(segment.log.path), damage) for damage in segment.damage]

    def _recover(self, base: int, next_base: int | None, *, empty_behind: bool) -> tuple[Segment, bool]:
        """Read a segment; True if the log ends with it although others follow."""
        # One that others follow keeps its size: its seal is about that, and if we are cut short it must still be true.
        segment = self._open_segment(base, active=True, grows=next_base is None)
        file_size = segment.log.size
        if self._fenced:
            self._believe_disk(segment)
        limit = self._disk.data_end(segment.log.fd, file_size) if next_base is None else file_size
        bound, dense = None if empty_behind else next_base, not self._config.compacted
        doubt = Doubt(self._mark, self._forgetful, bound, dense, self._published)
        try:
            seal = sealed.load(self._disk, segment.log)
            begin = start = self._start(segment, limit)
            found = self._against(seal, segment, 0 if next_base is None else begin, file_size)
            if any(damage.position < begin for damage in found):
                begin = start = self._from_base(segment, limit)
                found = self._against(seal, segment, 0, file_size)
            stop = limit
            for damage in [one for one in found if crcs_hold(segment.log.view, one.position, one.end_position)]:
                if doubt.is_torn(damage.first_offset):
                    stop = damage.position
                    break
                scan_segment(segment, start, damage.position, Doubt(next_base=damage.first_offset), self._take(segment))
                segment.note_damage(damage)
                segment.log.size, segment.next_offset = start, _ = damage.end_position, damage.next_offset
            ended = scan_segment(segment, start, stop, doubt, self._take(segment))
            ended = ended or (stop < limit and next_base is not None)
        except UnsupportedFormat:
            segment.log.trim(file_size)
            segment.close()
            raise
        self.report.clean = False
        self.report.scanned_segments += 1
        self.report.scanned_bytes += limit - begin
        self._report_damage(segment)
        if next_base is not None and empty_behind and self._mark <= segment.next_offset < next_base:
            ended = ended or segment.log.size < limit or (doubt.forgetful and doubt.dense)
        if next_base is None or ended:
            segment.log.grow(self._config.segment_bytes)
            self._cut_tail(segment, limit)
        else:
            if seal is not None and begin and not found and not segment.damage:
                with suppress(CorruptRecord):
                    segment.resume()  # what was not read is vouched for by the seal that was there, not by a new one
            segment.next_offset = max(segment.next_offset, next_base)
            self._unsealed.append(segment)
        return segment, ended

    def _against(self, seal: Seal | None, segment: Segment, start: int, end: int) -> list[DamagedRange]:
        """What is not as it was sealed, in blocks that overlap [start, end)."""
        return SealedBlocks(seal, segment.log).look(start, end)[1] if seal is not None else []

    def _start(self, segment: Segment, limit: int) -> int:
        """Where reading must begin: at the recovery point if it stands in this segment, at a batch's end."""
        point = self._point
        segment.log.size = min(point.position, limit)
        if segment.base_offset == point.base_offset and 0 < point.position <= limit:
            try:
                segment.keep_indexes_below(point.recovery_point)
                segment.walk_end()
                found = (segment.log.size, segment.next_offset, segment.index_crcs())
            except StorageError:
                found = None
            if found == (point.position, point.recovery_point, point.index_crcs):
                self.recovered[segment] = point.recovery_point
                return point.position
        return self._from_base(segment, limit)

    def _from_base(self, segment: Segment, limit: int) -> int:
        refuse_other_version(segment, 0, limit)
        segment.reset_indexes()
        self.recovered[segment] = segment.base_offset
        return 0

    def _believe_disk(self, segment: Segment) -> None:
        """Storing what the disk has makes cache and disk agree again, for everybody who has the file mapped."""
        fd = segment.log.fd
        size = self._disk.data_end(fd, self._disk.size(fd))  # what was only reserved, or not even that, needs no space
        above = self._point.position if segment.base_offset == self._point.base_offset else 0
        for at in range(above // 4096 * 4096, size, _STEP):
            data = self._disk.read_direct(fd, min(_STEP, -(-(size - at) // 4096) * 4096), at)
            self._disk.pwrite_all(fd, data[: size - at], at)

    def _take(self, segment: Segment) -> Callable[[BatchRow], None]:
        def take(row: BatchRow) -> None:
            if row.leader_epoch > self._epochs.latest:
                self._epochs.assign(row.leader_epoch, row.base_offset)
            segment.add_batch(row.size, row.last_offset, row.max_timestamp)

        return take

    def _cut_tail(self, segment: Segment, limit: int) -> None:
        start = segment.log.size
        if not only_zeros(segment.log.view, start, limit):
            if self._forgetful or find_batch(segment.log.view, start, limit, segment.next_offset):
                data = segment.log.view[start:limit]
                name = f"{segment.base_offset:020}-{start}"
                self.report.quarantined.append(quarantine.copy(self._disk, self._folder, name, data))
            self.report.cut_bytes += limit - start
            segment.log.zero(start, limit)  # not cut: a reader may have it mapped
        segment.log.sync()

"""Producer state on disk: snapshots at rolls and at close, and the replay that brings the state to the log end.

A snapshot `<offset>.snapshot` reflects everything below its offset (rule P11). The two newest segment bases and the
log end keep theirs; older ones are removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eventcore import fork_safe
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, CorruptRecord, DiskFull, StorageError
from eventcore.files import names, producer_snapshot
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.format import control
from eventcore.format.batch import BatchHeader
from eventcore.log.producers import NONE, CompletedTransaction, ProducerState
from eventcore.log.reader import LogReader, batches
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList

_KEPT_SNAPSHOTS = 3


class ProducerStore:
    """The producer state of one partition and its snapshot files; a reader's (`write=False`) removes none."""

    def __init__(self, disk: Disk, folder: Path, *, write: bool = True) -> None:
        self._write = write
        self._disk = disk
        self._folder = folder
        self._files = fork_safe.rlock()  # a checkpoint and a roll may come at once, from two threads
        self.state = ProducerState()

    def _path(self, offset: int) -> Path:
        return self._folder / names.file_name(offset, names.SNAPSHOT)

    def _offsets(self) -> list[int]:
        parsed = filter(None, map(names.parse_file_name, self._disk.list(self._folder)))
        return sorted(offset for offset, suffix in parsed if suffix == names.SNAPSHOT)

    def take_snapshot(self, offset: int) -> None:
        """Write the state as of `offset`; durable after `sync_dir`. Older snapshots beyond the last few are removed.

        On a full disk it is left out: the next opening replays more of the log.
        """
        with self._files:
            with suppress(DiskFull):
                producer_snapshot.write(self._disk, self._path(offset), self.state.snapshot())
            self.remove(self._offsets()[:-_KEPT_SNAPSHOTS])

    def checkpoint(self, offset: int, snapshot: bytes) -> int:
        """Write a state as of `offset`; durable after `sync_dir`. The answer is the CRC of what was written."""
        with self._files:
            return producer_snapshot.write(self._disk, self._path(offset), snapshot)

    def remove_below(self, offset: int, bases: Sequence[int]) -> None:
        """Remove the snapshots below `offset` that were taken in the midst of a segment."""
        with self._files:
            self.remove(self.passed(offset, bases))

    def passed(self, offset: int, bases: Sequence[int]) -> list[int]:
        """Where the snapshots are that `remove_below` removes."""
        return [known for known in self._offsets() if known < offset and known not in bases]

    def remove(self, offsets: Sequence[int]) -> None:
        """Remove the snapshots at these offsets."""
        with self._files:
            for offset in offsets:
                if self._write and self._disk.exists(self._path(offset)):
                    self._disk.unlink(self._path(offset))

    def truncate(self, offset: int) -> None:
        """Remove the snapshots above `offset`: they speak of records that are gone."""
        self.remove([known for known in self._offsets() if known > offset])

    def rebuild(
        self,
        segments: SegmentList,
        end: int,
        recovered: Mapping[Segment, int],
        point: RecoveryPoint | None = None,
        now: int = NONE,
    ) -> None:
        """Bring the state to `end`: from the newest snapshot that can be believed, replay what follows it.

        Who is found there was heard of `now`: when it was in truth nobody knows any more. The snapshot at the recovery
        `point` must be the one that was written there. Transaction indexes of `recovered` segments were emptied from an
        offset on, so the replay starts no later than the first of them and fills them again.
        """
        newest = min([end, *recovered.values()])
        crcs = {point.recovery_point: point.snapshot_crc} if point and point.snapshot_crc >= 0 else {}
        start = self._load(segments.first.base_offset, newest, crcs)
        self.truncate(end)
        for segment in segments.starting_at(start):
            try:
                for _, position, header in batches(SegmentList([segment]), start, end):
                    emptied = header.base_offset >= recovered.get(segment, end)
                    self._replay(segment, position, header, now, fill_index=emptied)
            except StorageError:
                continue  # damage was reported by recovery; what producers did there is not to be known

    def _load(self, first: int, newest: int, crcs: Mapping[int, int]) -> int:
        for offset in reversed([known for known in self._offsets() if first <= known <= newest]):
            try:
                table = producer_snapshot.read(self._disk, self._path(offset), crcs.get(offset))
                if table.largest_offset() >= offset:
                    raise CorruptFile("the snapshot of another offset", path=self._path(offset))
                self.state.load(table)
                return offset
            except StorageError:
                self.remove([offset])
        self.state.clear()
        return first

    def _replay(self, segment: Segment, position: int, header: BatchHeader, now: int, *, fill_index: bool) -> None:
        if header.control:
            if header.transactional:
                completed = self.note_marker(segment, position, header, now)
                if completed is not None and fill_index:
                    index_aborted(segment, completed)
        else:
            self.state.note(header, now)

    def note_marker(
        self, segment: Segment, position: int, header: BatchHeader, now: int
    ) -> CompletedTransaction | None:
        """Take in the transaction marker that stands at `position`; the cleaner may have left an empty batch of it."""
        if header.record_count == 0:
            return None
        marker = read_marker(segment, position, header)
        if marker.kind not in (control.ABORT, control.COMMIT):
            return None
        commit = marker.kind == control.COMMIT
        return self.state.note_marker(header, marker.coordinator_epoch, commit=commit, now=now)


def read_marker(segment: Segment, position: int, header: BatchHeader) -> control.Marker:
    """The control record of the batch at `position`."""
    wanted = header.base_offset, header.next_offset
    reader = LogReader(SegmentList([segment]), *wanted, largest_area=control.MARKER_AREA_MAX)
    records = reader.decode(segment, position, header)
    if len(records) != 1 or records[0].key is None:
        raise CorruptRecord("a control batch without a record", path=segment.log.path, position=position)
    return control.read_marker(records[0].key, records[0].value or b"")


def index_aborted(segment: Segment, completed: CompletedTransaction) -> None:
    """Note an aborted transaction in the index of the segment that holds its marker."""
    if not completed.committed:
        segment.txn_index.append(
            completed.producer_id, completed.first_offset, completed.marker_offset, completed.last_stable_offset
        )

"""What a partition's files were at an offset, while it goes on: what a snapshot is made of.

Closed segments do not change, so they are linked; of the one that holds the offset the part below is copied. With a
recovery point at that offset, they are the folder of a log that ended there and was not closed: an opening finds
everything checked and nothing to read.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from eventcore.disk import Disk
from eventcore.errors import LogTruncated, NotALog
from eventcore.files import names, recovery_point, txn_index
from eventcore.files.recovery_point import RecoveryPoint
from eventcore.log import clean_offset
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.log_start import LogStart
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.types import Buffer

_SMALL_FILE_MAX = 64 << 20
_LINKED = (names.LOG, names.INDEX, names.TIME_INDEX)


class Shelf(Protocol):
    """Who takes the files."""

    def link(self, name: str, path: Path) -> None:
        """Take a file that does not change any more."""

    def put(self, name: str, data: Buffer) -> None:
        """Take bytes, before the call returns."""


class Frozen(NamedTuple):
    """The records that were frozen: offsets [start, end)."""

    start: int
    end: int


class Moment(NamedTuple):
    """A log as it was once. Its segments are kept as they were, whatever becomes of them."""

    log: object
    start: int
    end: int
    """Its high watermark."""
    segments: SegmentList
    truncations: int


class Freezing(LogStart):
    """A part of `PartitionLog`."""

    disk: Disk
    folder: Path
    cleaned_to = 0
    """Compaction may have dropped records for the sake of others below this offset."""

    def moment(self) -> Moment:
        """The log as it is now."""
        while True:
            truncations, start, end = self.truncations(), self.log_start_offset, self.high_watermark
            found = Moment(self, start, end, self.segments, truncations)
            if self.cleaned_to <= end and self.truncations() == truncations:
                return found  # nothing in the segments was dropped for the sake of what is beyond the end

    def freeze(self, moment: Moment, shelf: Shelf) -> Frozen:
        """Put the files of the log as it was at a moment on a shelf.

        No file is renamed meanwhile; appends go on, and wait with their syncs. Raises LogTruncated if the log was cut
        since then.
        """
        self.sync_to(moment.end)  # a power cut must not leave the snapshot with records that the log has lost
        with self._sync_lock:
            with self._lock:
                self._check_whole()
            if self.truncations() != moment.truncations:
                raise LogTruncated("the log was truncated meanwhile", hint="take the snapshot again")
            there, segments = set(self.segments), moment.segments
            for segment in segments:
                if segments.next_base(segment) > moment.end or segment is segments.active:
                    return self._freeze_tail(segment, moment, shelf)
                if segment in there:
                    self._freeze_closed(segment, shelf)
                else:
                    self._freeze_replaced(segment, shelf)
            raise AssertionError("a log without an active segment")

    def _freeze_closed(self, segment: Segment, shelf: Shelf) -> None:
        for suffix in names.SEGMENT_SUFFIXES:
            path = segment.path(suffix)
            if suffix in _LINKED:
                shelf.link(path.name, path)
            elif self.disk.exists(path):
                shelf.put(path.name, self.disk.read_file(path, _SMALL_FILE_MAX))

    def _freeze_replaced(self, segment: Segment, shelf: Shelf) -> None:
        """Its names are another's by now, or nobody's; what it was stays mapped. Its seal is gone."""
        shelf.put(segment.path(names.LOG).name, segment.log.view[: segment.log.size])
        segment.check()
        self._freeze_indexes(segment, None, shelf)

    def _freeze_tail(self, segment: Segment, moment: Moment, shelf: Shelf) -> Frozen:
        position, end = segment.cut_at(moment.end)
        shelf.put(segment.path(names.LOG).name, segment.log.view[:position])
        segment.check()
        self._freeze_indexes(segment, end, shelf)
        start, crcs = min(moment.start, end), segment.index_crcs(end)
        point = RecoveryPoint(end, segment.base_offset, position, start, index_crcs=crcs)
        shelf.put(recovery_point.NAME, recovery_point.encode(point, self.disk.boot_id()))
        self._freeze_sidecars(moment, end, shelf)
        return Frozen(start, end)

    def _freeze_indexes(self, segment: Segment, end: int | None, shelf: Shelf) -> None:
        """Their entries below the end."""
        shelf.put(segment.path(names.INDEX).name, segment.offset_index.below(end))
        shelf.put(segment.path(names.TIME_INDEX).name, segment.time_index.below(end))
        aborted = [entry for entry in segment.txn_index.entries() if end is None or entry.last_offset < end]
        if aborted:
            shelf.put(segment.path(names.TXN_INDEX).name, txn_index.encode_entries(aborted))

    def _freeze_sidecars(self, moment: Moment, end: int, shelf: Shelf) -> None:
        parsed = ((name, names.parse_file_name(name)) for name in self.disk.list(self.folder))
        snapshots = [name for name, found in parsed if found and found[1] == names.SNAPSHOT and found[0] <= end]
        is_clean = set(moment.segments) <= {*self.segments} and clean_offset.own(self.disk, self.folder) <= end
        for name in (EPOCHS_NAME, *([clean_offset.NAME] if is_clean else []), *snapshots):
            with suppress(NotALog):  # a roll removes old snapshots; what is missing is derived anew
                shelf.put(name, self.disk.read_file(self.folder / name, _SMALL_FILE_MAX))

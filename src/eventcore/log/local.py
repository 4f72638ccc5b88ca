"""LocalLog: the segments of one partition as one log. No lock, no producers, no watermarks: `Partition` has those."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Protocol

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import names
from eventcore.log.pending_deletes import PendingDeletes
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList


class Observer(Protocol):
    """Who is told when the set of segments changes."""

    def changing(self) -> AbstractContextManager[None]:
        """Entered before the change, left when it is complete."""

    def fencing(self) -> AbstractContextManager[None]:
        """Entered around what cannot be undone half-way."""

    def undoing(self) -> AbstractContextManager[None]:
        """Entered around what an error undoes, and an interrupt does not."""

    def rolled(self, new: Segment) -> None:
        """A new active segment has begun; the one before it is sealed."""


class LocalLog:
    """Appends go to the active segment. `segments` is replaced, never changed: readers may keep the one they have."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        config: LogConfig,
        clock: Clock,
        segments: SegmentList,
        observer: Observer,
    ) -> None:
        self.disk = disk
        self.folder = folder
        self.config = config
        self.clock = clock
        self.segments = segments
        self._observer = observer
        self._closed_at: int | None = None
        self.sealed: list[Segment] = []
        """Segments whose files nobody needs any more, and that are open still."""
        self.keeps_segments = False
        """Whether what was open can still be read after `close`."""

    def fencing(self) -> AbstractContextManager[None]:
        """See `Observer.fencing`."""
        return self._observer.fencing()

    @property
    def active(self) -> Segment:
        """The segment that takes appends."""
        return self.segments.active

    @property
    def end_offset(self) -> int:
        """The offset the next record gets."""
        return self.segments.active.next_offset if self._closed_at is None else self._closed_at

    def due_for_roll(self, max_timestamp: int, now: int) -> bool:
        """Whether the active segment is older than `segment.ms` (rule R2: by record time, else by clock)."""
        segment = self.active
        if segment.log.size == 0:
            return False
        first = segment.first_timestamp
        waited = max_timestamp - first if first >= 0 else -1
        if waited < 0:
            waited = now - segment.created_ms
        return waited > self.roll_ms

    @property
    def roll_ms(self) -> int:
        """How old the active segment may become."""
        lag = self.config.max_compaction_lag_ms if self.config.compacted else self.config.segment_ms
        return min(self.config.segment_ms, lag)

    def roll(self) -> Segment:
        """Seal the active segment and start a new one at the log end. An empty active segment stays as it is.

        On return the names in the folder are durable, and the indexes of the old segment; its log is not yet.
        """
        old = self.active
        if old.log.size == 0 and old.base_offset == self.end_offset:
            return old
        with self._observer.changing(), self._observer.undoing(), ExitStack() as undo:
            new = self.new_segment(self.end_offset)
            undo.callback(_close_quietly, new)
            with self._observer.fencing():
                old.seal()
                self._observer.rolled(new)
                self.disk.sync_dir(self.folder)
                self.segments = self.segments.plus(new)
                undo.pop_all()
                self.sealed.append(old)
        return new

    def close_sealed(self) -> None:
        """Close the files of what was sealed since the last time. Only while nobody syncs: a descriptor's number may be
        another file's by the time it is synced.
        """
        while self.sealed:
            self.sealed[-1].close()
            self.sealed.pop()

    def new_segment(self, base_offset: int) -> Segment:
        """Create an empty active segment; left-over files of its name are removed first. If it fails, none is left.

        Its name is durable after `sync_dir`: nothing in the segment may be acknowledged before.
        """
        remove_files(self.disk, self.folder, base_offset)
        with ExitStack() as undo:
            undo.callback(self._remove_again, base_offset)
            segment = Segment(self.disk, self.folder, base_offset, self.config, active=True)
            undo.callback(segment.close)
            undo.pop_all()
        segment.created_ms = self.clock.now_ms()
        return segment

    def _remove_again(self, base_offset: int) -> None:
        """Were a file left, the segment before it might grow beyond its name."""
        with self.fencing():
            remove_files(self.disk, self.folder, base_offset)

    def truncate(self, offset: int) -> None:
        """Make `offset` the log end (rules X1, X2). Durable after `sync_dir`: until then a crash may undo parts of it.

        Segments above it are deleted; the one that holds it becomes active again with its tail zeroed.
        """
        if offset < self.segments.first.base_offset:
            self.restart_at(offset)
            return
        with self._observer.changing():
            self._truncate(offset)

    def _truncate(self, offset: int) -> None:
        kept = old = self.segments.floor(offset)
        removed = [segment for segment in self.segments if segment.base_offset > kept.base_offset]
        with ExitStack() as undo:
            if not kept.active:
                kept = self._reopened(old)
                undo.callback(kept.close)
                old.log.size = old.cut_at(offset)[0]  # should this fail half-way, nobody reads on into the zeros
            kept.truncate(offset)
            self.segments = self.segments.without([*removed, old]).plus(kept)
            undo.pop_all()
        if kept is not old:
            with suppress(StorageError):  # everything in it was synced
                old.close()
        self._delete(removed)

    def restart_at(self, offset: int) -> None:
        """Drop everything and start an empty log at `offset` (rule X4). Durable after `sync_dir`."""
        first, *later = self.segments
        with self._observer.changing():
            self._delete(later)
            with ExitStack() as undo:
                new = self.new_segment(offset)
                undo.callback(new.close)
                # Else a crash might leave a later one alone, and the log would begin there; or parts of the first one.
                self.disk.sync_dir(self.folder)
                self._delete([first])
                undo.pop_all()
            self.segments = SegmentList([new])

    def tidy(self) -> None:
        """Remove the files of segments below the first one, which a crash has brought back."""
        for base in list_bases(self.disk, self.folder):
            if base < self.segments.first.base_offset:
                remove_files(self.disk, self.folder, base)

    def _reopened(self, sealed: Segment) -> Segment:
        segment = Segment(self.disk, self.folder, sealed.base_offset, self.config, active=True)
        segment.note_damage(*sealed.damage)
        segment.created_ms = self.clock.now_ms()
        segment.next_offset = self.segments.next_base(sealed)
        return segment

    def _delete(self, segments: list[Segment]) -> None:
        with ExitStack() as deleting:  # the last one first, and all of them, whatever one of them says
            for segment in segments:
                deleting.callback(segment.delete)

    def drop_below(self, offset: int) -> list[Segment]:
        """Remove the segments wholly below `offset`. A crash may bring files back; the next opening drops them."""
        gone = [s for s in self.segments if s is not self.active and self.segments.next_base(s) <= offset]
        if gone:
            with self._observer.changing():
                self.segments = self.segments.without(gone)
                self._delete(gone)
        return gone

    def set_aside(self, count: int, pending: PendingDeletes) -> list[Segment]:
        """Take the oldest segments out of the log; their files are removed later. The log start must be durable."""
        gone = list(self.segments)[:count]
        with self._observer.changing():
            self.segments = self.segments.without(gone)
            with ExitStack() as setting_aside:  # all of them, whatever one of them says
                for segment in gone:
                    setting_aside.callback(pending.add, segment, self.clock.now_ms())
        return gone

    def put_back(self) -> None:
        """Leave the active segment, which nothing was done to, as long as it was before it was opened; durable."""
        active = self.active
        active.offset_index.trim()
        active.time_index.trim()
        active.log.trim(active.log.size)
        for file in (active.offset_index.file, active.time_index.file, active.log):
            file.sync()
        active.check()
        active.active, active.sealed = False, True

    def close(self) -> None:
        """Let go of all files; what is mapped is freed with its last reader."""
        self._closed_at = self.end_offset
        with ExitStack() as closing:  # all of them, whatever one of them says
            for segment in self.segments:
                closing.callback(segment.close)
            if not self.keeps_segments:
                self.segments = SegmentList([])


def _close_quietly(segment: Segment) -> None:
    with suppress(StorageError):  # what went wrong first is what the caller needs to know
        segment.close()


def list_bases(disk: Disk, folder: Path) -> list[int]:
    """Base offsets of the segments in a folder, rising."""
    parsed = (names.parse_file_name(name) for name in disk.list(folder))
    return sorted(base for base, suffix in filter(None, parsed) if suffix == names.LOG)


def remove_files(disk: Disk, folder: Path, base_offset: int) -> None:
    """Remove what a crash may have left of a segment that never became part of the log."""
    for suffix in names.SEGMENT_SUFFIXES:
        path = folder / names.file_name(base_offset, suffix)
        if disk.exists(path):
            disk.unlink(path)

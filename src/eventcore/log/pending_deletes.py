"""Segments that were taken out of the log, by Kafka's name `.deleted`, until `file.delete.delay.ms` is over.

Meanwhile those who know their files by name can open them. An opening removes what is left of them.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import names
from eventcore.log.segment import Segment


class PendingDeletes:
    """The files of one log that are to be removed. Its owner has the lock."""

    def __init__(self, disk: Disk, delay_ms: int) -> None:
        self._disk = disk
        self._delay_ms = delay_ms
        self._waiting: list[tuple[int, Path]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, segment: Segment, now: int) -> None:
        """Give the files of a segment their new names. A crash may undo that: the log start must be durable before."""
        with suppress(StorageError):  # what a failed close may have lost is not wanted any more
            segment.close()
        for suffix in names.SEGMENT_SUFFIXES:
            path = segment.path(suffix)
            if self._disk.exists(path):
                doomed = path.with_name(path.name + names.DELETED)
                self._disk.rename(path, doomed)
                self._waiting = [(due, one) for due, one in self._waiting if one != doomed]  # the one before is gone
                self._waiting.append((now + self._delay_ms, doomed))

    def remove_due(self, now: int) -> int:
        """Remove what has waited long enough; how many files that were."""
        due = [path for deadline, path in self._waiting if deadline <= now]
        self._waiting = [(deadline, path) for deadline, path in self._waiting if deadline > now]
        with ExitStack() as removing:  # all of them, whatever one of them says: the next opening tries again
            for path in due:
                removing.callback(self._disk.unlink, path)
        return len(due)

    def remove_all(self) -> None:
        """Remove them all now."""
        if self._waiting:
            self.remove_due(max(deadline for deadline, _ in self._waiting))

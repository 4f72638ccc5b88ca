"""Which leader epoch began at which offset (KIP-101): the cache over `leader-epoch-checkpoint`, rules E1 to E4.

Entries rise in both columns. Followers truncate by it after a change of leader.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import CorruptFile, DiskFull
from eventcore.files import checkpoint
from eventcore.types import EpochEndOffset

NAME = "leader-epoch-checkpoint"
NO_EPOCH = -1


class EpochCache:
    """(epoch, start offset) pairs. Every change is durable when the call returns, unless it says otherwise."""

    def __init__(self, disk: Disk, folder: Path, *, write: bool) -> None:
        self._disk = disk
        self._path = folder / NAME
        self._write = write
        self._entries: list[tuple[int, int]] = []
        self._is_behind = False
        self.damaged = False
        """Whether the file could not be believed; recovery makes it anew from the batches."""
        try:
            self._entries = checkpoint.read_epochs(disk, self._path)
        except CorruptFile:
            self.damaged = True

    @property
    def entries(self) -> list[tuple[int, int]]:
        """(epoch, start offset), rising."""
        return list(self._entries)

    @property
    def latest(self) -> int:
        """The newest epoch; -1 if there is none."""
        return self._entries[-1][0] if self._entries else NO_EPOCH

    def epoch_at(self, offset: int) -> int:
        """The epoch that wrote `offset`; -1 if it is older than all known ones."""
        slot = bisect_right([start for _, start in self._entries], offset)
        return self._entries[slot - 1][0] if slot else NO_EPOCH

    def assign(self, epoch: int, offset: int) -> None:
        """Note that `epoch` begins at `offset`; what contradicts it is dropped (E1)."""
        if self._entries and self._entries[-1][0] == epoch and offset >= self._entries[-1][1]:
            return
        kept = [entry for entry in self._entries if entry[0] < epoch and entry[1] < offset]
        self._replace([*kept, (epoch, offset)])

    def end_offset_for(self, epoch: int, log_end: int) -> EpochEndOffset:
        """Where the asked epoch, or the largest one below it, ends (E2); (-1, -1) if unknown."""
        if epoch < 0 or not self._entries or epoch > self.latest:
            return EpochEndOffset(NO_EPOCH, -1)
        if epoch == self.latest:
            return EpochEndOffset(epoch, log_end)
        slot = bisect_right([known for known, _ in self._entries], epoch)
        if slot == 0:
            return EpochEndOffset(epoch, self._entries[0][1])
        return EpochEndOffset(self._entries[slot - 1][0], self._entries[slot][1])

    def truncate_from_end(self, offset: int) -> None:
        """Drop the epochs that begin at or above `offset` (E3)."""
        self._replace([entry for entry in self._entries if entry[1] < offset])

    def truncate_from_start(self, offset: int) -> None:
        """Drop the epochs that end at or below `offset`; the one that holds it now begins there (E3).

        On a full disk the file says so with its next change: what it says too much of is gone.
        """
        entries = _from_start(self._entries, offset)
        try:
            self._replace(entries)
        except DiskFull:
            self._entries, self._is_behind = entries, True

    def replace(self, entries: list[tuple[int, int]], log_start: int) -> None:
        """Believe these entries of a log that begins at `log_start` instead: all of them or, after a crash, none."""
        self._replace(_from_start(entries, log_start))
        self.damaged = False

    def _replace(self, entries: list[tuple[int, int]]) -> None:
        """First the file: were a failed write to change the cache, the next call would find nothing left to write."""
        if entries == self._entries and not (self.damaged or self._is_behind):
            return
        if self._write:
            checkpoint.write_epochs(self._disk, self._path, entries)
        self._entries, self._is_behind = entries, False


def _from_start(entries: list[tuple[int, int]], offset: int) -> list[tuple[int, int]]:
    dropped = [entry for entry in entries if entry[1] <= offset]
    return [(dropped[-1][0], offset), *entries[len(dropped) :]] if dropped else entries

"""What is known to be wrong with a segment's log: damaged ranges, noted or found, and pages that cannot be had.

A seal tells of damaged ranges, and for each block whether it still is as it was sealed.

Blocks are checked when something in them is first read, and only then. What is found is damage like any other.

A roll that was cut short leaves a segment that others follow and that has no seal: its reserved zeros are its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from eventcore import _kernels as kernels
from eventcore import fork_safe
from eventcore.config import INT32_MAX
from eventcore.disk import Disk
from eventcore.errors import CorruptRecord, MappingFault, StorageError
from eventcore.files import seal as seal_file
from eventcore.files.damage import DamagedRange
from eventcore.files.seal import Digest, Seal
from eventcore.files.segment_file import SegmentFile, only_zeros
from eventcore.log.verified import Verified

_ROWS = 1024
_noting = fork_safe.rlock()
"""Of all segments: held while a seal is read, and while damage is noted, and never while blocks are checked."""


def load(disk: Disk, log: SegmentFile) -> Seal | None:
    """The seal of a segment's log; None if there is none that can be believed, or if the log was rewritten since."""
    try:
        seal = seal_file.read(disk, log.path.with_suffix(".seal"))
        if seal is None:
            return None
        log.read_at(seal.last_position, 1)  # else a cold page is had by a fault, which may read megabytes around it
        return seal if seal_file.belongs(seal, log.size, log.view) else None
    except StorageError:
        return None


class SealedBlocks:
    """The seal of one mapped log."""

    def __init__(self, seal: Seal, log: SegmentFile) -> None:
        self.seal = seal
        self._view = log.view
        self._starts, _ = seal.edges()
        self._checked = np.zeros(len(seal.blocks), dtype=bool)

    def look(self, start: int, end: int) -> tuple[slice, list[DamagedRange]]:
        """Of the blocks overlapping [start, end) those that are not as they were sealed, but for such as are `known`.

        The slice is for `known`, once what was found is noted: another thread that finds it set does not look.
        """
        first = int(np.searchsorted(self.seal.blocks[:, 0], start, side="right"))
        last = int(np.searchsorted(self._starts[:-1], end, side="left"))
        looked = slice(first, max(first, last))
        if self._checked[looked].all():
            return looked, []
        pending = first + np.flatnonzero(~self._checked[first:last])
        bad: list[DamagedRange] = []
        in_a_row = int(pending[-1] - pending[0]) == len(pending) - 1
        for run in [pending] if in_a_row else np.split(pending, np.flatnonzero(np.diff(pending) > 1) + 1):
            begin, stop = self._span(int(run[0]))[0], self._span(int(run[-1]))[1]
            bad += seal_file.check_blocks(self.seal, self._view, begin, stop)
        return looked, bad

    def known(self, looked: slice) -> None:
        """These blocks need not be looked at again."""
        self._checked[looked] = True

    def _span(self, index: int) -> tuple[int, int]:
        return int(self._starts[index]), int(self.seal.blocks[index, 0])

    def block_of(self, offset: int) -> tuple[int, int]:
        """Start and end of the block that holds `offset`, or of the one behind it; empty behind the last."""
        index = int(np.searchsorted(self.seal.blocks[:, 1], offset, side="right"))
        return self._span(index) if index < len(self._checked) else (self.seal.size, self.seal.size)


class CheckedLog:
    """The part of a segment that knows which of its bytes are not to be believed."""

    disk: Disk
    log: SegmentFile
    base_offset: int
    next_offset: int

    def __init__(self, *, sealed: bool) -> None:
        self.sealed = sealed
        """Whether a seal, if there is one, is about the whole segment."""
        self.seal_is_void = False
        """There is one, of which no word is true, or the sealing was cut short: the other files may be wrong, too."""
        self._damage: tuple[DamagedRange, ...] = ()
        self._blocks: SealedBlocks | None = None
        self._asked_for_seal = False
        self._digest = Digest()
        self.verified = Verified()

    @property
    def damage(self) -> tuple[DamagedRange, ...]:
        """The ranges that are known to hold no valid batches, by position."""
        self._load_seal()
        return self._damage

    def note_damage(self, *ranges: DamagedRange) -> None:
        """Take in damaged ranges that lie behind all known ones."""
        for damage in ranges:
            self._damage += (damage,)
            self._digest.skip(damage)

    def _load_seal(self) -> None:
        if self._asked_for_seal or not self.sealed:
            return
        with _noting:
            if not self._asked_for_seal:
                self._take_seal(load(self.disk, self.log))
                self._asked_for_seal = True  # last: who finds it set goes on without the lock

    def _take_seal(self, seal: Seal | None) -> None:
        if seal is None:
            self.seal_is_void = self._ends_early() or self.disk.exists(self.log.path.with_suffix(".seal"))
            return
        damage = seal.damage
        if seal.next_offset < self.next_offset:  # the segments between this one and the next are missing
            damage += (DamagedRange(seal.size, seal.size, seal.next_offset, self.next_offset),)
        self._damage, self._blocks = damage, SealedBlocks(seal, self.log)

    def floor(self, offset: int) -> int:
        """See `Segment`."""
        raise NotImplementedError

    def _ends_early(self) -> bool:
        """Whether there is no batch at the end of the file. Where nothing but zeros is left, they are no part of it."""
        view, size = self.log.view, self.log.size
        rows = np.empty((_ROWS, kernels.batch.ROW_SIZE), dtype=np.int64)
        position, count = self.floor(self.base_offset + INT32_MAX), 1
        while position < size and count:
            count, position, _ = kernels.batch.scan(view, position, size, rows.data.cast("B"), False)
        if position < size and only_zeros(view, position, size):
            self.log.size = position
        return position < size

    def inspect(self, start: int, end: int) -> None:
        """Check what a batch's CRC does not cover in [start, end) of a sealed log; what is wrong becomes damage."""
        self._load_seal()
        blocks = self._blocks
        if blocks is not None:
            looked, found = blocks.look(start, end)
            if found:
                self._note(found)
            blocks.known(looked)

    def _note(self, found: Iterable[DamagedRange]) -> None:
        """Two threads may find the same."""
        with _noting:
            self._damage = tuple(sorted({*self._damage, *found}))

    @cached_property
    def indexes_hold(self) -> bool:
        """Whether the indexes are those that were sealed, as far as a seal says."""
        self._load_seal()
        if self._blocks is None:
            return self.sealed and not self.seal_is_void  # one that somebody just read to its end has grown since
        try:
            return self._blocks.seal.index_crcs in (self.index_crcs(), seal_file.NOT_KNOWN)
        except StorageError:
            return False

    def index_crcs(self) -> tuple[int, int, int]:
        """CRC-32C of the entries of the three indexes."""
        raise NotImplementedError

    def note_found(self, damage: DamagedRange) -> None:
        """Take in a damaged range of a sealed log that somebody ran into."""
        self._load_seal()
        self._note([damage])

    def reach(self, offset: int) -> int:
        """A position at or behind the end of what must be inspected to read the batches below `offset`."""
        if self._blocks is None or offset > self._blocks.seal.next_offset:
            return self.log.size
        return self._blocks.block_of(offset - 1)[1]

    def run_end(self, position: int) -> int:
        """Where the undamaged run of batches around `position` ends."""
        for damage in self.damage:
            if position <= damage.position:
                return damage.position
        return self.log.size

    def damage_at(self, position: int) -> DamagedRange | None:
        """The damaged range that starts at `position`."""
        return next((damage for damage in self.damage if damage.position == position), None)

    def damage_error(self, damage: DamagedRange) -> CorruptRecord:
        """The error that a read of the damaged range gets."""
        return CorruptRecord(
            f"offsets {damage.first_offset} to {damage.next_offset - 1} are damaged",
            path=self.log.path,
            position=damage.position,
            offset=damage.first_offset,
        )

    def located(self, error: StorageError) -> StorageError:
        """The same error with this segment's path in it. Raises MappingFault if that is what is behind it."""
        self.check()
        error.path = error.path or str(self.log.path)
        return error

    def check(self) -> None:
        """Raise MappingFault if what was read from the log's map, or stored, may be nothing."""
        if self.log.broken:
            raise MappingFault("a page of the file cannot be had", path=self.log.path)

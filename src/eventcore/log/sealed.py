"""What a seal says of a segment: its damaged ranges, and for each block whether it still is as it was sealed.

Blocks are checked when something in them is first read, and only then. What is found is damage like any other.
"""

from __future__ import annotations

import numpy as np

from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import seal as seal_file
from eventcore.files.seal import DamagedRange, Seal
from eventcore.files.segment_file import SegmentFile


def load(disk: Disk, log: SegmentFile) -> Seal | None:
    """The seal of a segment's log; None if there is none that can be believed, or if the log was rewritten since."""
    try:
        seal = seal_file.read(disk, log.path.with_suffix(".seal"))
        return seal if seal is not None and seal_file.belongs(seal, log.size, log.view) else None
    except StorageError:
        return None


class SealedBlocks:
    """The seal of one mapped log."""

    def __init__(self, seal: Seal, log: SegmentFile) -> None:
        self.seal = seal
        self._view = log.view
        self._starts, _ = seal.edges()
        self._checked = np.zeros(len(seal.blocks), dtype=bool)

    def check(self, start: int, end: int) -> list[DamagedRange]:
        """The blocks overlapping [start, end) that are not as they were sealed, and had not been checked yet."""
        first = int(np.searchsorted(self.seal.blocks[:, 0], start, side="right"))
        last = int(np.searchsorted(self._starts[:-1], end, side="left"))
        if first >= last or self._checked[first:last].all():
            return []
        bad = [
            found
            for index in (first + np.flatnonzero(~self._checked[first:last])).tolist()
            for found in seal_file.check_blocks(self.seal, self._view, *self._span(index))
        ]
        self._checked[first:last] = True
        return bad

    def _span(self, index: int) -> tuple[int, int]:
        return int(self._starts[index]), int(self.seal.blocks[index, 0])

    def block_of(self, offset: int) -> tuple[int, int]:
        """Start and end of the block that holds `offset`, or of the one behind it; empty behind the last."""
        index = int(np.searchsorted(self.seal.blocks[:, 1], offset, side="right"))
        return self._span(index) if index < len(self._checked) else (self.seal.size, self.seal.size)

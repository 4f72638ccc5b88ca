"""Go over a sealed segment, run by run of good batches: what is not good is noted in the segment, and passed over."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from eventcore import _kernels as kernels
from eventcore.errors import CorruptRecord, StorageError, Truncated, UnsupportedFormat
from eventcore.files.damage import DamagedRange
from eventcore.format.batch import BatchHeader
from eventcore.log.scan import find_resume
from eventcore.log.segment import Segment

_ROWS = 8192


class Visitor(Protocol):
    """Who looks at the batches. `position` is that of the batch looked at last."""

    @property
    def position(self) -> int:
        """Where the batch stands that an error is about."""

    def batches(self, segment: Segment, position: int, end: int) -> int:
        """Take the whole batches of [position, end); returns where it had enough. Raises CorruptRecord."""

    def lose(self, segment: Segment, damage: DamagedRange) -> None:
        """Be told of a range that is not good, before what lies behind it."""


def visit(segment: Segment, next_base: int, visitor: Visitor) -> bool:
    """Whether the visitor went to the segment's end, which is where the log goes on at offset `next_base`."""
    segment.inspect(0, segment.log.size)
    position = 0
    while position < segment.log.size:
        damage = segment.damage_at(position)
        if damage is not None:
            visitor.lose(segment, damage)
            position = max(damage.end_position, position)
            continue
        end = segment.run_end(position)
        try:
            reached = visitor.batches(segment, position, end)
            segment.check()
        except (CorruptRecord, Truncated, UnsupportedFormat):
            segment.check()
            position = visitor.position
            segment.note_found(_bad_range(segment, position, end, next_base))
            continue
        if reached < end:
            return False
        position = end
    return True


def _bad_range(segment: Segment, position: int, end: int, next_base: int) -> DamagedRange:
    """The batch at `position`, if it can be told where it ends; else all up to the next good one."""
    view = segment.log.view
    try:
        header = BatchHeader.read(view, position, end)
        if kernels.batch.crc_holds(view, position, end):  # it is what was written, and not well-formed
            return DamagedRange(position, position + header.size, header.base_offset, header.next_offset)
    except StorageError:
        pass
    first = _end_before(segment, position)
    behind = segment.damage_at(end)
    stop = behind.first_offset if behind else next_base
    resume = find_resume(view, position, end, first, stop) or (end, stop)
    return DamagedRange(position, resume[0], first, resume[1])


def _end_before(segment: Segment, position: int) -> int:
    """One beyond the last offset of what stands before `position`, which was looked at before."""
    rows = np.empty((_ROWS, kernels.batch.ROW_SIZE), dtype=np.int64)
    start, offset = 0, segment.base_offset
    for damage in segment.damage:
        if damage.end_position <= position:
            start, offset = damage.end_position, damage.next_offset
    while start < position:
        count, start, _ = kernels.batch.scan(segment.log.view, start, position, rows.data.cast("B"), False)
        if not count:
            break
        offset = int(rows[count - 1, 3]) + 1
    return offset

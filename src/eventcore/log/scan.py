"""Walk a segment that nobody vouches for: batch by batch, CRC and all, to where its good batches end.

What follows the last good batch is reserved zeros or a torn tail, or damage: then it is noted in `segment.damage`,
and the walk goes on behind it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from eventcore import _kernels as kernels
from eventcore.config import INT32_MAX, INT64_MAX
from eventcore.errors import UnsupportedFormat
from eventcore.files.damage import DamagedRange
from eventcore.files.segment_file import only_zeros
from eventcore.format.batch import HEADER_SIZE
from eventcore.log.segment import Segment

_ROWS = 8192
_MAGIC_POSITION = 16
_CRC_POSITION = 17
_LENGTH_END = 12
_MAGIC = b"\x02"
_PREFIX = struct.Struct(">qiIb")
_LEAST_LENGTH = 14
"""Of the oldest format: CRC, magic, attributes, and the lengths of key and value."""


class BatchRow(NamedTuple):
    """What the kernel's `scan` tells of one batch."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    max_timestamp: int
    leader_epoch: int
    producer_id: int
    attributes: int


class Doubt(NamedTuple):
    """What decides whether bytes that are no batch are a torn tail or damage."""

    mark: int = 0
    """Everything below this offset was durable: it cannot be torn."""
    forgetful: bool = False
    """The machine was restarted, or a sync failed: unsynced pages may be lost, and later ones kept."""
    next_base: int | None = None
    """Where the next segment that holds anything begins; None if there is none."""
    dense: bool = True
    """No cleaner makes gaps between segments: offsets that are missing there are lost."""
    published: int | None = None
    """The log end that a killed writer showed last; the machine goes on, so nothing below it is lost. What lies behind
    it and does not follow without a gap was never a record. None: not known.
    """

    @property
    def stop(self) -> int:
        """No batch that is found behind bad bytes begins at or above it."""
        return min(INT64_MAX if end is None else end for end in (self.next_base, self.published))

    def is_torn(self, offset: int) -> bool:
        """Whether what is wrong at `offset` may be what a power cut left of bytes that were never synced."""
        return self.forgetful and offset >= self.mark


def scan_segment(segment: Segment, position: int, limit: int, doubt: Doubt, take: Callable[[BatchRow], None]) -> bool:
    """Hand every good batch in `[position, limit)` to `take`, which moves the segment's end.

    What follows the last good batch is a torn tail if it was never durable and either nothing good lies behind it or
    unsynced pages may be lost. Else it is damage, noted in the segment. True if the log ends with this segment's last
    good batch although segments follow.
    """
    expected = doubt.mark if doubt.next_base is None else doubt.next_base
    while True:
        position = _scan_run(segment, position, limit, take)
        refuse_other_version(segment, position, limit)
        end = segment.next_offset
        if position == limit and (end >= expected or doubt.next_base is not None):
            return end < expected and doubt.forgetful and doubt.dense and end >= doubt.mark
        resume = find_resume(segment.log.view, position, limit, end, doubt.stop)
        if resume is None and end >= expected:
            return False
        if doubt.is_torn(end):
            return doubt.next_base is not None
        resume = resume or (limit, expected)
        segment.note_damage(DamagedRange(position, resume[0], end, resume[1]))
        segment.log.size, segment.next_offset = position, _ = resume
        if position == limit:
            return False


def _scan_run(segment: Segment, position: int, limit: int, take: Callable[[BatchRow], None]) -> int:
    """Take good batches from `position` on; returns where they end."""
    rows = np.empty((_ROWS, kernels.batch.ROW_SIZE), dtype=np.int64)
    while position < limit:
        count, position, status = kernels.batch.scan(segment.log.view, position, limit, rows.data.cast("B"), True)
        found = [BatchRow._make(fields) for fields in rows[:count].tolist()]
        for row, behind in zip_longest(found, found[1:]):
            too_far = row.last_offset - segment.base_offset > INT32_MAX
            if row.base_offset < segment.next_offset or too_far or _jumps(segment.next_offset, row, behind):
                return row.position
            take(row)
        if status != kernels.batch.OK:
            break
    return position


def _jumps(expected: int, row: BatchRow, behind: BatchRow | None) -> bool:
    """Whether a batch has a base offset (no CRC covers it) that the one behind it contradicts."""
    return behind is not None and row.base_offset > expected and expected <= behind.base_offset < row.base_offset


def refuse_other_version(segment: Segment, position: int, limit: int) -> None:
    """Raise UnsupportedFormat if a whole batch of another magic continues the log here: it is no torn tail.

    Kafka's old messages (magic 0 and 1) have the same first 12 bytes, then an IEEE CRC-32 over what follows it. Of a
    future magic only the first 17 bytes are known: its offset must continue the log and its length fit. If all but
    the magic is right for a batch of ours, a bit has flipped: that is damage.
    """
    view = segment.log.view
    if limit - position <= _MAGIC_POSITION:
        return
    base_offset, length, old_crc, magic = _PREFIX.unpack_from(view, position)
    end = position + 12 + length
    if magic == kernels.batch.MAGIC or length < _LEAST_LENGTH or end > limit:
        return
    if magic in (0, 1):
        whole = zlib.crc32(view[position + _MAGIC_POSITION : end]) == old_crc
    else:
        continues = magic > kernels.batch.MAGIC and 0 <= base_offset - segment.next_offset < 1 << 31
        crc = int.from_bytes(view[position + _CRC_POSITION : position + _CRC_POSITION + 4], "big")
        whole = continues and kernels.crc32c.crc32c(view[position + _CRC_POSITION + 4 : end]) != crc
    if whole:
        raise UnsupportedFormat(
            f"a batch of magic {magic}", path=segment.log.path, position=position, offset=base_offset
        )


def find_resume(view: memoryview, start: int, end: int, offset: int, stop: int = INT64_MAX) -> tuple[int, int] | None:
    """Where the log goes on behind the bad bytes at `start`, where `offset` was due: a batch's (position, base offset).

    Whole, CRC-correct batches may stand in the value of a record, too. So the bad batch is asked first where it ends;
    if it cannot tell, it is the first good batch from which others follow without a gap, to the end of what was written
    or to the next bad one. None if there is none with a base offset below `stop`.
    """
    own_end = _own_end(view, start, end, offset)
    if own_end is not None:
        return _batch_at(view, own_end, end, offset, stop)
    position = start + 1
    while (found := find_batch(view, position, end, offset, stop)) is not None:
        position, next_offset = _chain_end(view, found[0], end)
        if _leads_on(view, position, end, next_offset):
            return found
    return None


def find_batch(view: memoryview, start: int, end: int, offset: int, stop: int = INT64_MAX) -> tuple[int, int] | None:
    """The first whole, CRC-correct batch at or behind `start` that may continue the log: (position, base offset).

    The magic byte is what a batch cannot be without, so the search goes from one to the next.
    """
    data, at = view.obj, start + _MAGIC_POSITION
    while (at := data.find(_MAGIC, at, end)) >= 0:  # type: ignore[attr-defined]
        found = _batch_at(view, at - _MAGIC_POSITION, end, offset, stop)
        if found is not None:
            return found
        at += 1
    return None


def _batch_at(view: memoryview, position: int, end: int, offset: int, stop: int = INT64_MAX) -> tuple[int, int] | None:
    """The good batch at `position` if it may continue the log."""
    if end - position < HEADER_SIZE:
        return None
    base_offset = int.from_bytes(view[position : position + 8], "big")
    continues = offset <= base_offset < min(offset + (1 << 31), stop)
    return (position, base_offset) if continues and _is_batch(view, position, end) else None


def _own_end(view: memoryview, start: int, end: int, offset: int) -> int | None:
    """Where the bad batch at `start` ends by its own word; None if what stands there does not bear it out."""
    if end - start < HEADER_SIZE:
        return None
    base_offset, length, _, magic = _PREFIX.unpack_from(view, start)
    own_end: int = start + _LENGTH_END + length
    if not start + HEADER_SIZE <= own_end <= end:
        return None
    if _batch_at(view, own_end, end, offset):
        return own_end
    named = base_offset == offset and magic == kernels.batch.MAGIC
    ends_the_data = any(view[own_end - 2 : own_end]) and only_zeros(view, own_end, end)  # a length may have changed
    return own_end if named and ends_the_data else None


def _chain_end(view: memoryview, position: int, end: int) -> tuple[int, int]:
    """Where the good batches from `position` on end, whose offsets rise; and the offset that is due there."""
    rows = np.empty((_ROWS, kernels.batch.ROW_SIZE), dtype=np.int64)
    next_offset, count = 0, 1
    while position < end and count:
        count, position, _ = kernels.batch.scan(view, position, end, rows.data.cast("B"), True)
        for row in map(BatchRow._make, rows[:count].tolist()):
            if row.base_offset < next_offset:
                return row.position, next_offset
            next_offset = row.last_offset + 1
    return position, next_offset


def _leads_on(view: memoryview, position: int, end: int, offset: int) -> bool:
    """Whether a log may end at `position`, or have a bad batch there.

    The header's first bytes are stored last: where they are zeros there never was a batch, or not any more.
    """
    if not any(view[position : min(position + _LENGTH_END, end)]):
        return True
    if end - position <= _MAGIC_POSITION:
        return False
    base_offset, _, _, magic = _PREFIX.unpack_from(view, position)
    looks_like_one = magic == kernels.batch.MAGIC and offset <= base_offset < offset + (1 << 31)
    return looks_like_one or _own_end(view, position, end, offset) is not None


def crcs_hold(view: memoryview, start: int, end: int) -> bool:
    """Whether `[start, end)` is whole batches, as far as their CRCs tell."""
    rows = np.empty((_ROWS, kernels.batch.ROW_SIZE), dtype=np.int64)
    position, count = start, 1
    while position < end and count:
        count, position, _ = kernels.batch.scan(view, position, end, rows.data.cast("B"), True)
    return position == end


def _is_batch(view: memoryview, position: int, end: int) -> bool:
    row = np.empty(kernels.batch.ROW_SIZE, dtype=np.int64)
    count, _, _ = kernels.batch.scan(view, position, end, row.data.cast("B"), True)
    return bool(count)

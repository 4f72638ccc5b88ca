"""The first half of a compaction: map which record of each key is the latest, over what was appended since the last."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from eventcore import _kernels as kernels
from eventcore.errors import CorruptRecord
from eventcore.files.damage import DamagedRange
from eventcore.format.batch import CODEC_MASK, TRANSACTIONAL, BatchHeader, records_area
from eventcore.format.compression import Scratch
from eventcore.log.cleaned_transactions import CleanedTransactions
from eventcore.log.good_runs import visit
from eventcore.log.producer_store import read_marker
from eventcore.log.reader import LARGEST_AREA
from eventcore.log.segment import Segment

STEP = 4 << 20
"""Bytes of log a call of a kernel: so often others may run, and be waited for."""
_SLOT = kernels.offset_map.SLOT_SIZE
_FIRST_SLOTS = 1 << 12
_LEAST_SLOTS = 1 << 6


def checked_area(segment: Segment, position: int, header: BatchHeader, scratch: Scratch) -> memoryview:
    """The decompressed records of a batch whose CRC holds. Raises CorruptRecord."""
    if not kernels.batch.crc_holds(segment.log.view, position, segment.log.size):
        raise CorruptRecord("the CRC of a batch does not match its bytes", position=position)
    return records_area(segment.log.view, position, header, LARGEST_AREA, scratch)


class Latest:
    """The offset map of some segments, and which of its logs each segment is.

    Three quarters of `map_bytes` are for slots, the rest for keys of compressed batches.
    """

    def __init__(self, start: int, map_bytes: int, careful: bool, pace: Callable[[int], None]) -> None:
        slots = max(map_bytes * 3 // 4 // _SLOT, _LEAST_SLOTS)
        self.map = kernels.offset_map.OffsetMap(
            slots, max(map_bytes - slots * _SLOT, 0), os.urandom(16), careful, _FIRST_SLOTS
        )
        self.map.end_offset = start
        self.ordinals: dict[Segment, int] = {}
        self._start = start
        self._pace = pace
        self._special = 0
        self._scratch = Scratch()

    @property
    def position(self) -> int:
        """See `Visitor`."""
        return max(self.map.position, self._special)

    def map_segments(
        self, segments: Sequence[Segment], next_base: Callable[[Segment], int], transactions: CleanedTransactions
    ) -> None:
        """Map the records from the start on, until the map is full."""
        self._transactions = transactions
        for segment in segments:
            self.ordinals[segment] = self.map.attach(segment.log.view)
            behind = next_base(segment)
            if not visit(segment, behind, self):
                return
            self.map.end_offset = max(self.map.end_offset, behind)

    def lose(self, segment: Segment, damage: DamagedRange) -> None:
        """What cannot be read supersedes nothing."""
        self.map.end_offset = max(self.map.end_offset, damage.next_offset)

    def batches(self, segment: Segment, position: int, end: int) -> int:
        """See `Visitor`."""
        self._special, found, ordinal = 0, self.map, self.ordinals[segment]
        while position < end:
            begun = position
            position = found.map_batches(
                ordinal, position, end, self._start, CODEC_MASK | TRANSACTIONAL, position + STEP
            )
            if position < end and not found.full:
                header = segment.header_at(position)
                if header.codec or header.transactional:
                    self._special = position
                    self._take_special(segment, position, header)
                    position += header.size
            if found.full:
                return min(position, end - 1)
            self._pace(position - begun)
        return position

    def _take_special(self, segment: Segment, position: int, header: BatchHeader) -> None:
        found = self.map
        if header.control:
            marker = read_marker(segment, position, header) if header.record_count else None
            self._transactions.discards_marker(header, marker)
        elif not (header.transactional and self._transactions.discards_batch(header)):
            if header.next_offset <= self._start:
                return
            if header.codec:
                found.map_records(checked_area(segment, position, header, self._scratch), header, self._start)
            else:
                found.map_batches(self.ordinals[segment], position, position + header.size, self._start, 0)
            return
        if header.next_offset > self._start:
            found.end_offset = max(found.end_offset, header.next_offset)

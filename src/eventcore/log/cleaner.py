"""The second half of a compaction: write groups of segments anew, without the records that others supersede.

The kernel does whole runs of plain batches. What needs a decision it leaves to us: compressed batches are decompressed,
filtered, and compressed again with their codec if something went; of transactions see `CleanedTransactions`. A batch
that is not right is put aside in `quarantine/`, never copied with a new and valid CRC.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import CorruptRecord
from eventcore.files.damage import DamagedRange
from eventcore.files.segment_file import MAX_SIZE
from eventcore.format import compression
from eventcore.format.batch import CODEC_MASK, CONTROL, DELETE_HORIZON, HEADER_SIZE, TRANSACTIONAL, BatchHeader
from eventcore.format.compression import Scratch
from eventcore.log import quarantine
from eventcore.log.cleaned_segment import CleanedSegment
from eventcore.log.cleaned_transactions import CleanedTransactions
from eventcore.log.good_runs import visit
from eventcore.log.latest import STEP, Latest, checked_area
from eventcore.log.producer_store import read_marker
from eventcore.log.segment import Segment
from eventcore.types import Producer

_SPECIAL = CODEC_MASK | CONTROL | TRANSACTIONAL
_BUFFER = 1 << 20
_WIDER = 14
"""Bytes more that a record may need whose time gets relative to a delete horizon."""


class Loss(NamedTuple):
    """Offsets that could not be read and are not in the cleaned log, and where their bytes were put ("" if none)."""

    first_offset: int
    next_offset: int
    quarantined: str


@dataclass
class Terms:
    """What one pass goes by. `pace` is called with the bytes of each step, and may raise to end it."""

    disk: Disk
    folder: Path
    config: LogConfig
    now: int
    pace: Callable[[int], None]
    largest: int = MAX_SIZE
    """Bytes of a segment."""
    losses: list[Loss] = field(default_factory=list)


class ActiveProducers:
    """Batches that stay although they are empty: the last ones of producers that may go on, for their sequences."""

    def __init__(self, producers: Sequence[Producer]) -> None:
        self.last_offsets = sorted({one.last_offset for one in producers if one.last_offset >= 0})
        self._only_markers = {one.producer_id: one.epoch for one in producers if one.last_offset < 0}

    def keeps_marker(self, header: BatchHeader) -> bool:
        """Whether a control batch is all that is known of its producer."""
        return self._only_markers.get(header.producer_id) == header.producer_epoch


class Cleaner:
    """Writes one group of segments after the other, in the order of the log."""

    def __init__(
        self, terms: Terms, latest: Latest, producers: ActiveProducers, transactions: CleanedTransactions
    ) -> None:
        ends = sorted({*producers.last_offsets, latest.map.end_offset - 1})  # the last batch of a pass stays, too
        self._terms, self._latest, self._producers, self._transactions = terms, latest, producers, transactions
        self._horizon = min(terms.now + terms.config.delete_retention_ms, (1 << 63) - 1)
        self._kernel = kernels.clean.Cleaner(latest.map, terms.now, self._horizon, memoryview(array("q", ends)))
        self._buffer, self._at = bytearray(_BUFFER), 0
        self._outputs: list[CleanedSegment] = []
        self._special = 0
        self._scratch = Scratch()
        self._filtered = bytearray()

    @property
    def records(self) -> int:
        """How many went through."""
        return self._kernel.records

    @property
    def kept(self) -> int:
        """How many stayed."""
        return self._kernel.kept

    @property
    def position(self) -> int:
        """See `Visitor`."""
        return max(self._kernel.position, self._special)

    def clean(self, group: Sequence[Segment], next_base: Callable[[Segment], int]) -> list[CleanedSegment]:
        """Write the group; the segments that stand for it have all their files, not yet durable by name.

        Mostly that is one; more where it becomes too large. If it fails, nothing is left.
        """
        self._outputs, self._at = [], 0
        self._begin(group[0].base_offset)
        try:
            for segment in group:
                visit(segment, next_base(segment), self)
            self._finish(next_base(group[-1]))
        except BaseException:
            for output in self._outputs:
                output.discard()
            raise
        return self._outputs

    def _begin(self, base_offset: int) -> None:
        terms = self._terms
        self._outputs.append(CleanedSegment(terms.disk, terms.folder, base_offset))
        self._kernel.begin(base_offset, terms.config.index_interval_bytes, terms.largest)

    def _flush(self) -> None:
        if self._at:
            self._outputs[-1].write(memoryview(self._buffer)[: self._at])
            self._terms.pace(self._at)
            self._at = 0

    def _finish(self, next_base: int) -> None:
        self._flush()
        kernel, aborted = self._kernel, self._transactions.kept
        self._outputs[-1].finish(next_base, kernel.offset_entries(), kernel.time_entries(), aborted)
        self._transactions.kept = []

    def _split(self, base_offset: int) -> None:
        """The batch at this offset is too much for the segment."""
        if self._kernel.size == 0:
            raise CorruptRecord(f"the batch at offset {base_offset} is larger than a segment may be")
        self._finish(base_offset)
        self._begin(base_offset)

    def _room(self, size: int) -> None:
        """So many bytes at the end of the buffer."""
        if size > len(self._buffer) - self._at:
            self._flush()
        if size > len(self._buffer):
            self._buffer = bytearray(size)

    def lose(self, segment: Segment, damage: DamagedRange) -> None:
        """Put aside what is not right."""
        path = ""
        if damage.position < damage.end_position:
            name = f"{segment.base_offset:020}-{damage.position}"
            data = segment.log.view[damage.position : damage.end_position]
            path = quarantine.copy(self._terms.disk, self._terms.folder, name, data)
        self._terms.losses.append(Loss(damage.first_offset, damage.next_offset, path))

    def batches(self, segment: Segment, position: int, end: int) -> int:
        """See `Visitor`."""
        self._special = 0
        while position < end:
            begun = position
            position = self._plain(segment, position, end, _SPECIAL)
            if position < end:
                header = segment.header_at(position)
                if header.attributes & _SPECIAL:
                    self._special = position
                    self._take_special(segment, position, header)
                    position += header.size
            self._terms.pace(position - begun)
        return position

    def _plain(self, segment: Segment, position: int, end: int, mask: int) -> int:
        """Copy what stays of plain batches, a step of them or up to one that is not."""
        kernel, ordinal = self._kernel, self._latest.ordinals.get(segment, 0)
        until = position + STEP
        while True:
            position, self._at, reason = kernel.clean(
                segment.log.view, ordinal, position, end, self._buffer, self._at, mask, until
            )
            if reason == kernels.clean.NO_ROOM:
                self._room(kernel.needed)
            elif reason == kernels.clean.FULL:
                self._split(segment.header_at(position).base_offset)
            else:
                return position

    def _take_special(self, segment: Segment, position: int, header: BatchHeader) -> None:
        if header.control:
            self._take_marker(segment, position, header)
        elif header.transactional and self._transactions.discards_batch(header):
            self._drop(header)
        elif header.codec:
            self._take_area(segment, position, header)
        else:
            self._plain(segment, position, position + header.size, 0)

    def _take_marker(self, segment: Segment, position: int, header: BatchHeader) -> None:
        marker = read_marker(segment, position, header) if header.record_count else None
        is_done = self._transactions.discards_marker(header, marker)
        horizon = header.delete_horizon
        if marker is None or (is_done and horizon is not None and horizon <= self._terms.now):
            self._drop(header, always=self._producers.keeps_marker(header))
        elif is_done and horizon is None:
            self._take_area(segment, position, header, keep_all=True)
        else:
            self._copy(segment, position, header)

    def _take_area(self, segment: Segment, position: int, header: BatchHeader, *, keep_all: bool = False) -> None:
        area = checked_area(segment, position, header, self._scratch)
        most = len(area) + _WIDER * header.record_count
        if len(self._filtered) < most:
            self._filtered = bytearray(most)
        ordinal = self._latest.ordinals.get(segment, 0)
        verdict, size, count, largest, sets_horizon = self._kernel.filter(
            area, header, ordinal, position, self._filtered, keep_all
        )
        if verdict == kernels.clean.NONE:
            self._drop(header)
        elif verdict == kernels.clean.ALL:
            self._copy(segment, position, header)
        else:
            header = header._replace(record_count=count, max_timestamp=largest)
            if sets_horizon:
                horizon = header.attributes | DELETE_HORIZON
                header = header._replace(attributes=horizon, base_timestamp=self._horizon)
            self._put(header, compression.compress(header.codec, None, memoryview(self._filtered)[:size]))

    def _drop(self, header: BatchHeader, *, always: bool = False) -> None:
        """Nothing stays but, where somebody needs it, the header."""
        if always or self._kernel.keeps_empty(header.last_offset):
            attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
            self._put(header._replace(attributes=attributes, base_timestamp=-1, record_count=0), b"")

    def _make_place(self, size: int, header: BatchHeader) -> None:
        if not self._kernel.fits(size, header.last_offset):
            self._split(header.base_offset)
        self._room(size)

    def _put(self, header: BatchHeader, area: bytes) -> None:
        size = HEADER_SIZE + len(area)
        self._make_place(size, header)
        start = self._at
        self._buffer[start + HEADER_SIZE : start + size] = area
        kernels.batch.write_header(
            self._buffer, start, size, header.base_offset, header.leader_epoch, header.attributes, *header[6:]
        )
        self._at += size
        self._kernel.add(size, header.last_offset, header.max_timestamp)

    def _copy(self, segment: Segment, position: int, header: BatchHeader) -> None:
        self._make_place(header.size, header)
        offset, epoch = header.base_offset, header.leader_epoch
        if not kernels.transfer.copy_batch(self._buffer, self._at, segment.log.view, position, offset, epoch):
            raise CorruptRecord("the CRC of a batch does not match its bytes", position=position, offset=offset)
        self._at += header.size
        self._kernel.add(header.size, header.last_offset, header.max_timestamp)

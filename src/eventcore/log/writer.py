"""Put batches at the end of a LocalLog: encoded from values, or as they came from a client or a leader.

What is ordinary the appender does: it encodes, indexes and shows a batch in one call. What it declines (the segment has
to roll, space has to be reserved, records are compressed or take more than one batch) is done here step by step.

Uncompressed records are encoded straight into the mapped segment. A batch exists once the first 12 bytes of its
header are there, so whatever fails before that leaves a log that ends where it did. A complete batch that turns out
not to belong there (the segment must roll first) is unmade by zeroing its header. But for what the appender did,
nothing here is visible to readers: the partition publishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.clock import SystemClock
from eventcore.errors import CorruptRecord, DiskFull, InvalidRecord, RecordTooLarge
from eventcore.files.segment_file import SegmentFile
from eventcore.format import compression
from eventcore.format.batch import HEADER_SIZE, LOG_APPEND_TIME, TRANSACTIONAL, BatchHeader, assign_offset
from eventcore.log.column_input import Columns
from eventcore.log.local import LocalLog
from eventcore.log.segment import Segment

_NO_HEADER = bytes(HEADER_SIZE)
_STRIDE = 1 << 20
"""The appender comes back here after so many bytes: for blocks and pages of what lies ahead, and for the digest."""


class Producer(NamedTuple):
    """The idempotence fields of a batch, and whether it is part of a transaction."""

    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    transactional: bool = False


NO_PRODUCER = Producer()


def bad_crc(position: int, header: BatchHeader) -> CorruptRecord:
    """Of a batch that somebody wants to have appended."""
    text = "the CRC of a batch does not match its bytes"
    return CorruptRecord(text, position=position, offset=header.base_offset)


class BatchWriter:
    """Writes at the end of one log. The caller holds the partition's lock."""

    def __init__(self, local: LocalLog, state: memoryview, whole: kernels.write_lock.Whole) -> None:
        self._local = local
        self._state = state
        self.whole = whole
        """What must not be cut short between its first and its last step is done inside of it."""
        config = local.config
        self._max_bytes = config.max_message_bytes
        self._codec = compression.codec_id(config.compression_type)
        self._level = config.compression_level
        self._time_type = LOG_APPEND_TIME if config.log_append_time else 0
        self._scratch = bytearray()
        self._attached: Segment | None = None
        self._limit = 0
        self.appender = kernels.append.Appender(
            self._max_bytes,
            config.index_interval_bytes,
            local.roll_ms,
            self._time_type,
            not self._codec and type(local.clock) is SystemClock,
        )

    def settle(self) -> None:
        """Tell the appender where the log may go on: after whatever was done to the active segment."""
        segment, appender = self._local.active, self.appender
        if self._codec or segment.log.private:
            return
        log, index, times = segment.log, segment.offset_index, segment.time_index
        if segment is not self._attached:
            appender.attach(
                self._state,
                segment,
                segment.base_offset,
                segment.created_ms,
                log,
                log.view,
                index,
                index.file.view,
                times,
                times.file.view,
            )
            if self._local.config.preallocate:
                self._preallocate(log)
            self._attached = segment
        log.lead()
        self._limit = min(log.ready, log.size + self._max_bytes + _STRIDE)
        appender.allow(self._limit, index.file.ready // index.entry_size, times.file.ready // times.entry_size)

    def _preallocate(self, log: SegmentFile) -> None:
        """An opening waits until the pages are there; at a roll the populator makes them while appends go on."""
        log.preallocate()
        if self._attached is None:
            with suppress(DiskFull):
                log.reserve(log.capacity)

    def detach(self) -> None:
        """Let go of all memory, for good; nothing goes through the appender any more."""
        self._attached, self._state = None, memoryview(b"")
        self.appender.detach()

    @property
    def end_offset(self) -> int:
        """The offset the next record gets."""
        return self._local.end_offset

    def write(
        self,
        items: Sequence[Any] | Columns,
        leader_epoch: int,
        *,
        atomic: bool = False,
        producer: Producer = NO_PRODUCER,
    ) -> bool:
        """Encode records into as few batches as `max.message.bytes` and the segments' ends allow.

        With `atomic` they become one batch or RecordTooLarge is raised. If a later batch fails, the earlier ones stay.
        Returns whether readers have been shown all of them.
        """
        if isinstance(items, Columns) and 0 < items.largest < items.rows:
            shown_parts = [self.write(part, leader_epoch, producer=producer) for part in items.parts()]
            return all(shown_parts)
        count = items.rows if isinstance(items, Columns) else len(items)
        first = shown = 0
        while first < count:
            shown = self._append(items, first, atomic, producer)
            if not shown:
                write = self._write_compressed if self._codec else self._write_plain
                first += write(items, first, count - first, leader_epoch, atomic, producer).record_count
                self.settle()
            first += shown
        return shown > 0

    def _append(self, items: Sequence[Any] | Columns, first: int, atomic: bool, producer: Producer) -> int:
        """How many records the appender took: as many as one batch may have, or none."""
        segment = self._attached
        if segment is None or segment is not self._local.active or producer.transactional:
            return 0
        now = self._local.clock.now_ms()
        self._provide(segment)
        start = segment.log.size
        try:
            if isinstance(items, Columns):
                return self.appender.extend_columns(items.rows, first, now, atomic, items.arguments())
            return self.appender.extend(items, first, now, atomic, *producer[:3])
        except BaseException:
            self._erase(segment, start, min(start + self._max_bytes, self._limit))
            raise

    def _provide(self, segment: Segment) -> None:
        """Have space for the largest batch ahead of the tail, if the segment has it; else let the slow way tell."""
        log = segment.log
        if log.size + self._max_bytes > log.ready and log.ready < log.capacity:
            with suppress(DiskFull):
                segment.reserve(min(self._max_bytes, log.room))
            self.settle()
        elif log.size + self._max_bytes > self._limit:
            segment.keep_digest()
            self.settle()

    def _encode(
        self, buf: Any, start: int, end: int, items: Sequence[Any] | Columns, first: int, epoch: int, producer: Producer
    ) -> tuple[int, int, int]:
        offset, now = self._local.end_offset, self._local.clock.now_ms()
        if isinstance(items, Columns):
            return kernels.encode.encode_columns(
                buf, start, end, items.rows, first, *items.arguments(), offset, epoch, self._time_type, now
            )
        attributes = self._time_type | (TRANSACTIONAL if producer.transactional else 0)
        return kernels.encode.encode(buf, start, end, items, first, offset, epoch, attributes, now, *producer[:3])

    def _write_plain(
        self, items: Sequence[Any] | Columns, first: int, left: int, epoch: int, atomic: bool, producer: Producer
    ) -> BatchHeader:
        segment = self._segment_for(self._local.end_offset + left - 1)
        while True:
            start = segment.log.size
            end = min(start + self._max_bytes, segment.log.capacity)
            segment.reserve(end - start)
            view = segment.log.view
            try:
                position, count, max_timestamp = self._encode(view, start, end, items, first, epoch, producer)
            except BaseException:
                self._erase(segment, start, end)
                raise
            as_large_as_any = start == 0 or end - start == self._max_bytes
            fits = count == left or (count > 0 and as_large_as_any and not atomic)
            if fits and not self._local.due_for_roll(max_timestamp, self._local.clock.now_ms()):
                segment.check()
                header = BatchHeader.read(view, start, position)
                self._take_in(segment, header)
                return header
            self._erase(segment, start, position)
            if not fits and as_large_as_any:
                raise RecordTooLarge(f"more than {end - start} bytes in one batch")
            segment = self._local.roll()

    def _write_compressed(
        self, items: Sequence[Any] | Columns, first: int, left: int, epoch: int, atomic: bool, producer: Producer
    ) -> BatchHeader:
        if not self._scratch:
            self._scratch = bytearray(min(self._max_bytes, self._local.config.segment_bytes))
        position, count, _ = self._encode(self._scratch, 0, len(self._scratch), items, first, epoch, producer)
        if count == 0 or (atomic and count < left):
            raise RecordTooLarge(f"more than {len(self._scratch)} bytes in one batch before compression")
        header = BatchHeader.read(self._scratch, 0, position)
        area = compression.compress(self._codec, self._level, memoryview(self._scratch)[HEADER_SIZE:position])
        codec = self._codec
        if HEADER_SIZE + len(area) > self._max_bytes:  # incompressible, and only the codec's framing breaks the limit
            area, codec = bytes(self._scratch[HEADER_SIZE:position]), compression.NONE
        return self.place(header._replace(attributes=header.attributes | codec), area)

    def place(self, header: BatchHeader, area: Any) -> BatchHeader:
        """Write a batch from its header and its stored records area, at the log end; its length and CRC are made anew.

        The records get the offsets from the log end on, whatever the header says.
        """
        size = HEADER_SIZE + len(area)
        header = header._replace(base_offset=self._local.end_offset, length=size - 12)
        segment = self._room_for(size, header.last_offset, header.max_timestamp)
        view, start = segment.log.view, segment.log.size
        view[start + HEADER_SIZE : start + size] = area
        kernels.batch.write_header(
            view, start, size, header.base_offset, header.leader_epoch, header.attributes, *header[6:]
        )
        self._take_in(segment, header)
        return header

    def copy(self, data: memoryview, position: int, header: BatchHeader, *, aborts: bool = False) -> None:
        """Write a whole encoded batch as it is, but for its base offset and leader epoch, which are the header's.

        If it `aborts` a transaction there is space for that in the segment's index, too.
        """
        segment = self._room_for(header.size, header.last_offset, header.max_timestamp)
        if aborts:
            segment.txn_index.reserve_entry()
        view, start = segment.log.view, segment.log.size
        view[start + HEADER_SIZE : start + header.size] = data[position + HEADER_SIZE : position + header.size]
        prefix = bytearray(data[position : position + HEADER_SIZE])
        assign_offset(memoryview(prefix), 0, header.base_offset, header.leader_epoch)
        view[start + 12 : start + HEADER_SIZE] = prefix[12:]
        view[start : start + 12] = prefix[:12]
        self._take_in(segment, header)

    def _take_in(self, segment: Segment, header: BatchHeader) -> None:
        """The batch that stands at the end of the log becomes part of it. Raises DiskFull, with the log as it was."""
        segment.written(segment.log.size + header.size)
        with self.whole:
            segment.add_batch(header.size, header.last_offset, header.max_timestamp)

    def copy_all(self, data: memoryview, found: Sequence[tuple[int, BatchHeader]]) -> bool:
        """`copy` encoded batches whose CRCs nobody has checked: they are as they are copied, all before the first
        counts. Raises CorruptRecord with nothing done; False if the active segment is not the place for all of them.
        """
        segment, now = self._local.active, self._local.clock.now_ms()
        size = sum(header.size for _, header in found)
        if (
            segment.log.private
            or size > segment.log.room
            or segment.full_for(found[-1][1].last_offset)
            or any(self._local.due_for_roll(header.max_timestamp, now) for _, header in found)
        ):
            return False
        segment.reserve(size)
        if not segment.reserve_entries(len(found)):
            return False
        self._copy_checked(segment, data, found)
        segment.written(segment.log.size + size)
        with self.whole:
            for _, header in found:
                segment.add_batch(header.size, header.last_offset, header.max_timestamp)
        return True

    def _copy_checked(self, segment: Segment, data: memoryview, found: Sequence[tuple[int, BatchHeader]]) -> None:
        view, begin, starts = segment.log.view, segment.log.size, list[int]()
        at = begin
        for position, header in found:
            if not kernels.transfer.copy_batch(view, at, data, position, header.base_offset, header.leader_epoch):
                for start in reversed(starts):  # the last one first: what a kill leaves is a log without a hole
                    view[start : start + HEADER_SIZE] = _NO_HEADER
                self._erase(segment, begin, at + header.size)
                raise bad_crc(position, header)
            starts.append(at)
            at += header.size

    def _erase(self, segment: Segment, start: int, end: int) -> None:
        """Nothing is left of what was written behind the log end. The items may have had code that changed the log."""
        if segment is self._local.active and segment.log.size <= start < end:
            segment.log.view[start:end] = bytes(end - start)

    def _segment_for(self, last_offset: int) -> Segment:
        segment = self._local.roll() if self._local.active.full_for(last_offset) else self._local.active
        if segment.full_for(last_offset):
            raise InvalidRecord(
                f"offset {last_offset} lies too far above {segment.base_offset}, where its segment begins",
                hint="truncate to the batch's first offset before a gap of more than 2^31 offsets",
            )
        return segment

    def _room_for(self, size: int, last_offset: int, max_timestamp: int) -> Segment:
        """The active segment with `size` bytes reserved; rolls if the batch does not fit. Raises RecordTooLarge."""
        if size > self._local.config.segment_bytes:
            raise RecordTooLarge(f"a batch of {size} bytes exceeds segment.bytes {self._local.config.segment_bytes}")
        segment = self._segment_for(last_offset)
        if size > segment.log.room or self._local.due_for_roll(max_timestamp, self._local.clock.now_ms()):
            segment = self._local.roll()
        segment.reserve(size)
        return segment

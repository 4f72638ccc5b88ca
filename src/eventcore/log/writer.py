"""Put batches at the end of a LocalLog: encoded from values, or as they came from a client or a leader.

Uncompressed records are encoded straight into the mapped segment. A batch exists once the first 12 bytes of its
header are there, so whatever fails before that leaves a log that ends where it did. A complete batch that turns out
not to belong there (the segment must roll first) is unmade by zeroing its header. Nothing here is visible to readers:
the partition publishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import InvalidRecord, RecordTooLarge
from eventcore.format import compression
from eventcore.format.batch import HEADER_SIZE, LOG_APPEND_TIME, BatchHeader, assign_offset
from eventcore.log.local import LocalLog
from eventcore.log.segment import Segment

_NO_HEADER = bytes(HEADER_SIZE)


class Producer(NamedTuple):
    """The idempotence fields of a batch."""

    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1


NO_PRODUCER = Producer()


class Columns(NamedTuple):
    """Records as columns, in the order of the kernel's arguments; see `encode.encode_columns`."""

    rows: int
    keys: Any = None
    key_offsets: Any = None
    key_nulls: Any = None
    values: Any = None
    value_offsets: Any = None
    value_nulls: Any = None
    timestamps: Any = None


class BatchWriter:
    """Writes at the end of one log. The caller holds the partition's lock."""

    def __init__(self, local: LocalLog) -> None:
        self._local = local
        config = local.config
        self._max_bytes = config.max_message_bytes
        self._codec = compression.codec_id(config.compression_type)
        self._level = config.compression_level
        self._time_type = LOG_APPEND_TIME if config.log_append_time else 0
        self._scratch = bytearray()

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
    ) -> list[BatchHeader]:
        """Encode records into as few batches as `max.message.bytes` and the segments' ends allow.

        With `atomic` they become one batch or RecordTooLarge is raised. If a later batch fails, the earlier ones stay.
        """
        count = items.rows if isinstance(items, Columns) else len(items)
        written: list[BatchHeader] = []
        first = 0
        while first < count:
            write = self._write_compressed if self._codec else self._write_plain
            header = write(items, first, count - first, leader_epoch, atomic, producer)
            written.append(header)
            first += header.record_count
        return written

    def _encode(
        self, buf: Any, start: int, end: int, items: Sequence[Any] | Columns, first: int, epoch: int, producer: Producer
    ) -> tuple[int, int, int]:
        offset, now = self._local.end_offset, self._local.clock.now_ms()
        if isinstance(items, Columns):
            return kernels.encode.encode_columns(
                buf, start, end, items.rows, first, *items[1:], offset, epoch, self._time_type, now
            )
        return kernels.encode.encode(buf, start, end, items, first, offset, epoch, self._time_type, now, *producer)

    def _write_plain(
        self, items: Sequence[Any] | Columns, first: int, left: int, epoch: int, atomic: bool, producer: Producer
    ) -> BatchHeader:
        segment = self._segment_for(self._local.end_offset + left - 1)
        while True:
            start = segment.log.size
            end = min(start + self._max_bytes, segment.log.capacity)
            segment.reserve(end - start)
            view = segment.log.view
            position, count, max_timestamp = self._encode(view, start, end, items, first, epoch, producer)
            as_large_as_any = start == 0 or end - start == self._max_bytes
            fits = count == left or (count > 0 and as_large_as_any and not atomic)
            if fits and not self._local.due_for_roll(max_timestamp, self._local.clock.now_ms()):
                segment.check()
                header = BatchHeader.read(view, start, position)
                segment.written(position)
                segment.add_batch(header.size, header.last_offset, header.max_timestamp)
                return header
            if count:
                view[start : start + HEADER_SIZE] = _NO_HEADER
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
        segment.written(start + size)
        segment.add_batch(size, header.last_offset, header.max_timestamp)
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
        segment.written(start + header.size)
        segment.add_batch(header.size, header.last_offset, header.max_timestamp)

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

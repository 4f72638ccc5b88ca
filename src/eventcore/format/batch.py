"""A record batch as a value: its header with named parts, and the records area behind it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.format import compression
from eventcore.types import Buffer

HEADER_SIZE = 61
MAX_SEQUENCE = (1 << 31) - 1

CODEC_MASK, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 0x07, 0x08, 0x10, 0x20, 0x40


class BatchHeader(NamedTuple):
    """The 13 fields of a batch header, in the order of the bytes (see `layout.BATCH_HEADER`)."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @classmethod
    def read(cls, buf: Buffer, position: int, end: int = -1) -> BatchHeader:
        """The header of the batch at `position`. Raises Truncated, CorruptRecord or UnsupportedFormat."""
        return cls._make(kernels.batch.read_header(buf, position, end))

    @property
    def size(self) -> int:
        """Bytes of the whole batch, header included."""
        return self.length + 12

    @property
    def last_offset(self) -> int:
        """Offset of the last record, even if compaction has removed it."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The offset after this batch."""
        return self.last_offset + 1

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; wraps from 2^31-1 to 0. -1 without a sequence."""
        if self.base_sequence < 0:
            return -1
        return (self.base_sequence + self.last_offset_delta) & MAX_SEQUENCE

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & CODEC_MASK

    @property
    def log_append_time(self) -> bool:
        """Whether all records carry `max_timestamp`."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def transactional(self) -> bool:
        """Whether the batch belongs to a transaction."""
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        """Whether the batch carries a marker for the log itself, never shown to users."""
        return bool(self.attributes & CONTROL)

    @property
    def delete_horizon(self) -> int | None:
        """When compaction may drop the batch's tombstones (KIP-534), in ms; None if not yet set."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None


def records_area(
    buf: Buffer, position: int, header: BatchHeader, limit: int, scratch: compression.Scratch | None = None
) -> memoryview:
    """The decompressed records of the batch at `position`, in the `scratch` if there is one; at most `limit` bytes are
    ever allocated for them.

    Raises CorruptRecord for bytes that do not decompress or exceed `limit`, MissingCodec without the library.
    """
    stored = memoryview(buf)[position + HEADER_SIZE : position + header.size]
    return memoryview(compression.decompress(header.codec, stored, limit, scratch)) if header.codec else stored


def assign_offset(buf: memoryview, position: int, base_offset: int, leader_epoch: int) -> None:
    """Give the batch at `position` its place: the leader's in-place edit that leaves the CRC as it is."""
    struct.pack_into(">q", buf, position, base_offset)
    struct.pack_into(">i", buf, position + 12, leader_epoch)


def rewrite_header(
    buf: memoryview, position: int, size: int, header: BatchHeader, *, attributes: int, max_timestamp: int
) -> None:
    """Write the header anew over records that stand at `position + 61`, with a fresh CRC."""
    kernels.batch.write_header(
        buf,
        position,
        size,
        header.base_offset,
        header.leader_epoch,
        attributes,
        header.last_offset_delta,
        header.base_timestamp,
        max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
    )

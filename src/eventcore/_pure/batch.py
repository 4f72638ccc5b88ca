"""Batch headers (Kafka RecordBatch v2, magic 2): read, write, walk from one to the next.

The 61-byte header, big-endian; `format/batch.py` holds the same layout as data:

    0 base offset i64 | 8 length i32 | 12 leader epoch i32 | 16 magic i8 | 17 crc u32 | 21 attributes i16
    23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64
    51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records

The CRC-32C covers byte 21 to the end: what a broker rewrites on every append stays outside. A batch is believed only
if it ends inside the given bytes; a zero length means "end of the log" (reserved space).

Buffers come in by the buffer protocol. Positions are relative to the buffer. Bad bytes raise Truncated,
CorruptRecord or UnsupportedFormat with the position; callers add the path. Offsets ranges are half open.
"""

from __future__ import annotations

import struct
from typing import Any

from eventcore._pure import records
from eventcore._pure.crc32c import crc32c
from eventcore.errors import CorruptRecord, Truncated, UnsupportedFormat
from eventcore.types import Buffer

__all__ = [
    "CODEC_MASK",
    "CONTROL",
    "CORRUPT",
    "DELETE_HORIZON",
    "ENDED",
    "HEADER_SIZE",
    "KNOWN_ATTRIBUTES",
    "LAST_CODEC",
    "LOG_APPEND_TIME",
    "MAGIC",
    "OK",
    "PREFIX_SIZE",
    "ROW_SIZE",
    "TRANSACTIONAL",
    "TRUNCATED",
    "UNSUPPORTED",
    "crc_holds",
    "digest_headers",
    "find_offset",
    "find_timestamp",
    "offsets",
    "read_header",
    "scan",
    "write_header",
]

HEADER_SIZE = 61
PREFIX_SIZE = 12
MAGIC = 2

CODEC_MASK, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 0x07, 0x08, 0x10, 0x20, 0x40
KNOWN_ATTRIBUTES = 0x7F
LAST_CODEC = 4

OK, ENDED, TRUNCATED, CORRUPT, UNSUPPORTED = 0, 1, 2, 3, 4
"""What stopped a scan: the end or a full table; zeros; a batch that runs past the end; bad bytes; another magic."""

ROW_SIZE = 8
"""int64 fields a scanned batch: position, size, base offset, last offset, max timestamp, leader epoch, producer id,
attributes."""

BatchFields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]

HEADER = struct.Struct(">qiibIhiqqqhii")
_PREFIX = struct.Struct(">qiib")
_CRC_START = 21
_INT32_MAX = (1 << 31) - 1


def offsets() -> dict[str, int]:
    """Where each header field starts, for the test that compares the kernels with the documented layout."""
    names = (
        "base_offset length leader_epoch magic crc attributes last_offset_delta base_timestamp max_timestamp "
        "producer_id producer_epoch base_sequence record_count"
    ).split()
    starts, position = {}, 0
    for name, code in zip(names, "qiibIhiqqqhii", strict=True):
        starts[name] = position
        position += struct.calcsize(">" + code)
    return starts


def as_bytes(buf: Any) -> memoryview:
    return memoryview(buf).cast("B")


def checked_range(view: memoryview, pos: int, end: int) -> int:
    end = len(view) if end < 0 else end
    if not 0 <= pos <= end <= len(view):
        raise IndexError(f"[{pos}:{end}] is outside a buffer of {len(view)} bytes")
    return end


def _probe(view: memoryview, pos: int, end: int) -> tuple[int, int, str]:
    """(status, size, what is wrong) of the batch at `pos`: enough to hop over it, its CRC not yet looked at."""
    if end - pos < PREFIX_SIZE + 5:
        return (ENDED, 0, "zeros") if not any(view[pos:end]) else (TRUNCATED, 0, "a batch header is cut off")
    base_offset, length, _, magic = _PREFIX.unpack_from(view, pos)
    if length == 0 and base_offset == 0:
        return ENDED, 0, "zeros"
    if magic != MAGIC:
        return UNSUPPORTED, 0, f"a batch of magic {magic}"
    if length < HEADER_SIZE - PREFIX_SIZE:
        return CORRUPT, 0, f"a batch of length {length}"
    if length > end - pos - PREFIX_SIZE:
        return TRUNCATED, 0, f"a batch of length {length} where {end - pos - PREFIX_SIZE} bytes are left"
    wrong = _implausible(HEADER.unpack_from(view, pos))
    return (CORRUPT, 0, wrong) if wrong else (OK, PREFIX_SIZE + length, "")


def _implausible(fields: BatchFields) -> str:
    base_offset, length, _, _, _, attributes, last_delta, _, _, _, _, _, count = fields
    if attributes & ~KNOWN_ATTRIBUTES or attributes & CODEC_MASK > LAST_CODEC:
        return f"unknown attributes 0x{attributes & 0xFFFF:04x}"
    if base_offset < 0 or last_delta < 0 or base_offset > records.INT64_MAX - 1 - last_delta:
        return f"offsets {base_offset} + {last_delta}"
    if not 0 <= count <= last_delta + 1:
        return f"{count} records in {last_delta + 1} offsets"
    if not attributes & CODEC_MASK and count > length - (HEADER_SIZE - PREFIX_SIZE):
        return f"{count} records in {length - (HEADER_SIZE - PREFIX_SIZE)} bytes"
    return ""


_ERRORS = {ENDED: Truncated, TRUNCATED: Truncated, CORRUPT: CorruptRecord, UNSUPPORTED: UnsupportedFormat}


def batch_size(view: memoryview, pos: int, end: int) -> int:
    status, size, wrong = _probe(view, pos, end)
    if status != OK:
        raise _ERRORS[status](f"{wrong} instead of a record batch", position=pos)
    return size


def _crc_holds(view: memoryview, pos: int, size: int) -> bool:
    return bool(crc32c(view[pos + _CRC_START : pos + size]) == HEADER.unpack_from(view, pos)[4])


def checked_size(view: memoryview, pos: int, end: int, verify: bool) -> int:
    size = batch_size(view, pos, end)
    if verify and not _crc_holds(view, pos, size):
        raise CorruptRecord(
            "the CRC of a batch does not match its bytes", position=pos, offset=_PREFIX.unpack_from(view, pos)[0]
        )
    return size


def read_header(buf: Buffer, pos: int = 0, end: int = -1) -> BatchFields:
    """The 13 header fields of the batch at `pos`, which must end before `end` (-1: the end of the buffer)."""
    view = as_bytes(buf)
    batch_size(view, pos, checked_range(view, pos, end))
    return HEADER.unpack_from(view, pos)


def crc_holds(buf: Buffer, pos: int = 0, end: int = -1) -> bool:
    """Whether the CRC of the batch at `pos` matches its bytes."""
    view = as_bytes(buf)
    return _crc_holds(view, pos, batch_size(view, pos, checked_range(view, pos, end)))


def write_header(
    buf: Buffer,
    pos: int,
    size: int,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    record_count: int,
) -> None:
    """Write the header of a batch of `size` bytes whose records stand at `pos + 61`, with the CRC over them.

    The first 12 bytes go last: until then the batch has no length, and so does not exist.
    """
    view = as_bytes(buf)
    if size < HEADER_SIZE or size - PREFIX_SIZE > _INT32_MAX:
        raise ValueError(f"a batch cannot have {size} bytes")
    checked_range(view, pos, pos + size)
    header = bytearray(HEADER_SIZE)
    try:
        HEADER.pack_into(
            header, 0, base_offset, size - PREFIX_SIZE, leader_epoch, MAGIC, 0, attributes, last_offset_delta,
            base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, record_count,
        )  # fmt: skip
    except struct.error as error:
        raise OverflowError(f"a header field does not fit: {error}") from None
    crc = crc32c(view[pos + HEADER_SIZE : pos + size], crc32c(header[_CRC_START:]))
    header[17:21] = crc.to_bytes(4, "big")
    view[pos + PREFIX_SIZE : pos + HEADER_SIZE] = header[PREFIX_SIZE:]
    view[pos : pos + PREFIX_SIZE] = header[:PREFIX_SIZE]


def scan(buf: Buffer, start: int, end: int, rows: Buffer, verify: bool = True) -> tuple[int, int, int]:
    """List the batches of `buf[start:end]` in the int64 table `rows` (ROW_SIZE a batch) until something stops it.

    Returns (number of batches, position where it stopped, status). Never raises for bad bytes: recovery decides.
    """
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    table = as_bytes(rows).cast("q")
    count, pos, status = 0, start, OK
    while pos < end and (count + 1) * ROW_SIZE <= len(table):
        status, size, _ = _probe(view, pos, end)
        if status == OK and verify and not _crc_holds(view, pos, size):
            status = CORRUPT
        if status != OK:
            break
        fields = HEADER.unpack_from(view, pos)
        row = (pos, size, fields[0], fields[0] + fields[6], fields[8], fields[2], fields[9], fields[5])
        for column, field in enumerate(row):
            table[count * ROW_SIZE + column] = field
        count += 1
        pos += size
    return count, pos, status


def digest_headers(buf: Buffer, start: int, end: int, outer: int = 0, inner: int = 0) -> tuple[int, int, int]:
    """The CRC-32Cs, continued, of the first 21 bytes of each whole batch, and of the other 40 of its header.

    The former are what the batches' own CRCs leave out, the latter what can be checked without reading the records.
    Returns (where it stopped, outer, inner): at `end`, or at a batch whose length leaves no room for a header, or does
    not fit below `end`. Never raises for bad bytes.
    """
    if not (0 <= outer <= 0xFFFFFFFF and 0 <= inner <= 0xFFFFFFFF):
        raise ValueError("outer and inner must be CRCs, 0 <= value < 2**32")
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    while end - start >= HEADER_SIZE:
        header = bytes(view[start : start + HEADER_SIZE])
        length = _PREFIX.unpack_from(header)[1]
        if not HEADER_SIZE - PREFIX_SIZE <= length <= end - start - PREFIX_SIZE:
            break
        outer, inner = crc32c(header[:_CRC_START], outer), crc32c(header[_CRC_START:], inner)
        start += PREFIX_SIZE + length
    return start, outer, inner


def find_offset(buf: Buffer, start: int, end: int, offset: int) -> int:
    """The position of the first batch in `buf[start:end]` whose last offset is at least `offset`; `end` if none."""
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    while start < end:
        size = batch_size(view, start, end)
        fields = HEADER.unpack_from(view, start)
        if fields[0] + fields[6] >= offset:
            return start
        start += size
    return end


def find_timestamp(buf: Buffer, start: int, end: int, timestamp: int, min_offset: int) -> int:
    """The first batch with a max timestamp of at least `timestamp` and a last offset of at least `min_offset`."""
    view = as_bytes(buf)
    end = checked_range(view, start, end)
    while start < end:
        size = batch_size(view, start, end)
        fields = HEADER.unpack_from(view, start)
        if fields[8] >= timestamp and fields[0] + fields[6] >= min_offset:
            return start
        start += size
    return end

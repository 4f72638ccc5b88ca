"""Single records by their offset: what fills the table of the `points` kernel.

The table (see there) answers nearly every `p[i]` by itself. Where it does not know an offset, the batches around it are
looked up by the offset index, checked as by any reader, and put into it, 64 KiB of log or one larger batch at a time:
whoever reads at random will come back. Of compressed batches it gets a copy in which they are plain. Whatever is not as
it should be is left to the reader, who says what is wrong.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from eventcore import _kernels as kernels
from eventcore.errors import StorageError
from eventcore.format.batch import CODEC_MASK, HEADER_SIZE, BatchHeader
from eventcore.log.reader import LogReader
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList
from eventcore.types import Record

WINDOW = 1 << 16
"""Bytes of log that are taken in for one record. As many as the system reads ahead of a cold page, about."""

Points = kernels.points.Points


def read_point(points: Points, token: int, segments: SegmentList, offset: int, stop: int) -> Record | None:
    """The record at `offset`, below `stop`; None where only a reader can tell. `token` is from a `watch` just now."""
    found = points.find(offset)
    if found is None and token >= 0:
        with suppress(StorageError, IndexError):  # also of a segment that was cut meanwhile
            _take_in(points, token, segments.floor(offset), offset, stop)
            found = points.find(offset)
    return found


def _take_in(points: Points, token: int, segment: Segment, offset: int, stop: int) -> None:
    """Put the batches around `offset` into the table: the one that holds it, and those near it."""
    batch = segment.find(offset)
    header = segment.header_at(batch)
    start = batch if header.size >= WINDOW else _before(segment, batch, offset)
    end = batch + max(header.size, WINDOW // 2)
    segment.inspect(start, min(end, segment.log.size))
    end = min(end, segment.run_end(batch))
    if header.codec:
        _add_unpacked(points, token, segment, offset, end, stop)
        return
    if segment.run_end(start) < end or _is_compressed(segment, start, batch):
        start = batch
    known, generation = segment.verified, segment.verified.generation
    is_known = known.holds(start, end)
    reached = points.add(token, segment.log.view, start, end, stop, not is_known)
    segment.check()
    if not is_known:
        known.add(generation, start, reached)


def _before(segment: Segment, batch: int, offset: int) -> int:
    """Where to begin, about half a window before a batch: by the bytes that an offset takes on average."""
    back = WINDOW // 2 * (offset - segment.base_offset) // max(batch, 1)
    with suppress(StorageError):
        return min(segment.find(max(offset - back, segment.base_offset)), batch)
    return batch


def _is_compressed(segment: Segment, position: int, end: int) -> bool:
    """Whether one of the batches in [position, end) is."""
    while position < end:
        header = segment.header_at(position)
        if header.codec:
            return True
        position += header.size
    return False


def _add_unpacked(points: Points, token: int, segment: Segment, offset: int, end: int, stop: int) -> None:
    """From the beginning of the stride, so that one copy has all of it."""
    start = segment.find(max(offset - offset % kernels.points.STRIDE, segment.base_offset))
    copy = _unpacked(segment, start, end, offset, stop)
    points.add(token, copy, 0, len(copy), stop, False, True)


def _unpacked(segment: Segment, position: int, end: int, offset: int, stop: int) -> bytes:
    """A log of the same batches, not compressed: up to the one that holds `offset`, and more up to WINDOW."""
    reader = LogReader(SegmentList([segment]), 0, stop, largest_area=kernels.points.MOST_UNPACKED)
    out = bytearray()
    while position < end:
        header = segment.header_at(position)
        if position + header.size > end or header.next_offset > stop:
            break
        if header.base_offset > offset and len(out) >= WINDOW:
            break
        area = reader.area(segment, position, header)
        out += _plain_header(segment, position, header, len(area))
        out += area
        position += header.size
    segment.check()
    return bytes(out)


def _plain_header(segment: Segment, position: int, header: BatchHeader, size: int) -> bytearray:
    """The header of a batch over `size` bytes of records that are not compressed; its CRC stays, and is wrong."""
    found = bytearray(segment.log.view[position : position + HEADER_SIZE])
    struct.pack_into(">i", found, 8, HEADER_SIZE - 12 + size)
    struct.pack_into(">h", found, 21, header.attributes & ~CODEC_MASK)
    return found

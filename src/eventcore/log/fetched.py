"""What a Fetch response needs: whole batches as they stand in the log, watermarks, aborted transactions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eventcore.log.reader import LogReader, aborted_transactions
from eventcore.log.segments import SegmentList
from eventcore.types import AbortedTransaction


class FileSlice(NamedTuple):
    """Bytes of a file, for `sendfile`."""

    path: Path
    position: int
    size: int


@dataclass(frozen=True)
class Fetched:
    """Whole batches from one segment, without a copy; the first may begin below `offset` (rule D3).

    `data` is a view of the mapped log and stays valid as long as it is referenced. `next_offset` is where to fetch on.
    """

    offset: int
    next_offset: int
    data: memoryview
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: tuple[AbortedTransaction, ...]
    _slices: tuple[FileSlice, ...]

    def file_slices(self) -> tuple[FileSlice, ...]:
        """Where `data` lies on disk: (path, position, size). Open the file before the next truncation or retention."""
        return self._slices


class _Found(NamedTuple):
    data: memoryview
    slices: tuple[FileSlice, ...]
    next_offset: int


def fetch_batches(segments: SegmentList, offset: int, stop: int, max_bytes: int) -> _Found:
    """Whole batches of one segment from the one that holds `offset` on: at least one, then up to `max_bytes`."""
    for segment, position, run_end in LogReader(segments, offset, stop).runs():
        end, next_offset = position, offset
        while end < run_end:
            header = segment.header_at(end)
            if header.base_offset >= stop or (end > position and end + header.size - position > max_bytes):
                break
            end, next_offset = end + header.size, header.next_offset
        segment.check()
        if end > position:
            place = FileSlice(segment.log.path, position, end - position)
            return _Found(segment.log.view[position:end].toreadonly(), (place,), next_offset)
    return _Found(memoryview(b""), (), offset)


def aborted_in(segments: SegmentList, offset: int, next_offset: int) -> tuple[AbortedTransaction, ...]:
    """The aborted transactions a committed reader of this data must know."""
    return tuple(aborted_transactions(segments, offset, next_offset))

"""Does `leader-epoch-checkpoint` fit the log? The file has no checksum, but every batch carries its epoch."""

from __future__ import annotations

from contextlib import suppress

from eventcore.errors import EventCoreError, StorageError
from eventcore.format.batch import BatchHeader
from eventcore.log.epochs import NO_EPOCH, EpochCache
from eventcore.log.reader import batches
from eventcore.log.segments import SegmentList


def check(epochs: EpochCache, segments: SegmentList, log_start: int) -> None:
    """Make the epochs anew from the batches if the file was unreadable, or says what the log does not."""
    try:
        if epochs.damaged or not _fits(epochs, segments, max(log_start, segments.first.base_offset)):
            rebuild(epochs, segments, log_start)
    except StorageError:
        return  # what a damaged range says is not to be known


def _fits(epochs: EpochCache, segments: SegmentList, log_start: int) -> bool:
    end = segments.active.next_offset
    starts = {start for _, start in epochs.entries if log_start <= start < end}
    around = [
        batch
        for start in sorted({log_start, *starts, end})
        for batch in (_batch_before(segments, start), _batch_at(segments, start))
    ]
    return all(header is None or header.last_offset < log_start or _agrees(epochs, header) for header in around)


def _agrees(epochs: EpochCache, header: BatchHeader) -> bool:
    return header.leader_epoch == NO_EPOCH or header.leader_epoch == epochs.epoch_at(header.last_offset)


def _batch_at(segments: SegmentList, offset: int) -> BatchHeader | None:
    """The batch that holds `offset`, or the one behind it."""
    if not segments.first.base_offset <= offset < segments.active.next_offset:
        return None
    for end in (offset + 1, segments.active.next_offset):  # what lies behind is only looked at if there is a gap
        for _, _, header in batches(segments, offset, end):
            return header
    return None


def _batch_before(segments: SegmentList, offset: int) -> BatchHeader | None:
    """The last batch below `offset`: a truncation inside of a batch leaves offsets without one."""
    for segment in reversed([segment for segment in segments if segment.base_offset < offset]):
        end = segment.cut_at(offset)[1]
        if end > segment.base_offset:
            return _batch_at(segments, end - 1)
    return None


def rebuild(epochs: EpochCache, segments: SegmentList, log_start: int) -> None:
    """Take the epochs from the batches, which may be fewer than the file had: some may have begun without a record."""
    found: list[tuple[int, int]] = []
    for segment in segments:
        with suppress(EventCoreError):
            for _, _, header in batches(SegmentList([segment]), segment.base_offset, segment.next_offset):
                if header.leader_epoch > (found[-1][0] if found else NO_EPOCH):
                    found.append((header.leader_epoch, header.base_offset))
    epochs.replace(found, log_start)

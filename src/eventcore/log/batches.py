"""Every batch of a log as it stands on disk, markers and wrong CRCs included: what a dump shows.

Unlike a read it does not stop at a wrong CRC: that batch is listed with `is_valid` false. It stops, with the error,
where the bytes no longer tell where the next batch begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import StorageError
from eventcore.format import control
from eventcore.format.batch import BatchHeader, records_area
from eventcore.format.compression import codec_name
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList

_MARKERS = {control.ABORT: "ABORT", control.COMMIT: "COMMIT"}


class BatchEntry(NamedTuple):
    """One batch: where it lies, its header, and whether its CRC holds. `marker` is what a transaction marker says."""

    path: Path
    position: int
    size: int
    base_offset: int
    last_offset: int
    record_count: int
    leader_epoch: int
    magic: int
    codec: str
    timestamp_type: str
    max_timestamp: int
    delete_horizon_ms: int | None
    producer_id: int
    producer_epoch: int
    base_sequence: int
    last_sequence: int
    is_transactional: bool
    is_control: bool
    marker: str | None
    crc: int
    is_valid: bool


def walk_batches(segments: SegmentList, path: Path | None = None) -> Iterator[BatchEntry]:
    """All batches in the order of the log; with `path` those of that `.log` file only.

    Damaged ranges are passed over. Raises StorageError with path and position for bytes that are no batch.
    """
    for segment in segments:
        if path is not None and segment.log.path != path:
            continue
        position = 0
        while position < segment.log.size:
            damage = segment.damage_at(position)
            if damage is not None:
                position = damage.end_position
                continue
            header = segment.header_at(position)
            yield _entry(segment, position, header)
            position += header.size


def _entry(segment: Segment, position: int, header: BatchHeader) -> BatchEntry:
    is_valid = kernels.batch.crc_holds(segment.log.view, position, segment.log.size)
    return BatchEntry(
        segment.log.path,
        position,
        header.size,
        header.base_offset,
        header.last_offset,
        header.record_count,
        header.leader_epoch,
        header.magic,
        codec_name(header.codec),
        "LogAppendTime" if header.log_append_time else "CreateTime",
        header.max_timestamp,
        header.delete_horizon,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.last_sequence,
        header.transactional,
        header.control,
        _marker(segment, position, header) if header.control and is_valid else None,
        header.crc,
        is_valid,
    )


def _marker(segment: Segment, position: int, header: BatchHeader) -> str | None:
    """What a transaction marker says; None for other control records and for one that cannot be read."""
    try:
        area = records_area(segment.log.view, position, header, control.MARKER_AREA_MAX)
        records = kernels.decode.decode_records(area, header, header.base_offset, header.next_offset)
        kinds = [control.read_marker(record.key or b"", record.value or b"").kind for record in records]
    except StorageError:
        return None
    return _MARKERS.get(kinds[0]) if len(kinds) == 1 else None

"""Which segments retention removes: a pure decision over what is known of them (Kafka's rules, see `count_expired`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from eventcore.config import LogConfig
from eventcore.log.segment import Segment
from eventcore.log.segments import SegmentList


class Retained(NamedTuple):
    """What retention has removed."""

    segments: int
    bytes: int


class SegmentFacts(NamedTuple):
    """What retention has to know of a segment."""

    base_offset: int
    next_offset: int
    """Where the next segment begins, or the log ends."""
    size: int
    time: int
    """See `effective_time`."""


def effective_time(largest_timestamp: int, now: int, modified_ms: Callable[[], int]) -> int:
    """The age of a segment counts from its largest timestamp, or from its last write where that tells nothing.

    Kafka lets a timestamp in the future keep its segment, and all behind it, for ever; here such a segment counts
    from its last write, too.
    """
    return largest_timestamp if 0 <= largest_timestamp <= now else modified_ms()


def count_expired(
    segments: Sequence[SegmentFacts], config: LogConfig, *, log_start: int, high_watermark: int, now: int
) -> int:
    """How many of the oldest segments go: first those below the log start, then by size, then by time; each stops at
    the first segment that may stay.

    By size the log keeps at least `retention.bytes`. Nothing above the high watermark goes, and no empty last segment;
    whoever removes all of them has to begin a new one. Size and time count only if `cleanup.policy` says "delete".
    """
    gone = 0
    for rule in _rules(segments, config, log_start, now):
        while gone < len(segments) and _may_go(segments, gone, high_watermark) and rule(gone):
            gone += 1
    return gone


def _may_go(segments: Sequence[SegmentFacts], at: int, high_watermark: int) -> bool:
    is_empty_last = at == len(segments) - 1 and segments[at].size == 0
    return segments[at].next_offset <= high_watermark and not is_empty_last


def _rules(
    segments: Sequence[SegmentFacts], config: LogConfig, log_start: int, now: int
) -> Iterator[Callable[[int], bool]]:
    """Each says whether a segment goes, given that all before it are gone."""
    last = len(segments) - 1
    yield lambda at: at < last and segments[at].next_offset <= log_start
    if "delete" not in config.cleanup_policy:
        return
    if config.retention_bytes >= 0:
        yield lambda at: sum(one.size for one in segments[at + 1 :]) >= config.retention_bytes
    if config.retention_ms >= 0:
        yield lambda at: now - segments[at].time > config.retention_ms


def facts_of(segments: SegmentList, now: int) -> list[SegmentFacts]:
    """What an open log knows of its segments."""
    return [
        SegmentFacts(segment.base_offset, segments.next_base(segment), segment.log.size, _time_of(segment, now))
        for segment in segments
    ]


def _time_of(segment: Segment, now: int) -> int:
    return effective_time(_largest_timestamp(segment), now, lambda: segment.disk.modified_ms(segment.log.path))


def _largest_timestamp(segment: Segment) -> int:
    """From the indexes if they can be believed: too small a time would take records that are to be kept."""
    if segment.active or segment.indexes_hold:
        return segment.max_timestamp
    largest, position = -1, 0
    while position < segment.log.size:
        damage = segment.damage_at(position)
        if damage is not None:
            position = damage.end_position
            continue
        header = segment.header_at(position)
        largest, position = max(largest, header.max_timestamp), position + header.size
    return largest

"""The segments of a log, ordered by base offset. Immutable: a change makes a new list, and readers keep the old one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from eventcore.log.segment import Segment


class SegmentList:
    """Segments by rising base offset; the last one is the active one."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._segments = tuple(sorted(segments, key=lambda segment: segment.base_offset))
        self._bases = [segment.base_offset for segment in self._segments]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def active(self) -> Segment:
        """The last segment."""
        return self._segments[-1]

    @property
    def first(self) -> Segment:
        """The segment with the lowest base offset."""
        return self._segments[0]

    def floor(self, offset: int) -> Segment:
        """The segment that would hold `offset`; the first one if it lies below all of them."""
        return self._segments[max(bisect_right(self._bases, offset) - 1, 0)]

    def starting_at(self, offset: int) -> tuple[Segment, ...]:
        """The segment that would hold `offset`, and all behind it."""
        return self._segments[max(bisect_right(self._bases, offset) - 1, 0) :]

    def unsynced(self) -> list[Segment]:
        """Those with something that is not durable yet, the oldest first: synced in this order, they are the last ones
        whenever that is cut short.
        """
        first = len(self._segments) - 1
        while first > 0 and not self._segments[first - 1].synced:
            first -= 1
        return [segment for segment in self._segments[first:] if not segment.synced]

    def next_base(self, segment: Segment) -> int:
        """The base offset behind a segment, or its end if it is the last."""
        slot = bisect_right(self._bases, segment.base_offset)
        return self._bases[slot] if slot < len(self._bases) else segment.next_offset

    def plus(self, segment: Segment) -> SegmentList:
        """A list with one more segment."""
        return SegmentList((*self._segments, segment))

    def without(self, removed: Iterable[Segment]) -> SegmentList:
        """A list without some segments."""
        gone = set(removed)
        return SegmentList(segment for segment in self._segments if segment not in gone)

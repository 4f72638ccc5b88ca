"""Which bytes of a mapped log were found to match their CRCs, so that nobody checks them a second time.

This is believed for as long as the map is: a truncation forgets all of it, a log that is mapped anew starts without.
`verify` does not ask here.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from threading import Lock

MOST_RANGES = 4096
"""Random reads leave many small ranges; when there are more, all are forgotten."""


class Verified:
    """Disjoint ranges [start, end) of whole batches, by position. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ranges: list[tuple[int, int]] = []
        self.generation = 0
        """Changes when what was known is forgotten: take it before you look at the bytes, and give it to `add`."""

    def piece(self, position: int, end: int) -> tuple[int, bool]:
        """How far, at most to `end`, either everything from `position` on is known or nothing is; and which it is."""
        with self._lock:
            at = bisect_right(self._ranges, (position, 1 << 62))
            if at and self._ranges[at - 1][1] > position:
                return min(self._ranges[at - 1][1], end), True
            return (min(self._ranges[at][0], end), False) if at < len(self._ranges) else (end, False)

    def holds(self, start: int, end: int) -> bool:
        """Whether all of [start, end) is known."""
        return self.piece(start, end) == (end, True)

    def add(self, generation: int, start: int, end: int) -> None:
        """[start, end) matched its CRCs. Ignored if something was forgotten since `generation`."""
        with self._lock:
            if start >= end or generation != self.generation:
                return
            first = last = bisect_right(self._ranges, (start, 1 << 62))
            if first and self._ranges[first - 1][1] >= start:
                first -= 1
            while last < len(self._ranges) and self._ranges[last][0] <= end:
                last += 1
            merged = [(start, end), *self._ranges[first:last]]
            del self._ranges[first:last]
            if len(self._ranges) >= MOST_RANGES:
                self._ranges.clear()
            insort(self._ranges, (min(low for low, _ in merged), max(high for _, high in merged)))

    def forget(self) -> None:
        """The bytes may be others from now on."""
        with self._lock:
            self._ranges.clear()
            self.generation += 1

"""Follow the end of a log: wait until a batch is published behind a known position, and decode it, in one call.

A follower stands in the active segment, where the batch of the next offset will begin. What it gives out was below the
published end, in the same set of segments, and not truncated by the time it was decoded. For everything else it says
"look the slow way" and stays where it is.
"""

from __future__ import annotations

import time
from typing import final

from eventcore._pure import tail
from eventcore._pure.batch import HEADER, as_bytes, batch_size
from eventcore._pure.decode import read_records
from eventcore._pure.guard import Mapping
from eventcore.errors import StorageError
from eventcore.types import Buffer, Record

__all__ = ["Follower"]


@final
class Follower:
    """One reader's place at `position` of a segment's map, where the batch with `next_offset` begins or will begin.

    `word` of the state page is the end of what it may give out; `generation` and `truncations` are what the page said
    before the place was looked up, and `stop_mask` the attributes of the batches that it leaves to the slow way. It
    pins the page and the map. One thread at a time.
    """

    def __init__(
        self,
        state: Buffer,
        log: Mapping,
        word: int,
        position: int,
        next_offset: int,
        generation: int,
        truncations: int,
        stop_mask: int,
    ) -> None:
        tail.load(state, word)
        self._state, self._word = memoryview(state), word
        self._log, self._view = log, as_bytes(memoryview(log))
        self._shape = (generation, truncations)
        self._stop_mask = stop_mask
        if not 0 <= position <= len(self._view):
            raise IndexError(f"position {position} is outside a map of {len(self._view)} bytes")
        self.position = position
        self.next_offset = next_offset

    def follow(self, max_count: int, spin_ns: int, timeout_ns: int) -> list[Record] | None:
        """Wait for records, decode them, stand behind them; [] if none came in `timeout_ns`, None: look the slow way.

        The first `spin_ns` of the wait are spent looking without a pause. Batches are whole, their CRC is checked; no
        more begin once `max_count` records were decoded.
        """
        if not self._wait(spin_ns, timeout_ns):
            return []
        limit = tail.load(self._state, self._word)
        if self._is_stale():
            return None
        found, position, next_offset = self._read(limit, max_count)
        if not found or self._log.broken or self._is_stale():
            return None
        self.position, self.next_offset = position, next_offset
        return found

    def _is_stale(self) -> bool:
        return self._shape != (tail.load(self._state, tail.GENERATION), tail.load(self._state, tail.TRUNCATIONS))

    def _has_moved(self) -> bool:
        return tail.load(self._state, self._word) > self.next_offset or self._is_stale()

    def _wait(self, spin_ns: int, timeout_ns: int) -> bool:
        if self._has_moved():
            return True
        now = time.monotonic_ns()
        deadline, spin_until = now + timeout_ns, now + min(spin_ns, timeout_ns)
        while time.monotonic_ns() < spin_until:
            if self._has_moved():
                return True
            time.sleep(0)  # another thread may be the one who publishes
        while True:
            seen = tail.signal(self._state)
            if self._has_moved():
                return True
            left = deadline - time.monotonic_ns()
            if left <= 0:
                return False
            tail.wait(self._state, seen, left)

    def _read(self, limit: int, max_count: int) -> tuple[list[Record], int, int]:
        """Every batch below `limit`, up to the first that is not for us. Nothing behind `limit` is looked at."""
        found: list[Record] = []
        position, next_offset = self.position, self.next_offset
        while next_offset < limit and len(found) < max_count:
            try:
                end = position + batch_size(self._view, position, len(self._view))
                fields = HEADER.unpack_from(self._view, position)
                batch_end = fields[0] + fields[6] + 1
                if fields[5] & self._stop_mask or not next_offset < batch_end <= limit:
                    break
                found += read_records(self._view, position, end, next_offset, batch_end, max_count, 0)[0]
            except StorageError:
                break
            position, next_offset = end, batch_end
        return found, position, next_offset

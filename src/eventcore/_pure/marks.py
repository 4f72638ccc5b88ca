"""What an append moves on, shared by those who own it and the kernel that does it.

Files, indexes and segments inherit these. So there is one truth, whoever looks: the owner, a reader, or the `Appender`.
"""

from __future__ import annotations

__all__ = ["NOT_KNOWN", "End", "Entries", "Marks"]

NOT_KNOWN = -(1 << 63)
"""`first_timestamp` of a segment whose first batch was not looked at."""


class End:
    """Where the content of a file ends."""

    size: int

    def __init__(self) -> None:
        self.size = 0


class Entries:
    """How many entries an index has."""

    count: int

    def __init__(self) -> None:
        self.count = 0


class Marks:
    """What a segment knows of its batches.

    `next_offset` is one beyond its last record; `batches_end` one beyond the last one that is there: a truncation
    inside a batch makes `next_offset` larger. `unindexed` are the bytes since the batch last indexed began.
    """

    next_offset: int
    batches_end: int
    max_timestamp: int
    max_timestamp_offset: int
    first_timestamp: int
    unindexed: int

    def __init__(self) -> None:
        self.next_offset = self.batches_end = self.max_timestamp_offset = self.unindexed = 0
        self.max_timestamp, self.first_timestamp = -1, NOT_KNOWN

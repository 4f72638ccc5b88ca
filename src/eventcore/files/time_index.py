"""A segment's `.timeindex`: (largest timestamp so far, last offset of the batch that holds it), increasing.

Entries are 12 bytes (see `format/layout.py`). Every record with a larger timestamp than an entry's lies behind the
entry's offset. One slot stays free for the entry that roll and close add: the segment's true largest timestamp.
"""

from __future__ import annotations

from eventcore import _kernels as kernels
from eventcore.files.entry_file import EntryFile
from eventcore.format.layout import TIME_INDEX_ENTRY
from eventcore.types import NO_TIMESTAMP


class TimeIndex(EntryFile):
    """The time index of the segment that starts at `base_offset`."""

    entry_size = TIME_INDEX_ENTRY.size

    @property
    def full(self) -> bool:
        """Whether only the reserved last slot is free: the segment has to roll."""
        return (self.count + 2) * self.entry_size > self.file.capacity

    @property
    def last(self) -> tuple[int, int]:
        """(timestamp, offset) of the last entry; (-1, base offset) of an empty index."""
        return self.entry(self.count - 1) if self.count else (NO_TIMESTAMP, self.base_offset)

    def append(self, timestamp: int, offset: int) -> None:
        """Add an entry if its timestamp is above the last one's; skip it otherwise. Raises DiskFull."""
        if timestamp > self.last[0]:
            TIME_INDEX_ENTRY.struct.pack_into(
                self.file.view, self.next_position(), timestamp, offset - self.base_offset
            )
            self.added()

    def lookup(self, timestamp: int) -> tuple[int, int] | None:
        """The last entry (timestamp, offset) at or below `timestamp`, None if there is none. It is a claim, too."""
        entry = kernels.index.find_timestamp(self.data, self.count, timestamp)
        return (entry[0], self.base_offset + entry[1]) if entry else None

    def entry(self, slot: int) -> tuple[int, int]:
        """(timestamp, offset) of one entry."""
        timestamp, relative = TIME_INDEX_ENTRY.struct.unpack_from(self.data, slot * self.entry_size)
        return timestamp, self.base_offset + relative

    def offset_of(self, slot: int) -> int:
        return self.entry(slot)[1]

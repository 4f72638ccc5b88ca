"""A segment's `.timeindex`: (largest timestamp so far, last offset of the batch that holds it), increasing.

Entries are 12 bytes (see `format/layout.py`). Every record with a larger timestamp than an entry's lies behind the
entry's offset. One slot stays free for the entry that roll and close add: the segment's true largest timestamp.
"""

from __future__ import annotations

from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files.mapped_file import MappedFile
from eventcore.format.layout import TIME_INDEX_ENTRY
from eventcore.types import NO_TIMESTAMP

ENTRY_SIZE = TIME_INDEX_ENTRY.size


class TimeIndex:
    """The time index of the segment that starts at `base_offset`."""

    def __init__(self, disk: Disk, path: Path, base_offset: int, *, write: bool, capacity: int = 0) -> None:
        self.base_offset = base_offset
        self.file = MappedFile(
            disk, path, write=write, capacity=capacity // ENTRY_SIZE * ENTRY_SIZE, first_chunk=ENTRY_SIZE * 512
        )
        self.count = kernels.index.count_entries(self.file.view, ENTRY_SIZE)

    @property
    def full(self) -> bool:
        """Whether only the reserved last slot is free: the segment has to roll."""
        return (self.count + 2) * ENTRY_SIZE > self.file.capacity

    @property
    def last(self) -> tuple[int, int]:
        """(timestamp, offset) of the last entry; (-1, base offset) of an empty index."""
        return self.entry(self.count - 1) if self.count else (NO_TIMESTAMP, self.base_offset)

    def entry(self, slot: int) -> tuple[int, int]:
        """(timestamp, offset) of one entry."""
        timestamp, relative = TIME_INDEX_ENTRY.struct.unpack_from(self.file.view, slot * ENTRY_SIZE)
        return timestamp, self.base_offset + relative

    def reserve_entry(self) -> None:
        """Make sure that the next entry finds its blocks in place. Raises DiskFull."""
        self.file.reserve(min((self.count + 1) * ENTRY_SIZE, self.file.capacity))

    def append(self, timestamp: int, offset: int) -> None:
        """Add an entry if its timestamp is above the last one's; skip it otherwise. Raises DiskFull."""
        if timestamp <= self.last[0]:
            return
        self.reserve_entry()
        at = self.count * ENTRY_SIZE
        TIME_INDEX_ENTRY.struct.pack_into(self.file.view, at, timestamp, offset - self.base_offset)
        self.count += 1

    def lookup(self, timestamp: int) -> tuple[int, int] | None:
        """The last entry (timestamp, offset) at or below `timestamp`, None if there is none. Verify it: see `lookup`
        of the offset index.
        """
        entry = kernels.index.find_timestamp(self.file.view, self.count, timestamp)
        return (entry[0], self.base_offset + entry[1]) if entry else None

    def truncate(self, offset: int) -> None:
        """Drop every entry at or above `offset`."""
        count = self.count
        while count and self.entry(count - 1)[1] >= offset:
            count -= 1
        self.file.zero(count * ENTRY_SIZE, self.count * ENTRY_SIZE)
        self.count = count

    def reset(self) -> None:
        """Drop every entry, whatever the file holds."""
        self.file.zero(0, self.file.data_end())
        self.count = 0

    def refresh(self) -> None:
        """For readers of another process's index: see the entries added since."""
        if self.count * ENTRY_SIZE == self.file.capacity:
            self.file.remap()
        self.count = kernels.index.count_entries(self.file.view, ENTRY_SIZE)

    def trim(self) -> None:
        """Cut the reserved zeros: a reader of a sealed index takes its size for its count."""
        self.file.trim(self.count * ENTRY_SIZE)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

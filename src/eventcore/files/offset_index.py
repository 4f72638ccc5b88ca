"""A segment's `.index`: (last offset of a batch, where that batch starts), sparse and strictly increasing.

Entries are 8 bytes (see `format/layout.py`). The first batch of a segment never has one. The file has no checksum:
an entry is only a place to start looking, and the reader verifies what it finds there.
"""

from __future__ import annotations

from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files.mapped_file import MappedFile
from eventcore.format.layout import OFFSET_INDEX_ENTRY

INT32_MAX = (1 << 31) - 1
ENTRY_SIZE = OFFSET_INDEX_ENTRY.size


class OffsetIndex:
    """The offset index of the segment that starts at `base_offset`."""

    def __init__(self, disk: Disk, path: Path, base_offset: int, *, write: bool, capacity: int = 0) -> None:
        self.base_offset = base_offset
        self.file = MappedFile(
            disk, path, write=write, capacity=capacity // ENTRY_SIZE * ENTRY_SIZE, first_chunk=ENTRY_SIZE * 512
        )
        self.count = kernels.index.count_entries(self.file.view, ENTRY_SIZE)

    @property
    def full(self) -> bool:
        """Whether another entry would not fit: the segment has to roll."""
        return (self.count + 1) * ENTRY_SIZE > self.file.capacity

    def reserve_entry(self) -> None:
        """Make sure that the next entry finds its blocks in place. Raises DiskFull."""
        self.file.reserve(min((self.count + 1) * ENTRY_SIZE, self.file.capacity))

    def append(self, offset: int, position: int) -> None:
        """Add the entry of a batch that is about to be written. Raises DiskFull."""
        self.reserve_entry()
        at = self.count * ENTRY_SIZE
        OFFSET_INDEX_ENTRY.struct.pack_into(self.file.view, at, offset - self.base_offset, position)
        self.count += 1

    def lookup(self, offset: int) -> tuple[int, int] | None:
        """The last entry (offset, position) at or below `offset`, None if there is none. It is a claim: verify it."""
        entry = kernels.index.find_offset(self.file.view, self.count, min(offset - self.base_offset, INT32_MAX))
        return (self.base_offset + entry[0], entry[1]) if entry else None

    def entry(self, slot: int) -> tuple[int, int]:
        """(offset, position) of one entry."""
        relative, position = OFFSET_INDEX_ENTRY.struct.unpack_from(self.file.view, slot * ENTRY_SIZE)
        return self.base_offset + relative, position

    def truncate(self, offset: int) -> None:
        """Drop every entry at or above `offset`."""
        count = self.count
        while count and self.entry(count - 1)[0] >= offset:
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

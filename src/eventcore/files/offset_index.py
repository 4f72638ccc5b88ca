"""A segment's `.index`: (last offset of a batch, where that batch starts), sparse and strictly increasing.

Entries are 8 bytes (see `format/layout.py`). The first batch of a segment never has one. The file has no checksum:
an entry is only a place to start looking, and the reader verifies what it finds there.
"""

from __future__ import annotations

from eventcore import _kernels as kernels
from eventcore.files.entry_file import EntryFile
from eventcore.format.layout import OFFSET_INDEX_ENTRY

INT32_MAX = (1 << 31) - 1


class OffsetIndex(EntryFile):
    """The offset index of the segment that starts at `base_offset`."""

    entry_size = OFFSET_INDEX_ENTRY.size

    @property
    def full(self) -> bool:
        """Whether another entry would not fit: the segment has to roll."""
        return (self.count + 1) * self.entry_size > self.file.capacity

    def append(self, offset: int, position: int) -> None:
        """Add the entry of a batch that is about to be written. Raises DiskFull."""
        OFFSET_INDEX_ENTRY.struct.pack_into(self.file.view, self.next_position(), offset - self.base_offset, position)
        self.added()

    def lookup(self, offset: int) -> tuple[int, int] | None:
        """The last entry (offset, position) at or below `offset`, None if there is none. It is a claim: verify it."""
        entry = kernels.index.find_offset(self.data, self.count, min(offset - self.base_offset, INT32_MAX))
        return (self.base_offset + entry[0], entry[1]) if entry else None

    def entry(self, slot: int) -> tuple[int, int]:
        """(offset, position) of one entry."""
        relative, position = OFFSET_INDEX_ENTRY.struct.unpack_from(self.data, slot * self.entry_size)
        return self.base_offset + relative, position

    def offset_of(self, slot: int) -> int:
        return self.entry(slot)[0]

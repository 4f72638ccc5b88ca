"""What the offset and the time index share: sorted entries of one size, then reserved zeros.

The writer maps the file. A reader of another process's active index must not: the writer cuts the reserved zeros
when it seals the segment, and a map that is longer than its file faults. So `refresh` takes new entries by `pread`
into a copy of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files.mapped_file import MappedFile
from eventcore.types import Buffer

_ENTRIES_AT_A_TIME = 512


class EntryFile(ABC, kernels.marks.Entries):
    """`count` entries of `entry_size` bytes in `data`; bytes behind them are zeros."""

    entry_size = 0

    def __init__(self, disk: Disk, path: Path, base_offset: int, *, write: bool, capacity: int = 0) -> None:
        super().__init__()
        self.base_offset = base_offset
        self.file = MappedFile(
            disk,
            path,
            write=write,
            capacity=capacity // self.entry_size * self.entry_size,
            first_chunk=self.entry_size * _ENTRIES_AT_A_TIME,
        )
        self.data: Buffer = self.file.view
        self.count = kernels.index.count_entries(self._known(), self.entry_size)

    def _known(self) -> memoryview:
        """Its content: what it has just been grown by is not worth a page fault.

        Where a roll cuts it just now, maps that nothing guards must not be touched behind the last entry.
        """
        if self.file.write or kernels.guard.is_guarded():
            return memoryview(self.data)[: self.file.size]
        return memoryview(self.file.read_at(0, self.file.size))

    @abstractmethod
    def offset_of(self, slot: int) -> int:
        """The offset in one entry."""

    def reserve_entries(self, more: int = 1) -> bool:
        """Make sure that so many entries, and the last one when it is sealed, find their blocks. Raises DiskFull.

        False if the file has no room for them.
        """
        end = (self.count + more + 1) * self.entry_size
        self.file.reserve(min(end, self.file.capacity))
        return end <= self.file.capacity

    def next_position(self) -> int:
        """Where the next entry goes, its blocks reserved."""
        self.reserve_entries()
        return self.count * self.entry_size

    def added(self) -> None:
        """An entry was stored at `next_position`."""
        self.file.stored(self.count * self.entry_size, (self.count + 1) * self.entry_size)
        self.count += 1

    def truncate(self, offset: int) -> None:
        """Drop every entry at or above `offset`."""
        count = self.count
        while count and self.offset_of(count - 1) >= offset:
            count -= 1
        self.file.zero(count * self.entry_size, self.count * self.entry_size)
        self.count = count

    def keep_below(self, offset: int) -> None:
        """Drop every entry at or above `offset`, and whatever else stands behind the last one kept."""
        self.truncate(offset)
        self.file.zero(self.count * self.entry_size, self.file.data_end())

    def crc(self, below: int | None = None) -> int:
        """CRC-32C of the entries, or of those below an offset."""
        return kernels.crc32c.crc32c(self.below(below))

    def below(self, offset: int | None) -> memoryview:
        """The bytes of the entries below an offset; None: of all."""
        count = self.count
        while offset is not None and count and self.offset_of(count - 1) >= offset:
            count -= 1
        return memoryview(self.data)[: count * self.entry_size]

    def reset(self) -> None:
        """Drop every entry, whatever the file holds."""
        self.file.zero(0, self.file.data_end())
        self.count = 0

    def refresh(self) -> None:
        """For readers of another process's index: see the entries added since."""
        added = _ENTRIES_AT_A_TIME
        while added == _ENTRIES_AT_A_TIME:
            known = self.count * self.entry_size
            new = self.file.read_at(known, self.entry_size * _ENTRIES_AT_A_TIME)
            added = kernels.index.count_entries(new, self.entry_size)
            if added:
                if not isinstance(self.data, bytearray):
                    self.data = bytearray(self.data[:known])
                self.data += new[: added * self.entry_size]
                self.count += added

    def trim(self) -> None:
        """Cut the reserved zeros: a reader of a sealed index takes its size for its count."""
        self.file.trim(self.count * self.entry_size)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

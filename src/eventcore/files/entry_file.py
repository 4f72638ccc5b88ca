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


class EntryFile(ABC):
    """`count` entries of `entry_size` bytes in `data`; bytes behind them are zeros."""

    entry_size = 0

    def __init__(self, disk: Disk, path: Path, base_offset: int, *, write: bool, capacity: int = 0) -> None:
        self.base_offset = base_offset
        self.file = MappedFile(
            disk,
            path,
            write=write,
            capacity=capacity // self.entry_size * self.entry_size,
            first_chunk=self.entry_size * _ENTRIES_AT_A_TIME,
        )
        self.data: Buffer = self.file.view
        self.count = kernels.index.count_entries(self.data, self.entry_size)

    @abstractmethod
    def offset_of(self, slot: int) -> int:
        """The offset in one entry."""

    def reserve_entry(self) -> None:
        """Make sure that the next entry, and the last one when it is sealed, find their blocks. Raises DiskFull."""
        self.file.reserve(min((self.count + 2) * self.entry_size, self.file.capacity))

    def next_position(self) -> int:
        """Where the next entry goes, its blocks reserved."""
        self.reserve_entry()
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
        count = self.count
        while below is not None and count and self.offset_of(count - 1) >= below:
            count -= 1
        return kernels.crc32c.crc32c(memoryview(self.data)[: count * self.entry_size])

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

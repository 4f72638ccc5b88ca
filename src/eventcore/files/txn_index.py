"""A segment's `.txnindex`: the aborted transactions whose ABORT marker the segment holds.

Entries are 34 bytes (see `format/layout.py`); marker offsets strictly increase. The file is created with its first
entry: a missing file says that nothing was aborted. A partial entry at the end is ignored (a crash while appending),
and the next append writes over it. What was read is kept: a look at the file costs its size, unless it has grown.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, NotALog, UnsupportedFormat
from eventcore.format.layout import TXN_INDEX_ENTRY

ENTRY_SIZE = TXN_INDEX_ENTRY.size
VERSION = 0
_SIZE_MAX = 1 << 30


class TxnEntry(NamedTuple):
    """One aborted transaction: [first_offset, last_offset], the latter its marker."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


def encode_entries(entries: Iterable[TxnEntry]) -> bytes:
    """The bytes of a file with these entries."""
    return b"".join(TXN_INDEX_ENTRY.struct.pack(VERSION, *entry) for entry in entries)


class TxnIndex:
    """The transaction index of the segment that starts at `base_offset`. One thread writes, any number read."""

    def __init__(self, disk: Disk, path: Path, base_offset: int) -> None:
        self._disk = disk
        self._path = path
        self._base_offset = base_offset
        self._known: tuple[TxnEntry, ...] = ()  # replaced, never changed: readers take no lock
        self._fd = -1
        self._in_memory = False

    def entries(self) -> tuple[TxnEntry, ...]:
        """All entries, as they are in the file now. Raises CorruptFile or UnsupportedFormat."""
        if self._in_memory:
            return self._known
        fd = self._open()
        if fd < 0:
            self._known = ()
            return self._known
        try:
            self._known = self._read(fd, self._known)
        finally:
            self._disk.close(fd)
        return self._known

    def _open(self) -> int:
        """-1 if there is no file. The writer makes it with the first entry, which may be between two looks."""
        try:
            return self._disk.open(self._path, write=False)
        except NotALog:
            return self._disk.open(self._path, write=False) if self._disk.exists(self._path) else -1

    def _read(self, fd: int, known: tuple[TxnEntry, ...]) -> tuple[TxnEntry, ...]:
        """`known` and the entries that follow it; anew from the start if the file has become shorter."""
        size = self._disk.size(fd)
        if size > _SIZE_MAX:
            raise CorruptFile(f"a transaction index of {size} bytes", path=self._path)
        count = size // ENTRY_SIZE
        if count == len(known):
            return known
        if count < len(known):
            known = ()
        start = len(known) * ENTRY_SIZE
        data = self._disk.pread(fd, count * ENTRY_SIZE - start, start)
        found = list(known)
        for at in range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE):
            version, *fields = TXN_INDEX_ENTRY.struct.unpack_from(data, at)
            if version != VERSION:
                raise UnsupportedFormat(f"an entry of version {version}", path=self._path, position=start + at)
            found.append(self._checked(TxnEntry(*fields), found[-1] if found else None, start + at))
        return tuple(found)

    def _checked(self, entry: TxnEntry, before: TxnEntry | None, at: int) -> TxnEntry:
        previous = before.last_offset if before else self._base_offset - 1
        if not previous < entry.last_offset or not 0 <= entry.first_offset <= entry.last_offset:
            raise CorruptFile(
                f"an aborted transaction of offsets {entry.first_offset} to {entry.last_offset} after {previous}",
                path=self._path,
                position=at,
            )
        return entry

    def append(self, producer_id: int, first_offset: int, last_offset: int, last_stable_offset: int) -> None:
        """Add an aborted transaction; durable after `sync`. Raises CorruptFile if it does not follow the last one."""
        known = self.entries()
        at = len(known) * ENTRY_SIZE
        entry = TxnEntry(producer_id, first_offset, last_offset, last_stable_offset)
        self._checked(entry, known[-1] if known else None, at)
        if self._in_memory:
            self._known = (*known, entry)
            return
        self._create()
        self._disk.pwrite_all(self._fd, TXN_INDEX_ENTRY.struct.pack(VERSION, *entry), at)
        self._known = (*known, entry)

    def reserve_entry(self) -> None:
        """Take the space of the next entry: all but its last byte, so that nobody counts it. Raises DiskFull."""
        at = len(self.entries()) * ENTRY_SIZE
        self._create()
        self._disk.reserve(self._fd, at, ENTRY_SIZE - 1)

    def _create(self) -> None:
        if self._fd < 0:
            self._fd = self._disk.open(self._path, write=True, create=True)

    def crc(self, below: int | None = None) -> int:
        """CRC-32C of the file's entries, or of those below an offset. Raises CorruptFile, UnsupportedFormat."""
        entries = [entry for entry in self.entries() if below is None or entry.last_offset < below]
        return kernels.crc32c.crc32c(encode_entries(entries))

    def keep_in_memory(self, offset: int) -> None:
        """For readers that replay the log from `offset` on: there the file is not believed, and it is not written."""
        self._known = tuple(entry for entry in self.entries() if entry.last_offset < offset) if offset else ()
        self._in_memory = True

    def detach(self) -> None:
        """Its file is about to get another name: what it says now counts from now on, whatever has its name then."""
        self.entries()
        self._in_memory = True

    def truncate(self, offset: int) -> None:
        """Drop the entries from the first one on whose marker is at or above `offset`; durable after `sync`."""
        kept = tuple(entry for entry in self.entries() if entry.last_offset < offset)
        self._cut(len(kept) * ENTRY_SIZE)
        self._known = kept

    def reset(self) -> None:
        """Drop all entries, readable or not."""
        self._cut(0)
        self._known = ()

    def _cut(self, size: int) -> None:
        """Nobody maps this file, so it may shrink."""
        if not self._disk.exists(self._path):
            return
        if self._fd < 0:
            self._fd = self._disk.open(self._path, write=True)
        if self._disk.size(self._fd) > size:
            self._disk.cut(self._fd, size)

    def sync(self) -> None:
        """On return the entries survive a power cut, and the name of a new file after `sync_dir`."""
        if self._fd >= 0:
            self._disk.sync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

"""The files of a segment that compaction writes, under the names `.cleaned` until they take the others' place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import names
from eventcore.files import seal as seal_file
from eventcore.files.mapped_file import MappedFile
from eventcore.files.seal import Digest
from eventcore.files.txn_index import TxnEntry, encode_entries


class CleanedSegment:
    """One of them, from `base_offset` on. If it fails, `discard` it."""

    def __init__(self, disk: Disk, folder: Path, base_offset: int) -> None:
        self.base_offset = base_offset
        self.size = 0
        self._disk = disk
        self._folder = folder
        self._fd = disk.open(self.path(names.LOG), write=True, create=True)
        with ExitStack() as undo:
            undo.callback(self.discard)
            disk.cut(self._fd, 0)
            undo.pop_all()

    def path(self, suffix: str) -> Path:
        """The path of one of its files."""
        return self._folder / (names.file_name(self.base_offset, suffix) + names.CLEANED)

    def write(self, data: memoryview) -> None:
        """Add bytes of whole batches."""
        self._disk.pwrite_all(self._fd, data, self.size)
        self.size += len(data)

    def finish(self, next_base: int, offset_entries: bytes, time_entries: bytes, aborted: Sequence[TxnEntry]) -> None:
        """Write indexes and seal. On return the contents of all files are durable, their names after `sync_dir`.

        The seal is not to be done without: it says up to where (`next_base`) this segment stands for others.
        """
        self._disk.sync(self._fd)
        self.close()
        entries = encode_entries(aborted)
        indexes = {names.INDEX: offset_entries, names.TIME_INDEX: time_entries, names.TXN_INDEX: entries}
        for suffix, data in indexes.items():
            if data or suffix != names.TXN_INDEX:
                self._write_synced(suffix, data)
        crc = kernels.crc32c.crc32c
        crcs = (crc(offset_entries), crc(time_entries), crc(entries))
        log = MappedFile(self._disk, self.path(names.LOG), write=False)
        seal = Digest().seal(log.view, self.base_offset, self.size, next_base, crcs)
        self._write_synced(names.SEAL, seal_file.encode(seal))

    def _write_synced(self, suffix: str, data: bytes) -> None:
        fd = self._disk.open(self.path(suffix), write=True, create=True)
        try:
            self._disk.cut(fd, 0)
            self._disk.pwrite_all(fd, data, 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def close(self) -> None:
        """Let go of the log."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    def discard(self) -> None:
        """Remove what was written; what cannot be removed the next opening does."""
        with suppress(StorageError):
            self.close()
        for suffix in names.SEGMENT_SUFFIXES:
            with suppress(StorageError):
                if self._disk.exists(self.path(suffix)):
                    self._disk.unlink(self.path(suffix))

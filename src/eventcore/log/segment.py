"""One segment: a `.log` and its three indexes, kept in step.

Only the last segment of a log is active: open for writing and mapped at its full capacity. Rolling seals it: its
final time-index entry is written and the reserved zeros are cut. Invariants, checked by `verify`:

  * every batch starts where the one before it ends; offsets rise; the file ends with the last batch;
  * every offset-index entry names a batch that starts there and ends at that offset;
  * the last time-index entry of a sealed segment holds its largest timestamp.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.config import INT32_MAX, LogConfig
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, CorruptRecord, DiskFull, StorageError
from eventcore.files import names
from eventcore.files import seal as seal_file
from eventcore.files.offset_index import OffsetIndex
from eventcore.files.seal import Digest
from eventcore.files.segment_file import SegmentFile
from eventcore.files.time_index import TimeIndex
from eventcore.files.txn_index import TxnIndex
from eventcore.format.batch import BatchHeader
from eventcore.log import sealed
from eventcore.log.sealed import CheckedLog, SealedBlocks

_DIGEST_STEP = 1 << 18
_DIGEST_GAP = 1 << 23
"""A digest that lags more (after an unclean stop) is left for the sealing."""
_WALK_MAX = 1000
"""Offsets: a reader that follows a writer walks over so many before it reads the indexes again, which takes longer."""


class Segment(CheckedLog, kernels.marks.Marks):
    """The records from `base_offset` on; `next_offset` is one beyond its last. Its file `grows`, or keeps its size."""

    def __init__(
        self, disk: Disk, folder: Path, base_offset: int, config: LogConfig, *, active: bool, grows: bool = True
    ) -> None:
        CheckedLog.__init__(self, sealed=not active)
        kernels.marks.Marks.__init__(self)
        self.disk = disk
        self.folder = folder
        self.config = config
        self.base_offset = base_offset
        self.active = active
        with ExitStack() as opened:
            self._open_files(opened, config.segment_bytes if active and grows else 0)
            opened.pop_all()
        self.next_offset = self.batches_end = base_offset
        self.max_timestamp, self.max_timestamp_offset = self.time_index.last
        self.created_ms = 0
        self._synced = self.log.size  # what is found at an opening is made durable by it
        self._deleted = False
        self._interval = config.index_interval_bytes
        self._indexed_to = base_offset

    def _open_files(self, opened: ExitStack, capacity: int) -> None:
        write, base = self.active, self.base_offset
        index_capacity = self.config.segment_index_bytes if write else 0
        self.log = SegmentFile(self.disk, self.path(names.LOG), write=write, capacity=capacity)
        opened.callback(self.log.close)
        self.offset_index = OffsetIndex(self.disk, self.path(names.INDEX), base, write=write, capacity=index_capacity)
        opened.callback(self.offset_index.close)
        self.time_index = TimeIndex(self.disk, self.path(names.TIME_INDEX), base, write=write, capacity=index_capacity)
        opened.callback(self.time_index.close)
        self.txn_index = TxnIndex(self.disk, self.path(names.TXN_INDEX), base)

    def path(self, suffix: str) -> Path:
        """The path of one of the segment's files."""
        return self.folder / names.file_name(self.base_offset, suffix)

    def resume(self) -> None:
        """Take over what a seal says of a log that is going to grow again.

        Raises CorruptRecord if the log does not end where it was sealed, or not with the same block: that one will be
        digested anew, and must not be with damage in it.
        """
        seal = sealed.load(self.disk, self.log)
        if seal is None:
            return
        if seal.next_offset < self.next_offset:  # a truncation inside of a batch leaves an end beyond the last one's
            raise CorruptRecord("the last batch is not as it was sealed", path=self.log.path)
        self._digest, blocks = Digest.resumed(seal), SealedBlocks(seal, self.log)
        if blocks.look(self._digest.position, self.log.size)[1]:
            raise CorruptRecord("the last block is not as it was sealed", path=self.log.path)
        self._blocks = blocks

    def reserve(self, size: int) -> None:
        """Make sure that `size` more bytes of log, and their index entries, cannot fail for want of space."""
        self.log.reserve(self.log.size + size)
        self.reserve_entries()
        self.keep_digest()

    def reserve_entries(self, more: int = 1) -> bool:
        """The part of `reserve` that is about the indexes; False if they have no room for so many entries."""
        offsets, times = self.offset_index.reserve_entries(more), self.time_index.reserve_entries(more)
        return offsets and times

    def keep_digest(self) -> None:
        """Let the digest follow the log, so that sealing has little left to read."""
        if _DIGEST_STEP <= self.log.size - self._digest.position < _DIGEST_GAP:
            self._digest.advance(self.log.view, self.log.size)

    def written(self, end: int) -> None:
        """The bytes from `log.size` to `end` were stored: on return whoever reads the file sees them.

        Raises DiskFull, with the log as it was, and MappingFault where the map was broken.
        """
        self.log.stored(self.log.size, end)
        self.log.flush()
        self.check()

    @property
    def broken(self) -> bool:
        """Whether a page of the log or of an index could not be had."""
        return self.log.broken or self.offset_index.file.broken or self.time_index.file.broken

    def add_batch(self, size: int, last_offset: int, max_timestamp: int) -> None:
        """Take in the batch of `size` bytes that was just written at `log.size`: indexes, marks, `next_offset`.

        An index entry is due when more than `index.interval.bytes` were written since the previously indexed batch
        began, so the first batch of a segment never has one. Cannot fail after `reserve`.
        """
        if self.unindexed > self._interval:
            self.offset_index.append(last_offset, self.log.size)
            self.keep_digest()
            self.unindexed = 0
            if max_timestamp > self.max_timestamp:
                self.time_index.append(max_timestamp, last_offset)
            else:
                self.time_index.append(self.max_timestamp, self.max_timestamp_offset)
        if max_timestamp > self.max_timestamp:
            self.max_timestamp, self.max_timestamp_offset = max_timestamp, last_offset
        if self.first_timestamp == kernels.marks.NOT_KNOWN:
            self.first_timestamp = max_timestamp
        self.unindexed += size
        self.log.size += size
        self.next_offset = self.batches_end = last_offset + 1

    def extend_to(self, size: int, last_offset: int) -> None:
        """Take in one more batch of a log that is only read: its indexes are the writer's."""
        self.log.size += size
        self.next_offset = last_offset + 1

    def full_for(self, last_offset: int) -> bool:
        """Whether a batch that ends at `last_offset` needs a new segment for its indexes' sake."""
        return self.offset_index.full or self.time_index.full or last_offset - self.base_offset > INT32_MAX

    def floor(self, offset: int, end: int | None = None) -> int:
        """The position of an indexed batch, before `end` of the log, that ends at or below `offset`, else 0.

        The entry is believed only if a batch with that last offset really starts there.
        """
        end = self.log.size if end is None else end
        entry = self.offset_index.lookup(offset)
        if entry is None or not 0 < entry[1] < end:
            return 0
        try:
            header = BatchHeader.read(self.log.view, entry[1], end)
        except StorageError:
            return 0
        return entry[1] if header.last_offset == entry[0] else 0

    def find(self, offset: int) -> int:
        """The position of the first batch that ends at or above `offset`; `log.size` if there is none.

        Raises CorruptRecord if `offset` lies in a damaged range.
        """
        position = self.floor(offset)
        self._load_seal()
        if self._blocks is not None and offset < self._blocks.seal.next_offset:
            start, end = self._blocks.block_of(offset)
            self.inspect(start, end)
            position = position if start <= position < end else start
        for damage in self.damage:
            if damage.first_offset <= offset < damage.next_offset:
                raise self.damage_error(damage)
            if damage.next_offset <= offset:
                position = max(position, damage.end_position)
        return self._kernel_find(kernels.batch.find_offset, position, offset)

    def find_timestamp(self, timestamp: int, min_offset: int) -> int:
        """The position of the first batch at or above `min_offset` with a record at or after `timestamp`."""
        self.inspect(0, self.log.size)
        offset = min_offset
        entry = self.time_index.lookup(timestamp - 1) if self.active or self.indexes_hold else None
        if entry is not None and self._time_entry_holds(*entry):
            offset = max(offset, entry[1])
        position = self.find(max(offset, self.base_offset))
        return self._kernel_find(kernels.batch.find_timestamp, position, timestamp, min_offset)

    def _time_entry_holds(self, timestamp: int, offset: int) -> bool:
        try:
            position = self.find(offset)
            if position >= self.log.size:
                return False
            header = BatchHeader.read(self.log.view, position, self.log.size)
        except StorageError:
            return False
        return header.last_offset == offset and header.max_timestamp == timestamp

    def _kernel_find(self, find: object, position: int, *arguments: int) -> int:
        end = self.run_end(position)
        try:
            return find(self.log.view, position, end, *arguments)  # type: ignore[operator,no-any-return]
        except StorageError as error:
            raise self.located(error) from None

    def header_at(self, position: int) -> BatchHeader:
        """The header of the batch at `position`."""
        try:
            return BatchHeader.read(self.log.view, position, self.log.size)
        except StorageError as error:
            raise self.located(error) from None

    def refresh_end(self, end_offset: int) -> None:
        """For a reader of another process's active segment: see the batches below `end_offset`, a batch's end."""
        if self.next_offset >= end_offset:
            return
        if end_offset - self._indexed_to <= _WALK_MAX and self._walk_to(end_offset):
            return
        self.offset_index.refresh()
        self.time_index.refresh()
        self.max_timestamp, self.max_timestamp_offset = self.time_index.last
        self._indexed_to = end_offset
        self._walk_to(end_offset)

    def _walk_to(self, end_offset: int) -> bool:
        """Whether it was found, or zeros (a truncation inside a batch); if not, the writer is just changing the log."""
        view, known, limit = self.log.view, self.log.size, self.log.capacity
        try:
            start = max(known, self.floor(end_offset - 1, limit))
            position = kernels.batch.find_offset(view, start, limit, end_offset - 1)
            end = min(position + BatchHeader.read(view, position, limit).size, limit)
        except StorageError as error:
            self.check()
            end = -1 if error.position is None else error.position
            if end < known or any(view[end : end + kernels.batch.PREFIX_SIZE]):
                return False
        self.log.size = end  # only now: other threads read up to there
        self.next_offset = end_offset
        return True

    def walk_end(self) -> None:
        """Find `next_offset`, and a larger timestamp, behind the last index entry of a log that is trusted."""
        position = self.floor(self.base_offset + INT32_MAX)
        self.next_offset = self.base_offset
        while position < self.log.size:
            header = self.header_at(position)
            if header.max_timestamp > self.max_timestamp:
                self.max_timestamp, self.max_timestamp_offset = header.max_timestamp, header.last_offset
            self.next_offset = header.next_offset
            position += header.size
        self.batches_end = self.next_offset
        if self.log.size and self.first_timestamp == kernels.marks.NOT_KNOWN:
            self.first_timestamp = self.header_at(0).max_timestamp

    @property
    def synced(self) -> bool:
        """Whether all of the log survives a power cut."""
        return self._synced == self.log.size

    def sync(self) -> None:
        """On return the log survives a power cut. A segment deleted meanwhile has nothing to keep."""
        size = self.log.size
        if not self._deleted:
            self.log.sync()
        self._synced = size

    def seal(self) -> None:
        """Write the final time-index entry, cut all reserved zeros, sync the indexes, write the seal.

        The log stays mapped, and need not have been synced yet: a seal that does not fit what a power cut left of the
        log is void. Its files stay open: somebody may be syncing them just now.
        """
        if self.max_timestamp >= 0:
            self.time_index.append(self.max_timestamp, self.max_timestamp_offset)
        self.offset_index.trim()
        self.time_index.trim()
        self._synced = -1
        self.log.trim(self.log.size)
        self.sync_indexes()
        self.check()
        self._write_seal()
        self.active = False
        self.sealed = True

    def index_max_timestamp(self) -> None:
        """Bring the time index up to date, if there is room: no later entry then is for an offset below the log end."""
        if self.max_timestamp >= 0 and not self.time_index.full:
            with suppress(DiskFull):
                self.time_index.append(self.max_timestamp, self.max_timestamp_offset)

    def _write_seal(self) -> None:
        """Without space for it the segment does without, unless it must tell of damage."""
        if not self.log.size:
            return
        try:
            crcs = self.index_crcs()
            seal = self._digest.seal(self.log.view, self.base_offset, self.log.size, self.next_offset, crcs)
            seal_file.write(self.disk, self.path(names.SEAL), seal)
        except (CorruptRecord, DiskFull):
            if self._damage:
                raise

    def sync_indexes(self) -> None:
        """On return the indexes survive a power cut."""
        for file in (self.offset_index.file, self.time_index.file):
            if file.fd >= 0:
                file.sync()
        self.txn_index.sync()

    def index_crcs(self, below: int | None = None) -> tuple[int, int, int]:
        """CRC-32C of the entries of the three indexes, or of those below an offset."""
        return self.offset_index.crc(below), self.time_index.crc(below), self.txn_index.crc(below)

    def may_hold(self, timestamp: int) -> bool:
        """Whether there may be a record at or after `timestamp`; the index is asked only if it can be believed."""
        return self.active or self.max_timestamp >= timestamp or not self.indexes_hold

    def check_txn_index(self) -> None:
        """Raise CorruptFile if the transaction index is not the one that was sealed."""
        self._load_seal()
        known = self._blocks.seal.index_crcs[2] if self._blocks is not None and not self.active else -1
        if known not in (-1, self.txn_index.crc()):
            raise CorruptFile("a transaction index that is not as it was sealed", path=self.path(names.TXN_INDEX))

    def keep_indexes_below(self, offset: int) -> None:
        """Drop the index entries at and above `offset`; behind them everything is read again."""
        self.offset_index.keep_below(offset)
        self.time_index.keep_below(offset)
        self.txn_index.truncate(offset)
        self.max_timestamp, self.max_timestamp_offset = self.time_index.last
        self.unindexed = self.log.size - self.floor(offset)

    def reset_indexes(self) -> None:
        """Empty all three indexes, to be rebuilt."""
        self.offset_index.reset()
        self.time_index.reset()
        self.txn_index.reset()
        self.max_timestamp, self.max_timestamp_offset = -1, self.base_offset
        self.first_timestamp = kernels.marks.NOT_KNOWN
        self.unindexed = 0
        self._digest.reset()
        self.log.size, self.next_offset, self.batches_end = 0, self.base_offset, self.base_offset

    def cut_at(self, offset: int) -> tuple[int, int]:
        """Where a truncation to `offset` cuts: the position, and one beyond the last record that stays."""
        end, position, end_offset = self.find(offset), self.floor(offset - 1), self.base_offset
        for damage in self.damage:
            if damage.end_position <= end:
                position, end_offset = max(position, damage.end_position), damage.next_offset
        while position < end:
            header = self.header_at(position)
            position, end_offset = position + header.size, header.next_offset
        return end, end_offset

    def truncate(self, offset: int) -> None:
        """Drop every batch that contains or follows `offset`; `next_offset` becomes `offset`.

        Durable on return, but for the indexes.

        The file does not shrink, somebody may have it mapped: the tail is zeroed, and zeros end a log.
        """
        position = self.find(offset)
        end = self.log.size
        self.offset_index.truncate(offset)
        self.time_index.truncate(offset)
        self.txn_index.truncate(offset)
        self.log.size = position
        self.verified.forget()
        self.log.zero(position, end)
        self.sync()
        self._digest.reset(position)
        self._blocks = None
        self._damage = tuple(damage for damage in self._damage if damage.position < position)
        self.max_timestamp, self.max_timestamp_offset = self.time_index.last
        self.unindexed = 0
        self.walk_end()
        self.next_offset = offset

    def close(self) -> None:
        """Let go of all files."""
        with ExitStack() as closing:  # all of them, whatever one of them says
            for file in (self.log, self.offset_index, self.time_index, self.txn_index):
                closing.callback(file.close)

    def delete(self) -> None:
        """Remove the segment's files. Whoever has them mapped keeps reading them."""
        self._deleted = True
        with suppress(StorageError):  # what a failed close may have lost is not wanted any more
            self.close()
        for suffix in names.SEGMENT_SUFFIXES:
            if self.disk.exists(self.path(suffix)):
                self.disk.unlink(self.path(suffix))

"""A sealed segment's `.seal`: what tells a changed bit where the batches' own CRCs do not look. Kafka ignores the file.

A batch's CRC covers it from byte 21 on. The seal holds, for each block of whole batches (up to 64 KiB; a larger batch
is a block of its own), the CRC-32C of their first 21 bytes, base offset to CRC field, one after the other (outer), and
that of the other 40 bytes of their headers (inner), so that headers can be believed without reading the records.
Blocks and damaged ranges together cover the log without a gap. All integers are big-endian, as Kafka's are:

     0 magic "evc-seal" | 8 version u32 = 1 | 12 crc u32: CRC-32C of bytes 0 to 11 and of all from 16 on
    16 base offset i64 | 24 size of the .log i64 | 32 next offset i64: where the log goes on
    40 position of the last whole batch i64 | 48 its crc field i64 | 56 number of blocks i64
    64 number of damaged ranges i64 | 72 CRC-32Cs of .index, .timeindex and .txnindex (empty if missing) 3 * i64
    96 blocks, 32 bytes each: end position, next offset, outer digest, inner digest i64
       damaged ranges, 32 bytes each: position, end position, first offset, next offset i64

The first 16 bytes mean the same in every version. A seal is only as good as its tie to the log: the size, and the CRC
field of the last batch. A log rewritten by somebody else (a broker's cleaner) has its seal in vain, see `belongs`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, CorruptRecord, StorageError, UnsupportedFormat
from eventcore.files.damage import BLOCK_SIZE, Block, DamagedRange, Rows, find_damage, scanned
from eventcore.types import Buffer

MAGIC = b"evc-seal"
VERSION = 1
_FRAME = struct.Struct(">8sII")
_BODY = struct.Struct(">10q")
_HEADER_SIZE = _FRAME.size + _BODY.size
_PREFIX = struct.Struct(">qi")  # base offset and length of a batch
_CRC = struct.Struct(">I")
_CRC_AT = kernels.batch.offsets()["crc"]
_BATCH_SIZE_MIN = kernels.batch.HEADER_SIZE
_SIZE_MAX = 64 << 20  # 2 GiB of log in blocks are 3 MiB; the rest is for damaged ranges
_DIGEST_MAX = (1 << 32) - 1

IndexCrcs = tuple[int, int, int]
NOT_KNOWN: IndexCrcs = (-1, -1, -1)


class SealBlock(NamedTuple):
    """The batches from where the block or damaged range before ends, to `end_position`; offsets below `next_offset`."""

    end_position: int
    next_offset: int
    outer: int
    inner: int


@dataclass(frozen=True, eq=False)
class Seal:
    """What a segment was when it was sealed. `blocks` has a row a `SealBlock`.

    `index_crcs` are the CRC-32Cs of its `.index`, `.timeindex` and `.txnindex`, which have none themselves; -1 if not
    known. A broker may rebuild an index: one that differs is not damage, but not to be believed.
    """

    base_offset: int
    size: int
    next_offset: int
    last_position: int
    last_crc: int
    blocks: Rows
    damage: tuple[DamagedRange, ...] = ()
    index_crcs: IndexCrcs = NOT_KNOWN

    def edges(self) -> tuple[Rows, Rows]:
        """For each block the position and the offset it starts at; behind them where the log ends.

        Raises CorruptFile if blocks and damaged ranges do not follow each other from the first byte to the last.
        """
        return self._edges

    @cached_property
    def _edges(self) -> tuple[Rows, Rows]:
        ends, next_offsets, digests = self.blocks[:, 0], self.blocks[:, 1], self.blocks[:, 2:]
        starts = np.concatenate((np.zeros(1, np.int64), ends))
        offsets = np.concatenate((np.full(1, self.base_offset, np.int64), next_offsets))
        for damage in self.damage:
            at = int(np.searchsorted(ends, damage.position, side="right"))
            in_place = starts[at] == damage.position <= damage.end_position
            if not in_place or not offsets[at] <= damage.first_offset <= damage.next_offset:
                raise CorruptFile("a damaged range of a seal is not between its blocks")
            starts[at], offsets[at] = damage.end_position, damage.next_offset
        rising = (starts[:-1] < ends).all() and (offsets[:-1] < next_offsets).all()
        too_small = rising and (ends - starts[:-1] < _BATCH_SIZE_MIN).any()
        if (
            not rising
            or too_small
            or starts[-1] != self.size
            or not 0 <= offsets[-1] <= self.next_offset
            or self.base_offset < 0
        ):
            raise CorruptFile("the blocks of a seal do not cover its log")
        if len(digests) and not (digests.min() >= 0 and digests.max() <= _DIGEST_MAX):
            raise CorruptFile("a digest of a seal is none")
        return starts, offsets


def write(disk: Disk, path: Path, seal: Seal) -> None:
    """Write the seal of a segment; which one a crash leaves is certain after `sync_dir`."""
    disk.replace_file(path, encode(seal))


def read(disk: Disk, path: Path) -> Seal | None:
    """The seal of a segment, None if it has none. Raises CorruptFile, UnsupportedFormat for one of a later version."""
    if not disk.exists(path):
        return None
    try:
        return decode(disk.read_file(path, _SIZE_MAX))
    except StorageError as error:
        error.path = str(path)
        raise


def encode(seal: Seal) -> bytes:
    """The bytes of the file."""
    body = _BODY.pack(
        seal.base_offset,
        seal.size,
        seal.next_offset,
        seal.last_position,
        seal.last_crc,
        len(seal.blocks),
        len(seal.damage),
        *seal.index_crcs,
    )
    damage = np.array(seal.damage, dtype=">i8").tobytes()
    return _framed(VERSION, body + seal.blocks.astype(">i8").tobytes() + damage)


def _framed(version: int, body: bytes) -> bytes:
    crc = kernels.crc32c.crc32c(body, kernels.crc32c.crc32c(_FRAME.pack(MAGIC, version, 0)[:12]))
    return _FRAME.pack(MAGIC, version, crc) + body


def decode(data: bytes) -> Seal:
    """The seal whose file these bytes are."""
    if len(data) < _HEADER_SIZE or not data.startswith(MAGIC):
        raise CorruptFile("no seal of a segment")
    _, version, _ = _FRAME.unpack_from(data)
    if data != _framed(version, data[_FRAME.size :]):
        raise CorruptFile("the CRC of a seal does not match its bytes")
    if version != VERSION:
        raise UnsupportedFormat(f"a seal of version {version}")
    base_offset, size, next_offset, last_position, last_crc, block_count, damage_count, *index_crcs = _BODY.unpack_from(
        data, _FRAME.size
    )
    rows = np.frombuffer(data[_HEADER_SIZE : len(data) // 32 * 32], ">i8").astype(np.int64).reshape(-1, 4)
    if len(data) % 32 or min(block_count, damage_count) < 0 or block_count + damage_count != len(rows):
        raise CorruptFile(f"a seal of {len(data)} bytes with {block_count} blocks and {damage_count} damaged ranges")
    blocks, damage = rows[:block_count], tuple(DamagedRange(*row) for row in rows[block_count:].tolist())
    index, time_index, txn_index = index_crcs
    crcs = (index, time_index, txn_index)
    return _checked(Seal(base_offset, size, next_offset, last_position, last_crc, blocks, damage, crcs))


def _checked(seal: Seal) -> Seal:
    starts, _ = seal.edges()
    first, limit = (int(starts[-2]), int(seal.blocks[-1, 0]) - _BATCH_SIZE_MIN) if len(seal.blocks) else (0, 0)
    if not first <= seal.last_position <= limit or not 0 <= seal.last_crc <= _DIGEST_MAX:
        raise CorruptFile("the last batch of a seal is not in its last block")
    if min(seal.index_crcs) < -1 or max(seal.index_crcs) > _DIGEST_MAX:
        raise CorruptFile("a CRC of a seal is none")
    return seal


def belongs(seal: Seal, size: int, view: Buffer) -> bool:
    """Whether the log of `size` bytes in `view` is the one that was sealed, be it damaged.

    False if its size differs, or if another valid batch stands where the last one was: somebody else has rewritten it.
    """
    if size != seal.size:
        return False
    if not len(seal.blocks) or _stored_crc(view, seal.last_position) == seal.last_crc:
        return True
    try:
        return not kernels.batch.crc_holds(view, seal.last_position, size)
    except StorageError:
        return True


def check_blocks(seal: Seal, view: Buffer, start: int = 0, end: int | None = None) -> list[DamagedRange]:
    """The batches in blocks that overlap [start, end) which are not as they were sealed, or cannot be made sense of.

    Where they cannot be told it is the whole block. What batches' own CRCs cover is not checked. Ranges that were
    damaged when the log was sealed are in `seal.damage` instead.
    """
    starts, offsets = seal.edges()
    limit = seal.size if end is None else min(end, seal.size)
    first = int(np.searchsorted(seal.blocks[:, 0], start, side="right"))
    last = int(np.searchsorted(starts[:-1], limit, side="left"))
    bad = []
    for index in range(first, last):
        end_position, next_offset, outer, inner = seal.blocks[index].tolist()
        block = DamagedRange(int(starts[index]), end_position, int(offsets[index]), next_offset)
        bad += find_damage(view, Block(block, outer, inner))
    return bad


def _stored_crc(view: Buffer, position: int) -> int:
    return int(_CRC.unpack_from(view, position + _CRC_AT)[0])


def _last_batch(view: Buffer, start: int, end: int) -> int:
    rows = scanned(view, start, end, verify=False)
    if not len(rows) or int(rows[-1, 0] + rows[-1, 1]) != end:
        raise CorruptRecord("no record batch where the log is to be sealed", position=start)
    return int(rows[-1, 0])


class Digest:
    """The blocks of a log while it grows, so that sealing it does not read it as a whole.

    The same log gives the same blocks however often it was called. `damage` may be noted before the digest gets there.
    """

    def __init__(self, damage: Sequence[DamagedRange] = ()) -> None:
        self.position = 0
        """How far the log was digested."""
        self._blocks: list[SealBlock] = []
        self._damage = [DamagedRange(*range) for range in damage]
        self._start = 0
        self._crcs = [0, 0]

    @classmethod
    def resumed(cls, seal: Seal) -> Digest:
        """The digest of a log that was sealed and grows again: its last block stays open."""
        digest = cls(seal.damage)
        digest._blocks = [SealBlock(*row) for row in seal.blocks[:-1].tolist()]
        digest._start = digest.position = int(seal.edges()[0][-2]) if len(seal.blocks) else 0
        return digest

    def skip(self, damage: DamagedRange) -> None:
        """Leave a damaged range out; it lies behind those before, and the digest has not gone beyond its start."""
        self._damage.append(DamagedRange(*damage))

    def advance(self, view: Buffer, end: int) -> None:
        """Digest what is new below `end`, where a batch ends. Batches below it must not change any more."""
        for damage in [damage for damage in self._damage if self.position <= damage.position <= end]:
            self._walk(view, damage.position)
            if self.position != damage.position:
                return
            self._cut(damage.first_offset)
            self._start = self.position = damage.end_position
        self._walk(view, end)

    def _walk(self, view: Buffer, end: int) -> None:
        """A block ends in front of the batch that it has no room for; the last one stays open.

        Stops early at a batch whose length cannot be: `seal` refuses such a log.
        """
        while end - self.position >= _BATCH_SIZE_MIN:
            limit = max(self._start + BLOCK_SIZE, self.position)
            if self.position == self._start:
                limit = max(limit, self._start + _PREFIX.size + _PREFIX.unpack_from(view, self._start)[1])
            self.position, *self._crcs = kernels.batch.digest_headers(view, self.position, min(limit, end), *self._crcs)
            if limit >= end or self.position == self._start or end - self.position < _BATCH_SIZE_MIN:
                return
            self._cut(_PREFIX.unpack_from(view, self.position)[0])

    def _cut(self, next_offset: int) -> None:
        if self.position > self._start:
            self._blocks.append(SealBlock(self.position, next_offset, *self._crcs))
            self._start, self._crcs = self.position, [0, 0]

    def reset(self, position: int = 0) -> None:
        """The log was cut at `position`, and may go on there with other batches."""
        self._blocks = [block for block in self._blocks if block.end_position < position]
        self._damage = [damage for damage in self._damage if damage.position < position]
        self._start = self.position = self._blocks[-1].end_position if self._blocks else 0
        self._crcs = [0, 0]

    def seal(
        self, view: Buffer, base_offset: int, size: int, next_offset: int, index_crcs: IndexCrcs = NOT_KNOWN
    ) -> Seal:
        """The seal of the log of `size` bytes. Raises CorruptRecord where a length is not what it was: seal nothing."""
        self.advance(view, size)
        if self.position != size:
            raise CorruptRecord("a batch whose length cannot be, where the log is to be sealed", position=self.position)
        blocks = [*self._blocks]
        if self.position > self._start:
            blocks.append(SealBlock(self.position, next_offset, *self._crcs))
        rows = np.array(blocks, dtype=np.int64).reshape(-1, 4)
        seal = Seal(base_offset, size, next_offset, 0, 0, rows, tuple(self._damage), index_crcs)
        if not blocks:
            return seal
        last = _last_batch(view, int(seal.edges()[0][-2]), blocks[-1].end_position)
        return replace(seal, last_position=last, last_crc=_stored_crc(view, last))

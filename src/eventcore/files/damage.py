"""Which batches of a sealed block are not what they were: as few as can be told.

The outer digest of a block tells that the first 21 bytes of some batch have changed, not which. But those bytes can be
foretold from what their own CRC covers and from the neighbours: the base offset follows the batch before, the length
reaches to the batch behind, the magic is 2, the CRC field is the CRC, and the leader epoch is a neighbour's. If the
digest is right once one batch is put right in thought, the outer bytes of all others are as they were. From there on
the batches' own CRCs tell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eventcore import _kernels as kernels
from eventcore.types import Buffer

BLOCK_SIZE = 1 << 16
"""Whole batches up to so many bytes make a block."""

_PREFIX = struct.Struct(">qiibI")
_START = struct.Struct(">qi")  # base offset and length
_INT32 = struct.Struct(">i")
_EPOCH_AT = _START.size
_DELTA_AT = kernels.batch.offsets()["last_offset_delta"]
_SIZE_MIN = kernels.batch.HEADER_SIZE
_BASE_OFFSETS, _LAST_OFFSETS, _EPOCHS = 2, 3, 5
_CHANGES_MAX = 64
_NEAR = 8
_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1

Rows = npt.NDArray[np.int64]


class DamagedRange(NamedTuple):
    """Bytes [position, end_position) that hold no valid batch, where offsets [first_offset, next_offset) should be."""

    position: int
    end_position: int
    first_offset: int
    next_offset: int


class Block(NamedTuple):
    """Whole batches, and what `digest_headers` made of them when they were sealed."""

    range: DamagedRange
    outer: int
    inner: int


class _Guess(NamedTuple):
    """The batch that may have changed, and what its first 21 bytes may have been."""

    range: DamagedRange
    prefix: bytes


def find_damage(view: Buffer, block: Block) -> list[DamagedRange]:
    """The damaged batches of a block; the whole block where they cannot be told.

    Headers are checked, records only in a block with a changed header.
    """
    whole, outer, inner = block
    found = kernels.batch.digest_headers(view, whole.position, whole.end_position)
    if found == (whole.end_position, outer, inner):
        return []
    if found[:2] == (whole.end_position, outer):
        return list(_broken(view, whole)) or [whole]
    for guess in _guesses(view, whole):
        if _completes(view, block, guess):
            before = DamagedRange(whole.position, guess.range.position, whole.first_offset, guess.range.first_offset)
            behind = DamagedRange(
                guess.range.end_position, whole.end_position, guess.range.next_offset, whole.next_offset
            )
            return [*_broken(view, before), guess.range, *_broken(view, behind)]
    return [whole]


def _completes(view: Buffer, block: Block, guess: _Guess) -> bool:
    """Whether the outer digest is right with the guessed bytes."""
    digest = kernels.batch.digest_headers
    position, outer, _ = digest(view, block.range.position, guess.range.position)
    outer = kernels.crc32c.crc32c(guess.prefix, outer)
    end, outer, _ = digest(view, guess.range.end_position, block.range.end_position, outer)
    return (position, end, outer) == (guess.range.position, block.range.end_position, block.outer)


def scanned(view: Buffer, start: int, end: int, *, verify: bool) -> Rows:
    """The batches from `start` on, as the kernel's `scan` tells of them, to `end` or the first that is none."""
    rows = np.empty((min(end - start, BLOCK_SIZE) // _SIZE_MIN + 1, kernels.batch.ROW_SIZE), np.int64)
    count, _, _ = kernels.batch.scan(view, start, end, rows.data.cast("B"), verify)
    return rows[:count]


def _broken(view: Buffer, run: DamagedRange) -> Iterator[DamagedRange]:
    """The batches of the run that fail their CRC or make no sense; all lengths and base offsets are right."""
    position = run.position
    while position < run.end_position:
        rows = scanned(view, position, run.end_position, verify=True)
        position = int(rows[-1, 0] + rows[-1, 1]) if len(rows) else position
        if position < run.end_position:
            base_offset, length = _START.unpack_from(view, position)
            end = position + _START.size + length
            next_offset = _START.unpack_from(view, end)[0] if end < run.end_position else run.next_offset
            yield DamagedRange(position, end, base_offset, next_offset)
            position = end


def _guesses(view: Buffer, block: DamagedRange) -> Iterator[_Guess]:
    """What may have happened to one batch."""
    rows = scanned(view, block.position, block.end_position, verify=True)
    expected = np.concatenate(([block.first_offset], rows[:, _LAST_OFFSETS] + 1))
    contradicted = np.flatnonzero(rows[:, _BASE_OFFSETS] != expected[:-1])
    good = int(contradicted[0]) if len(contradicted) else len(rows)
    position = int(rows[good - 1, 0] + rows[good - 1, 1]) if good else block.position
    if position < block.end_position:
        yield from _put_right(view, block, position, int(expected[good]), int(rows[good - 1, _EPOCHS]) if good else -1)
    else:
        yield from _other_epochs(view, block, rows)


def _put_right(view: Buffer, block: DamagedRange, position: int, offset: int, epoch_before: int) -> Iterator[_Guess]:
    """The batch at `position` does not begin at `offset`, or is none."""
    if block.end_position - position < _SIZE_MIN:
        return
    _, _, epoch, _, _ = _PREFIX.unpack_from(view, position)
    next_offset = offset + int(_INT32.unpack_from(view, position + _DELTA_AT)[0]) + 1
    if not offset < next_offset <= _INT64_MAX:
        return
    for end, epoch_behind in _next_batches(view, block, position, next_offset):
        found = DamagedRange(position, end, offset, next_offset if end < block.end_position else block.next_offset)
        crc = kernels.crc32c.crc32c(memoryview(view)[position + _PREFIX.size : end])
        for likely in dict.fromkeys((epoch, epoch_before, epoch_behind)):
            yield _Guess(found, _PREFIX.pack(offset, end - position - _START.size, likely, kernels.batch.MAGIC, crc))


def _next_batches(view: Buffer, block: DamagedRange, position: int, next_offset: int) -> Iterator[tuple[int, int]]:
    """Where the next good batch may begin, at `next_offset`, and its leader epoch; at last the end of the block.

    There may be several: what a record carries may be such a batch, too.
    """
    data, at = bytes(memoryview(view)[position : block.end_position]), _SIZE_MIN - 1
    wanted = next_offset.to_bytes(8, "big")
    while (at := data.find(wanted, at + 1)) >= 0:
        row = np.empty((1, kernels.batch.ROW_SIZE), np.int64)
        if kernels.batch.scan(data, at, len(data), row.data.cast("B"), True)[0]:
            yield position + at, int(row[0, _EPOCHS])
    yield block.end_position, -1


def _other_epochs(view: Buffer, block: DamagedRange, rows: Rows) -> Iterator[_Guess]:
    """Every batch is good as far as its CRC and its neighbours tell, so an epoch has changed. Epochs never fall."""
    epochs = rows[:, _EPOCHS]
    changes = np.flatnonzero(epochs[1:] != epochs[:-1])[:_CHANGES_MAX]
    for slot in sorted({*changes.tolist(), *(changes + 1).tolist()}):
        position, size, base_offset = rows[slot, :3].tolist()
        next_offset = int(rows[slot + 1, _BASE_OFFSETS]) if slot + 1 < len(rows) else block.next_offset
        prefix = bytearray(memoryview(view)[position : position + _PREFIX.size])
        for epoch in _likely_epochs(epochs.tolist(), slot):
            _INT32.pack_into(prefix, _EPOCH_AT, epoch)
            yield _Guess(DamagedRange(position, position + size, base_offset, next_offset), bytes(prefix))


def _likely_epochs(epochs: list[int], slot: int) -> range:
    """Between the epochs of the neighbours, or near that of the only one."""
    before = epochs[slot - 1] if slot else max(epochs[slot + 1] - _NEAR, 0)
    behind = epochs[slot + 1] if slot + 1 < len(epochs) else min(before + _NEAR, _INT32_MAX)
    return range(before, min(behind, before + _NEAR) + 1)

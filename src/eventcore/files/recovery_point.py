"""`eventcore.recovery`: what the next opening may trust without reading the log. Kafka ignores the file.

Two slots, at 0 and at 4096, written in turn, so that a torn write leaves the one before it. The valid slot with the
higher sequence number counts. A slot:

     0 magic "evcrecov" | 8 version u32 = 2 | 12 crc u32 over the rest | 16 sequence i64
    24 flags u64 (bit 0: clean close) | 32 recovery point i64 | 40 base offset of its segment i64
    48 its position there i64 | 56 log start offset i64 | 64 unfinished truncation i64: its offset (-1: none)
    72 base offset of the segment it ends in i64 (-1: none is left) | 80 its position there i64
    88 boot id 16 bytes: of the machine's life in which it was written; in another one, unsynced pages may be lost
   104 CRC-32C of the segment's .index, .timeindex and .txnindex below the recovery point, 3 u32
   116 CRC in the header of the producer snapshot at the recovery point i64 (-1: none was written)

Everything below the recovery point was synced, indexes included. `clean` holds only while the last segment still has
that base and size: a folder that somebody else (a Kafka broker) has written to since is scanned from the recovery
point on. A truncation is noted before it begins, and done again at opening if it may not have been completed.
A file that is missing or fails its checks means: trust nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk

NAME = "eventcore.recovery"
MAGIC = b"evcrecov"
VERSION = 2
SIZE = 8192

_SLOTS = (0, SIZE // 2)
_TOO_HIGH = 1 << 62
_FRAME = struct.Struct(">8sII")
_BODY = struct.Struct(">qQqqqqqqq16sIIIq")


@dataclass(frozen=True)
class RecoveryPoint:
    """What is known of the log without reading it."""

    recovery_point: int = 0
    base_offset: int = 0
    position: int = 0
    log_start_offset: int = 0
    truncate_to: int = -1
    truncate_base: int = -1
    truncate_position: int = 0
    clean: bool = False
    boot_id: bytes = b""
    index_crcs: tuple[int, int, int] = (0, 0, 0)
    snapshot_crc: int = -1

    def closed_as(self, active_base_offset: int, active_size: int) -> bool:
        """Whether the log was closed cleanly and its last segment still is as it was then."""
        return self.clean and (self.base_offset, self.position) == (active_base_offset, active_size)


def read(disk: Disk, path: Path) -> RecoveryPoint:
    """The recovery point, or one that trusts nothing if the file is missing, of another version, or damaged."""
    return _newest(_load(disk, path))[1]


def _load(disk: Disk, path: Path) -> bytes:
    if not disk.exists(path):
        return b""
    fd = disk.open(path, write=False)
    try:
        return disk.pread(fd, SIZE, 0)
    finally:
        disk.close(fd)


def _newest(data: bytes) -> tuple[int, RecoveryPoint]:
    return max((_parse(data[slot:]) for slot in _SLOTS), key=lambda found: found[0])


def _parse(slot: bytes) -> tuple[int, RecoveryPoint]:
    if len(slot) < _FRAME.size + _BODY.size:
        return -1, RecoveryPoint()
    magic, version, crc = _FRAME.unpack_from(slot)
    body = slot[_FRAME.size : _FRAME.size + _BODY.size]
    if magic != MAGIC or version != VERSION or crc != kernels.crc32c.crc32c(body):
        return -1, RecoveryPoint()
    sequence, flags, *numbers, boot_id, index, time_index, txn_index, snapshot_crc = _BODY.unpack(body)
    recovery, base, position, start, truncate_to, truncate_base, truncate_position = numbers
    if (
        min(sequence, recovery, base, position, start, truncate_position) < 0
        or base > recovery
        or sequence >= _TOO_HIGH
    ):
        return -1, RecoveryPoint()
    clean, crcs = bool(flags & 1), (index, time_index, txn_index)
    return sequence, RecoveryPoint(
        recovery,
        base,
        position,
        start,
        truncate_to,
        truncate_base,
        truncate_position,
        clean,
        boot_id,
        crcs,
        snapshot_crc,
    )


def encode(point: RecoveryPoint, boot_id: bytes, sequence: int = 1) -> bytes:
    """The slot of a point."""
    body = _BODY.pack(
        sequence,
        int(point.clean),
        point.recovery_point,
        point.base_offset,
        point.position,
        point.log_start_offset,
        point.truncate_to,
        point.truncate_base,
        point.truncate_position,
        boot_id,
        *point.index_crcs,
        point.snapshot_crc,
    )
    return _FRAME.pack(MAGIC, VERSION, kernels.crc32c.crc32c(body)) + body


class RecoveryFile:
    """The file of the one writer."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        data = _load(disk, path)
        self._sequence, self.point = _newest(data)
        if len(data) != SIZE:
            disk.replace_file(path, bytes(SIZE))
        self._fd = disk.open(path, write=True)

    def settle(self) -> None:
        """Make durable what is there: a writer that was killed may have left it in the page cache."""
        self._disk.sync(self._fd)

    def write(self, point: RecoveryPoint) -> None:
        """Set the recovery point; durable on return. If it fails, the one before it or this one counts."""
        sequence = self._sequence + 1
        slot = encode(point, self._disk.boot_id(), sequence)
        self._disk.pwrite_all(self._fd, slot, _SLOTS[sequence % 2])
        self._disk.sync(self._fd)
        self._sequence, self.point = sequence, point

    def write_both(self, point: RecoveryPoint) -> None:
        """`write`, and leave no slot with the point before it: what it says must never count again."""
        self.write(point)
        self.write(point)

    def close(self) -> None:
        """Let go of the file."""
        self._disk.close(self._fd)

"""`eventcore.recovery`: what the next opening may trust without reading the log. Kafka ignores the file.

    0 magic "evcrecov" | 8 version u32 = 1 | 12 crc u32 over the rest | 16 flags u64 (bit 0: clean close)
    24 recovery point i64 | 32 log start offset i64 | 40 base offset of the active segment i64 | 48 its size i64

Everything below the recovery point was synced. `clean` holds only while the active segment still has that base and
size: a folder that somebody else (a Kafka broker) has written to since is scanned again from the recovery point.
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
VERSION = 1

_FRAME = struct.Struct(">8sII")
_BODY = struct.Struct(">Qqqqq")
_SIZE = _FRAME.size + _BODY.size


@dataclass(frozen=True)
class RecoveryPoint:
    """What is known of the log without reading it."""

    recovery_point: int = 0
    log_start_offset: int = 0
    clean: bool = False
    active_base_offset: int = -1
    active_size: int = -1

    def closed_as(self, active_base_offset: int, active_size: int) -> bool:
        """Whether the log was closed cleanly and its last segment still is as it was then."""
        return self.clean and (self.active_base_offset, self.active_size) == (active_base_offset, active_size)


def read(disk: Disk, path: Path) -> RecoveryPoint:
    """The recovery point, or one that trusts nothing if the file is missing, of another version, or damaged."""
    data = disk.read_file(path, _SIZE) if disk.exists(path) and path.stat().st_size == _SIZE else b""
    if len(data) != _SIZE:
        return RecoveryPoint()
    magic, version, crc = _FRAME.unpack_from(data)
    if magic != MAGIC or version != VERSION or crc != kernels.crc32c.crc32c(data[_FRAME.size :]):
        return RecoveryPoint()
    flags, recovery_point, log_start, base, size = _BODY.unpack_from(data, _FRAME.size)
    if log_start < 0 or recovery_point < 0:
        return RecoveryPoint()
    return RecoveryPoint(recovery_point, log_start, bool(flags & 1), base, size)


def write(disk: Disk, path: Path, point: RecoveryPoint) -> None:
    """Replace the file; durable on return."""
    body = _BODY.pack(
        int(point.clean), point.recovery_point, point.log_start_offset, point.active_base_offset, point.active_size
    )
    disk.replace_file(path, _FRAME.pack(MAGIC, VERSION, kernels.crc32c.crc32c(body)) + body)

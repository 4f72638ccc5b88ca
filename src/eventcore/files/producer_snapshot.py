"""`<offset>.snapshot`: the producers as of an offset (exclusive), one entry each; layouts in `format/layout.py`.

Kafka keeps only the last batch of each producer here. A snapshot that fails its checks is as good as none: the state
is replayed from an older one, or from the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, UnsupportedFormat
from eventcore.format.layout import PRODUCER_SNAPSHOT_ENTRY, PRODUCER_SNAPSHOT_HEADER

VERSION = 1
_CRC_END = 6
_SIZE_MAX = 1 << 30


class ProducerEntry(NamedTuple):
    """One producer; -1 stands for "none" in every field but the id and the timestamp."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int
    coordinator_epoch: int
    current_txn_first_offset: int


def encode(entries: Iterable[ProducerEntry]) -> bytes:
    """The bytes of a snapshot."""
    packed = [PRODUCER_SNAPSHOT_ENTRY.struct.pack(*entry) for entry in entries]
    body = len(packed).to_bytes(4, "big") + b"".join(packed)
    return VERSION.to_bytes(2, "big") + kernels.crc32c.crc32c(body).to_bytes(4, "big") + body


def decode(data: bytes, path: Path) -> list[ProducerEntry]:
    """The entries of a snapshot. Raises CorruptFile or UnsupportedFormat."""
    if len(data) < PRODUCER_SNAPSHOT_HEADER.size:
        raise CorruptFile(f"a producer snapshot of {len(data)} bytes", path=path)
    version, crc, count = PRODUCER_SNAPSHOT_HEADER.struct.unpack_from(data)
    if version != VERSION:
        raise UnsupportedFormat(f"a producer snapshot of version {version}", path=path)
    if crc != kernels.crc32c.crc32c(data[_CRC_END:]):
        raise CorruptFile("the CRC of a producer snapshot does not match its bytes", path=path)
    if count * PRODUCER_SNAPSHOT_ENTRY.size != len(data) - PRODUCER_SNAPSHOT_HEADER.size:
        raise CorruptFile(f"{count} producers in a snapshot of {len(data)} bytes", path=path)
    entries = PRODUCER_SNAPSHOT_ENTRY.struct.iter_unpack(data[PRODUCER_SNAPSHOT_HEADER.size :])
    return [ProducerEntry(*fields) for fields in entries]


def read(disk: Disk, path: Path, crc: int | None = None) -> list[ProducerEntry]:
    """The entries of the file, which must be the one of that CRC. Raises CorruptFile or UnsupportedFormat."""
    data = disk.read_file(path, _SIZE_MAX)
    if crc is not None and _crc(data) != crc:
        raise CorruptFile("not the producer snapshot that was written last", path=path)
    return decode(data, path)


def write(disk: Disk, path: Path, entries: Iterable[ProducerEntry]) -> int:
    """Replace the file (which one a crash leaves is certain after `sync_dir`); the CRC in its header."""
    data = encode(entries)
    disk.replace_file(path, data)
    return _crc(data)


def _crc(data: bytes) -> int:
    return int.from_bytes(data[2:_CRC_END], "big")

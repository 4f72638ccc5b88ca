"""`<offset>.snapshot`: the producers as of an offset (exclusive), one entry each; layouts in `format/layout.py`.

Kafka keeps only the last batch of each producer here; the others of the last five follow behind what Kafka reads, see
`kernels.producers`. A snapshot that fails its checks is as good as none: the state is replayed from an older one, or
from the log.
"""

from __future__ import annotations

from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, UnsupportedFormat
from eventcore.format.layout import PRODUCER_SNAPSHOT_HEADER

VERSION = 1
_CRC_END = 6
_SIZE_MAX = 1 << 30


def encode(body: bytes) -> bytes:
    """The bytes of a snapshot whose body is what `ProducerTable.dump` gave."""
    return VERSION.to_bytes(2, "big") + kernels.crc32c.crc32c(body).to_bytes(4, "big") + body


def decode(data: bytes, path: Path) -> kernels.producers.ProducerTable:
    """The producers of a snapshot. Raises CorruptFile or UnsupportedFormat."""
    if len(data) < PRODUCER_SNAPSHOT_HEADER.size:
        raise CorruptFile(f"a producer snapshot of {len(data)} bytes", path=path)
    version, crc, _ = PRODUCER_SNAPSHOT_HEADER.struct.unpack_from(data)
    if version != VERSION:
        raise UnsupportedFormat(f"a producer snapshot of version {version}", path=path)
    body, table = memoryview(data)[_CRC_END:], kernels.producers.ProducerTable()
    if crc != kernels.crc32c.crc32c(body):
        raise CorruptFile("the CRC of a producer snapshot does not match its bytes", path=path)
    try:
        table.load(body)
    except ValueError as error:
        raise CorruptFile(f"a producer snapshot has {error}", path=path) from None
    return table


def read(disk: Disk, path: Path, crc: int | None = None) -> kernels.producers.ProducerTable:
    """The producers of the file, which must be the one of that CRC. Raises CorruptFile or UnsupportedFormat."""
    data = disk.read_file(path, _SIZE_MAX)
    if crc is not None and _crc(data) != crc:
        raise CorruptFile("not the producer snapshot that was written last", path=path)
    return decode(data, path)


def write(disk: Disk, path: Path, body: bytes) -> int:
    """Replace the file (which one a crash leaves is certain after `sync_dir`); the CRC in its header."""
    data = encode(body)
    disk.replace_file(path, data)
    return _crc(data)


def _crc(data: bytes) -> int:
    return int.from_bytes(data[2:_CRC_END], "big")

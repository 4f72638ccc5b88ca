"""The record codecs of kafka-python and aiokafka behind one face: bytes to records, records to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from eventcore.types import Record

CODEC_NAMES = ("uncompressed", "gzip", "snappy", "lz4", "zstd")
"""The position is the codec's number in a batch's attributes."""

_LIBRARIES = {
    "kafka": "kafka-python",
    "aiokafka": "aiokafka",
    "snappy": "python-snappy",
    "lz4": "lz4",
    "zstandard": "zstandard",
}
MISSING = " ".join(package for module, package in _LIBRARIES.items() if find_spec(module) is None)
"""What to install before these tests can run: the clients and the codec libraries kafka-python asks for."""

Read = Callable[[bytes], list[Record]]
Build = Callable[[Sequence[Record], int], bytes]

_ROOMY = 1 << 30


def kafka_python_read(data: bytes) -> list[Record]:
    """Every record of a log's bytes; a CRC that does not hold or bytes that are left over are an AssertionError."""
    from kafka.record.memory_records import MemoryRecords

    memory = MemoryRecords(data)
    records = [record for batch in memory for record in _records(batch)]
    assert memory.valid_bytes() == len(data)
    return records


def aiokafka_read(data: bytes) -> list[Record]:
    """The same with aiokafka's (Cython) reader."""
    from aiokafka.record.memory_records import MemoryRecords

    memory, records, size = MemoryRecords(data), [], 0
    while memory.has_next():
        batch = memory.next_batch()
        assert batch is not None
        records += _records(batch)
    size = memory.size_in_bytes()
    assert size == len(data)
    return records


def _records(batch: Any) -> list[Record]:
    assert batch.validate_crc()
    return [Record(r.offset, r.timestamp, r.key, r.value, tuple(map(tuple, r.headers))) for r in batch]


def kafka_python_build(records: Sequence[Record], codec: int) -> bytes:
    """One batch as kafka-python's producer sends it: base offset 0; stored plainly where compression does not pay."""
    from kafka.record.memory_records import MemoryRecordsBuilder

    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=_ROOMY)
    for record in records:
        assert builder.append(record.timestamp, record.key, record.value, list(record.headers)) is not None
    builder.close()
    return bytes(builder.buffer())


def aiokafka_build(records: Sequence[Record], codec: int) -> bytes:
    """The same as aiokafka's producer sends it."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, _ROOMY)
    for delta, record in enumerate(records):
        headers = list(record.headers)
        assert builder.append(delta, record.timestamp, record.key, record.value, headers) is not None
    return bytes(builder.build())


READERS: dict[str, Read] = {"kafka-python": kafka_python_read, "aiokafka": aiokafka_read}
BUILDERS: dict[str, Build] = {"kafka-python": kafka_python_build, "aiokafka": aiokafka_build}

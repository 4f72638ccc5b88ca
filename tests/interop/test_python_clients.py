"""The Python clients of Kafka read the bytes of our log files, and what they build we take in and read back equal."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .clients import BUILDERS, CODEC_NAMES, MISSING, READERS
from .writing import CASES, extend, open_partition, sample

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"interop: pip install {MISSING}")

each_reader = pytest.mark.parametrize("client", READERS)
each_builder = pytest.mark.parametrize("client", BUILDERS)
each_codec = pytest.mark.parametrize("codec", range(len(CODEC_NAMES)), ids=CODEC_NAMES)


def log_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.log")))


def as_tuples(records: list[ec.Record]) -> list[tuple[object, ...]]:
    return [(*record[:4], tuple(record.headers)) for record in records]


@each_reader
@each_codec
def test_clients_read_our_log_files(folder: Path, client: str, codec: int) -> None:
    records = sample(500)
    with open_partition(folder, compression_type=CODEC_NAMES[codec]) as partition:
        extend(partition, records)
    data = log_bytes(folder)
    assert data[22] & 7 == codec
    assert as_tuples(READERS[client](data)) == as_tuples(records)


@each_reader
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("codec")])
def test_clients_read_every_kind_of_log(folder: Path, client: str, name: str) -> None:
    written = CASES[name](folder)
    assert as_tuples(READERS[client](log_bytes(folder))) == as_tuples(written.records)


@each_builder
@each_codec
def test_batches_of_clients_are_taken_in_and_read_back(folder: Path, client: str, codec: int) -> None:
    records = sample(300)
    with open_partition(folder) as partition:
        for start in range(0, 300, 50):
            info = partition.append_batches(BUILDERS[client](records[start : start + 50], codec), origin="client")
            assert (info.first_offset, info.last_offset, info.duplicate) == (start, start + 49, False)
            assert info.timestamp == max(record.timestamp for record in records[start : start + 50])
        assert as_tuples(list(partition.read(0))) == as_tuples(records)
    assert log_bytes(folder)[22] & 7 == codec  # compression.type=producer keeps what the client chose
    with ec.open_partition(folder, mode="r") as partition:
        assert as_tuples(list(partition.read(0))) == as_tuples(records)


@each_builder
@each_codec
def test_a_damaged_batch_of_a_client_is_refused(folder: Path, client: str, codec: int) -> None:
    data = bytearray(BUILDERS[client](sample(50), codec))
    data[len(data) // 2] ^= 1
    with open_partition(folder) as partition:
        with pytest.raises(ec.InvalidRecord, match="CRC"):
            partition.append_batches(bytes(data), origin="client")
        assert partition.log_end_offset == 0


@each_codec
def test_a_follower_copies_a_log_byte_for_byte(folder: Path, codec: int) -> None:
    with open_partition(folder, compression_type=CODEC_NAMES[codec]) as partition:
        extend(partition, sample(200))
    data, copy = log_bytes(folder), folder.with_name("copy-0")
    copy.mkdir()
    with open_partition(copy) as partition:
        partition.append_batches(data, origin="replica")
    assert log_bytes(copy) == data

"""producer_snapshot: Kafka's bytes both ways, and every damaged file refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, StorageError, UnsupportedFormat
from eventcore.files import producer_snapshot
from eventcore.types import CachedBatch, Producer

from ..golden import vectors

ONE = Producer(4000, 3, (CachedBatch(5, 9, 115, 119, vectors.TIMESTAMP),), vectors.TIMESTAMP, 9, 100)
MARKER_ONLY = ONE._replace(batches=())
GOLDEN = pytest.mark.parametrize(
    ("data", "entries"),
    [
        pytest.param(vectors.SNAPSHOT_EMPTY, [], id="empty"),
        pytest.param(vectors.SNAPSHOT_ONE, [ONE], id="one"),
        pytest.param(vectors.SNAPSHOT_MARKER_ONLY, [MARKER_ONLY], id="marker only"),
    ],
)


BATCHES_MAGIC = kernels.producers.BATCHES_MAGIC


def older(producer_id: int, last_offset: int, delta: int = 0) -> bytes:
    return struct.pack(">qqqii", producer_id, last_offset, vectors.TIMESTAMP, 4, delta)


def test_older_batches_stand_behind_what_kafka_reads() -> None:
    rest = BATCHES_MAGIC + older(4000, 110, 3) + older(4000, 114)
    table = producer_snapshot.decode(with_crc(vectors.SNAPSHOT_ONE[6:] + rest), Path("x"))
    assert [tuple(one) for one in table.all()[0].batches] == [
        (1, 4, 107, 110, vectors.TIMESTAMP),
        (4, 4, 114, 114, vectors.TIMESTAMP),
        (5, 9, 115, 119, vectors.TIMESTAMP),
    ]
    assert producer_snapshot.encode(table.dump()) == with_crc(vectors.SNAPSHOT_ONE[6:] + rest)


def test_the_time_of_the_last_batch_is_kept_if_it_is_not_the_producers() -> None:
    table = kernels.producers.ProducerTable()
    table.note(1, 0, 4, 4, 104, 1000, False, 2000)
    (found,) = producer_snapshot.decode(producer_snapshot.encode(table.dump()), Path("x")).all()
    assert (found.timestamp, found.batches[0].timestamp) == (2000, 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "00000000000000000120.snapshot"


def with_crc(body: bytes, version: int = 1) -> bytes:
    return version.to_bytes(2, "big") + kernels.crc32c.crc32c(body).to_bytes(4, "big") + body


@GOLDEN
def test_kafkas_bytes(path: Path, data: bytes, entries: list[Producer]) -> None:
    path.write_bytes(data)
    table = producer_snapshot.read(Disk(), path)
    assert table.all() == entries
    producer_snapshot.write(Disk(), path, table.dump())
    assert path.read_bytes() == data


def test_writing_replaces_the_file_and_leaves_nothing_else(path: Path) -> None:
    producer_snapshot.write(Disk(), path, vectors.SNAPSHOT_ONE[6:])
    producer_snapshot.write(Disk(), path, vectors.SNAPSHOT_EMPTY[6:])
    assert producer_snapshot.read(Disk(), path).all() == []
    assert list(path.parent.iterdir()) == [path]


@GOLDEN
def test_every_cut_is_refused(data: bytes, entries: list[Producer]) -> None:
    for size in range(len(data)):
        with pytest.raises((CorruptFile, UnsupportedFormat)):
            producer_snapshot.decode(data[:size], Path("x"))


@GOLDEN
def test_every_flipped_bit_is_refused(path: Path, data: bytes, entries: list[Producer]) -> None:
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UnsupportedFormat if bit < 16 else CorruptFile) as caught:
            producer_snapshot.read(Disk(), path)
        assert caught.value.path == str(path)


@pytest.mark.parametrize("version", [0, 2, 999, 65535])
def test_other_versions_are_not_guessed_at(version: int) -> None:
    data = with_crc(vectors.SNAPSHOT_ONE[6:], version)
    with pytest.raises(UnsupportedFormat, match="version"):
        producer_snapshot.decode(data, Path("x"))


@pytest.mark.parametrize("count", [-1, 0, 2, 0x7FFFFFFF, -0x80000000])
def test_a_count_that_lies_is_refused_before_anything_is_reserved(count: int) -> None:
    data = with_crc(count.to_bytes(4, "big", signed=True) + vectors.SNAPSHOT_ONE[10:])
    with pytest.raises(CorruptFile, match="producers"):
        producer_snapshot.decode(data, Path("x"))


@pytest.mark.parametrize(
    "rest",
    [
        b"\0",
        bytes(45),
        BATCHES_MAGIC[:-1],
        BATCHES_MAGIC + bytes(31),
        BATCHES_MAGIC + bytes(32),
        BATCHES_MAGIC + older(4000, 120),
        BATCHES_MAGIC + older(4001, 119),
        BATCHES_MAGIC + older(4000, 114, 115),
        BATCHES_MAGIC + older(4000, -1, -1),
        BATCHES_MAGIC + 5 * older(4000, 114),
    ],
)
def test_bytes_behind_the_entries_are_refused(rest: bytes) -> None:
    with pytest.raises(CorruptFile):
        producer_snapshot.decode(with_crc(vectors.SNAPSHOT_ONE[6:] + rest), Path("x"))


def test_a_missing_file_is_a_typed_error(path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        producer_snapshot.read(Disk(), path)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_typed_error(data: bytes) -> None:
    for garbage in (data, with_crc(data)):
        try:
            table = producer_snapshot.decode(garbage, Path("x"))
        except (CorruptFile, UnsupportedFormat):
            continue
        again = producer_snapshot.decode(producer_snapshot.encode(table.dump()), Path("x"))
        assert again.all() == table.all()

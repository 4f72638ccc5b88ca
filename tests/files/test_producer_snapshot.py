"""producer_snapshot: Kafka's bytes both ways, and every damaged file refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, StorageError, UnsupportedFormat
from eventcore.files import producer_snapshot
from eventcore.files.producer_snapshot import ProducerEntry
from eventcore.format.layout import PRODUCER_SNAPSHOT_ENTRY

from ..golden import vectors

ONE = ProducerEntry(4000, 3, 9, 119, 4, vectors.TIMESTAMP, 9, 100)
MARKER_ONLY = ONE._replace(last_sequence=-1, last_offset=-1, offset_delta=0)
GOLDEN = pytest.mark.parametrize(
    ("data", "entries"),
    [
        pytest.param(vectors.SNAPSHOT_EMPTY, [], id="empty"),
        pytest.param(vectors.SNAPSHOT_ONE, [ONE], id="one"),
        pytest.param(vectors.SNAPSHOT_MARKER_ONLY, [MARKER_ONLY], id="marker only"),
    ],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "00000000000000000120.snapshot"


def with_crc(body: bytes, version: int = 1) -> bytes:
    return version.to_bytes(2, "big") + kernels.crc32c.crc32c(body).to_bytes(4, "big") + body


@GOLDEN
def test_kafkas_bytes(path: Path, data: bytes, entries: list[ProducerEntry]) -> None:
    producer_snapshot.write(Disk(), path, entries)
    assert path.read_bytes() == data
    assert producer_snapshot.read(Disk(), path) == entries


def test_fields_are_those_of_the_layout() -> None:
    assert ProducerEntry._fields == tuple(field.name for field in PRODUCER_SNAPSHOT_ENTRY.fields)


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


entries_of_any_kind = st.builds(ProducerEntry, *(signed(bits) for bits in (64, 16, 32, 64, 32, 64, 32, 64)))


@given(st.lists(entries_of_any_kind, max_size=20))
def test_entries_come_back(entries: list[ProducerEntry]) -> None:
    assert producer_snapshot.decode(producer_snapshot.encode(entries), Path("x")) == entries


def test_writing_replaces_the_file_and_leaves_nothing_else(path: Path) -> None:
    producer_snapshot.write(Disk(), path, iter([ONE, MARKER_ONLY]))
    producer_snapshot.write(Disk(), path, [ONE])
    assert producer_snapshot.read(Disk(), path) == [ONE]
    assert list(path.parent.iterdir()) == [path]


@GOLDEN
def test_every_cut_is_refused(data: bytes, entries: list[ProducerEntry]) -> None:
    for size in range(len(data)):
        with pytest.raises((CorruptFile, UnsupportedFormat)):
            producer_snapshot.decode(data[:size], Path("x"))


@GOLDEN
def test_every_flipped_bit_is_refused(path: Path, data: bytes, entries: list[ProducerEntry]) -> None:
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


@pytest.mark.parametrize("rest", [b"\0", bytes(45)])
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
            entries = producer_snapshot.decode(garbage, Path("x"))
        except (CorruptFile, UnsupportedFormat):
            continue
        assert producer_snapshot.encode(entries) == garbage

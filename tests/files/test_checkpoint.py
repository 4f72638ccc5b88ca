"""checkpoint: Kafka's text files byte for byte, and nothing that looks a little different."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.disk import Disk
from eventcore.errors import CorruptFile
from eventcore.files import checkpoint

EPOCHS = b"0\n2\n0 0\n3 4711\n"
OFFSETS = b"0\n2\norders 0 17\n__consumer_offsets 49 9223372036854775807\n"
METADATA = b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw"
TOPIC_ID = uuid.UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")
INT64_MAX = 2**63 - 1

offsets_ = st.integers(0, INT64_MAX)
topics = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", fullmatch=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def test_epochs_are_kafkas_text(path: Path) -> None:
    checkpoint.write_epochs(Disk(), path, [(0, 0), (3, 4711)])
    assert path.read_bytes() == EPOCHS
    assert checkpoint.read_epochs(Disk(), path) == [(0, 0), (3, 4711)]


def test_offsets_are_kafkas_text(path: Path) -> None:
    offsets = {("orders", 0): 17, ("__consumer_offsets", 49): INT64_MAX}
    checkpoint.write_offsets(Disk(), path, offsets)
    assert path.read_bytes() == OFFSETS
    assert checkpoint.read_offsets(Disk(), path) == offsets


def test_the_topic_id_is_kafkas_text(path: Path) -> None:
    checkpoint.write_topic_id(Disk(), path, TOPIC_ID)
    assert path.read_bytes() == METADATA
    assert checkpoint.read_topic_id(Disk(), path) == TOPIC_ID


def test_no_entries(path: Path) -> None:
    for data in (None, b"", b"0\n0\n"):
        if data is not None:
            path.write_bytes(data)
        assert checkpoint.read_epochs(Disk(), path) == []
        assert checkpoint.read_offsets(Disk(), path) == {}
    checkpoint.write_epochs(Disk(), path, [])
    assert path.read_bytes() == b"0\n0\n"


def test_no_topic_id(path: Path) -> None:
    assert checkpoint.read_topic_id(Disk(), path) is None


@given(epochs=st.sets(st.integers(0, 2**31 - 1), max_size=20), data=st.data())
def test_epochs_come_back(tmp_path_factory: pytest.TempPathFactory, epochs: set[int], data: st.DataObject) -> None:
    starts = data.draw(st.sets(offsets_, min_size=len(epochs), max_size=len(epochs)))
    entries = list(zip(sorted(epochs), sorted(starts), strict=True))
    path = tmp_path_factory.mktemp("epochs") / "leader-epoch-checkpoint"
    checkpoint.write_epochs(Disk(), path, entries)
    assert checkpoint.read_epochs(Disk(), path) == entries


@pytest.mark.sampled
@given(offsets=st.dictionaries(st.tuples(topics, st.integers(0, 2**31 - 1)), offsets_, max_size=20))
def test_offsets_come_back(tmp_path_factory: pytest.TempPathFactory, offsets: dict[tuple[str, int], int]) -> None:
    path = tmp_path_factory.mktemp("offsets") / "recovery-point-offset-checkpoint"
    checkpoint.write_offsets(Disk(), path, offsets)
    assert checkpoint.read_offsets(Disk(), path) == offsets


@given(topic_id=st.uuids().filter(lambda found: found.int != 0))
def test_topic_ids_come_back(tmp_path_factory: pytest.TempPathFactory, topic_id: uuid.UUID) -> None:
    path = tmp_path_factory.mktemp("metadata") / "partition.metadata"
    checkpoint.write_topic_id(Disk(), path, topic_id)
    assert checkpoint.read_topic_id(Disk(), path) == topic_id


Read = Callable[[Disk, Path], Any]
FILES = [
    pytest.param(checkpoint.read_epochs, EPOCHS, id="epochs"),
    pytest.param(checkpoint.read_offsets, OFFSETS, id="offsets"),
    pytest.param(checkpoint.read_topic_id, METADATA, id="metadata"),
]


@pytest.mark.parametrize(("read", "data"), FILES)
def test_every_cut_is_refused(path: Path, read: Read, data: bytes) -> None:
    first = 0 if read is checkpoint.read_topic_id else 1  # an empty checkpoint has no entries, as in Kafka
    for size in range(first, len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFile) as caught:
            read(Disk(), path)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(("read", "data"), FILES)
def test_every_flipped_bit_is_refused_or_another_well_formed_file(path: Path, read: Read, data: bytes) -> None:
    """A digit for a digit, a letter for a letter: without a checksum only the form can be checked."""
    raised = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read(Disk(), path)
        except CorruptFile:
            raised += 1
            continue
        replaced, original = damaged[bit // 8], data[bit // 8]
        assert chr(replaced).isalnum() or chr(replaced) in "._-"
        assert chr(original).isalnum() or chr(original) in "._-"
        assert found != read(Disk(), rewritten(path, data)) or read is checkpoint.read_topic_id
    assert raised > len(data)


def rewritten(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"1\n0\n",
        b"-1\n0\n",
        b"00\n0\n",
        b"0\n",
        b"0\n1\n",
        b"0\n0\n0 0\n",
        b"0\n-1\n",
        b"0\n1\n0 0",
        b"0\n1\n0 0\n1",
        b"0\n1\n0 0\n\n",
        b"0\n1\n\n",
        b"0\n1\n0\n",
        b"0\n1\n0 0 0\n",
        b"0\n1\n0  0\n",
        b"0\n1\n 0 0\n",
        b"0\n1\n0\t0\n",
        b"0\r\n0\r\n",
        b"0\n1\n-1 0\n",
        b"0\n1\n0 -1\n",
        b"0\n1\n+1 0\n",
        b"0\n1\n0 1_0\n",
        b"0\n1\n2147483648 0\n",
        b"0\n1\n0 9223372036854775808\n",
        b"0\n1\n0 " + b"9" * 5000 + b"\n",
        b"0\n2\n0 0\n0 1\n",
        b"0\n2\n1 0\n0 1\n",
        b"0\n2\n0 5\n1 5\n",
        b"0\n2\n0 5\n1 4\n",
        "0\n1\n٣ 0\n".encode(),
        b"0\n1\n\xff 0\n",
        bytes(4096),
        b"\n\n\n",
    ],
)
def test_epochs_that_kafka_would_not_write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CorruptFile) as caught:
        checkpoint.read_epochs(Disk(), path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "line",
    [
        b"orders 0",
        b"orders 0 1 2",
        b"orders x 1",
        b"orders 0 -1",
        b"orders 2147483648 0",
        b"../up 0 1",
        b".. 0 1",
        b"a/b 0 1",
        b" 0 1",
        b"x" * 250 + b" 0 1",
        b"orders 0 1\norders 0 2",
    ],
)
def test_offsets_that_kafka_would_not_write(path: Path, line: bytes) -> None:
    path.write_bytes(b"0\n%d\n%s\n" % (line.count(b"\n") + 1, line))
    with pytest.raises(CorruptFile):
        checkpoint.read_offsets(Disk(), path)


def test_metadata_of_a_later_version_and_with_a_newline(path: Path) -> None:
    path.write_bytes(METADATA.replace(b"0", b"3", 1) + b"\n")
    assert checkpoint.read_topic_id(Disk(), path) == TOPIC_ID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version: 0\n",
        b"topic_id: AAECAwQFBgcICQoLDA0ODw",
        b"version: -1\ntopic_id: AAECAwQFBgcICQoLDA0ODw",
        b"version: x\ntopic_id: AAECAwQFBgcICQoLDA0ODw",
        b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA",
        b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODx",
        b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw==",
        b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0O+w",
        b"version: 0\ntopic_id: 00010203-0405-0607-0809-0a0b0c0d0e0f",
        b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw\nmore: 1",
        METADATA + b"\xff",
        bytes(2000),
    ],
)
def test_metadata_that_names_no_topic(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CorruptFile):
        checkpoint.read_topic_id(Disk(), path)


@pytest.mark.parametrize("read", [checkpoint.read_epochs, checkpoint.read_offsets, checkpoint.read_topic_id])
def test_a_file_of_unlikely_size_is_not_read(path: Path, read: Read) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CorruptFile, match="bytes"):
        read(Disk(), path)

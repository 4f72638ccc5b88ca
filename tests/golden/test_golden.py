"""Golden vectors: bytes that Kafka's own classes write, read and written by both kernels and by the layers above."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from eventcore._kernels import KERNELS
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, UnsupportedFormat
from eventcore.files import producer_snapshot
from eventcore.files.offset_index import OffsetIndex
from eventcore.files.time_index import TimeIndex
from eventcore.files.txn_index import TxnIndex
from eventcore.format import compression, control, layout
from eventcore.format.batch import BatchHeader

from . import vectors
from .vectors import BATCHES, TIMESTAMP, GoldenBatch

each_batch = pytest.mark.parametrize("golden", BATCHES, ids=lambda golden: golden.name)


class Kernels:
    """The modules of one kernel package, imported when first used."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __getattr__(self, name: str) -> ModuleType:
        return import_module(f"{self.package}.{name}")


@pytest.fixture(params=["native", "pure"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "native" and KERNELS == "pure" and find_spec("eventcore._native.batch") is None:
        pytest.skip("built without native kernels")
    return Kernels(f"eventcore._{request.param}")


def test_crc32c_check_value(kernels: Kernels) -> None:
    data, crc = vectors.CRC32C_CHECK
    assert kernels.crc32c.crc32c(data) == crc


@pytest.mark.parametrize(("value", "encoded"), [*vectors.VARINTS.items(), *vectors.VARLONGS.items()])
def test_varints(value: int, encoded: str) -> None:
    from eventcore._pure import varint

    data, out = bytes.fromhex(encoded), bytearray()
    varint.write_varint(out, value)
    assert out == data
    assert varint.read_varlong(memoryview(data), 0, len(data)) == (value, len(data))
    if encoded in vectors.VARINTS.values():
        assert varint.read_varint(memoryview(data), 0, len(data)) == (value, len(data))


@each_batch
def test_header_fields(kernels: Kernels, golden: GoldenBatch) -> None:
    assert kernels.batch.read_header(golden.data) == golden.fields
    assert kernels.batch.crc_holds(golden.data)
    assert BatchHeader.read(golden.data, 0) == golden.fields


@each_batch
def test_header_layout(golden: GoldenBatch) -> None:
    assert tuple(layout.BATCH_HEADER.unpack(golden.data).values()) == golden.fields


@each_batch
def test_records(kernels: Kernels, golden: GoldenBatch) -> None:
    records, position = kernels.decode.read_records(golden.data, 0, len(golden.data), 0, 1 << 62, 1 << 30, 0)
    assert position == len(golden.data)
    assert [(*r[:4], tuple(r.headers)) for r in records] == [tuple(r) for r in golden.records]


def test_a_log_of_all_vectors_is_scanned_to_its_end(kernels: Kernels) -> None:
    data = b"".join(golden.data for golden in BATCHES)
    rows = bytearray(8 * kernels.batch.ROW_SIZE * (len(BATCHES) + 1))
    assert kernels.batch.scan(data, 0, len(data), rows) == (len(BATCHES), len(data), kernels.batch.OK)
    sizes = list(memoryview(rows).cast("q"))[1 :: kernels.batch.ROW_SIZE]
    assert sizes[: len(BATCHES)] == [len(golden.data) for golden in BATCHES]


def test_encoding_writes_the_bytes_that_kafka_writes(kernels: Kernels) -> None:
    golden, out = vectors.PLAIN, bytearray(200)
    done = kernels.encode.encode(out, 50, len(out), list(golden.records), 0, 100, 7, 0, TIMESTAMP)
    assert done == (50 + len(golden.data), 2, TIMESTAMP + 5)
    assert out == bytes(50) + golden.data + bytes(len(out) - 50 - len(golden.data))


@each_batch
def test_write_header_writes_the_bytes_that_kafka_writes(kernels: Kernels, golden: GoldenBatch) -> None:
    out = bytearray(61) + golden.data[61:]
    base_offset, _, leader_epoch, _, _, *rest = golden.fields
    kernels.batch.write_header(out, 0, len(out), base_offset, leader_epoch, *rest)
    assert out == golden.data


@each_batch
def test_every_flipped_bit_under_the_crc_is_noticed(kernels: Kernels, golden: GoldenBatch) -> None:
    crc_start = layout.BATCH_HEADER.offsets["attributes"]
    for bit in range(crc_start * 8, len(golden.data) * 8):
        damaged = bytearray(golden.data)
        damaged[bit // 8] ^= 1 << bit % 8
        rows = bytearray(8 * kernels.batch.ROW_SIZE)
        assert kernels.batch.scan(damaged, 0, len(damaged), rows)[0] == 0, f"bit {bit}"


def test_offset_index_entry(kernels: Kernels) -> None:
    assert layout.OFFSET_INDEX_ENTRY.pack(relative_offset=42, position=8192) == vectors.OFFSET_INDEX_ENTRY
    assert kernels.index.find_offset(vectors.OFFSET_INDEX_ENTRY, 1, 42) == (42, 8192)
    assert kernels.index.find_offset(vectors.OFFSET_INDEX_ENTRY, 1, 41) is None


def test_time_index_entries(kernels: Kernels) -> None:
    pack = layout.TIME_INDEX_ENTRY.pack
    entries = pack(timestamp=TIMESTAMP, relative_offset=42) + pack(timestamp=TIMESTAMP + 1, relative_offset=50)
    assert entries == vectors.TIME_INDEX_ENTRIES
    assert kernels.index.find_timestamp(entries, 2, TIMESTAMP) == (TIMESTAMP, 42)
    assert kernels.index.find_timestamp(entries, 2, TIMESTAMP + 9) == (TIMESTAMP + 1, 50)


def test_txn_index_entry() -> None:
    fields = {"version": 0, "producer_id": 4000, "first_offset": 100, "last_offset": 104, "last_stable_offset": 105}
    assert layout.TXN_INDEX_ENTRY.pack(**fields) == vectors.TXN_INDEX_ENTRY


ONE = {
    "producer_id": 4000,
    "producer_epoch": 3,
    "last_sequence": 9,
    "last_offset": 119,
    "offset_delta": 4,
    "timestamp": TIMESTAMP,
    "coordinator_epoch": 9,
    "current_txn_first_offset": 100,
}
MARKER_ONLY = {**ONE, "last_sequence": -1, "last_offset": -1, "offset_delta": 0}
SNAPSHOTS = [
    pytest.param(vectors.SNAPSHOT_EMPTY, [], id="empty"),
    pytest.param(vectors.SNAPSHOT_ONE, [ONE], id="one"),
    pytest.param(vectors.SNAPSHOT_MARKER_ONLY, [MARKER_ONLY], id="marker only"),
]


@pytest.mark.parametrize(("data", "producers"), SNAPSHOTS)
def test_producer_snapshot_layout(kernels: Kernels, data: bytes, producers: list[dict[str, int]]) -> None:
    header, entry = layout.PRODUCER_SNAPSHOT_HEADER, layout.PRODUCER_SNAPSHOT_ENTRY
    crc = kernels.crc32c.crc32c(data[6:])
    assert header.unpack(data) == {"version": 1, "crc": crc, "entry_count": len(producers)}
    assert [entry.unpack(data, header.size + n * entry.size) for n in range(len(producers))] == producers
    assert len(data) == header.size + len(producers) * entry.size


@pytest.mark.parametrize(("data", "producers"), SNAPSHOTS)
def test_producer_snapshot_file(tmp_path: Path, data: bytes, producers: list[dict[str, int]]) -> None:
    path = tmp_path / f"{120:020}.snapshot"
    path.write_bytes(data)
    table = producer_snapshot.read(Disk(), path)
    assert [one.producer_id for one in table.all()] == [producer["producer_id"] for producer in producers]
    producer_snapshot.write(Disk(), path, table.dump())
    assert path.read_bytes() == data


@pytest.mark.parametrize("position", range(len(vectors.SNAPSHOT_ONE)))
def test_a_snapshot_with_a_flipped_byte_is_refused(tmp_path: Path, position: int) -> None:
    damaged = bytearray(vectors.SNAPSHOT_ONE)
    damaged[position] ^= 0x10
    with pytest.raises(UnsupportedFormat if position < 2 else CorruptFile):
        producer_snapshot.decode(bytes(damaged), tmp_path)


def test_txn_index_file(tmp_path: Path) -> None:
    path = tmp_path / f"{100:020}.txnindex"
    index = TxnIndex(Disk(), path, 100)
    index.append(producer_id=4000, first_offset=100, last_offset=104, last_stable_offset=105)
    index.close()
    assert path.read_bytes() == vectors.TXN_INDEX_ENTRY
    assert list(TxnIndex(Disk(), path, 100).entries()) == [(4000, 100, 104, 105)]


def test_a_txn_index_of_a_future_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{100:020}.txnindex"
    path.write_bytes(b"\0\1" + vectors.TXN_INDEX_ENTRY[2:])
    with pytest.raises(UnsupportedFormat, match="version 1"):
        TxnIndex(Disk(), path, 100).entries()


def test_offset_index_file(tmp_path: Path) -> None:
    path = tmp_path / f"{100:020}.index"
    index = OffsetIndex(Disk(), path, 100, write=True, capacity=4096)
    index.append(142, 8192)
    assert (index.lookup(141), index.lookup(142)) == (None, (142, 8192))
    index.trim()
    index.close()
    assert path.read_bytes() == vectors.OFFSET_INDEX_ENTRY


def test_time_index_file(tmp_path: Path) -> None:
    path = tmp_path / f"{100:020}.timeindex"
    index = TimeIndex(Disk(), path, 100, write=True, capacity=4096)
    index.append(TIMESTAMP, 142)
    index.append(TIMESTAMP, 145)  # not above the last: skipped, as Kafka does
    index.append(TIMESTAMP + 1, 150)
    index.trim()
    index.close()
    assert path.read_bytes() == vectors.TIME_INDEX_ENTRIES


@pytest.mark.parametrize(
    ("golden", "kind"), [(vectors.COMMIT_MARKER, control.COMMIT), (vectors.ABORT_MARKER, control.ABORT)]
)
def test_markers(golden: GoldenBatch, kind: int) -> None:
    record = golden.records[0]
    assert record.key is not None
    assert record.value is not None
    assert control.marker_record(kind, 9) == (record.key, record.value)
    assert control.read_marker(record.key, record.value) == (kind, 9)


@pytest.mark.parametrize(("codec", "prefix"), [(3, vectors.LZ4_PREFIX), (2, vectors.SNAPPY_PREFIX)])
def test_the_containers_of_lz4_and_snappy_begin_as_kafkas_do(codec: int, prefix: bytes) -> None:
    pytest.importorskip("cramjam", reason="pip install 'eventcore[codecs]'")
    stored = compression.compress(codec, None, b"value " * 100)
    assert stored[: len(prefix)] == prefix
    assert compression.decompress(codec, stored, 1000) == b"value " * 100


@pytest.mark.parametrize(("key", "expected"), vectors.MURMUR2.items())
def test_murmur2_vectors_agree_with_kafka_python(key: bytes, expected: int) -> None:
    """Until the partitioner is here this keeps the vectors honest; then it compares the partitioner with them."""
    partitioner = pytest.importorskip("kafka.partitioner.default", reason="pip install kafka-python")
    assert partitioner.murmur2(key) & 0xFFFFFFFF == expected & 0xFFFFFFFF

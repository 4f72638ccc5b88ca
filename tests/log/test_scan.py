"""Scan: partitions as a table for DuckDB, Polars and pyarrow; ranges by offset and time; what cannot be is refused."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.format import control

from .conftest import NOW, FakeClock, Open
from .test_append_batches import marker, transactions

pytest.importorskip("nanoarrow")

HEADERS = (("h", b"x"), ("ü", None))
ITEMS = [
    ec.Record(
        value=None if i % 7 == 0 else b"v%d" % i * (i % 5), key=None if i % 3 == 0 else b"k%d" % i,
        timestamp=NOW + (i * 37) % 1000, headers=HEADERS if i % 11 == 0 else (),
    )
    for i in range(1000)
]  # fmt: skip
CODECS = ["producer", "zstd", "gzip"]


def when(ms: int) -> datetime:
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=ms)


def row_of(record: ec.Record) -> dict[str, Any]:
    return {"offset": record.offset, "timestamp": when(record.timestamp), "key": record.key, "value": record.value}


def rows(scan: ec.Scan) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [
        (int(found.offset[row]), int(found.timestamp[row]), found.key(row), found.value(row))
        for found in scan
        for row in range(len(found))
    ]


@pytest.fixture(params=CODECS)
def filled(request: pytest.FixtureRequest, open_log: Open) -> ec.Partition:
    p = open_log(compression_type=request.param, segment_bytes=16_384, max_message_bytes=2000)
    p.extend(ITEMS)
    return p


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[ec.Partition]]:
    partitions = [ec.open_partition(tmp_path / f"orders-{n}", fsync="never") for n in (3, 7)]
    for n, partition in enumerate(partitions):
        partition.extend([b"%d.%d" % (n, i) for i in range(10)])
    yield partitions
    for partition in partitions:
        partition.close()


@pytest.mark.parametrize("batch_rows", [1, 64, 100_000])
def test_every_record_once_and_in_order(filled: ec.Partition, batch_rows: int) -> None:
    scan = ec.scan(filled, batch_rows=batch_rows)
    assert scan.schema == ("offset", "timestamp", "key", "value")
    assert rows(scan) == [tuple(record[:4]) for record in filled]
    assert rows(scan) == rows(ec.scan(filled))
    largest = max(entry.record_count for entry in filled.batches())
    assert max(len(found) for found in scan) <= max(batch_rows, largest) + largest


def test_ranges_of_offsets(filled: ec.Partition) -> None:
    expected = [tuple(record[:4]) for record in filled]
    for start, stop in ((None, None), (0, 1), (17, 880), (999, 1000), (5, 5), (700, None), (None, 10)):
        assert rows(ec.scan(filled, start=start, stop=stop)) == expected[start or 0 : stop]


def test_ranges_of_times(filled: ec.Partition) -> None:
    expected = [tuple(record[:4]) for record in filled]
    bounds = (None, NOW - 1, NOW, NOW + 1, NOW + 400, NOW + 999, NOW + 1000)
    for since in bounds:
        for until in bounds:
            if since is not None and until is not None and since > until:
                continue
            wanted = [
                row for row in expected if (since is None or since <= row[1]) and (until is None or row[1] < until)
            ]
            assert rows(ec.scan(filled, since=since, until=until)) == wanted, (since, until)
            both = [row for row in wanted if 100 <= row[0] < 900]
            assert rows(ec.scan(filled, since=since, until=until, start=100, stop=900)) == both, (since, until)


def test_times_are_exact(open_log: Open) -> None:
    p = open_log()
    p.extend([ec.Record(value=b"", timestamp=NOW + i) for i in range(3)])
    half = when(NOW) + timedelta(microseconds=500)
    assert [row[0] for row in rows(ec.scan(p, since=half))] == [1, 2]
    assert [row[0] for row in rows(ec.scan(p, until=half))] == [0]
    assert [row[0] for row in rows(ec.scan(p, since=when(NOW + 1), until=when(NOW + 2)))] == [1]
    assert [len(found) for found in ec.scan(p, columns=["offset"], since=NOW + 1)] == [2]
    with pytest.raises(AttributeError):
        next(iter(ec.scan(p, columns=["offset"], since=NOW + 1))).timestamp  # noqa: B018


def test_several_partitions(two: list[ec.Partition]) -> None:
    scan = ec.scan(two)
    assert scan.schema == ("partition", "offset", "timestamp", "key", "value")
    found = [(batch.partition, batch.value(row)) for batch in scan for row in range(len(batch))]
    assert found == [(3, b"0.%d" % i) for i in range(10)] + [(7, b"1.%d" % i) for i in range(10)]
    assert [len(batch) for batch in ec.scan(two, columns=["partition"])] == [10, 10]
    assert list(ec.scan([])) == []


def test_names_without_numbers_count(tmp_path: Path) -> None:
    partitions = [ec.open_partition(tmp_path / name, fsync="never") for name in ("a", "b")]
    for partition in partitions:
        partition.append(partition.path.name.encode())
    assert [(batch.partition, batch.value(0)) for batch in ec.scan(partitions)] == [(0, b"a"), (1, b"b")]
    for partition in partitions:
        partition.close()


def test_it_goes_to_the_end_known_when_it_is_read(open_log: Open) -> None:
    p = open_log()
    scan = ec.scan(p)
    assert rows(scan) == []
    p.extend([b"a", b"b"])
    assert len(rows(scan)) == 2


def test_markers_and_aborted_records_are_left_out(open_log: Open) -> None:
    p = open_log()
    transactions(p)
    p.append_batches(marker(control.ABORT, 8, 3, 0), "replica")
    assert [row[3] for row in rows(ec.scan(p))] == [b"c0", b"c1", b"a2", b"a3", b"o6", b"p7"]
    for batch_rows in (1, 100):
        committed = ec.scan(p, isolation="read_committed", batch_rows=batch_rows)
        assert [row[3] for row in rows(committed)] == [b"c0", b"c1", b"p7"]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"columns": ["colour"]}, ec.UsageError, "there are offset, timestamp, key, value, headers"),
    ({"columns": ["partition"]}, ec.UsageError, "no column 'partition'"),
    ({"columns": "offset"}, ec.UsageError, "sequence of names, not str"),
    ({"columns": 5}, ec.UsageError, "sequence of names, not int"),
    ({"columns": []}, ec.UsageError, "no column was asked for"),
    ({"columns": ["key", "key"]}, ec.UsageError, "twice"),
    ({"start": 20, "stop": 10}, ec.UsageError, "below the start"),
    ({"stop": 1001}, ec.OffsetOutOfRange, "beyond the end, 1000"),
    ({"start": 1001}, ec.OffsetOutOfRange, "outside"),
    ({"start": -1}, ec.OffsetOutOfRange, "outside"),
    ({"since": datetime(2024, 1, 1)}, ec.UsageError, "naive"),
    ({"until": datetime(2024, 1, 1)}, ec.UsageError, "naive"),
    ({"since": 10, "until": 9}, ec.UsageError, "since lies behind until"),
    ({"since": "2024"}, TypeError, "timestamp"),
    ({"batch_rows": 0}, ec.UsageError, "batch_rows"),
    ({"batch_rows": -5}, ec.UsageError, "batch_rows"),
    ({"batch_rows": 2.5}, ec.UsageError, "batch_rows"),
    ({"isolation": "none"}, ec.UsageError, "isolation"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), BAD, ids=[str(case[0]) for case in BAD])
def test_what_cannot_be_is_refused_at_once(open_log: Open, wrong: dict[str, Any], error: Any, says: str) -> None:
    p = open_log()
    p.extend(ITEMS)
    with pytest.raises(error, match=says):
        ec.scan(p, **wrong)


@pytest.mark.parametrize("source", [None, 5, "events", b"", [None], {}])
def test_what_is_no_partition(source: Any) -> None:
    with pytest.raises(ec.UsageError, match="cannot be scanned"):
        ec.scan(source)


def test_pyarrow(filled: ec.Partition) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(ec.scan(filled, batch_rows=64))
    types = (pa.int64(), pa.timestamp("ms", "UTC"), pa.large_binary(), pa.large_binary())
    assert table.schema == pa.schema(dict(zip(("offset", "timestamp", "key", "value"), types, strict=True)))
    table.validate(full=True)
    assert table.to_pylist() == [row_of(record) for record in filled]
    reader = pa.RecordBatchReader.from_stream(ec.scan(filled, columns=["value"], start=10, stop=20))
    assert reader.read_all().to_pylist() == [{"value": record.value} for record in filled.read(10, 20)]


def test_pyarrow_headers(filled: ec.Partition) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(ec.scan(filled, columns=["headers", "offset"]))
    table.validate(full=True)
    item = pa.struct({"key": pa.utf8(), "value": pa.binary()})
    assert table.schema.field("headers").type == pa.list_(item)
    assert table.to_pylist() == [
        {"headers": [{"key": key, "value": value} for key, value in record.headers], "offset": record.offset}
        for record in filled
    ]


def test_polars(filled: ec.Partition) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(ec.scan(filled))
    assert frame.rows(named=True) == [row_of(record) for record in filled]
    longest = frame.select(pl.col("value").bin.size().max()).item()
    assert longest == max(len(record.value or b"") for record in filled)


def test_duckdb(filled: ec.Partition, two: list[ec.Partition]) -> None:
    duckdb = pytest.importorskip("duckdb")
    events = ec.scan(filled)
    found = duckdb.sql('SELECT "offset", key, value FROM events WHERE key IS NOT NULL ORDER BY "offset"').fetchall()
    assert found == [(record.offset, record.key, record.value) for record in filled if record.key is not None]
    orders = ec.scan(two)
    found = duckdb.sql('SELECT "partition", count(*) FROM orders GROUP BY ALL ORDER BY ALL').fetchall()
    assert found == [(3, 10), (7, 10)]
    assert duckdb.sql("SELECT max(timestamp) FROM events").fetchall() == [(when(NOW + 999),)]
    del events, orders


def test_a_stream_reads_as_it_is_asked(open_log: Open) -> None:
    pa = pytest.importorskip("pyarrow")
    if ec.build_info()["kernels"] == "pure":
        pytest.skip("the twin makes all arrays first")
    p = open_log()
    for _ in range(10):
        p.extend(ITEMS)
    asked = 0

    class Counted(ec.Scan):
        def __iter__(self) -> Any:
            nonlocal asked
            for found in super().__iter__():
                asked += 1
                yield found

    reader = pa.RecordBatchReader.from_stream(Counted(p, batch_rows=1000))
    assert asked == 0
    assert reader.read_next_batch().num_rows == 1000
    assert asked == 1
    thread = threading.Thread(target=reader.read_next_batch)
    thread.start()
    thread.join()
    assert asked == 2
    p.truncate(5000)
    with pytest.raises(Exception, match="LogTruncated: the log was truncated while it was read"):
        reader.read_all()
    del reader
    gc.collect()


def test_arrays_outlive_the_partition(open_log: Open) -> None:
    pa = pytest.importorskip("pyarrow")
    p = open_log()
    p.extend(ITEMS)
    expected = [row_of(record) for record in p]
    table = pa.table(ec.scan(p))
    p.truncate(0)
    p.close()
    gc.collect()
    assert table.to_pylist() == expected


def test_damage_is_told(open_log: Open, clock: FakeClock) -> None:
    pa = pytest.importorskip("pyarrow")
    p = open_log()
    p.extend(ITEMS)
    view = p.segments.active.log.view
    view[300] ^= 1
    with pytest.raises(ec.CorruptRecord):
        rows(ec.scan(p))
    with pytest.raises(Exception, match="CRC"):
        pa.table(ec.scan(p))
    view[300] ^= 1
    assert len(rows(ec.scan(p))) == 1000

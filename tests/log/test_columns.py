"""Columns: equal to the records, whatever the segments, codecs and nulls; and what pins what."""

from __future__ import annotations

import gc
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from tests.parity.twins import batch, record

from .conftest import NOW, Open

ITEMS = [
    ec.Record(
        value=None if i % 7 == 0 else b"v%d" % i * (i % 5), key=None if i % 3 == 0 else b"k%d" % i, timestamp=NOW + i
    )
    for i in range(300)
]


def rows(columns: ec.ColumnBatch) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [
        (int(columns.offset[row]), int(columns.timestamp[row]), columns.key(row), columns.value(row))
        for row in range(len(columns))
    ]


@pytest.mark.parametrize("codec", ["producer", "gzip", "lz4", "zstd"])
@pytest.mark.parametrize("segment_bytes", [4096, 1 << 20])
def test_columns_equal_records(open_log: Open, codec: str, segment_bytes: int) -> None:
    p = open_log(compression_type=codec, segment_bytes=segment_bytes, max_message_bytes=1000)
    p.extend(ITEMS)
    expected = [record[:4] for record in p]
    assert rows(p.columns()) == expected
    for start, stop in ((0, 1), (17, 180), (299, 300), (5, 5), (300, None), (250, 300)):
        assert rows(p.columns(start, stop)) == expected[start:stop]
    for start, stop in ((301, None), (0, 301), (-1, None)):
        with pytest.raises(ec.OffsetOutOfRange):
            p.columns(start, stop)


def test_one_segment_is_not_copied(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    columns = p.columns()
    assert len(columns.buffer) == p.segments.active.log.capacity
    assert columns.buffer.readonly


def test_columns_outlive_their_partition(open_log: Open) -> None:
    p = open_log(segment_bytes=8192)
    p.extend(ITEMS)
    columns = p.columns(0, 50)
    expected = rows(columns)
    p.delete_records(-1)
    p.roll()
    p.close()
    del p
    gc.collect()
    assert rows(columns) == expected


def test_to_arrow(open_log: Open) -> None:
    pytest.importorskip("nanoarrow")
    p = open_log()
    p.extend(ITEMS)
    array = p.columns().to_arrow()
    assert array.to_pylist() == [
        {
            "offset": offset,
            "timestamp": datetime.fromtimestamp(timestamp / 1000, timezone.utc),
            "key": key,
            "value": value,
        }
        for offset, timestamp, key, value in (record[:4] for record in p)
    ]
    assert p.columns(300).to_arrow().to_pylist() == []


def test_columns_add_up(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    columns = p.columns()
    assert columns.value_length[columns.value_length > 0].sum() == sum(len(r.value or b"") for r in ITEMS)
    assert (np.diff(columns.offset) == 1).all()


@pytest.mark.parametrize("codec", ["producer", "zstd"])
@pytest.mark.parametrize("segment_bytes", [4096, 1 << 20])
def test_only_what_was_asked_for(open_log: Open, codec: str, segment_bytes: int) -> None:
    p = open_log(compression_type=codec, segment_bytes=segment_bytes, max_message_bytes=1000)
    p.extend(ITEMS)
    whole = p.columns(10, 290)
    for names in (["offset"], ["value"], ("key", "timestamp"), ["headers"], ["headers", "value", "offset"]):
        found = p.columns(10, 290, columns=names)
        assert len(found) == 280
        assert set(found.names) == set(names)
        for name in ("offset", "timestamp", "key_length", "value_length"):
            if name.split("_")[0] in names:
                assert (getattr(found, name) == getattr(whole, name)).all()
            else:
                with pytest.raises(AttributeError, match="ask for it: columns="):
                    getattr(found, name)
        for part in ("key", "value"):
            if part in names:
                assert [getattr(found, part)(row) for row in range(280)] == [
                    getattr(whole, part)(row) for row in range(280)
                ]
            else:
                with pytest.raises(AttributeError, match=f"{part}_position was not read"):
                    getattr(found, part)(0)
        if "headers" in names:
            assert found.headers == [record.headers for record in p.read(10, 290)]
    with pytest.raises(AttributeError, match="headers"):
        whole.headers  # noqa: B018
    with pytest.raises(AttributeError, match="no colour"):
        whole.colour  # noqa: B018


@pytest.mark.parametrize("names", [(), ["offset", "colour"], "offset", 5, (1,), ("key", "key")])
def test_columns_that_are_none(open_log: Open, names: Any) -> None:
    with pytest.raises(ec.UsageError, match="there are offset, timestamp, key, value, headers"):
        open_log().columns(columns=names)


@pytest.mark.parametrize("threads", [0, -1, 1.5, None])
def test_threads_that_are_none(open_log: Open, threads: Any) -> None:
    with pytest.raises(ec.UsageError, match="threads"):
        open_log().columns(threads=threads)


@pytest.mark.parametrize("codec", ["producer", "zstd"])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_give_the_same(open_log: Open, codec: str, threads: int) -> None:
    p = open_log(compression_type=codec)
    for _ in range(20):
        p.extend([(b"k%d" % i, b"v" * 40_000) for i in range(20)])
    for start, stop in ((0, 400), (7, 393), (399, 400), (5, 5), (0, 25)):
        one, many = p.columns(start, stop), p.columns(start, stop, threads=threads)
        assert rows(one) == rows(many)
        assert len(many) == stop - start
    if codec == "producer":
        assert len(p.columns(threads=threads).buffer) == p.segments.active.log.capacity


def test_threads_give_the_same_where_offsets_are_missing(open_log: Open) -> None:
    p = open_log()
    for base in range(0, 4000, 100):  # as compaction leaves it: every batch lacks its last records
        p.append_batches(batch(b"".join(record(i, 0, b"k", b"v" * 9000) for i in range(10)), 10, base_offset=base,
                               last_offset_delta=99, leader_epoch=0), "replica")  # fmt: skip
    one, many = p.columns(), p.columns(threads=3)
    assert len(one) == 400
    assert rows(one) == rows(many)


def test_a_truncation_is_noticed_by_who_asks(open_log: Open) -> None:
    pytest.importorskip("nanoarrow")
    p = open_log()
    p.extend(ITEMS)
    columns, offset = p.columns(), p.columns().offset
    p.truncate(0)
    for call in (columns.check, lambda: columns.key(1), lambda: columns.value(1), columns.to_arrow):
        with pytest.raises(ec.LogTruncated):
            call()
    assert (columns.offset == offset).all()


def test_a_batch_that_counts_wrong(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    view, size = p.segments.active.log.view, p.segments.active.log.size
    good = bytes(view[:size])
    view[23:27] = (0x7FFFFFF0).to_bytes(4, "big")
    view[57:61] = (0x7FFFFFF0).to_bytes(4, "big")
    for names in (None, ["offset"]):
        with pytest.raises(ec.CorruptRecord):
            p.columns(columns=names)
    view[:size] = good

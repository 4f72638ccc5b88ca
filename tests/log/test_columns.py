"""Columns: equal to the records, whatever the segments, codecs and nulls; and what pins what."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import eventcore as ec

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
    for start, stop in ((0, 1), (17, 180), (299, 300), (5, 5), (300, None), (250, 1000)):
        assert rows(p.columns(start, stop)) == expected[start:stop]
    with pytest.raises(ec.OffsetOutOfRange):
        p.columns(301)


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
        {"offset": offset, "timestamp": timestamp, "key": key, "value": value}
        for offset, timestamp, key, value in (record[:4] for record in p)
    ]
    assert p.columns(300).to_arrow().to_pylist() == []


def test_columns_add_up(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    columns = p.columns()
    assert columns.value_length[columns.value_length > 0].sum() == sum(len(r.value or b"") for r in ITEMS)
    assert (np.diff(columns.offset) == 1).all()

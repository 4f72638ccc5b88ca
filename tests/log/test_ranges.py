"""Ranges in every shape: the same records, whatever the segments and codecs; and what a truncation does."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.log.verified import MOST_RANGES, Verified

from .conftest import NOW, Open
from .test_append_batches import transactions

ITEMS = [
    ec.Record(
        value=None if i % 7 == 0 else b"v%d" % i * (i % 5), key=None if i % 3 == 0 else b"k%d" % i, timestamp=NOW + i,
        headers=[("h", b"%d" % i), ("n", None)] if i % 11 == 0 else (),
    )
    for i in range(300)
]  # fmt: skip
FIELDS = ("offset", "timestamp", "key", "value", "headers")


def read_tuples(p: ec.Partition, start: int | None = None, stop: int | None = None, **more: Any) -> Iterator[Any]:
    return p.read_tuples(start, stop, FIELDS, **more)


READERS: dict[str, Callable[..., Iterator[Any]]] = {
    "read": ec.Partition.read,
    "read_lazy": ec.Partition.read_lazy,
    "read_tuples": read_tuples,
    "read_values": ec.Partition.read_values,
}


def same(name: str, record: ec.Record) -> Any:
    return record.value if name == "read_values" else tuple(record) if name == "read_tuples" else record


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("codec", ["producer", "gzip", "lz4", "zstd", "snappy"])
@pytest.mark.parametrize("segment_bytes", [4096, 1 << 20])
def test_the_same_records(open_log: Open, name: str, codec: str, segment_bytes: int) -> None:
    p = open_log(compression_type=codec, segment_bytes=segment_bytes, max_message_bytes=1000)
    p.extend(ITEMS)
    expected = [same(name, record) for chunk in p.chunks(0, 300) for record in chunk]
    assert len(expected) == 300
    for start, stop in ((None, None), (0, 1), (17, 180), (299, 300), (5, 5), (300, None), (300, 300), (0, 300)):
        for _ in range(2):  # the second time no CRC is checked
            assert list(READERS[name](p, start, stop)) == expected[start or 0 : stop]


def test_committed_readers_see_no_aborted_and_no_open_transaction(open_log: Open, name: str) -> None:
    p = open_log()
    transactions(p)
    every, committed = READERS[name](p), READERS[name](p, isolation="read_committed")
    values = [item if name == "read_values" else item[3] if name == "read_tuples" else item.value for item in every]
    assert values == [b"c0", b"c1", b"a2", b"a3", b"o6", b"p7"]
    assert len(list(committed)) == 2
    assert len(list(READERS[name](p, 0, 8, isolation="read_committed"))) == 2


def test_fields_in_the_order_asked_for(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    assert next(p.read_tuples()) == (0, NOW, None, None)
    assert next(p.read_tuples(1, fields=["value"])) == (b"v1",)
    assert next(p.read_tuples(11, fields=("headers", "offset"))) == ((("h", b"11"), ("n", None)), 11)


@pytest.mark.parametrize("fields", [(), ("offset", "colour"), "offset", 5, (1,), ("key", "key")])
def test_fields_that_are_none(open_log: Open, fields: Any) -> None:
    with pytest.raises(ec.UsageError, match="there are offset, timestamp, key, value, headers"):
        open_log().read_tuples(fields=fields)


def test_ranges_that_are_none(open_log: Open, name: str) -> None:
    p = open_log()
    p.extend(ITEMS)
    p.delete_records(10)
    read = READERS[name]
    for start, stop in ((9, None), (301, None), (-1, None), (20, 301)):
        with pytest.raises(ec.OffsetOutOfRange):
            read(p, start, stop)
    with pytest.raises(ec.UsageError, match="below the start"):
        read(p, 20, 19)
    with pytest.raises(ec.UsageError, match="isolation"):
        read(p, 20, isolation="serializable")


def test_records_pin_what_they_lie_in(open_log: Open) -> None:
    p = open_log(segment_bytes=8192)
    p.extend(ITEMS)
    lazy, expected = list(p.read_lazy(0, 200)), list(p.read(0, 200))
    p.delete_records(-1)
    p.roll()
    p.close()
    del p
    gc.collect()
    assert lazy == expected
    assert [item.record() for item in lazy] == expected


def test_a_truncation_is_noticed_in_the_middle(open_log: Open, name: str) -> None:
    p = open_log()
    for _ in range(3):
        p.extend(ITEMS)
    rows = READERS[name](p)
    next(rows)
    p.truncate(600)
    with pytest.raises(ec.LogTruncated):
        next(rows)
    p.extend(ITEMS)
    assert len(list(READERS[name](p))) == 900


def test_a_lazy_record_after_a_truncation(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    p.extend(ITEMS)
    lazy = list(p.read_lazy())
    p.truncate(300)
    p.extend([b"other"] * 300)
    for item in (lazy[0], lazy[599]):
        with pytest.raises(ec.LogTruncated):
            item.value  # noqa: B018
    assert (lazy[599].offset, lazy[599].timestamp) == (599, NOW + 299)


def test_a_lazy_record_outlives_a_closed_partition_and_notices_the_next_writer(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    r = open_log("r")
    lazy, mine = list(r.read_lazy()), list(p.read_lazy())
    r.close()
    p.close()
    assert lazy == mine == ITEMS_READ
    p = open_log()
    p.truncate(0)
    for item in (lazy[1], mine[1]):
        with pytest.raises(ec.LogTruncated):
            item.value  # noqa: B018


ITEMS_READ = [item._replace(offset=at, headers=tuple(item.headers)) for at, item in enumerate(ITEMS)]


def test_a_reader_without_a_writer_notices_the_next_one(open_log: Open) -> None:
    p = open_log()
    p.extend(ITEMS)
    p.close()
    r = open_log("r")
    rows, lazy = r.read_tuples(), list(r.read_lazy())
    next(rows)
    p = open_log()
    p.truncate(0)
    p.extend([b"x"] * 200)
    with pytest.raises(ec.LogTruncated):
        next(rows)
    with pytest.raises(ec.LogTruncated):
        lazy[1].value  # noqa: B018


def flip(folder: Path, position: int) -> None:
    (log,) = folder.glob("*.log")
    with log.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0] ^ 1
        file.seek(position)
        file.write(bytes([byte]))


def test_good_batches_before_a_bad_one_are_read(open_log: Open, folder: Path, name: str) -> None:
    p = open_log()
    p.extend(ITEMS)
    size = p.segments.active.log.size
    p.extend(ITEMS)
    flip(folder, size + 200)
    rows = READERS[name](p)
    assert [next(rows) for _ in range(300)][299] == same(name, ITEMS_READ[299])
    with pytest.raises(ec.CorruptRecord) as caught:
        next(rows)
    assert (caught.value.position, caught.value.offset) == (size, 300)
    assert str(folder) in str(caught.value)
    flip(folder, size + 200)


def test_crcs_are_checked_once_a_mapping(open_log: Open, folder: Path, name: str) -> None:
    """A byte that changes later is not noticed by who reads again; `verify` does, and who maps the file anew."""
    p = open_log()
    p.extend(ITEMS)
    value = p.segments.active.log.size - 2
    assert len(list(READERS[name](p))) == 300
    flip(folder, value)
    assert len(list(READERS[name](p))) == 300
    assert not p.verify().ok
    with pytest.raises(ec.CorruptRecord):
        list(READERS[name](open_log("r")))
    flip(folder, value)


def test_a_truncation_forgets_what_was_checked(open_log: Open, folder: Path) -> None:
    p = open_log()
    p.extend(ITEMS)
    list(p.read())
    p.truncate(0)
    p.extend(ITEMS)
    value = p.segments.active.log.size - 2
    flip(folder, value)
    with pytest.raises(ec.CorruptRecord):
        list(p.read())
    flip(folder, value)


def test_known_ranges_are_merged() -> None:
    known = Verified()
    assert known.piece(0, 100) == (100, False)
    for start, end in ((10, 20), (40, 50), (20, 30)):
        known.add(0, start, end)
    assert [known.piece(at, 100) for at in (0, 10, 19, 30, 45, 50)] == [
        (10, False), (30, True), (30, True), (40, False), (50, True), (100, False)
    ]  # fmt: skip
    assert known.piece(12, 15) == (15, True)
    assert known.holds(10, 30)
    assert not known.holds(10, 31)
    known.add(0, 5, 45)
    assert known.piece(5, 100) == (50, True)
    known.add(0, 60, 60)
    assert known.piece(50, 100) == (100, False)
    known.forget()
    known.add(0, 0, 100)  # looked at before it was forgotten
    assert known.piece(0, 100) == (100, False)
    known.add(1, 0, 100)
    assert known.holds(0, 100)


def test_known_ranges_are_bounded() -> None:
    known = Verified()
    for at in range(MOST_RANGES + 10):
        known.add(0, at * 10, at * 10 + 5)
    assert len(known._ranges) == 10
    assert known.holds((MOST_RANGES + 9) * 10, (MOST_RANGES + 9) * 10 + 5)


@pytest.mark.skipif(ec.build_info()["kernels"] == "pure", reason="only the native guard absorbs a fault")
@pytest.mark.skipif(sys.platform != "linux", reason="what faults where is written for Linux")
def test_a_stranger_cuts_the_file(tmp_path: Path, name: str) -> None:
    with ec.open_partition(tmp_path / "events-0", fsync="never") as p:
        for _ in range(5):
            p.extend([b"v" * 1000] * 100)
    p = ec.open_partition(tmp_path / "events-0", "r")
    lazy, columns = list(p.read_lazy()), p.columns()
    rows = READERS[name](p)
    next(rows)
    os.truncate(p.segments.active.log.path, 4096)
    with pytest.raises(ec.MappingFault):
        list(rows)
    for touch in (lambda: lazy[400].value, lambda: lazy[0].value, lambda: columns.value(400), columns.check):
        with pytest.raises(ec.MappingFault):
            touch()
    assert lazy[400].offset == columns.offset[400] == 400
    p.close()

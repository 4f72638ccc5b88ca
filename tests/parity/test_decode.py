"""decode: known batches; both twins; each against the other on records that are nearly right."""

from __future__ import annotations

import copy
import gc
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, Truncated, UnsupportedFormat
from eventcore.types import Record
from tests.golden.vectors import ABORT_MARKER, COMMIT_MARKER, PLAIN
from tests.parity.twins import (
    EVERY,
    INT32_MAX,
    INT32_MIN,
    INT64_MAX,
    INT64_MIN,
    NOW,
    RECORDS,
    SMALL,
    batch,
    outcome,
    record,
    resealed,
    varint,
)

Pair = tuple[SimpleNamespace, SimpleNamespace]
APPEND_TIME, CODEC, CONTROL, DELETE_HORIZON = 0x08, 0x07, 0x20, 0x40
SMALL_RECORDS = [
    Record(100, NOW, b"key", b"value", ()),
    Record(101, NOW + 5, None, b"v" * 70, ()),
    Record(102, NOW - 3, b"", None, (("h", b"x"), ("é", None))),
]
NEXT = batch(record(0) + record(4, 0, None, None), 2, base_offset=200, last_offset_delta=6, attributes=APPEND_TIME)
NEXT_RECORDS = [Record(200, NOW + 9, b"key", b"value", ()), Record(204, NOW + 9, None, None, ())]
LOG = SMALL + NEXT


def columns(capacity: int) -> tuple[array[int], ...]:
    return tuple(array("q", bytes(8 * capacity)) for _ in range(6))


def read(
    kernels: SimpleNamespace, data: bytes, low: int = INT64_MIN, high: int = INT64_MAX, count: int = 99, mask: int = 0,
    verify: bool = True,
) -> Any:  # fmt: skip
    return kernels.decode.read_records(data, 0, len(data), low, high, count, mask, verify)


def read_columns(kernels: SimpleNamespace, data: bytes, low: int, high: int, capacity: int, verify: bool = True) -> Any:
    table = columns(capacity)
    row, position = kernels.decode.read_columns(data, 0, len(data), low, high, table, 0, 0, verify)
    return position, [tuple(column[n] for column in table) for n in range(row)]


def cells(rows: list[tuple[int, ...]], data: bytes) -> list[Record]:
    def take(position: int, length: int) -> bytes | None:
        return None if length < 0 else data[position : position + length]

    return [Record(offset, time, take(kp, kl), take(vp, vl), ()) for offset, time, kp, kl, vp, vl in rows]


def area_of(kernels: SimpleNamespace, data: bytes) -> tuple[Any, bytes]:
    return kernels.batch.read_header(data), data[61:]


def from_area(kernels: SimpleNamespace, data: bytes, low: int = INT64_MIN, high: int = INT64_MAX) -> list[Any]:
    """What the functions over a records area make of that of a batch, whatever its CRC."""
    header = outcome(kernels.batch.read_header, data)
    if header[0] != "result":
        return [header]
    fields, area, table = header[1], data[61:], columns(8)
    found = outcome(kernels.decode.decode_columns, area, fields, low, high, table, 1, 1000)
    return [
        outcome(kernels.decode.decode_records, area, fields, low, high),
        outcome(kernels.decode.check_records, area, fields),
        found,
        table if found[0] == "result" else "what an error leaves in the free rows means nothing",
    ]


def everything(kernels: SimpleNamespace, data: bytes) -> list[Any]:
    return [
        outcome(read, kernels, data),
        outcome(read, kernels, data, 101, 204, 99, 0, False),
        outcome(read_columns, kernels, data, *EVERY, 8),
        outcome(read_columns, kernels, data, 101, 204, 8, False),
        *from_area(kernels, data),
        *from_area(kernels, data, 101, 102),
    ]


@pytest.mark.parametrize("golden", [PLAIN, COMMIT_MARKER, ABORT_MARKER], ids=lambda golden: golden.name)
def test_kafkas_records(kernels: SimpleNamespace, golden: Any) -> None:
    assert read(kernels, golden.data) == (list(golden.records), len(golden.data))
    fields, area = area_of(kernels, golden.data)
    assert kernels.decode.decode_records(area, fields, *EVERY) == list(golden.records)
    position, rows = read_columns(kernels, golden.data, *EVERY, 2)
    assert position == len(golden.data)
    assert cells(rows, golden.data) == [item._replace(headers=()) for item in golden.records]


def test_read_whole_batches_and_filter(kernels: SimpleNamespace) -> None:
    both = SMALL_RECORDS + NEXT_RECORDS
    assert read(kernels, LOG) == (both, len(LOG))
    assert read(kernels, LOG, 101, 204) == (both[1:4], len(LOG))
    assert read(kernels, LOG, 101, 200) == (both[1:3], len(SMALL))
    assert read(kernels, LOG, count=3) == (both[:3], len(SMALL))
    assert read(kernels, LOG, count=4) == (both, len(LOG))
    assert read(kernels, LOG, count=0) == ([], 0)
    assert read(kernels, b"") == ([], 0)


@pytest.mark.parametrize("attributes", [1, 4, CONTROL, CONTROL | 0x10])
def test_stop_mask(kernels: SimpleNamespace, attributes: int) -> None:
    data = SMALL + batch(b"?" * 30, 2, base_offset=200, attributes=attributes)
    assert read(kernels, data, mask=CODEC | CONTROL) == (SMALL_RECORDS, len(SMALL))
    found = kernels.decode.read_columns(data, 0, len(data), *EVERY, columns(9), 0, CODEC | CONTROL)
    assert found == (3, len(SMALL))


def test_columns_are_filled_from_a_row_on(kernels: SimpleNamespace) -> None:
    position, rows = read_columns(kernels, LOG, *EVERY, 5)
    assert position == len(LOG)
    assert cells(rows, LOG) == [item._replace(headers=()) for item in SMALL_RECORDS + NEXT_RECORDS]
    assert read_columns(kernels, LOG, *EVERY, 4)[0] == len(SMALL), "the second batch might not fit"
    assert read_columns(kernels, LOG, *EVERY, 2) == (0, [])
    fields, area = area_of(kernels, SMALL)
    table = columns(4)
    assert kernels.decode.decode_columns(area, fields, 101, 102, table, 1, 5000) == 2
    value = 5000 + area.index(b"v" * 70)  # its length takes two bytes; the null key stands before them
    assert [column[1] for column in table] == [101, NOW + 5, value - 2, -1, value, 70]
    assert [column[0] for column in table] == [0] * 6


def test_columns_of_the_wrong_shape(kernels: SimpleNamespace) -> None:
    fields, area = area_of(kernels, SMALL)
    for table, row in ((columns(9)[:5], 0), ((*columns(9)[:5], columns(8)[0]), 0), (columns(9), -1), (columns(9), 7)):
        with pytest.raises(ValueError, match=r"columns|rows"):
            kernels.decode.decode_columns(area, fields, *EVERY, table, row, 0)
    with pytest.raises(ValueError, match="at least one"):
        kernels.decode.decode_columns(area, fields, *EVERY, (None,) * 6, 0, 0)
    for last in (bytes(72), bytearray(71), 5):
        with pytest.raises(TypeError):
            kernels.decode.decode_columns(area, fields, *EVERY, (*columns(9)[:5], last), 0, 0)


def test_columns_that_are_not_wanted(kernels: SimpleNamespace) -> None:
    fields, area = area_of(kernels, SMALL)
    whole = columns(3)
    kernels.decode.decode_columns(area, fields, *EVERY, whole, 0, 0)
    for wanted in range(1, 64):
        table = tuple(column if wanted >> at & 1 else None for at, column in enumerate(columns(3)))
        assert kernels.decode.decode_columns(area, fields, *EVERY, table, 0, 0) == 3
        assert table == tuple(column if wanted >> at & 1 else None for at, column in enumerate(whole))
        assert kernels.decode.read_columns(SMALL, 0, len(SMALL), *EVERY, table, 0, 0) == (3, len(SMALL))


def test_check_records(kernels: SimpleNamespace) -> None:
    fields, area = area_of(kernels, SMALL)
    assert kernels.decode.check_records(area, fields) == (NOW - 3, NOW + 5, 1)
    fields, area = area_of(kernels, batch())
    assert kernels.decode.check_records(area, fields) == (-1, -1, 0)


def test_records_are_records(kernels: SimpleNamespace) -> None:
    found = read(kernels, LOG)[0]
    for item, expected in zip(found, SMALL_RECORDS + NEXT_RECORDS, strict=True):
        assert type(item) is Record
        assert hash(item) == hash(expected) == hash(tuple(item))
        assert copy.copy(item) == item._replace(offset=item.offset) == item
        assert item.value == expected.value
        assert item in {expected: 1}
    gc.collect()
    assert found == SMALL_RECORDS + NEXT_RECORDS
    del found, item
    gc.collect()


def test_only_records_that_could_be_in_a_cycle_are_tracked(kernels: SimpleNamespace) -> None:
    if kernels.kind == "native":
        assert [gc.is_tracked(item) for item in read(kernels, SMALL)[0]] == [False, False, True]


def test_empty_batches(kernels: SimpleNamespace) -> None:
    empty = batch(last_offset_delta=9)
    assert read(kernels, empty + SMALL) == (SMALL_RECORDS, len(empty + SMALL))
    with pytest.raises(CorruptRecord):
        read(kernels, batch(b"\0", 0))


def test_a_delete_horizon_is_a_base_timestamp(kernels: SimpleNamespace) -> None:
    data = batch(record(0, 7), 1, attributes=DELETE_HORIZON, base_timestamp=NOW)
    assert read(kernels, data)[0] == [Record(100, NOW + 7, b"key", b"value", ())]


def test_a_bad_crc_is_found_unless_unasked(kernels: SimpleNamespace) -> None:
    data = SMALL + NEXT[:-1] + b"\x02"
    for function in (read, lambda *a: read_columns(*a, *EVERY, 9)):
        with pytest.raises(CorruptRecord) as caught:
            function(kernels, data)
        assert (caught.value.position, caught.value.offset) == (len(SMALL), 200)
    data = SMALL[:17] + b"????" + SMALL[21:]
    assert read(kernels, data, verify=False)[0] == SMALL_RECORDS


@pytest.mark.parametrize("magic", [0, 1, 3, -1])
def test_another_magic(kernels: SimpleNamespace, magic: int) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        read(kernels, SMALL + batch(magic=magic))
    assert caught.value.position == len(SMALL)


def test_the_log_must_end_where_it_is_said_to(kernels: SimpleNamespace) -> None:
    for tail in (bytes(5), bytes(500), SMALL[:70]):
        with pytest.raises(Truncated) as caught:
            read(kernels, SMALL + tail)
        assert caught.value.position == len(SMALL)


@pytest.mark.parametrize("delta", [1, 8191, INT32_MAX])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_timestamp_that_leaves_64_bits(kernels: SimpleNamespace, delta: int, sign: int) -> None:
    edge = INT64_MAX if sign > 0 else INT64_MIN
    good = batch(record(0, sign * delta), 1, base_timestamp=edge - sign * delta)
    bad = batch(record(0) + record(1, sign * delta), 2, base_timestamp=edge)
    assert read(kernels, good)[0][0].timestamp == edge
    assert read_columns(kernels, good, *EVERY, 1)[1][0][1] == edge
    for function in (read, lambda *a: read_columns(*a, *EVERY, 9)):
        with pytest.raises(CorruptRecord) as caught:
            function(kernels, bad)
        assert caught.value.position == 61 + len(record(0))


def test_offsets_beyond_64_bits_are_not_wanted(kernels: SimpleNamespace) -> None:
    """No header that `read_header` lets through has them; who makes fields up gets an answer all the same."""
    fields, area = area_of(kernels, SMALL)
    for beyond in range(3):
        fields = (INT64_MAX - 2 + beyond, *fields[1:])
        assert kernels.decode.decode_columns(area, fields, *EVERY, columns(3), 0, 0) == 2 - beyond
        assert len(kernels.decode.decode_records(area, fields, *EVERY)) == 2 - beyond


WHOLE = record(0)
BROKEN = {
    "record length negative": varint(-1) + WHOLE[1:],
    "record length below the least": varint(5) + WHOLE[1:],
    "record longer than the area": varint(len(WHOLE)) + WHOLE[1:],
    "record shorter than its fields": varint(len(WHOLE) - 2) + WHOLE[1:],
    "record length over-long": b"\x80\x80\x80\x80\x80\x00" + WHOLE,
    "record length huge": varint(INT32_MAX) + WHOLE[1:],
    "timestamp delta of 11 bytes": varint(20) + b"\0" + b"\xff" * 10 + b"\x01" + bytes(8),
    "timestamp delta of 65 bits": varint(20) + b"\0" + b"\xff" * 9 + b"\x02" + bytes(9),
    "offset delta of 33 bits": varint(20) + b"\0\0" + b"\xff" * 4 + b"\x10" + bytes(13),
    "offset delta of 6 bytes": varint(20) + b"\0\0" + b"\x80" * 5 + bytes(13),
    "key longer than the record": varint(10) + b"\0\0\0" + varint(50) + bytes(6),
    "key length -2": varint(10) + b"\0\0\0" + varint(-2) + bytes(6),
    "key length least": varint(14) + b"\0\0\0" + varint(INT32_MIN) + bytes(6),
    "value longer than the record": varint(10) + b"\0\0\0\1" + varint(50) + bytes(5),
    "value length -2": varint(11) + b"\0\0\0" + varint(5) + b"abcde" + varint(-2) + b"\0",
    "header count negative": varint(6) + b"\0\0\0\1\1" + varint(-1),
    "header count beyond the record": varint(6) + b"\0\0\0\1\1" + varint(1),
    "header count huge": varint(12) + b"\0\0\0\1\1" + varint(INT32_MAX) + b"\0\0",
    "header key null": varint(8) + b"\0\0\0\1\1\2" + varint(-1) + b"\1",
    "header value length -2": varint(8) + b"\0\0\0\1\1\2" + b"\0" + varint(-2),
    "bytes left in the record": varint(7) + b"\0\0\0\1\1\0\0",
    "cut within a varint": varint(6) + b"\0\0\0\1\1\x80",
    "offset delta negative": record(-1),
    "offset delta too large": record(1),
    "offset delta least": record(INT32_MIN),
    "timestamp too large": record(0, INT64_MAX),
    "two records where one was announced": WHOLE + record(1),
    "no record where one was announced": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_records_are_corrupt(kernels: SimpleNamespace, data: bytes) -> None:
    whole = batch(data.ljust(1, b"\0") if data else b"\0", 1)
    calls: list[Any] = [lambda: read(kernels, whole), lambda: read_columns(kernels, whole, *EVERY, 8)]
    fields, area = area_of(kernels, whole)
    calls.append(lambda: kernels.decode.check_records(area, fields))
    for call in calls:
        with pytest.raises(CorruptRecord) as caught:
            call()
        assert caught.value.position is not None


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_twins_agree_on_broken_records(pair: Pair, data: bytes) -> None:
    for count, last in ((1, 0), (1, 5), (2, 1), (0, 0)):
        whole = batch(data.ljust(2, b"\0"), count, last_offset_delta=last)
        assert everything(pair[0], whole) == everything(pair[1], whole)


NOT_UTF8 = [
    b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xe0\x9f\x80", b"\xe1\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf0\x8f\x80\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"a\xfe", b"\xf1\x80\x80", b"\xe1\x80\x41",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_UTF8)
def test_header_keys_are_utf8(kernels: SimpleNamespace, name: bytes) -> None:
    data = batch(record(0, headers=((b"good", b"x"), (name, b"y"))), 1)
    for call in (lambda: read(kernels, data), lambda: read_columns(kernels, data, *EVERY, 8)):
        with pytest.raises(CorruptRecord) as caught:
            call()
        assert caught.value.position == data.rindex(name + b"\x02y")


@settings(deadline=None, max_examples=500)
@given(
    name=st.lists(
        st.sampled_from([*b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xec\xed\xef\xf0\xf4\xf5"]), max_size=6
    )
)
def test_twins_agree_on_utf8(pair: Pair, name: list[int]) -> None:
    data = batch(record(0, headers=((bytes(name), b"x"),)), 1)
    assert everything(pair[0], data) == everything(pair[1], data)


def test_every_code_point_boundary_is_a_good_key(kernels: SimpleNamespace) -> None:
    points = (0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF)
    headers = tuple((chr(point), None) for point in points)
    data = batch(record(0, headers=tuple((name.encode(), None) for name, _ in headers)), 1)
    assert read(kernels, data)[0][0].headers == headers
    assert read_columns(kernels, data, *EVERY, 1)[0] == len(data)


@pytest.mark.parametrize("whole", [SMALL, LOG, COMMIT_MARKER.data], ids=["small", "log", "marker"])
def test_twins_agree_on_every_truncation(pair: Pair, whole: bytes) -> None:
    for size in range(len(whole) + 1):
        assert everything(pair[0], whole[:size]) == everything(pair[1], whole[:size]), size


def test_twins_agree_on_every_truncated_area(pair: Pair) -> None:
    area = b"".join(RECORDS)
    for size in range(len(area)):
        data = batch(area[:size], 3)
        assert everything(pair[0], data) == everything(pair[1], data), size


@pytest.mark.parametrize("seal", [False, True])
def test_twins_agree_on_every_bit_flip(pair: Pair, seal: bool) -> None:
    for bit in range(len(SMALL) * 8):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        data = resealed(data) if seal else bytes(data)
        assert everything(pair[0], data) == everything(pair[1], data), bit


def test_twins_agree_on_counts_that_are_not_so(pair: Pair) -> None:
    for count in range(6):
        for last in range(6):
            data = batch(b"".join(RECORDS), count, last_offset_delta=last)
            assert everything(pair[0], data) == everything(pair[1], data)


SIZES = [None, b"", b"k", bytes(62), bytes(63), bytes(64), bytes(8191), bytes(8192)]
"""Parts whose lengths take one, two and three bytes: native reads records of short numbers on a path of their own."""


@pytest.mark.parametrize("key", SIZES, ids=lambda key: "null" if key is None else str(len(key)))
def test_columns_agree_with_records_whatever_the_sizes(kernels: SimpleNamespace, key: bytes | None) -> None:
    rows = [(0, 0, b"k", b"v"), (1, 8191, key, None), (63, -1, key, b"v"), (64, 63, b"", key), (8191, 64, key, key)]
    rows += [(8192, 8192, b"k", b"v"), (8193, INT32_MAX, None, None), (8194, -8192, key, b""), (INT32_MAX, 0, b"", key)]
    for count in range(len(rows) + 1):  # each is the last once: it ends where the buffer does
        last = rows[count - 1][0] if count else 0
        data = batch(b"".join(record(*row) for row in rows[:count]), count, last_offset_delta=last)
        expected = [Record(100 + delta, NOW + time, *parts, ()) for delta, time, *parts in rows[:count]]
        assert cells(read_columns(kernels, data, *EVERY, count)[1], data) == read(kernels, data)[0] == expected
        assert cells(read_columns(kernels, data, 101, 8292, count)[1], data) == [
            item for item in expected if 101 <= item.offset < 8292
        ]


VALUES = [0, -1, 1, 63, 64, -64, -65, 8191, 8192, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, INT32_MAX + 1]
lengths = st.sampled_from([-2, -1, 0, 1, 2, 5, 63, 64, INT32_MAX, INT32_MIN])
numbers = st.sampled_from(VALUES).map(varint) | st.tuples(st.integers(0, 11), st.integers(0, 255)).map(
    lambda shape: b"\xff" * shape[0] + bytes([shape[1]])
)
pieces = st.one_of(numbers, lengths.map(varint), st.sampled_from([b"", b"\0", b"ab", bytes(70)]))
records = st.builds(
    lambda delta, time, key, headers: record(delta, time, key, None, tuple(headers)),
    st.sampled_from([0, 1, 2, 3, -1, 64, INT32_MAX]),
    st.sampled_from(VALUES),
    st.sampled_from([None, b"", b"k", bytes(63), bytes(64)]),
    st.lists(st.tuples(st.sampled_from([b"", b"h", b"\xff"]), st.sampled_from([None, b"", b"x"])), max_size=2),
)
shaped = st.lists(pieces, max_size=9).map(b"".join).map(lambda body: varint(len(body)) + body)


@pytest.mark.sampled
@settings(deadline=None, max_examples=600)
@given(
    area=st.lists(records | shaped, max_size=4).map(b"".join),
    count=st.integers(0, 4),
    last=st.sampled_from([0, 1, 2, 3, 64, INT32_MAX]),
    attributes=st.sampled_from([0, 0, APPEND_TIME, DELETE_HORIZON, CONTROL, 4]),
    times=st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)),
    base_offset=st.sampled_from([0, 100, INT64_MAX - INT32_MAX - 1]),
)
def test_twins_agree_on_shaped_areas(
    pair: Pair, area: bytes, count: int, last: int, attributes: int, times: tuple[int, int], base_offset: int
) -> None:
    data = batch(
        area, count, last_offset_delta=last, attributes=attributes, base_timestamp=times[0], max_timestamp=times[1],
        base_offset=base_offset,
    )  # fmt: skip
    assert everything(pair[0], data) == everything(pair[1], data)


@pytest.mark.parametrize("count", [0, 1, 12])
def test_header_fields_that_are_too_few(kernels: SimpleNamespace, count: int) -> None:
    fields, table = (0,) * count, (array("q", [0] * 6), *[None] * 5)
    for call in (
        lambda: kernels.decode.decode_records(b"", fields, *EVERY),
        lambda: kernels.decode.decode_columns(b"", fields, *EVERY, table, 0, 0),
        lambda: kernels.decode.check_records(b"", fields),
        lambda: list(kernels.rows.decode_rows(kernels.source.Source(b""), fields, *EVERY, 0)),
    ):
        with pytest.raises(IndexError):
            call()

"""encode: Kafka's own bytes; what goes in comes out; each twin against the other byte for byte."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.types import Record
from tests.golden.vectors import PLAIN
from tests.parity.twins import EVERY, INT32_MAX, INT64_MAX, NOW, outcome

Pair = tuple[SimpleNamespace, SimpleNamespace]
ROOM = 1 << 12
ITEMS = [b"v", (b"k", b"v" * 100), (None, None), None, Record(9, 5, b"", b"", [("h", b"x"), ("h", None)]), bytearray(3)]
APPEND_TIME = 0x08


def encode(kernels: SimpleNamespace, items: Any, first: int = 0, room: int = ROOM, *more: int) -> tuple[Any, bytes]:
    buf = bytearray(b"\xee" * (room + 8))
    base_offset, epoch, attributes, now, *producer = more or (7, 1, 0, NOW)
    found = kernels.encode.encode(buf, 4, room + 4, items, first, base_offset, epoch, attributes, now, *producer)
    assert set(buf[:4] + buf[max(found[0], 4) :]) <= {0xEE}, "wrote outside the batch"
    return found, bytes(buf[4 : found[0]])


def read(kernels: SimpleNamespace, data: bytes) -> list[Record]:
    records: list[Record] = kernels.decode.read_records(data, 0, len(data), *EVERY, 1 << 30, 0)[0]
    return records


def test_kafkas_bytes(kernels: SimpleNamespace) -> None:
    f = PLAIN.fields
    (end, count, timestamp), data = encode(kernels, list(PLAIN.records), 0, ROOM, f[0], f[2], 0, 1, *f[9:12])
    assert data == PLAIN.data
    assert (end, count, timestamp) == (4 + len(PLAIN.data), len(PLAIN.records), f[8])


@pytest.mark.parametrize("form", [list, tuple])
def test_every_form_of_item(kernels: SimpleNamespace, form: Any) -> None:
    (_, count, timestamp), data = encode(kernels, form(ITEMS))
    assert (count, timestamp) == (len(ITEMS), NOW)
    assert read(kernels, data) == [
        Record(7, NOW, None, b"v", ()),
        Record(8, NOW, b"k", b"v" * 100, ()),
        Record(9, NOW, None, None, ()),
        Record(10, NOW, None, None, ()),
        Record(11, 5, b"", b"", (("h", b"x"), ("h", None))),
        Record(12, NOW, None, b"\0\0\0", ()),
    ]


def test_append_time_overrides_timestamps(kernels: SimpleNamespace) -> None:
    (_, _, timestamp), data = encode(kernels, ITEMS, 0, ROOM, 7, 1, APPEND_TIME, 99)
    assert timestamp == 99
    assert {record.timestamp for record in read(kernels, data)} == {99}


def test_first_and_room(kernels: SimpleNamespace) -> None:
    assert encode(kernels, ITEMS, len(ITEMS)) == ((4, 0, -1), b"")
    assert encode(kernels, [], 0) == ((4, 0, -1), b"")
    whole = [encode(kernels, ITEMS[:count])[1] for count in range(len(ITEMS) + 1)]
    for room in range(len(whole[-1]) + 2):
        (_, count, _), data = encode(kernels, ITEMS, 0, room)
        assert data == whole[count]
        assert count == max(n for n in range(len(whole)) if len(whole[n]) <= room)
    assert encode(kernels, ITEMS, 4)[1] == encode(kernels, ITEMS[4:])[1]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("text", TypeError),
        (5, TypeError),
        ((b"k",), TypeError),
        ((b"k", b"v", ()), TypeError),
        (("k", b"v"), TypeError),
        ((b"k", 5), TypeError),
        (memoryview(b"abcdef")[::2], TypeError),
        ([b"k", b"v"], TypeError),
        (Record(0, 1.5), TypeError),  # type: ignore[arg-type]
        (Record(0, None), TypeError),  # type: ignore[arg-type]
        (Record(0, -2), ValueError),
        (Record(0, INT64_MAX + 1), ValueError),
        (Record(0, 1, "k"), TypeError),  # type: ignore[arg-type]
        (Record(0, 1, b"k", b"v", [("h",)]), TypeError),  # type: ignore[list-item]
        (Record(0, 1, b"k", b"v", [(b"h", b"x")]), TypeError),  # type: ignore[list-item]
        (Record(0, 1, b"k", b"v", [["h", b"x"]]), TypeError),  # type: ignore[list-item]
        (Record(0, 1, b"k", b"v", [("h", "x")]), TypeError),  # type: ignore[list-item]
        (Record(0, 1, b"k", b"v", 5), TypeError),  # type: ignore[arg-type]
        (Record(0, 1, b"k", b"v", [("\ud800", b"x")]), UnicodeEncodeError),
        (tuple.__new__(Record, (1, 2)), ValueError),
    ],
)
def test_what_is_no_record_is_refused(kernels: SimpleNamespace, item: Any, error: type[Exception]) -> None:
    buf = bytearray(ROOM)
    with pytest.raises(error):
        kernels.encode.encode(buf, 0, ROOM, [b"good", item], 0, 0, 0, 0, NOW)
    assert not any(buf[:61]), "a header was written"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"items": iter([b"v"])}, TypeError),
        ({"items": Record(0, 1)}, TypeError),
        ({"first": -1}, IndexError),
        ({"first": 2}, IndexError),
        ({"pos": -1}, IndexError),
        ({"end": ROOM + 1}, IndexError),
        ({"pos": 9, "end": 8}, IndexError),
        ({"now": -1}, ValueError),
        ({"now": -2}, ValueError),
        ({"base_offset": INT64_MAX + 1}, OverflowError),
        ({"leader_epoch": INT32_MAX + 1}, OverflowError),
        ({"attributes": 1 << 15}, OverflowError),
        ({"buf": b"\0" * ROOM}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(kernels: SimpleNamespace, change: dict[str, Any], error: type[Exception]) -> None:
    arguments = {
        "buf": bytearray(ROOM), "pos": 0, "end": ROOM, "items": [b"v"], "first": 0, "base_offset": 0,
        "leader_epoch": 0, "attributes": 0, "now": NOW,
    }  # fmt: skip
    kernels.encode.encode(**arguments)
    with pytest.raises(error):
        kernels.encode.encode(**arguments | change)


class Hostile(Sequence[Any]):
    """Headers that pull the list of items away while they are read."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError

    def __iter__(self) -> Iterator[Any]:
        self.items.clear()
        yield ("h", b"x")


def test_a_list_that_shrinks_under_the_encoder(kernels: SimpleNamespace) -> None:
    items: list[Any] = [b"first"]
    items += [Record(0, 5, bytes([65]) * 40, bytes([66]) * 40, Hostile(items)), *(b"%d" % n for n in range(50))]
    (_, count, _), data = encode(kernels, items)
    assert (count, items) == (2, [])
    assert read(kernels, data)[1] == Record(8, 5, b"A" * 40, b"B" * 40, (("h", b"x"),))


def test_buffers_are_given_back(kernels: SimpleNamespace) -> None:
    key, value, header, target = bytearray(b"k"), bytearray(b"v"), bytearray(b"h"), bytearray(ROOM)
    for room in (ROOM, 61):
        kernels.encode.encode(target, 0, room, [Record(0, 1, key, value, [("h", header)])], 0, 0, 0, 0, NOW)
    with pytest.raises(TypeError):
        kernels.encode.encode(target, 0, ROOM, [(key, "text")], 0, 0, 0, 0, NOW)
    for buffer in (key, value, header, target):
        buffer.append(1)  # BufferError while anybody holds it


SIZES = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 2047, 2048, 8191, 8192]
parts = st.none() | st.sampled_from(SIZES).flatmap(lambda size: st.sampled_from([bytes(size), b"\xab" * size]))
times = st.sampled_from([-1, 0, 1, 63, 64, 8191, 8192, INT32_MAX, INT32_MAX + 1, NOW, INT64_MAX])
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
headers = st.lists(st.tuples(names, parts), max_size=3)
records = st.builds(Record, st.just(0), times, parts, parts, headers)
forms = st.one_of(parts, st.tuples(parts, parts), records, parts.map(lambda part: memoryview(part or b"")))


@settings(deadline=None, max_examples=300)
@given(
    items=st.lists(forms, max_size=5),
    first=st.integers(0, 2),
    room=st.integers(0, 400) | st.sampled_from([9000, 20000, 99999]),
    attributes=st.sampled_from([0, APPEND_TIME, 0x10, 0x30]),
    now=times,
)
def test_twins_write_the_same_bytes(
    pair: Pair, items: list[Any], first: int, room: int, attributes: int, now: int
) -> None:
    native, pure = (outcome(encode, kernels, items, first, room, 5, 3, attributes, now, 1, 2, 3) for kernels in pair)
    assert native == pure


@pytest.mark.sampled
def test_twins_agree_on_the_bounds_of_a_varint(pair: Pair) -> None:
    for size in SIZES:
        items = [(bytes(size), bytes(size))] * 130
        native, pure = (encode(kernels, items, 0, 4_500_000) for kernels in pair)
        assert native == pure


@pytest.mark.parametrize("step", [0, 7])
def test_twins_agree_on_many_records(pair: Pair, step: int) -> None:
    """Offset deltas of up to three bytes; every `step` records one that is not like the others."""
    items = [(b"k", b"") if step and n % step == 0 else None for n in range(9000)]
    native, pure = (encode(kernels, items, 0, 1 << 20) for kernels in pair)
    assert native == pure


def test_more_records_than_three_bytes_can_tell(pair: Pair) -> None:
    """The pure twin would need half a minute for them."""
    native, count = pair[0], (1 << 20) + 5
    offsets = array("q", bytes(8 * (count + 1)))
    for found, data in (
        encode(native, [None] * count, 0, 1 << 24),
        encode_columns(native, count, 0, 1 << 24, None, offsets, bytes([1]) * count, *(None,) * 4, 0, NOW),
    ):
        assert found[1] == count
        assert [r.offset - 7 for r in read(native, data)] == list(range(count))


@pytest.mark.parametrize("spare", range(-3, 3))
@pytest.mark.parametrize("sizes", [(1, 2), (63, 64), (64, 63), (2047, 2047), (2048, 0), (5000, 5000)])
def test_twins_agree_on_what_just_fits(pair: Pair, sizes: tuple[int, int], spare: int) -> None:
    items = [(bytes(sizes[0]), bytes(sizes[1]))] * 3
    room = len(encode(pair[1], items, 0, 99_999)[1]) + spare
    native, pure = (encode(kernels, items, 0, room) for kernels in pair)
    assert native == pure
    assert native[0][1] == (3 if spare >= 0 else 2)


# --- columns


def cut(column: Sequence[bytes | None]) -> tuple[bytes, array[int], bytes]:
    """The bytes, the int64 offsets and the nulls of a column."""
    offsets, data = array("q", [0]), b""
    for cell in column:
        data += cell or b""
        offsets.append(len(data))
    return data, offsets, bytes(cell is None for cell in column)


def encode_columns(kernels: SimpleNamespace, rows: int, first: int, room: int, *columns: Any) -> tuple[Any, bytes]:
    *columns_, attributes, now = columns
    buf = bytearray(b"\xee" * (room + 8))
    found = kernels.encode.encode_columns(buf, 4, room + 4, rows, first, *columns_, 7, 1, attributes, now)
    assert set(buf[:4] + buf[max(found[0], 4) :]) <= {0xEE}, "wrote outside the batch"
    return found, bytes(buf[4 : found[0]])


def test_columns_are_the_same_batch(kernels: SimpleNamespace) -> None:
    keys, values, stamps = [b"k", None, b""], [b"v" * 100, b"", None], [5, 9, 7]
    items = [Record(0, *row) for row in zip(stamps, keys, values, strict=True)]
    columns = (*cut(keys), *cut(values), array("q", stamps), 0, NOW)
    assert encode_columns(kernels, 3, 0, ROOM, *columns) == encode(kernels, items)
    assert encode_columns(kernels, 3, 1, ROOM, *columns) == encode(kernels, items, 1)
    assert encode_columns(kernels, 3, 3, ROOM, *columns) == ((4, 0, -1), b"")


def test_missing_columns(kernels: SimpleNamespace) -> None:
    data, offsets, nulls = cut([b"a", b"b"])
    missing = (None, None, None)
    assert encode_columns(kernels, 2, 0, ROOM, *missing, data, offsets, None, None, 0, NOW) == encode(
        kernels, [b"a", b"b"]
    )
    assert encode_columns(kernels, 2, 0, ROOM, None, offsets, nulls, *missing, None, 0, NOW) == encode(
        kernels, [None, None]
    )
    assert encode_columns(kernels, 2, 0, ROOM, *missing, *missing, array("q", [-5, -5]), APPEND_TIME, 8) == encode(
        kernels, [None, None], 0, ROOM, 7, 1, APPEND_TIME, 8
    )


@pytest.mark.parametrize(
    ("offsets", "stamps"),
    [
        ([0, 1, 5], [1, 1]),
        ([0, -1, 2], [1, 1]),
        ([1, 0, 2], [1, 1]),
        ([0, 1], [1, 1]),
        ([0, 1, 2, 3], [1, 1]),
        ([0, 1, 1 << 62], [1, 1]),
        ([0, 1, 2], [1, -1]),
        ([0, 1, 2], [1]),
    ],
)
def test_columns_that_contradict_themselves(kernels: SimpleNamespace, offsets: list[int], stamps: list[int]) -> None:
    buf, missing = bytearray(ROOM), (None, None, None)
    column = (b"abcd"[:2], array("q", offsets), None)
    for keys, values in ((column, missing), (missing, column)):
        with pytest.raises(ValueError, match=r"row|items"):
            kernels.encode.encode_columns(buf, 0, ROOM, 2, 0, *keys, *values, array("q", stamps), 0, 0, 0, NOW)
    assert not any(buf[:61]), "a header was written"


@pytest.mark.parametrize(("rows", "first"), [(-1, 0), (2, -1), (2, 3)])
def test_rows_out_of_range(kernels: SimpleNamespace, rows: int, first: int) -> None:
    with pytest.raises(IndexError):
        kernels.encode.encode_columns(bytearray(99), 0, 99, rows, first, *(None,) * 7, 0, 0, 0, NOW)


@settings(deadline=None, max_examples=200)
@given(
    cells=st.lists(st.tuples(parts, parts, times), max_size=6),
    first=st.integers(0, 3),
    room=st.integers(0, 300) | st.sampled_from([9000, 99999]),
    attributes=st.sampled_from([0, APPEND_TIME]),
    now=times,
)
def test_twins_write_the_same_columns(
    pair: Pair, cells: list[Any], first: int, room: int, attributes: int, now: int
) -> None:
    keys, values, stamps = zip(*cells, strict=True) if cells else ((), (), ())
    arguments = (len(cells), first, room, *cut(keys), *cut(values), array("q", stamps), attributes, now)
    native, pure = (outcome(encode_columns, kernels, *arguments) for kernels in pair)
    assert native == pure


def test_many_rows(pair: Pair) -> None:
    cells = [b"%d" % n for n in range(3000)]
    arguments = (3000, 5, 1 << 20, *cut(cells), *cut(cells), None, 0, NOW)
    native, pure = (encode_columns(kernels, *arguments) for kernels in pair)
    assert native == pure
    assert native[0][1] == 2995


@pytest.mark.parametrize(
    ("items", "size"),
    [
        ([], 0),
        ((), 0),
        ([b"abc", None, (b"k", b"value"), (None, None), (b"", None)], 9),
        ((b"abc", (b"k", None)), 4),
        ([b"abc", bytearray(b"x")], -1),
        ([(b"k", b"v", b"w")], -1),
        ([(b"k",)], -1),
        ([("k", b"v")], -1),
        ([(b"k", memoryview(b"v"))], -1),
        ([Record(-1, 5, b"k", b"v")], -1),
        ([type("Own", (bytes,), {})(b"v")], -1),
        (b"abc", -1),
        (None, -1),
        (iter([b"v"]), -1),
    ],
)
def test_the_size_of_plain_items(kernels: SimpleNamespace, items: Any, size: int) -> None:
    assert kernels.encode.plain_size(items) == size

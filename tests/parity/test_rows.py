"""rows: the same records as `decode` gives, in every shape; nothing of a batch that is not right or no longer there."""

from __future__ import annotations

import gc
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, LogTruncated
from eventcore.types import Record
from tests.parity.test_decode import BROKEN, LOG, NEXT, SIZES, VALUES, records, shaped
from tests.parity.twins import EVERY, INT32_MAX, NOW, RECORDS, SMALL, batch, outcome, record, resealed

Pair = tuple[SimpleNamespace, SimpleNamespace]
RECORD, LAZY, TUPLE, VALUE = range(4)
ALL = (0, 1, 2, 3, 4)
TRUNCATIONS = 120


def read(
    kernels: SimpleNamespace, data: Any, shape: int = RECORD, fields: tuple[int, ...] = (), low: int = EVERY[0],
    high: int = EVERY[1], mask: int = 0, verify: bool = True,
) -> tuple[list[Any], int]:  # fmt: skip
    rows = kernels.rows.read_rows(kernels.source.Source(data), 0, len(data), low, high, mask, verify, shape, fields)
    return list(rows), rows.position


def plain(kernels: SimpleNamespace, data: bytes, low: int, high: int, mask: int, verify: bool) -> tuple[Any, int]:
    """The same by `decode`, up to the first batch that is not right."""
    found, position = [], 0
    while position < len(data):
        one = outcome(kernels.decode.read_records, data, position, len(data), low, high, 1, mask, verify)
        if one[0] != "result" or one[1][1] == position:
            break
        found += one[1][0]
        position = one[1][1]
    return found, position


def from_area(kernels: SimpleNamespace, data: bytes, shape: int, fields: tuple[int, ...] = ()) -> Any:
    header = outcome(kernels.batch.read_header, data)
    if header[0] != "result":
        return header
    source = kernels.source.Source(data[61:])
    return outcome(lambda: list(kernels.rows.decode_rows(source, header[1], *EVERY, shape, fields)))


def everything(kernels: SimpleNamespace, data: bytes) -> list[Any]:
    found = [read(kernels, data), read(kernels, data, RECORD, (), 101, 204, 0, False), from_area(kernels, data, RECORD)]
    assert found[0] == plain(kernels, data, *EVERY, 0, True)
    assert found[1] == plain(kernels, data, 101, 204, 0, False)
    tuples, position = read(kernels, data, TUPLE, ALL)
    assert ([Record(*row) for row in tuples], position) == found[0]
    lazy = read(kernels, data, LAZY)[0]
    assert [(item.offset, item.timestamp, item.key, item.value, item.headers) for item in lazy] == tuples
    assert read(kernels, data, VALUE, (3,))[0] == [row[3] for row in tuples]
    return found


def test_fields_in_the_order_asked_for(kernels: SimpleNamespace) -> None:
    expected = plain(kernels, LOG, *EVERY, 0, True)[0]
    for fields in ((0,), (4, 0), (3, 2, 1), (1,), (2, 2), ALL, (0, 1, 2, 3)):
        assert read(kernels, LOG, TUPLE, fields)[0] == [tuple(row[at] for at in fields) for row in expected]
    for at in ALL:
        assert read(kernels, LOG, VALUE, (at,))[0] == [row[at] for row in expected]
    assert Record._fields == kernels.rows.FIELDS


@pytest.mark.parametrize(
    ("shape", "fields"),
    [(TUPLE, ()), (TUPLE, (5,)), (TUPLE, (-1,)), (TUPLE, (0,) * 6), (VALUE, (0, 1)), (4, (0,)), (-1, ())],
)
def test_fields_that_are_none(kernels: SimpleNamespace, shape: int, fields: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        read(kernels, LOG, shape, fields)


def test_whole_batches_and_where_it_stops(kernels: SimpleNamespace) -> None:
    assert read(kernels, LOG, high=200)[1] == len(SMALL)
    assert read(kernels, LOG + batch(b"", 0, base_offset=500, attributes=4), mask=7)[1] == len(LOG)
    assert read(kernels, LOG + b"?" * 70)[1] == len(LOG)
    assert read(kernels, b"") == ([], 0)
    with pytest.raises(IndexError):
        kernels.rows.read_rows(kernels.source.Source(LOG), 0, len(LOG) + 1, *EVERY, 0, True, RECORD)
    with pytest.raises((IndexError, OverflowError)):
        kernels.rows.read_rows(kernels.source.Source(LOG), -1, len(LOG), *EVERY, 0, True, RECORD)


class Own(Record):
    """What a record may be instead."""

    __slots__ = ()
    topic = "orders"


def test_records_of_another_class(kernels: SimpleNamespace) -> None:
    source = kernels.source.Source(LOG)
    found = list(kernels.rows.read_rows(source, 0, len(LOG), *EVERY, 0, True, RECORD, (), Own))
    assert found == read(kernels, LOG, RECORD)[0] != []
    assert {type(one) for one in found} == {Own}
    assert found[0].topic == "orders"
    for wrong in (tuple, int, type("WithDict", (Record,), {}), None, 5):
        with pytest.raises(TypeError):
            kernels.rows.read_rows(source, 0, len(LOG), *EVERY, 0, True, RECORD, (), wrong)


def test_nothing_comes_of_a_batch_with_a_wrong_crc_or_record(kernels: SimpleNamespace) -> None:
    for position in (30, len(SMALL) - 1):
        data = bytearray(SMALL)
        data[position] ^= 1
        assert read(kernels, bytes(data) + NEXT) == ([], 0)
    wrong_end = batch(b"".join(RECORDS) + b"\0", 3, base_offset=200)
    assert read(kernels, SMALL + wrong_end)[1] == len(SMALL)


def test_a_lazy_record_is_like_a_record(kernels: SimpleNamespace) -> None:
    lazy = read(kernels, SMALL, LAZY)[0]
    whole = read(kernels, SMALL)[0]
    assert lazy == whole
    assert whole == lazy
    assert lazy[0] != whole[1]
    assert lazy[0] == read(kernels, SMALL, LAZY)[0][0]
    assert lazy[0] != 5
    assert {lazy[2], whole[2]} == {whole[2]}
    assert repr(lazy[2]) == "Lazy" + repr(whole[2])
    assert [item.record() for item in lazy] == whole
    assert type(lazy[0].record()) is Record
    with pytest.raises(AttributeError):
        lazy[0].colour  # noqa: B018
    for made in (kernels.rows.LazyRecord, kernels.rows.Rows):
        with pytest.raises(TypeError):
            made()
    empty = kernels.rows.LazyRecord.__new__(kernels.rows.LazyRecord)
    for name in ("key", "value"):
        with pytest.raises((TypeError, AttributeError)):
            getattr(empty, name)


def test_a_lazy_record_pins_its_bytes(kernels: SimpleNamespace) -> None:
    data = bytearray(LOG)
    lazy = read(kernels, data, LAZY)[0]
    if kernels.kind == "native":
        with pytest.raises(BufferError):
            data.append(0)
    expected = plain(kernels, LOG, *EVERY, 0, True)[0]
    del data
    gc.collect()
    assert lazy == expected


def test_what_was_truncated_is_not_given_out(kernels: SimpleNamespace) -> None:
    state = memoryview(array("q", bytes(4096))).cast("B")
    kernels.tail.store(state, TRUNCATIONS, 3)
    data = bytearray(LOG)
    source = kernels.source.Source(data, state, 3)
    rows = {shape: kernels.rows.read_rows(source, 0, len(data), *EVERY, 0, True, shape, (3,)) for shape in range(4)}
    first = {shape: next(rows[shape]) for shape in rows}
    assert first[VALUE] == first[LAZY].value == b"value"
    source.check()
    kernels.tail.store(state, TRUNCATIONS, 4)
    for shape in rows:
        with pytest.raises(LogTruncated):
            next(rows[shape])
    for call in (source.check, lambda: first[LAZY].key, lambda: first[LAZY].value, lambda: first[LAZY].record()):
        with pytest.raises(LogTruncated):
            call()
    assert (first[LAZY].offset, first[LAZY].timestamp) == (100, NOW)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x80"])
def test_a_batch_that_changes_is_noticed_without_a_state(kernels: SimpleNamespace, filler: bytes) -> None:
    data = bytearray(LOG)
    lazy = read(kernels, data, LAZY)[0]
    rows = kernels.rows.read_rows(kernels.source.Source(data), 0, len(data), *EVERY, 0, True, TUPLE, ALL)
    next(rows)
    data[:] = filler * len(data)
    for item in lazy:
        for name in ("key", "value"):
            with pytest.raises(LogTruncated):
                getattr(item, name)
    with pytest.raises(LogTruncated):
        lazy[2].headers  # noqa: B018
    with pytest.raises(LogTruncated):
        list(rows)


def test_a_state_that_is_none(kernels: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="stat"):
        kernels.source.Source(LOG, bytes(100), 0).check()


def test_twins_agree_on_every_truncation(pair: Pair) -> None:
    for size in range(len(LOG) + 1):
        assert everything(pair[0], LOG[:size]) == everything(pair[1], LOG[:size]), size


@pytest.mark.parametrize("seal", [False, True])
def test_twins_agree_on_every_bit_flip(pair: Pair, seal: bool) -> None:
    for bit in range(len(SMALL) * 8):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        whole = (resealed(data) if seal else bytes(data)) + NEXT
        assert everything(pair[0], whole) == everything(pair[1], whole), bit


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_twins_agree_on_broken_records(pair: Pair, data: bytes) -> None:
    for count, last in ((1, 0), (1, 5), (2, 1), (0, 0)):
        whole = batch(data.ljust(2, b"\0"), count, last_offset_delta=last)
        assert everything(pair[0], whole) == everything(pair[1], whole)


@pytest.mark.parametrize("key", SIZES, ids=lambda key: "null" if key is None else str(len(key)))
def test_whatever_the_sizes(kernels: SimpleNamespace, key: bytes | None) -> None:
    rows = [(0, 0, b"k", b"v"), (1, 8191, key, None), (63, -1, key, b"v"), (64, 63, b"", key), (8191, 64, key, key)]
    rows += [(8192, 8192, b"k", b"v"), (8193, INT32_MAX, None, None), (8194, -8192, key, b""), (INT32_MAX, 0, b"", key)]
    for count in range(len(rows) + 1):
        data = batch(
            b"".join(record(*row) for row in rows[:count]),
            count,
            last_offset_delta=(rows[count - 1][0] if count else 0),
        )
        assert len(everything(kernels, data)[0][0]) == count


def test_a_count_beyond_the_bytes(kernels: SimpleNamespace) -> None:
    data = batch(b"".join(RECORDS), INT32_MAX, last_offset_delta=INT32_MAX)
    assert read(kernels, data) == ([], 0)
    with pytest.raises(CorruptRecord):
        kernels.rows.decode_rows(kernels.source.Source(data[61:]), kernels.batch.read_header(data), *EVERY, RECORD)


@settings(deadline=None, max_examples=300)
@given(
    area=st.lists(records | shaped, max_size=4).map(b"".join),
    count=st.integers(0, 4),
    last=st.sampled_from([0, 1, 2, 3, 64, INT32_MAX]),
    attributes=st.sampled_from([0, 0, 0x08, 0x40, 0x20, 4]),
    times=st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)),
)
def test_twins_agree_on_shaped_areas(
    pair: Pair, area: bytes, count: int, last: int, attributes: int, times: tuple[int, int]
) -> None:
    data = batch(
        area, count, last_offset_delta=last, attributes=attributes, base_timestamp=times[0], max_timestamp=times[1]
    )
    assert everything(pair[0], data) == everything(pair[1], data)

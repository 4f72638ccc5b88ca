"""batch: headers known from Kafka; both twins; each against the other on headers that are nearly right."""

from __future__ import annotations

import inspect
import mmap
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, Truncated, UnsupportedFormat
from eventcore.format.layout import BATCH_HEADER
from tests.golden.vectors import PLAIN
from tests.parity.twins import INT32_MAX, INT64_MAX, INT64_MIN, NAMES, NOW, SMALL, batch, outcome, resealed

Pair = tuple[SimpleNamespace, SimpleNamespace]
HEADER_ARGUMENTS = (PLAIN.fields[0], PLAIN.fields[2], *PLAIN.fields[5:])
NEXT = batch(b"\0" * 70, 1, base_offset=103, max_timestamp=NOW + 90, attributes=4)
LOG = SMALL + NEXT


def scan(kernels: SimpleNamespace, data: bytes, capacity: int = 4, verify: bool = True) -> tuple[Any, list[list[int]]]:
    rows = array("q", bytes(8 * 8 * capacity))
    found = kernels.batch.scan(data, 0, len(data), rows, verify)
    return found, [list(rows[row * 8 : row * 8 + 8]) for row in range(found[0])]


def everything(kernels: SimpleNamespace, data: bytes) -> list[tuple[Any, ...]]:
    """What each function makes of the bytes."""
    found = [outcome(function, data) for function in (kernels.batch.read_header, kernels.batch.crc_holds)]
    found.append(outcome(scan, kernels, data))
    found.append(outcome(scan, kernels, data, 4, False))
    found.append(outcome(kernels.batch.find_offset, data, 0, len(data), 104))
    found.append(outcome(kernels.batch.find_timestamp, data, 0, len(data), NOW + 50, 0))
    return found


def outline(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_twins_have_the_same_names_signatures_and_constants(pair: Pair, name: str) -> None:
    native, pure = (getattr(kernels, name) for kernels in pair)
    assert native.__all__ == pure.__all__
    for public in pure.__all__:
        mine, other = getattr(native, public), getattr(pure, public)
        if isinstance(other, type):
            for method in (name for name, value in vars(other).items() if name[0] != "_" and callable(value)):
                assert outline(getattr(mine, method)) == outline(getattr(other, method)), f"{public}.{method}"
                assert getattr(mine, method).__doc__
            assert mine.__doc__
        elif callable(other):
            assert outline(mine) == outline(other), public
            assert mine.__doc__
        else:
            assert mine == other, public


def test_offsets_are_the_documented_layout(kernels: SimpleNamespace) -> None:
    assert kernels.batch.offsets() == BATCH_HEADER.offsets
    assert BATCH_HEADER.size == kernels.batch.HEADER_SIZE


def test_read_header_of_kafkas_bytes(kernels: SimpleNamespace) -> None:
    assert kernels.batch.read_header(PLAIN.data) == PLAIN.fields
    assert kernels.batch.read_header(b"xyz" + PLAIN.data + b"more", 3) == PLAIN.fields
    assert kernels.batch.crc_holds(PLAIN.data)


def test_write_header_gives_kafkas_bytes(kernels: SimpleNamespace) -> None:
    buf = bytearray(b"<" + bytes(61) + PLAIN.data[61:] + b">")
    kernels.batch.write_header(buf, 1, len(PLAIN.data), *HEADER_ARGUMENTS)
    assert buf == b"<" + PLAIN.data + b">"


@pytest.mark.parametrize("size", [-1, 0, 60, 90, INT32_MAX + 13])
def test_write_header_refuses_a_size_that_cannot_be(kernels: SimpleNamespace, size: int) -> None:
    buf = bytearray(88)
    with pytest.raises((ValueError, IndexError)):
        kernels.batch.write_header(buf, 0, size, *HEADER_ARGUMENTS)
    assert not any(buf)


@pytest.mark.parametrize("column", range(len(HEADER_ARGUMENTS)))
@pytest.mark.parametrize("value", [INT64_MAX + 1, INT64_MIN - 1])
def test_write_header_refuses_a_field_that_does_not_fit(kernels: SimpleNamespace, column: int, value: int) -> None:
    buf, arguments = bytearray(88), list(HEADER_ARGUMENTS)
    arguments[column] = value
    with pytest.raises(OverflowError):
        kernels.batch.write_header(buf, 0, 88, *arguments)
    assert not any(buf)


def test_write_header_refuses_read_only_memory(kernels: SimpleNamespace) -> None:
    with pytest.raises(TypeError):
        kernels.batch.write_header(PLAIN.data, 0, len(PLAIN.data), *HEADER_ARGUMENTS)


@pytest.mark.parametrize("pos_end", [(-1, -1), (89, -1), (0, 89), (5, 4)])
def test_a_range_outside_the_buffer_is_refused(kernels: SimpleNamespace, pos_end: tuple[int, int]) -> None:
    for function in (kernels.batch.read_header, kernels.batch.crc_holds):
        with pytest.raises(IndexError):
            function(PLAIN.data, *pos_end)
    with pytest.raises(IndexError):
        kernels.batch.scan(PLAIN.data, *pos_end[:1], max(pos_end[1], 99), bytearray(64))


def test_any_buffer_will_do(kernels: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG)
    np = pytest.importorskip("numpy")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        forms = [LOG, bytearray(LOG), memoryview(LOG), memoryview(b"." + LOG)[1:], mapped, np.frombuffer(LOG, "u1")]
        assert [kernels.batch.read_header(form, len(SMALL)) for form in forms] == [
            kernels.batch.read_header(NEXT)
        ] * len(forms)
        del forms
    for wrong in ("text", None, 5, memoryview(LOG)[::2]):
        with pytest.raises(TypeError):
            kernels.batch.read_header(wrong)


@pytest.mark.parametrize("magic", [magic for magic in range(-128, 128) if magic != 2])
def test_another_magic_is_unsupported(kernels: SimpleNamespace, magic: int) -> None:
    data = batch(magic=magic)
    with pytest.raises(UnsupportedFormat) as caught:
        kernels.batch.read_header(b"...." + data, 4)
    assert caught.value.position == 4
    assert scan(kernels, SMALL + data)[0] == (1, len(SMALL), kernels.batch.UNSUPPORTED)


@pytest.mark.parametrize("attributes", [*(1 << bit for bit in range(15)), -(1 << 15), 5, 6, 7, 0x7C])
def test_unknown_attributes_are_corrupt(kernels: SimpleNamespace, attributes: int) -> None:
    data = batch(attributes=attributes)
    if 0 <= attributes <= 0x7F and attributes & 7 <= 4:
        assert kernels.batch.read_header(data)[5] == attributes
    else:
        with pytest.raises(CorruptRecord):
            kernels.batch.read_header(data)


@pytest.mark.parametrize(
    "data",
    [
        batch(base_offset=-1),
        batch(last_offset_delta=-1),
        batch(base_offset=INT64_MAX - 5, last_offset_delta=5),
        batch(b"\0" * 7, 2, last_offset_delta=0),
        batch(b"", -1),
        batch(b"\0" * 7, 8),
        batch(length=48),
        batch(length=-1),
        batch(base_offset=9, length=0),
    ],
)
def test_an_implausible_header_is_corrupt(kernels: SimpleNamespace, data: bytes) -> None:
    with pytest.raises(CorruptRecord) as caught:
        kernels.batch.read_header(data)
    assert caught.value.position == 0
    assert scan(kernels, data)[0] == (0, 0, kernels.batch.CORRUPT)


def test_the_last_offsets_and_lengths_that_fit(kernels: SimpleNamespace) -> None:
    assert kernels.batch.read_header(batch(base_offset=INT64_MAX - 6, last_offset_delta=5))[0] == INT64_MAX - 6
    assert kernels.batch.read_header(batch(b"\0" * 7, 7))[12] == 7
    with pytest.raises(Truncated):
        kernels.batch.read_header(batch(length=INT32_MAX))


def test_scan_lists_batches(kernels: SimpleNamespace) -> None:
    first = [0, len(SMALL), 100, 102, NOW + 9, 7, -1, 0]
    second = [len(SMALL), len(NEXT), 103, 103, NOW + 90, 7, -1, 4]
    assert scan(kernels, LOG) == ((2, len(LOG), kernels.batch.OK), [first, second])
    assert scan(kernels, LOG + bytes(1000)) == ((2, len(LOG), kernels.batch.ENDED), [first, second])
    assert scan(kernels, LOG, capacity=1) == ((1, len(SMALL), kernels.batch.OK), [first])
    assert scan(kernels, LOG, capacity=0) == ((0, 0, kernels.batch.OK), [])
    assert scan(kernels, b"") == ((0, 0, kernels.batch.OK), [])


def test_scan_stops_at_a_bad_crc_if_asked(kernels: SimpleNamespace) -> None:
    data = LOG[:-1] + b"!"
    assert not kernels.batch.crc_holds(data, len(SMALL))
    assert scan(kernels, data)[0] == (1, len(SMALL), kernels.batch.CORRUPT)
    assert scan(kernels, data, verify=False)[0] == (2, len(LOG), kernels.batch.OK)


def test_find(kernels: SimpleNamespace) -> None:
    offsets = [kernels.batch.find_offset(LOG, 0, len(LOG), offset) for offset in (-5, 100, 102, 103, 104)]
    assert offsets == [0, 0, 0, len(SMALL), len(LOG)]
    times = [(NOW, 0), (NOW + 9, 0), (NOW + 10, 0), (NOW, 103), (NOW + 91, 0)]
    found = [kernels.batch.find_timestamp(LOG, 0, len(LOG), *time) for time in times]
    assert found == [0, 0, len(SMALL), len(SMALL), len(LOG)]
    with pytest.raises(Truncated) as caught:
        kernels.batch.find_offset(LOG + b"\0" * 50, 0, len(LOG) + 50, 1000)
    assert caught.value.position == len(LOG)


@pytest.mark.parametrize("zeros", [0, 40])
def test_twins_agree_on_every_truncation(pair: Pair, zeros: int) -> None:
    for size in range(len(LOG) + 1):
        data = LOG[:size] + bytes(zeros)
        assert everything(pair[0], data) == everything(pair[1], data), size


@pytest.mark.parametrize("seal", [False, True])
def test_twins_agree_on_every_bit_flip(pair: Pair, seal: bool) -> None:
    for bit in range(len(SMALL) * 8):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        data = resealed(data) if seal else bytes(data)
        assert everything(pair[0], data) == everything(pair[1], data), bit


EDGES = [0, 1, -1, 2, 48, 49, 50, 0x7FFF, INT32_MAX, INT32_MAX + 1, INT64_MAX - 1, INT64_MAX, INT64_MIN]


def edge(bits: int) -> st.SearchStrategy[int]:
    return st.sampled_from([value for value in EDGES if -(1 << bits - 1) <= value < 1 << bits - 1])


@settings(deadline=None, max_examples=400)
@given(
    area=st.integers(0, 3),
    count=edge(32),
    base_offset=edge(64),
    length=st.none() | edge(32),
    attributes=st.integers(0, 0x9F),
    last_offset_delta=edge(32),
    max_timestamp=edge(64),
    producer=st.tuples(edge(64), edge(16), edge(32)),
    tail=st.sampled_from([b"", bytes(16), bytes(80), b"\0\0\0\1", SMALL]),
)
def test_twins_agree_on_headers_from_edges(pair: Pair, area: int, count: int, tail: bytes, **fields: Any) -> None:
    data = batch(bytes(area), count, **fields) + tail
    assert everything(pair[0], data) == everything(pair[1], data)

"""index: a sorted list and bisect as the model; both twins; each against the other on unsorted garbage."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.twins import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, outcome

Pair = tuple[SimpleNamespace, SimpleNamespace]
offsets = st.integers(0, 40) | st.sampled_from([0, 1, INT32_MAX - 1, INT32_MAX])
targets = st.integers(-2, 42) | st.sampled_from([INT64_MIN, INT32_MIN, INT32_MAX, INT32_MAX + 1, INT64_MAX])
stamps = st.integers(-1, 40) | st.sampled_from([INT64_MIN, INT64_MAX - 1, INT64_MAX])


def offset_index(keys: list[int]) -> bytes:
    return b"".join(struct.pack(">ii", key, 1000 + row) for row, key in enumerate(keys))


def time_index(keys: list[int]) -> bytes:
    return b"".join(struct.pack(">qi", key, 1000 + row) for row, key in enumerate(keys))


def model(keys: list[int], target: int) -> tuple[int, int] | None:
    row = bisect_right(keys, target) - 1
    return (keys[row], 1000 + row) if row >= 0 else None


def find_all(kernels: SimpleNamespace, buf: bytes, count: int, wanted: list[int]) -> list[int]:
    out = array("q", [-7] * len(wanted))
    kernels.index.find_offsets(buf, count, array("q", wanted), out)
    return list(out)


@settings(deadline=None)
@given(keys=st.lists(offsets, max_size=70).map(sorted), target=targets, spare=st.integers(0, 3))
def test_find_offset(kernels: SimpleNamespace, keys: list[int], target: int, spare: int) -> None:
    buf = offset_index(keys) + bytes(8 * spare)
    assert kernels.index.find_offset(buf, len(keys), target) == model(keys, target)


@settings(deadline=None)
@given(keys=st.lists(stamps, max_size=70).map(sorted), target=targets, spare=st.integers(0, 3))
def test_find_timestamp(kernels: SimpleNamespace, keys: list[int], target: int, spare: int) -> None:
    buf = time_index(keys) + bytes(12 * spare)
    assert kernels.index.find_timestamp(buf, len(keys), target) == model(keys, target)


@settings(deadline=None)
@given(keys=st.lists(offsets, max_size=40).map(sorted), wanted=st.lists(targets, max_size=50))
def test_find_offsets(kernels: SimpleNamespace, keys: list[int], wanted: list[int]) -> None:
    positions = [(model(keys, target) or (0, 0))[1] for target in wanted]
    assert find_all(kernels, offset_index(keys), len(keys), wanted) == positions


def test_every_size_and_target(kernels: SimpleNamespace) -> None:
    for size in range(35):
        keys = [3 * row for row in range(size)]
        for target in range(-1, 3 * size + 1):
            assert kernels.index.find_offset(offset_index(keys), size, target) == model(keys, target)
            assert kernels.index.find_timestamp(time_index(keys), size, target) == model(keys, target)


def test_in_place(kernels: SimpleNamespace) -> None:
    keys, wanted = list(range(0, 900, 3)), array("q", range(-5, 1000))
    expected = find_all(kernels, offset_index(keys), 300, list(wanted))
    kernels.index.find_offsets(offset_index(keys), 300, wanted, wanted)
    assert list(wanted) == expected


@pytest.mark.parametrize("entry_size", [8, 12])
def test_count_entries(kernels: SimpleNamespace, entry_size: int) -> None:
    for used in range(20):
        for place in range(entry_size):  # a single byte is enough to be an entry
            entry = bytearray(entry_size)
            entry[place] = 1
            assert kernels.index.count_entries(bytes(entry) * used + bytes(5 * entry_size + 3), entry_size) == used
    assert kernels.index.count_entries(b"", entry_size) == 0


@pytest.mark.parametrize("entry_size", [-8, 0, 1, 16])
def test_entries_of_another_size(kernels: SimpleNamespace, entry_size: int) -> None:
    with pytest.raises(ValueError, match="entry_size"):
        kernels.index.count_entries(bytes(48), entry_size)


@pytest.mark.parametrize("count", [-1, 5, INT64_MAX])
def test_a_count_that_does_not_fit(kernels: SimpleNamespace, count: int) -> None:
    calls: list[Any] = [
        lambda: kernels.index.find_offset(bytes(39), count, 0),
        lambda: kernels.index.find_timestamp(bytes(59), count, 0),
        lambda: find_all(kernels, bytes(39), count, [1]),
        lambda: find_all(kernels, bytes(39), count, []),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="entries"):
            call()


def test_arrays_of_the_wrong_shape(kernels: SimpleNamespace) -> None:
    buf = offset_index([1, 2])
    with pytest.raises(ValueError, match="room"):
        kernels.index.find_offsets(buf, 2, array("q", [1]), array("q", [1, 2]))
    for wanted, out in ((bytes(7), bytearray(7)), (bytes(8), bytearray(9)), (bytes(8), bytes(8)), (None, bytearray(8))):
        with pytest.raises(TypeError):
            kernels.index.find_offsets(buf, 2, wanted, out)


@settings(deadline=None)
@given(data=st.binary(max_size=120), count=st.integers(0, 15), target=targets, wanted=st.lists(targets, max_size=20))
def test_garbage_is_never_dangerous(pair: Pair, data: bytes, count: int, target: int, wanted: list[int]) -> None:
    for name in ("find_offset", "find_timestamp"):
        native, pure = (outcome(getattr(kernels.index, name), data, count, target) for kernels in pair)
        assert native[0] == pure[0], "both answer, or both refuse: in an unsorted index any answer is right"
    native, pure = (outcome(find_all, kernels, data, count, wanted) for kernels in pair)
    assert native[0] == pure[0]

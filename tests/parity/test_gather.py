"""gather: parts back to back, whatever their sizes; nothing outside of the buffers is read or written."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.twins import INT64_MAX, INT64_MIN, outcome

Pair = tuple[SimpleNamespace, SimpleNamespace]
DATA = bytes(range(256)) * 4


def measure(kernels: SimpleNamespace, lengths: list[int], rows: int | None = None) -> Any:
    rows = len(lengths) if rows is None else rows
    ends, valid = array("q", [9] * (rows + 1)), bytearray(b"\xff" * ((rows + 7) // 8))
    return kernels.gather.measure_parts(array("q", lengths), ends, valid), ends.tolist(), bytes(valid)


def copy(kernels: SimpleNamespace, places: list[tuple[int, int]], room: int) -> Any:
    out = bytearray(room)
    positions, lengths = (array("q", [place[at] for place in places]) for at in (0, 1))
    return kernels.gather.copy_parts(DATA, positions, lengths, out), bytes(out)


def test_known_parts(kernels: SimpleNamespace) -> None:
    assert measure(kernels, [3, -1, 0, 5, -2]) == ((8, 2), [0, 3, 3, 3, 8, 8], bytes([0b01101]))
    assert measure(kernels, []) == ((0, 0), [0], b"")
    assert measure(kernels, [1] * 9) == ((9, 0), list(range(10)), b"\xff\x01")
    assert copy(kernels, [(5, 3), (7, -1), (0, 0), (1020, 4)], 8) == (7, DATA[5:8] + DATA[1020:] + b"\0")
    assert copy(kernels, [], 0) == (0, b"")


@pytest.mark.parametrize("size", [*range(40), 63, 64, 65, 100, 255, 256, 257, 300, 1024])
def test_every_size(kernels: SimpleNamespace, size: int) -> None:
    places = [(1024 - size, size), (0, size)]
    assert copy(kernels, places, 2 * size)[1] == DATA[1024 - size :] + DATA[:size]


@pytest.mark.parametrize(
    "place", [(-1, 1), (1024, 1), (1023, 2), (0, 1025), (INT64_MAX, 1), (1, INT64_MAX), (INT64_MIN, 5)]
)
def test_parts_outside(kernels: SimpleNamespace, place: tuple[int, int]) -> None:
    with pytest.raises(IndexError):
        copy(kernels, [(0, 1), place], 5000)


def test_buffers_that_do_not_fit(kernels: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="fit"):
        copy(kernels, [(0, 5), (0, 5)], 9)
    with pytest.raises(ValueError, match="large"):
        measure(kernels, [INT64_MAX, 1])
    for rows in (0, 2):
        with pytest.raises(ValueError, match="offsets"):
            measure(kernels, [1], rows)
    with pytest.raises(ValueError, match="as many"):
        kernels.gather.copy_parts(DATA, array("q", [1]), array("q", [1, 2]), bytearray(9))
    for wrong in (bytearray(9), 5, None):
        with pytest.raises(TypeError):
            kernels.gather.copy_parts(DATA, wrong, wrong, bytearray(9))
    with pytest.raises(TypeError):
        kernels.gather.copy_parts(DATA, array("q", [1]), array("q", [1]), bytes(9))


numbers = st.sampled_from([INT64_MIN, -2, -1, 0, 1, 2, 7, 8, 16, 255, 1000, 1023, 1024, 1025, 1 << 62, INT64_MAX])


@settings(deadline=None, max_examples=300)
@given(places=st.lists(st.tuples(numbers, numbers), max_size=20), room=st.sampled_from([0, 1, 8, 1024, 20_000]))
def test_twins_agree(pair: Pair, places: list[tuple[int, int]], room: int) -> None:
    lengths = [size for _, size in places]
    assert outcome(measure, pair[0], lengths) == outcome(measure, pair[1], lengths)
    assert outcome(copy, pair[0], places, room) == outcome(copy, pair[1], places, room)

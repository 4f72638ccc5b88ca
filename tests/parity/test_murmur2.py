"""murmur2: Kafka's own vectors on both twins, and one against the other for any bytes and any items."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventcore as ec
from eventcore._pure import murmur2 as pure

from .twins import outcome

VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"abc": 479470107,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"": 275646681,
}
"""Of Kafka's UtilsTest; the empty key is what its code gives."""


@pytest.fixture(params=["native", "pure"])
def murmur2(request: pytest.FixtureRequest) -> Any:
    try:
        return import_module(f"eventcore._{request.param}.murmur2")
    except ImportError:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")


@pytest.mark.parametrize(("key", "wanted"), VECTORS.items())
def test_kafkas_vectors(murmur2: Any, key: bytes, wanted: int) -> None:
    assert murmur2.murmur2(key) == wanted
    assert murmur2.murmur2(memoryview(b"x" + key + b"y")[1:-1]) == wanted
    assert murmur2.murmur2(bytearray(key)) == wanted


def test_what_is_no_bytes_is_refused(murmur2: Any) -> None:
    for key in ("text", None, 5, memoryview(bytes(8))[::2]):
        with pytest.raises(TypeError):
            murmur2.murmur2(key)


def test_groups_keep_order_and_count_keys_only(murmur2: Any) -> None:
    items = [
        b"plain",
        (b"foobar", b"1"),
        ec.Record(key=b"foobar"),
        (None, b"2"),
        None,
        ec.Record(value=b"3"),
        (b"21", b""),
    ]
    groups = murmur2.group(items, 3, 1)
    of_foobar, of_21 = ((VECTORS[key] & 0x7FFFFFFF) % 3 for key in (b"foobar", b"21"))
    wanted: list[list[object]] = [[], [], []]
    for item, slot in zip(items, [1, of_foobar, of_foobar, 1, 1, 1, of_21], strict=True):
        wanted[slot].append(item)
    assert groups == wanted


@pytest.mark.parametrize(("count", "keyless"), [(0, 0), (1, 1), (3, -1), (-1, 0)])
def test_partitions_that_cannot_be(murmur2: Any, count: int, keyless: int) -> None:
    with pytest.raises(ec.UsageError):
        murmur2.group([], count, keyless)


def test_a_key_that_is_no_bytes_is_refused(murmur2: Any) -> None:
    with pytest.raises(TypeError):
        murmur2.group([("key", b"value")], 3, 0)


KEYS = st.one_of(st.none(), st.binary(max_size=40), st.text(max_size=2))
ITEMS = st.one_of(
    st.binary(max_size=3),
    st.none(),
    st.tuples(KEYS, st.binary(max_size=3)),
    st.builds(ec.Record, key=KEYS),
    st.tuples(KEYS),
    st.tuples(KEYS, KEYS, KEYS),
)


@given(
    data=st.binary(max_size=70),
    items=st.lists(ITEMS, max_size=12),
    count=st.integers(-1, 7),
    keyless=st.integers(-1, 7),
)
def test_twins_agree(data: bytes, items: list[object], count: int, keyless: int) -> None:
    native = pytest.importorskip("eventcore._native.murmur2")
    assert native.murmur2(data) == pure.murmur2(data)
    assert outcome(native.group, items, count, keyless) == outcome(pure.group, items, count, keyless)

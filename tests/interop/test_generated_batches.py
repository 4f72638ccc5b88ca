"""Generated batches mean the same to the native kernels, to the pure ones and to kafka-python, both ways.

`EVENTCORE_GENERATED_BATCHES` sets how many batches the slow run makes; the plain run makes a fortieth.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventcore._kernels import KERNELS
from eventcore._pure import batch as pure_batch
from eventcore._pure import decode as pure_decode
from eventcore._pure import encode as pure_encode
from eventcore.format.batch import BatchHeader, records_area
from eventcore.types import Record

from .clients import CODEC_NAMES, MISSING, kafka_python_build, kafka_python_read

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"interop: pip install {MISSING}")

BATCHES = int(os.environ.get("EVENTCORE_GENERATED_BATCHES", "20000"))
AT_ONCE = 10
"""Batches an example: drawing many small examples costs hypothesis more than the batches themselves."""
EVERY_OFFSET = (0, 1 << 62)

try:
    from eventcore._native import batch as native_batch
    from eventcore._native import decode as native_decode
    from eventcore._native import encode as native_encode
except ImportError:
    if KERNELS == "native":
        raise  # a pure build has none; any other must
    pytest.skip("interop: built without native kernels", allow_module_level=True)

# Lengths around the edges of a varint's bytes, and bytes that look like varints and headers.
blobs = st.none() | st.binary(max_size=20) | st.integers(62, 66).map(lambda n: b"\x80" * n)
long_blobs = st.integers(8190, 8193).map(lambda n: b"\xff" * n)
headers = st.lists(st.tuples(st.text(max_size=5), blobs), max_size=3).map(tuple)
timestamps = st.integers(0, 5) | st.integers(1_600_000_000_000, 1_800_000_000_000) | st.just((1 << 62) - 1)
records = st.builds(Record, st.just(0), timestamps, blobs, blobs | long_blobs, headers)
batches = st.tuples(
    st.lists(records, min_size=1, max_size=6),
    st.integers(0, 1 << 40) | st.just((1 << 62) - 10),  # base offset
    st.integers(-1, 9),  # leader epoch
    st.integers(0, len(CODEC_NAMES) - 1),
)
logs = st.lists(batches, min_size=AT_ONCE, max_size=AT_ONCE)


def numbered(items: Sequence[Record], base_offset: int) -> list[Record]:
    return [item._replace(offset=base_offset + delta) for delta, item in enumerate(items)]


def encoded(encode: ModuleType, items: Sequence[Record], base_offset: int, leader_epoch: int) -> bytes:
    room = 1024 + sum(100 + len(r.key or b"") + len(r.value or b"") + 30_000 for r in items)
    out = bytearray(room)
    end, count, newest = encode.encode(out, 0, room, list(items), 0, base_offset, leader_epoch, 0, 0)
    assert (count, newest) == (len(items), max(item.timestamp for item in items))
    return bytes(out[:end])


def read(decode: ModuleType, data: bytes) -> list[Record]:
    found, position = decode.read_records(data, 0, len(data), *EVERY_OFFSET, 1 << 30, 0)
    assert position == len(data)
    return [record._replace(headers=tuple(record.headers)) for record in found]


def check_our_bytes(items: list[Record], base_offset: int, leader_epoch: int) -> None:
    data = encoded(pure_encode, items, base_offset, leader_epoch)
    assert encoded(native_encode, items, base_offset, leader_epoch) == data
    expected = numbered(items, base_offset)
    assert read(pure_decode, data) == expected
    assert read(native_decode, data) == expected
    assert kafka_python_read(data) == expected


def check_their_bytes(items: list[Record], codec: int) -> None:
    data = kafka_python_build(items, codec)
    header = BatchHeader.read(data, 0)
    assert native_batch.read_header(data) == pure_batch.read_header(data) == header
    assert native_batch.crc_holds(data)
    assert pure_batch.crc_holds(data)
    if header.codec == 0:
        assert data == encoded(pure_encode, items, 0, header.leader_epoch)
    area, expected = records_area(data, 0, header, 1 << 24), numbered(items, 0)
    for decode in (pure_decode, native_decode):
        found = decode.decode_records(area, header, *EVERY_OFFSET)
        assert [record._replace(headers=tuple(record.headers)) for record in found] == expected


def check_batches(count: int) -> None:
    """Run the property over at least `count` generated batches."""
    done = 0

    @settings(max_examples=-(-count // AT_ONCE), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(logs)
    def property_of(log: list[tuple[list[Record], int, int, int]]) -> None:
        nonlocal done
        for items, base_offset, leader_epoch, codec in log:
            check_our_bytes(items, base_offset, leader_epoch)
            check_their_bytes(items, codec)
            done += 1

    property_of()
    assert done >= count


@pytest.mark.sampled
def test_generated_batches_mean_the_same_everywhere() -> None:
    check_batches(max(AT_ONCE, BATCHES // 40))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_generated_batches_mean_the_same_everywhere() -> None:
    check_batches(BATCHES)

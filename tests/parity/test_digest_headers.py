"""batch.digest_headers: what a batch's own CRC leaves out, and the rest of its header; both twins alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore._pure.crc32c import crc32c
from tests.golden.vectors import PLAIN
from tests.parity.twins import INT32_MAX, SMALL, batch, load, outcome

Pair = tuple[SimpleNamespace, SimpleNamespace]
NEXT = batch(b"\0" * 70, 1, base_offset=103)
LOG = SMALL + NEXT + PLAIN.data
ENDS = (len(SMALL), len(SMALL) + len(NEXT), len(LOG))


def digests(*batches: bytes) -> tuple[int, int]:
    return crc32c(b"".join(data[:21] for data in batches)), crc32c(b"".join(data[21:61] for data in batches))


def test_it_is_the_crc_of_the_first_21_and_the_next_40_bytes(kernels: SimpleNamespace) -> None:
    assert kernels.batch.digest_headers(LOG, 0, len(LOG)) == (len(LOG), *digests(SMALL, NEXT, PLAIN.data))
    assert kernels.batch.digest_headers(b"", 0, 0) == (0, 0, 0)
    assert kernels.batch.digest_headers(b"", 0, 0, 77, 78) == (0, 77, 78)


def test_it_goes_on_where_it_stopped(kernels: SimpleNamespace) -> None:
    position, crcs = 0, (0, 0)
    for end in ENDS:
        position, *crcs = kernels.batch.digest_headers(LOG, position, end, *crcs)
        assert position == end
    assert (position, *crcs) == kernels.batch.digest_headers(LOG, 0, -1)


def test_every_bit_of_the_headers_counts_and_no_other(kernels: SimpleNamespace) -> None:
    whole = kernels.batch.digest_headers(LOG, 0, len(LOG))
    starts = (0, *ENDS[:-1])
    outer = {start + at for start in starts for at in range(21)}
    inner = {start + at for start in starts for at in range(21, 61)}
    for byte in range(len(LOG)):
        for bit in range(8):
            damaged = bytearray(LOG)
            damaged[byte] ^= 1 << bit
            found = kernels.batch.digest_headers(damaged, 0, len(LOG))
            assert (found[:2] != whole[:2]) == (byte in outer), (byte, bit)
            assert byte in outer or (found[2] != whole[2]) == (byte in inner), (byte, bit)


def test_it_stops_at_the_batch_that_does_not_fit(kernels: SimpleNamespace) -> None:
    for end in range(len(LOG) + 1):
        whole = max((limit for limit in (0, *ENDS) if limit <= end), default=0)
        assert kernels.batch.digest_headers(LOG, 0, end) == kernels.batch.digest_headers(LOG[:whole], 0, whole)


@pytest.mark.parametrize("length", [-(1 << 31), -1, 0, 1, 48, 10_000, INT32_MAX])
def test_it_stops_at_a_length_that_cannot_be(kernels: SimpleNamespace, length: int) -> None:
    data = SMALL + batch(length=length) + bytes(200)
    assert kernels.batch.digest_headers(data, 0, len(data)) == (len(SMALL), *digests(SMALL))


def test_the_smallest_length_is_a_header(kernels: SimpleNamespace) -> None:
    data = batch()
    assert len(data) == 61
    assert kernels.batch.digest_headers(data, 0, 61) == (61, *digests(data))
    assert kernels.batch.digest_headers(data, 0, 60) == (0, 0, 0)


def test_arguments_are_checked(kernels: SimpleNamespace) -> None:
    for start, end in [(-1, -1), (len(LOG) + 1, -1), (0, len(LOG) + 1), (5, 4)]:
        with pytest.raises(IndexError):
            kernels.batch.digest_headers(LOG, start, end)
    for crc in (-1, 1 << 32, 1 << 70):
        with pytest.raises(ValueError, match="CRC"):
            kernels.batch.digest_headers(LOG, 0, 0, crc)
        with pytest.raises(ValueError, match="CRC"):
            kernels.batch.digest_headers(LOG, 0, 0, 0, crc)
    with pytest.raises(TypeError):
        kernels.batch.digest_headers("text", 0, 0)
    with pytest.raises(TypeError):
        kernels.batch.digest_headers(LOG, 0, 0, "1")


@st.composite
def nearly_batches(draw: st.DrawFn) -> bytes:
    """A few batches with some bytes of their lengths, or of anything, changed."""
    data = bytearray()
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(0, 40))
        length = draw(st.sampled_from([None, None, None, 47, 49, 49 + size, 50 + size, -1, INT32_MAX]))
        data += batch(bytes(size), length=length, base_offset=draw(st.integers(0, 1 << 40)))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(nearly_batches(), st.integers(-2, 300), st.integers(-2, 300), st.integers(-1, 1 << 32))
def test_the_twins_agree(data: bytes, start: int, end: int, crc: int) -> None:
    native, pure = load("native"), load("pure")
    if native is None or pure is None:
        pytest.skip("the native kernels are not built")
    for arguments in ((start, end), (start, end, crc, 5), (0, len(data), 5, crc), (0, len(data))):
        assert outcome(native.batch.digest_headers, data, *arguments) == outcome(
            pure.batch.digest_headers, data, *arguments
        )

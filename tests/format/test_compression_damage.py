"""compression against damaged streams and bombs: a typed error in little time and memory, whatever the bytes."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord
from eventcore.format import compression
from eventcore.format.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress

from .streams import (
    CODECS,
    EVENTS,
    LIMIT,
    NOISE,
    SHORT,
    gzip_bomb,
    lz4_frame,
    snappy_claim,
    xerial,
    zeros,
    zstd_rle_bomb,
)

each_codec = pytest.mark.parametrize("codec", CODECS, ids=compression.codec_name)

# --- damage -----------------------------------------------------------------------------------------------------------

SMALL = b"a small batch of records, a small batch of records, and some more"


@each_codec
def test_no_bytes_are_no_stream(codec: int) -> None:
    with pytest.raises(CorruptRecord):
        decompress(codec, b"", LIMIT)


@each_codec
@pytest.mark.parametrize("data", [SMALL, EVENTS[:3000] + NOISE[:3000]])
def test_every_cut_is_noticed(codec: int, data: bytes) -> None:
    stored = compress(codec, None, data)
    blocks_end_here = {16} if codec == SNAPPY else set()  # a xerial stream has no end mark: the batch's record count is
    for size in sorted({*range(len(stored))} - blocks_end_here):
        with pytest.raises(CorruptRecord) as caught:
            decompress(codec, stored[:size], LIMIT)
        assert compression.codec_name(codec) in str(caught.value)


@each_codec
def test_every_flipped_bit_is_data_or_a_typed_error(codec: int) -> None:
    """A batch's CRC notices all of them; a stream alone must only never crash, hang, or exceed the limit."""
    stored = compress(codec, None, SMALL)
    raised = 0
    for bit in range(8 * len(stored)):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert len(decompress(codec, damaged, 1000)) <= 1000
        except CorruptRecord:
            raised += 1
    assert raised > 8


@each_codec
@given(data=st.binary(max_size=200), position=st.integers(0, 60), removed=st.integers(0, 20))
def test_shaped_garbage(codec: int, data: bytes, position: int, removed: int) -> None:
    stored = compress(codec, None, SMALL)
    for garbage in (data, stored[:position] + data + stored[position + removed :]):
        with contextlib.suppress(CorruptRecord):
            assert len(decompress(codec, garbage, 5000)) <= 5000


@each_codec
def test_bytes_behind_the_end_are_refused(codec: int) -> None:
    for rest in (b"\0", b"rest", bytes(100)):
        with pytest.raises(CorruptRecord):
            decompress(codec, compress(codec, None, SMALL) + rest, LIMIT)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [NONE, *CODECS], ids=compression.codec_name)
@pytest.mark.parametrize("data", [SMALL, EVENTS, NOISE])
def test_the_limit_is_exact(codec: int, data: bytes) -> None:
    stored = compress(codec, None, data)
    assert bytes(decompress(codec, stored, len(data))) == data
    for limit in (len(data) - 1, 1, 0):
        with pytest.raises(CorruptRecord):
            decompress(codec, stored, limit)


def test_a_snappy_block_that_claims_more_than_any_can_hold_is_not_tried() -> None:
    with pytest.raises(CorruptRecord, match=f"claims to hold {LIMIT}"):
        decompress(SNAPPY, snappy_claim(LIMIT), LIMIT)


GIB = 1 << 30
STORED = {codec: compress(codec, None, EVENTS) for codec in CODECS}
BOMBS = {
    "zstd 32 KiB holding 1 GiB": (ZSTD, zstd_rle_bomb(8192)),
    "gzip 64 KiB holding 64 MiB": (GZIP, gzip_bomb(64 << 20)),
    "gzip members": (GZIP, gzip_bomb(1 << 20) * 1000),
    "snappy claiming 1 GiB": (SNAPPY, snappy_claim(GIB)),
    "snappy claiming 1 MiB": (SNAPPY, snappy_claim(LIMIT)),
    "xerial blocks claiming 1 MiB each": (SNAPPY, xerial(*[snappy_claim(LIMIT)] * 1000)),
    "xerial blocks of 1 MiB each": (SNAPPY, xerial(*[zeros(LIMIT)] * 10)),
    "xerial blocks of nothing": (SNAPPY, xerial(*[zeros(0)] * 10_000) + b"\0"),
    "xerial block of 4 GiB": (SNAPPY, compression.XERIAL_HEADER + b"\xff\xff\xff\xff" + bytes(100)),
    "lz4 blocks full of one byte": (
        LZ4,
        compression.LZ4_HEADER + compress(LZ4, None, bytes(64 << 10))[7:-4] * 1000 + bytes(4),
    ),
    "lz4 linked blocks of 4 MiB": (
        LZ4,
        lz4_frame(0x40, 0x70, [b"~\x1fa\x01\x00" + b"\xff" * 8000 + b"\0\x50aaaaa"] * 100),
    ),
    "lz4 claiming 1 TiB": (LZ4, lz4_frame(0x68, 0x40, [b"=" + SHORT], size=1 << 40)),
}


class Counted:
    """A decompressor of zstandard, and its reader: how many bytes come out of it is noted."""

    def __init__(self, real: Any, sizes: list[int]) -> None:
        self._real, self._sizes = real, sizes

    def stream_reader(self, *arguments: Any, **options: Any) -> Counted:
        return Counted(self._real.stream_reader(*arguments, **options), self._sizes)

    def __enter__(self) -> Counted:
        self._real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._real.__exit__(*error)

    def readinto(self, room: memoryview) -> int:
        self._sizes.append(self._real.readinto(room))
        return self._sizes[-1]


@pytest.fixture
def produced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each call of a library's decompressor gave, or had room for."""
    sizes: list[int] = []
    chunks, zstd, cramjam = compression._gzip_chunks, compression.Scratch.zstd.fget, compression._cramjam()

    def counted_chunks(data: memoryview) -> Iterator[bytes]:
        for chunk in chunks(data):
            sizes.append(len(chunk))
            yield chunk

    def counted(decompress_into: Callable[..., int]) -> Callable[..., int]:
        def act(block: memoryview, out: memoryview) -> int:
            sizes.append(len(out))
            return decompress_into(block, out)

        return act

    snappy, lz4 = cramjam.snappy, cramjam.lz4
    libraries = SimpleNamespace(
        snappy=SimpleNamespace(
            decompress_raw_len=snappy.decompress_raw_len, decompress_raw_into=counted(snappy.decompress_raw_into)
        ),
        lz4=SimpleNamespace(decompress_into=counted(lz4.decompress_into)),
        DecompressionError=cramjam.DecompressionError,
    )
    monkeypatch.setattr(compression, "_gzip_chunks", counted_chunks)
    monkeypatch.setattr(compression.Scratch, "zstd", property(lambda scratch: Counted(zstd(scratch), sizes)))
    monkeypatch.setattr(compression, "_cramjam", lambda: libraries)
    return sizes


@each_codec
def test_what_is_produced_is_counted(codec: int, produced: list[int]) -> None:
    assert bytes(decompress(codec, STORED[codec], LIMIT)) == EVENTS
    assert len(EVENTS) <= sum(produced) <= max(LIMIT, len(EVENTS))


@pytest.mark.parametrize(("codec", "bomb"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_stop_at_the_limit(codec: int, bomb: bytes, produced: list[int]) -> None:
    """Whatever they hold, no more than a piece beyond the limit is ever made of it."""
    with pytest.raises(CorruptRecord):
        decompress(codec, bomb, LIMIT)
    assert sum(produced) <= LIMIT + compression._CHUNK
    assert len(produced) <= len(bomb)


@pytest.mark.nightly
@pytest.mark.parametrize(("codec", "bomb"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_take_little_time(codec: int, bomb: bytes) -> None:
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        with pytest.raises(CorruptRecord):
            decompress(codec, bomb, LIMIT)
        best = min(best, time.perf_counter() - started)
    assert best < 0.1


@pytest.mark.parametrize(("codec", "bomb"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_take_little_memory(codec: int, bomb: bytes) -> None:
    """What Python allocates; the libraries' own buffers (a window, a block) are not in it."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecord):
            decompress(codec, bomb, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LIMIT * 5 // 4 + (256 << 10)


def test_a_large_limit_reserves_nothing() -> None:
    """The limit of a reader is 2 GiB; what is reserved goes by the input."""
    for codec in CODECS:
        stored = compress(codec, None, SMALL)
        tracemalloc.start()
        decompress(codec, stored, 1 << 31)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20, compression.codec_name(codec)


def test_lz4_blocks_reserve_what_they_can_hold_and_not_what_the_frame_allows() -> None:
    stored = lz4_frame(0x60, 0x70, [b"~\x10a"] * 1000)  # 1000 blocks of up to 4 MiB, a byte in each
    tracemalloc.start()
    assert bytes(decompress(LZ4, stored, 1 << 31)) == b"a" * 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20

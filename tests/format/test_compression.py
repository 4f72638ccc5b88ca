"""compression: Kafka's containers, other producers' variants of them, damaged streams, and bombs."""

from __future__ import annotations

import contextlib
import gzip
import random
import sys
import time
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, MissingCodec, StorageError, UnsupportedFormat, UsageError
from eventcore.format import compression
from eventcore.format.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress

from ..golden import vectors

CODECS = (GZIP, SNAPPY, LZ4, ZSTD)
LIMIT = 1 << 20
EVENTS = b"".join(b'{"id": %d, "user": "u%d", "amount": %d}' % (n, n % 97, n * n % 1009) for n in range(4000))
NOISE = random.Random(1).randbytes(100_000)
SAMPLES = {
    "empty": b"",
    "byte": b"x",
    "events": EVENTS,
    "noise": NOISE,
    "block": b"b" * (64 << 10),
    "block and one": bytes(range(256)) * 256 + b"!",
    "xerial block": NOISE[: 32 << 10],
    "xerial block and one": NOISE[: (32 << 10) + 1],
}
LZ4_BLOCKS_ARE_WHOLE = len(cramjam.lz4.compress(NOISE[:65536], 12)) < 65536 + 30
"""Whether the library's frames hold 64 KiB in one block; those of older releases do not."""
each_codec = pytest.mark.parametrize("codec", CODECS, ids=compression.codec_name)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("producer", 0), ("uncompressed", 0), ("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)],
)
def test_codec_ids(name: str, codec: int) -> None:
    assert compression.codec_id(name) == codec


def test_codec_names() -> None:
    assert [compression.codec_name(codec) for codec in range(5)] == ["none", "gzip", "snappy", "lz4", "zstd"]


def test_unknown_codecs() -> None:
    with pytest.raises(UsageError, match="zstd"):
        compression.codec_id("brotli")
    for codec in (-1, 5, 7):
        with pytest.raises(UsageError):
            compression.codec_name(codec)
        with pytest.raises(UsageError):
            compress(codec, None, b"x")
        with pytest.raises(UnsupportedFormat, match=str(codec)):
            decompress(codec, b"x", LIMIT)


@pytest.mark.parametrize("codec", [NONE, *CODECS], ids=compression.codec_name)
@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_compressed_comes_back(codec: int, data: bytes, kind: Callable[[bytes], bytes]) -> None:
    stored = compress(codec, None, kind(data))
    assert bytes(decompress(codec, kind(stored), len(data))) == data


@pytest.mark.parametrize(
    ("codec", "levels"),
    [(GZIP, [-1, 1, 9]), (LZ4, [*range(1, 18)]), (ZSTD, [-131072, -1, 1, 3, 19, 22]), (SNAPPY, [None])],
)
def test_levels(codec: int, levels: list[int]) -> None:
    for level in levels:
        assert bytes(decompress(codec, compress(codec, level, EVENTS), LIMIT)) == EVENTS, level


def test_lz4_level_9_is_the_fast_compressor_and_others_may_be_denser() -> None:
    assert compress(LZ4, 9, EVENTS) == compress(LZ4, None, EVENTS)
    dense, fast = compress(LZ4, 12, EVENTS), compress(LZ4, 9, EVENTS)
    assert dense[:7] == vectors.LZ4_PREFIX
    if LZ4_BLOCKS_ARE_WHOLE:
        assert len(dense) < len(fast)
    else:
        assert dense == fast


@given(st.binary(max_size=300), st.integers(1, 400), st.sampled_from((NONE, *CODECS)))
def test_any_bytes_come_back(data: bytes, times: int, codec: int) -> None:
    data *= times
    assert bytes(decompress(codec, compress(codec, None, data), len(data))) == data


# --- containers -------------------------------------------------------------------------------------------------------


def test_containers_begin_as_kafkas() -> None:
    assert compress(LZ4, None, EVENTS).startswith(vectors.LZ4_PREFIX)
    assert compress(SNAPPY, None, EVENTS).startswith(vectors.SNAPPY_PREFIX)
    assert compress(GZIP, None, EVENTS)[:3] == b"\x1f\x8b\x08"
    assert compress(ZSTD, None, EVENTS)[:4] == bytes.fromhex("28b52ffd")


def test_zstd_frames_name_neither_content_size_nor_checksum() -> None:
    parameters = zstandard.get_frame_parameters(compress(ZSTD, None, EVENTS))
    assert parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert not parameters.has_checksum


def test_lz4_frames_are_independent_blocks_of_64_kib_stored_if_they_do_not_shrink() -> None:
    stored = compress(LZ4, None, NOISE[:70_000])
    assert stored == (
        vectors.LZ4_PREFIX
        + (0x80000000 | 65536).to_bytes(4, "little")
        + NOISE[:65536]
        + (0x80000000 | 4464).to_bytes(4, "little")
        + NOISE[65536:70_000]
        + bytes(4)
    )


def test_snappy_streams_are_blocks_of_32_kib() -> None:
    stored, position, sizes = compress(SNAPPY, None, EVENTS), 16, []
    while position < len(stored):
        size = int.from_bytes(stored[position : position + 4], "big")
        sizes.append(cramjam.snappy.decompress_raw_len(stored[position + 4 : position + 4 + size]))
        position += 4 + size
    assert sizes == [32 << 10] * (len(EVENTS) >> 15) + [len(EVENTS) % (32 << 10)]


# --- what other producers write ---------------------------------------------------------------------------------------


def xxh32(data: bytes) -> bytes:
    """XXH32 of fewer than 16 bytes, as lz4 frames store it."""
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    value, mask = p5 + len(data), 0xFFFFFFFF
    cut = len(data) // 4 * 4
    for at in range(0, cut, 4):
        value = value + int.from_bytes(data[at : at + 4], "little") * p3 & mask
        value = (value << 17 | value >> 15) * p4 & mask
    for byte in data[cut:]:
        value = value + byte * p5 & mask
        value = (value << 11 | value >> 21) * p1 & mask
    value = (value ^ value >> 15) * p2 & mask
    value = (value ^ value >> 13) * p3 & mask
    return (value ^ value >> 16).to_bytes(4, "little")


def lz4_frame(
    flags: int, descriptor: int, blocks: list[bytes], *, content: bytes = b"", size: int | None = None
) -> bytes:
    """A frame of ready blocks, each with the high bit of its length set by a leading b"=" (stored) or not (b"~")."""
    head = bytes([flags, descriptor]) + (b"" if size is None else size.to_bytes(8, "little"))
    out = bytes.fromhex("04224d18") + head + xxh32(head)[1:2]
    for block in blocks:
        kind, body = block[:1], block[1:]
        out += (len(body) | (0x80000000 if kind == b"=" else 0)).to_bytes(4, "little") + body
        out += xxh32(body) if flags & 0x10 else b""
    return out + bytes(4) + (xxh32(content) if flags & 0x04 else b"")


SHORT = b"twelve bytes"
REPEATED = b"~" + b"\x1fa\x01\x00\x05\x50aaaaa"  # "a", copied 15 + 4 + 5 times, then five literal "a"
LZ4_VARIANTS = {
    "as kafka": (lz4_frame(0x60, 0x40, [b"=" + SHORT]), SHORT),
    "two blocks": (lz4_frame(0x60, 0x40, [b"=" + SHORT, REPEATED]), SHORT + b"a" * 30),
    "content checksum": (lz4_frame(0x64, 0x40, [b"=" + SHORT], content=SHORT), SHORT),
    "content size": (lz4_frame(0x68, 0x40, [b"=" + SHORT], size=len(SHORT)), SHORT),
    "block checksum": (lz4_frame(0x70, 0x40, [REPEATED]), b"a" * 30),
    "all of them": (lz4_frame(0x7C, 0x40, [b"=" + SHORT], content=SHORT, size=len(SHORT)), SHORT),
    "256 KiB": (lz4_frame(0x60, 0x50, [b"=" + NOISE]), NOISE),
    "1 MiB": (lz4_frame(0x60, 0x60, [b"=" + NOISE]), NOISE),
    "4 MiB": (lz4_frame(0x60, 0x70, [b"=" + NOISE]), NOISE),
    "linked": (lz4_frame(0x40, 0x40, [b"=" + SHORT, b"~\x04\x0c\x00\x5012345"]), SHORT + b"twelve b12345"),
    "no blocks": (lz4_frame(0x60, 0x40, []), b""),
    "by liblz4": (
        bytes.fromhex("04224d187c4048000000000000002b100000006f6576656e742006002a5076656e7420a3a58c6500000000e1e9ace6"),
        b"event " * 12,
    ),
}


@pytest.mark.parametrize(("stored", "data"), LZ4_VARIANTS.values(), ids=LZ4_VARIANTS.keys())
def test_lz4_frames_of_other_producers(stored: bytes, data: bytes) -> None:
    assert bytes(decompress(LZ4, stored, len(data))) == data
    if data:
        with pytest.raises(CorruptRecord):
            decompress(LZ4, stored, len(data) - 1)


@pytest.mark.parametrize(
    "stored",
    [
        lz4_frame(0x60, 0x40, [b"=" + SHORT])[:6] + b"\0" + lz4_frame(0x60, 0x40, [b"=" + SHORT])[7:],
        lz4_frame(0x64, 0x40, [b"=" + SHORT], content=b"other"),
        lz4_frame(0x68, 0x40, [b"=" + SHORT], size=13),
        lz4_frame(0x61, 0x40, [b"=" + SHORT]),
        lz4_frame(0xA0, 0x40, [b"=" + SHORT]),
        lz4_frame(0x60, 0x30, [b"=" + SHORT]),
        lz4_frame(0x60, 0x40, [b"=" + bytes(65537)]),
        lz4_frame(0x60, 0x40, [b"=" + SHORT, b"~\x04\x0c\x00\x5012345"]),
        lz4_frame(0x60, 0x40, [b"=" + SHORT]) + b"\0",
        lz4_frame(0x60, 0x40, [b"=" + SHORT]) * 2,
    ],
    ids="header-checksum content-checksum content-size dictionary version block-size large linked rest twice".split(),
)
def test_lz4_frames_that_are_wrong(stored: bytes) -> None:
    with pytest.raises(CorruptRecord, match="lz4 records do not decompress"):
        decompress(LZ4, stored, LIMIT)


def test_snappy_without_a_frame() -> None:
    for data in (EVENTS, bytes(LIMIT)):  # zeros: as dense as snappy gets
        assert bytes(decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(data)), len(data))) == data


@pytest.mark.parametrize("size", range(8, 16))
def test_snappy_with_a_cut_header(size: int) -> None:
    with pytest.raises(CorruptRecord, match="header is cut off"):
        decompress(SNAPPY, compression.XERIAL_HEADER[:size], LIMIT)


@pytest.mark.parametrize("options", [{}, {"write_content_size": False}, {"write_checksum": True}])
@pytest.mark.parametrize("data", [b"", EVENTS, NOISE])
def test_zstd_frames_of_other_producers(options: dict[str, bool], data: bytes) -> None:
    stored = zstandard.ZstdCompressor(level=1, **options).compress(data)
    assert bytes(decompress(ZSTD, stored, len(data))) == data
    assert bytes(decompress(ZSTD, stored * 3, 3 * len(data))) == data * 3


def test_zstd_windows_above_the_cap_are_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(CorruptRecord, match="zstd"):
        decompress(ZSTD, writer.compress(EVENTS) + writer.flush(), LIMIT)


def test_gzip_members_follow_each_other() -> None:
    stored = gzip.compress(EVENTS) + gzip.compress(b"") + gzip.compress(NOISE, 1)
    assert decompress(GZIP, stored, LIMIT) == EVENTS + NOISE


def test_gzip_members_that_end_with_a_piece_of_input() -> None:
    """Pieces are 64 KiB: the first member's last byte is the last of its piece, or the first of the next."""
    for end in (65535, 65536, 65537):
        member = gzip.compress(NOISE[: end - 100], 0)
        padded = gzip.compress(NOISE[: end - 100 + end - len(member)], 0)
        assert len(padded) == end
        expected = NOISE[: end - 100 + end - len(member)] + EVENTS
        assert decompress(GZIP, padded + gzip.compress(EVENTS), LIMIT) == expected


def test_gzip_output_that_waits_for_room() -> None:
    """All input is taken long before all output is given."""
    data = b"a" * 1_000_000
    assert decompress(GZIP, gzip.compress(data), len(data)) == data


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


def zstd_rle_bomb(blocks: int) -> bytes:
    """Blocks of 4 bytes that each stand for 128 KiB of one byte."""
    header = bytes.fromhex("28b52ffd 00 58")  # no content size, no checksum; a window of 2 MiB
    block = (2 | 131072 << 3).to_bytes(3, "little") + b"a"
    last = (3 | 131072 << 3).to_bytes(3, "little") + b"a"
    return header + block * (blocks - 1) + last


def test_zstd_blocks_of_one_byte_repeated() -> None:
    assert decompress(ZSTD, zstd_rle_bomb(2), LIMIT) == b"a" * (256 << 10)


def gzip_bomb(size: int) -> bytes:
    """gzip's best is 1 : 1032, so the bomb is one block of distance-1 matches, 1 MiB for a KiB."""
    return gzip.compress(bytes(size), 9)


def snappy_claim(size: int) -> bytes:
    """A raw block whose varint claims `size` bytes of output."""
    head = bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size, 0xFE, 0x01, 0x00]) + bytes(100)


def xerial(*blocks: bytes) -> bytes:
    return compression.XERIAL_HEADER + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)


def zeros(size: int) -> bytes:
    return bytes(cramjam.snappy.compress_raw(bytes(size)))


def test_a_snappy_block_that_claims_more_than_any_can_hold_is_not_tried() -> None:
    with pytest.raises(CorruptRecord, match=f"claims to hold {LIMIT}"):
        decompress(SNAPPY, snappy_claim(LIMIT), LIMIT)


GIB = 1 << 30
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


@pytest.mark.parametrize(("codec", "bomb"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_stop_at_the_limit(codec: int, bomb: bytes) -> None:
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


# --- the optional library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [SNAPPY, LZ4])
def test_a_missing_library_is_named(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = compress(codec, None, SMALL)
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(MissingCodec, match=r"eventcore\[codecs\]") as caught:
        decompress(codec, stored, LIMIT)
    assert isinstance(caught.value, StorageError)
    with pytest.raises(MissingCodec):
        compress(codec, None, SMALL)


@pytest.mark.parametrize("codec", [NONE, GZIP, ZSTD])
def test_the_others_need_no_library(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cramjam", None)
    assert decompress(codec, compress(codec, None, SMALL), LIMIT) == SMALL

"""compression: Kafka's containers, other producers' variants of them, and the optional library."""

from __future__ import annotations

import gzip
import sys
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
from .streams import CODECS, EVENTS, LIMIT, NOISE, SHORT, lz4_frame, zstd_rle_bomb

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


@pytest.mark.parametrize(
    ("codec", "levels"), [(GZIP, [-2, 0, 10]), (LZ4, [-1, 0, 18, 1 << 40]), (ZSTD, [-131073, 23, -(1 << 40)])]
)
def test_levels_that_kafka_does_not_take(codec: int, levels: list[int]) -> None:
    for level in levels:
        with pytest.raises(UsageError, match=f"has no level {level}; use "):
            compress(codec, level, EVENTS)


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


def test_zstd_blocks_of_one_byte_repeated() -> None:
    assert decompress(ZSTD, zstd_rle_bomb(2), LIMIT) == b"a" * (256 << 10)


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


# --- the optional library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [SNAPPY, LZ4])
def test_a_missing_library_is_named(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = compress(codec, None, SHORT)
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(MissingCodec, match=r"eventcore\[codecs\]") as caught:
        decompress(codec, stored, LIMIT)
    assert isinstance(caught.value, StorageError)
    with pytest.raises(MissingCodec):
        compress(codec, None, SHORT)


@pytest.mark.parametrize("codec", [NONE, GZIP, ZSTD])
def test_the_others_need_no_library(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cramjam", None)
    assert decompress(codec, compress(codec, None, SHORT), LIMIT) == SHORT

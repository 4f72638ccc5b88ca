"""The codecs of a batch's records area: gzip, snappy in xerial framing, lz4 frames, zstd.

Decompression never trusts a declared size: it goes block by block or chunk by chunk, and stops with CorruptRecord
where the output would exceed the caller's limit, so that a small batch cannot take all memory. Levels and containers
are Kafka's. lz4 and snappy need cramjam (`pip install 'eventcore[codecs]'`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import zstandard

from eventcore.errors import CorruptRecord, MissingCodec, UsageError

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
_IDS = {name: codec for codec, name in enumerate(_NAMES)} | {"producer": NONE, "uncompressed": NONE}

_CHUNK = 1 << 16
_GZIP_WBITS = 31
_ZSTD_WINDOW_MAX = 1 << 27

XERIAL_HEADER = b"\x82SNAPPY\x00" + b"\x00\x00\x00\x01" * 2
_XERIAL_BLOCK = 32 << 10

LZ4_HEADER = bytes.fromhex("04224d18604082")
"""Magic, FLG 0x60 (version 1, independent blocks, no checksums, no content size), BD 0x40 (64 KiB), header checksum."""
_LZ4_BLOCK = 64 << 10
_LZ4_STORED = 1 << 31
_LZ4_FAST_LEVEL = 9
"""Kafka's default level: its fast compressor. Every other level is the slower HC one."""


def codec_id(name: str) -> int:
    """The number of a codec; "producer" and "uncompressed" mean none."""
    if name not in _IDS:
        raise UsageError(f"there is no codec {name!r}", hint=f"known are {', '.join(_IDS)}")
    return _IDS[name]


def codec_name(codec: int) -> str:
    """The name of a codec as Kafka's tools print it."""
    if not 0 <= codec < len(_NAMES):
        raise UsageError(f"there is no codec number {codec}")
    return _NAMES[codec]


def compress(codec: int, level: int | None, data: Any) -> bytes:
    """`data` in the codec's container. `level` is for gzip (-1: default), lz4 and zstd."""
    if codec == GZIP:
        compressor = zlib.compressobj(-1 if level is None else level, zlib.DEFLATED, _GZIP_WBITS)
        return compressor.compress(data) + compressor.flush()
    if codec == ZSTD:
        # No content size: Kafka's encoder streams and does not know it.
        return zstandard.ZstdCompressor(level=3 if level is None else level, write_content_size=False).compress(data)
    if codec == SNAPPY:
        return _snappy_compress(memoryview(data))
    if codec == LZ4:
        return _lz4_compress(memoryview(data), _LZ4_FAST_LEVEL if level is None else level)
    return bytes(data)


def decompress(codec: int, data: Any, limit: int) -> bytes | bytearray:
    """The records inside `data`. Raises CorruptRecord for bad bytes and for more than `limit` bytes of output."""
    out = bytearray()
    try:
        for chunk in _CHUNKS[codec](memoryview(data), limit):
            if len(out) + len(chunk) > limit:
                raise CorruptRecord(f"the {codec_name(codec)} records decompress to more than {limit} bytes")
            out += chunk
    except (zlib.error, zstandard.ZstdError, ValueError, OSError, IndexError) as error:
        raise CorruptRecord(f"the {codec_name(codec)} records do not decompress: {error}") from None
    except Exception as error:
        if type(error).__module__.startswith("cramjam"):
            raise CorruptRecord(f"the {codec_name(codec)} records do not decompress: {error}") from None
        raise
    return out


def _cramjam() -> ModuleType:
    try:
        import cramjam
    except ImportError:
        raise MissingCodec("lz4 and snappy need cramjam") from None
    return cramjam


def _plain_chunks(data: memoryview, limit: int) -> Iterator[bytes]:
    yield bytes(data)


def _gzip_chunks(data: memoryview, limit: int) -> Iterator[bytes]:
    """One member after the other; what follows the last must be nothing."""
    rest: Any = data
    while rest:
        member = zlib.decompressobj(_GZIP_WBITS)
        while not member.eof:
            before = len(rest)
            chunk = member.decompress(rest, _CHUNK)
            rest = member.unconsumed_tail
            yield chunk
            if not chunk and not member.eof and len(rest) == (0 if before else before):
                raise ValueError("the stream is cut off")
        rest = member.unused_data


def _zstd_chunks(data: memoryview, limit: int) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        while chunk := reader.read(_CHUNK):
            yield chunk
    if not _zstd_is_whole(data):
        raise ValueError("the frame is cut off")


def _zstd_is_whole(data: memoryview) -> bool:
    """Whether `data` is a sequence of whole frames: a stream reader takes a cut one for its end."""
    position = 0
    while position < len(data):
        end = _zstd_frame_end(data, position)
        if end is None:
            return False
        position = end
    return True


def _zstd_frame_end(data: memoryview, position: int) -> int | None:
    parameters = zstandard.get_frame_parameters(data[position : position + 18])
    position += zstandard.frame_header_size(data[position : position + 18])
    while True:
        if position + 3 > len(data):
            return None
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)
        if last:
            position += 4 if parameters.has_checksum else 0
            return position if position <= len(data) else None


def _snappy_compress(data: memoryview) -> bytes:
    snappy, out = _cramjam().snappy, bytearray(XERIAL_HEADER)
    for start in range(0, len(data), _XERIAL_BLOCK):
        block = bytes(snappy.compress_raw(data[start : start + _XERIAL_BLOCK]))
        out += len(block).to_bytes(4, "big") + block
    return bytes(out)


def _snappy_chunks(data: memoryview, limit: int) -> Iterator[bytes]:
    if bytes(data[: len(XERIAL_HEADER)][:8]) != XERIAL_HEADER[:8]:
        yield _snappy_block(data, limit)
        return
    position = len(XERIAL_HEADER)
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if position > len(data) or size > len(data) - position:
            raise ValueError(f"a block of {size} bytes is cut off")
        yield _snappy_block(data[position : position + size], limit)
        position += size


def _snappy_block(block: memoryview, limit: int) -> bytes:
    snappy = _cramjam().snappy
    if snappy.decompress_raw_len(block) > limit:
        raise ValueError(f"a block of more than {limit} bytes")
    return bytes(snappy.decompress_raw(block))


def _lz4_compress(data: memoryview, level: int) -> bytes:
    lz4, out = _cramjam().lz4, bytearray(LZ4_HEADER)
    options = {"mode": "fast"} if level == _LZ4_FAST_LEVEL else {"mode": "high_compression", "compression": level}
    for start in range(0, len(data), _LZ4_BLOCK):
        plain = data[start : start + _LZ4_BLOCK]
        block = bytes(lz4.compress_block(plain, store_size=False, **options))
        if len(block) < len(plain):
            out += len(block).to_bytes(4, "little") + block
        else:
            out += (len(plain) | _LZ4_STORED).to_bytes(4, "little") + plain
    return bytes(out + b"\0\0\0\0")


def _lz4_chunks(data: memoryview, limit: int) -> Iterator[bytes | memoryview]:
    if len(data) < 7 or data[:4] != LZ4_HEADER[:4]:
        raise ValueError("no lz4 frame")
    flags, block_size = data[4], 1 << (8 + 2 * (data[5] >> 4 & 7))
    if flags >> 6 != 1 or block_size < _LZ4_BLOCK:
        raise ValueError(f"frame flags {flags:#x}, {data[5]:#x}")
    position = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    blocks = list(_lz4_blocks(data, position, 4 if flags & 0x10 else 0, block_size))
    if flags & 0x20:
        yield from _lz4_independent(blocks, block_size)
        return
    out = bytearray(min(block_size * len(blocks), limit))  # linked blocks: only the library's frame reader can follow
    yield bytes(memoryview(out)[: _cramjam().lz4.decompress_into(data, out)])


def _lz4_independent(blocks: list[tuple[bool, memoryview]], block_size: int) -> Iterator[memoryview]:
    out = bytearray(block_size)
    for stored, block in blocks:
        if stored:
            yield block
        else:
            yield memoryview(out)[: _cramjam().lz4.decompress_block_into(block, out, output_len=block_size)]


def _lz4_blocks(data: memoryview, position: int, checksum: int, block_size: int) -> Iterator[tuple[bool, memoryview]]:
    while True:
        if position + 4 > len(data):
            raise ValueError("the frame is cut off")
        word = int.from_bytes(data[position : position + 4], "little")
        position, size = position + 4, word & ~_LZ4_STORED
        if word == 0:
            return
        if size > block_size or size > len(data) - position:
            raise ValueError(f"a block of {size} bytes")
        yield bool(word & _LZ4_STORED), data[position : position + size]
        position += size + checksum


_CHUNKS = {NONE: _plain_chunks, GZIP: _gzip_chunks, SNAPPY: _snappy_chunks, LZ4: _lz4_chunks, ZSTD: _zstd_chunks}

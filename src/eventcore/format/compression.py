"""The codecs of a batch's records area: gzip, snappy in xerial framing, lz4 frames, zstd.

Decompression never trusts a declared size: it goes chunk by chunk, or reserves no more than the input can possibly
hold, and stops with CorruptRecord where the output would exceed the caller's limit, so that a small batch cannot take
all memory. Bytes behind the end of a stream are an error, not ignored. Levels and containers are Kafka's. lz4 and
snappy need cramjam (`pip install 'eventcore[codecs]'`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import zstandard

from eventcore.errors import CorruptRecord, MissingCodec, UnsupportedFormat, UsageError
from eventcore.types import Buffer

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
_IDS = {name: codec for codec, name in enumerate(_NAMES)} | {"producer": NONE, "uncompressed": NONE}

_LEVELS = {GZIP: (1, 9), LZ4: (1, 17), ZSTD: (-131_072, 22)}
_GZIP_DEFAULT_LEVEL = -1

_CHUNK = 1 << 16
_GZIP_WBITS = 31
_ZSTD_WINDOW_MAX = 1 << 27
"""What zstd's own readers accept by default; memory for a window is touched only as far as content comes."""
_ZSTD_HEADER_MAX = 18
_ZSTD_RLE = 1
_ZSTD_GUESS = 8
"""How many times larger events mostly become."""

XERIAL_HEADER = b"\x82SNAPPY\x00" + b"\x00\x00\x00\x01" * 2
_XERIAL_MAGIC = XERIAL_HEADER[:8]
_XERIAL_BLOCK = 32 << 10
_SNAPPY_RATIO_MAX = 22
"""Its densest element copies 64 bytes and takes 3: a block that declares more lies."""

LZ4_HEADER = bytes.fromhex("04224d18604082")
"""Magic, FLG 0x60 (version 1, independent blocks, no checksums, no content size), BD 0x40 (64 KiB), header checksum."""
_LZ4_BLOCK = 64 << 10
_LZ4_STORED = 1 << 31
_LZ4_RATIO_MAX = 255
"""A byte of an lz4 block makes a match at most 255 bytes longer."""
_LZ4_CONTENT_CHECKSUM, _LZ4_CONTENT_SIZE, _LZ4_BLOCK_CHECKSUM = 0x04, 0x08, 0x10
_LZ4_FIXED_FLAGS, _LZ4_VERSION_1 = 0xC3, 0x40
"""Version, a reserved bit, and the flag of a dictionary, which no record batch brings along."""
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


def compress(codec: int, level: int | None, data: Buffer) -> bytes:
    """`data` in the codec's container, at a `level` for gzip (-1: default), lz4 and zstd.

    Raises UsageError for a level that Kafka does not take.
    """
    _check_level(codec, level)
    if codec == GZIP:
        compressor = zlib.compressobj(_GZIP_DEFAULT_LEVEL if level is None else level, zlib.DEFLATED, _GZIP_WBITS)
        return compressor.compress(data) + compressor.flush()
    if codec == ZSTD:
        # No content size: Kafka's encoder streams and does not know it.
        return zstandard.ZstdCompressor(level=3 if level is None else level, write_content_size=False).compress(data)
    if codec == SNAPPY:
        return _snappy_compress(memoryview(data))
    if codec == LZ4:
        return _lz4_compress(memoryview(data), _LZ4_FAST_LEVEL if level is None else level)
    if codec != NONE:
        raise UsageError(f"there is no codec number {codec}")
    return bytes(data)


def _check_level(codec: int, level: int | None) -> None:
    """The libraries would take some of the others silently, each in its own way."""
    if level is None or codec not in _LEVELS or (codec, level) == (GZIP, _GZIP_DEFAULT_LEVEL):
        return
    low, high = _LEVELS[codec]
    if not low <= level <= high:
        raise UsageError(f"{codec_name(codec)} has no level {level}", hint=f"use {low} to {high}")


class Scratch:
    """Room for decompressed records, and what decompressing needs besides, for one batch after the other.

    What comes out of it is overwritten by the next batch. One thread uses it at a time.
    """

    def __init__(self) -> None:
        self._room = bytearray()
        self._zstd: zstandard.ZstdDecompressor | None = None

    def room(self, size: int) -> bytearray:
        """At least `size` bytes; older room stays as it is for whoever still has it."""
        if len(self._room) < size:
            self._room = bytearray(size)
        return self._room

    def more_room(self, size: int) -> bytearray:
        """At least `size` bytes, beginning with those that are there."""
        try:
            self._room.extend(bytes(size - len(self._room)))
        except BufferError:  # somebody still has what was here before
            self._room = self._room + bytes(size - len(self._room))
        return self._room

    @property
    def zstd(self) -> zstandard.ZstdDecompressor:
        """A decompressor; to make one costs about as much as a small batch."""
        if self._zstd is None:
            self._zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        return self._zstd


def decompress(codec: int, data: Buffer, limit: int, scratch: Scratch | None = None) -> Buffer:
    """The records inside `data`, a whole records area; with a `scratch` they lie in it.

    Raises CorruptRecord for bytes that are no such stream and for more than `limit` bytes of output, UnsupportedFormat
    for an unknown codec, MissingCodec without the library.
    """
    if codec not in _READERS:
        raise UnsupportedFormat(f"records compressed with codec {codec}")
    failures: tuple[type[Exception], ...] = (zlib.error, zstandard.ZstdError, _Malformed, *_library_errors(codec))
    try:
        return _READERS[codec](memoryview(data), limit, scratch or Scratch())
    except failures as error:
        raise CorruptRecord(f"the {codec_name(codec)} records do not decompress: {error}") from None


class _Malformed(Exception):
    """A container that is not as it should be."""


def _joined(chunks: Iterable[Buffer], limit: int) -> bytearray:
    out = bytearray()
    for chunk in chunks:
        if len(chunk) > limit - len(out):
            raise _Malformed(f"there are more than {limit} bytes")
        out += chunk
    return out


def _cramjam() -> ModuleType:
    try:
        import cramjam
    except ImportError:
        raise MissingCodec("lz4 and snappy need cramjam") from None
    return cramjam


def _library_errors(codec: int) -> tuple[type[Exception], ...]:
    return (_cramjam().DecompressionError,) if codec in (SNAPPY, LZ4) else ()


def _read_plain(data: memoryview, limit: int, scratch: Scratch) -> Buffer:
    return _joined([data], limit)


def _read_gzip(data: memoryview, limit: int, scratch: Scratch) -> Buffer:
    return _joined(_gzip_chunks(data), limit)


def _gzip_chunks(data: memoryview) -> Iterator[bytes]:
    """One member after the other, as gzip itself reads them; in pieces, because zlib copies the rest each time."""
    member = zlib.decompressobj(_GZIP_WBITS)
    for start in range(0, len(data), _CHUNK):
        rest: Buffer = data[start : start + _CHUNK]
        while rest:
            if member.eof:
                member = zlib.decompressobj(_GZIP_WBITS)
            yield member.decompress(rest, _CHUNK)
            rest = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:  # all output comes before the member's last bytes, so none is left behind
        raise _Malformed("the stream is cut off")


def _read_zstd(data: memoryview, limit: int, scratch: Scratch) -> Buffer:
    """The frames need not say what they hold: the room grows with what comes, to one byte above the limit."""
    room, size = scratch.room(min(_ZSTD_GUESS * len(data), limit) + 1), 0
    with scratch.zstd.stream_reader(data, read_across_frames=True) as reader:
        while count := reader.readinto(memoryview(room)[size : limit + 1]):
            size += count
            if size > limit:
                raise _Malformed(f"there are more than {limit} bytes")
            if size == len(room):
                room = scratch.more_room(min(size + max(size >> 2, _CHUNK), limit + 1))
    if not _zstd_is_whole(data):
        raise _Malformed("the frame is cut off")
    return memoryview(room)[:size]


def _zstd_is_whole(data: memoryview) -> bool:
    """Whether `data` is a sequence of whole frames: a stream reader takes a cut one for its end."""
    position = 0
    while 0 <= position < len(data):
        position = _zstd_frame_end(data, position)
    return position == len(data) > 0


def _zstd_frame_end(data: memoryview, position: int) -> int:
    """Where the frame at `position` ends, beyond the data if it is cut off; blocks say how long they are."""
    head = data[position : position + _ZSTD_HEADER_MAX]
    has_checksum = zstandard.get_frame_parameters(head).has_checksum
    position += zstandard.frame_header_size(head)
    last = 0
    while not last:
        if position + 3 > len(data):
            return len(data) + 1
        block = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        position += 3 + (1 if kind == _ZSTD_RLE else size)
    return position + (4 if has_checksum else 0)


def _snappy_compress(data: memoryview) -> bytes:
    snappy, out = _cramjam().snappy, bytearray(XERIAL_HEADER)
    for start in range(0, len(data), _XERIAL_BLOCK):
        block = bytes(snappy.compress_raw(data[start : start + _XERIAL_BLOCK]))
        out += len(block).to_bytes(4, "big") + block
    return bytes(out)


def _read_snappy(data: memoryview, limit: int, scratch: Scratch) -> Buffer:
    total = 0
    for _, size in _snappy_blocks(data):
        total += size
        if total > limit:
            raise _Malformed(f"there are more than {limit} bytes")
    out = memoryview(bytearray(total))
    start = 0
    for block, size in _snappy_blocks(data):
        _cramjam().snappy.decompress_raw_into(block, out[start : start + size])
        start += size
    return out


def _snappy_blocks(data: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Each block and the size of what it holds: framed as Kafka's clients do, or one raw block as some others do."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        yield data, _snappy_size(data)
        return
    position = len(XERIAL_HEADER)
    if len(data) < position:
        raise _Malformed("the header is cut off")
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if position > len(data) or size > len(data) - position:
            raise _Malformed(f"a block of {size} bytes is cut off")
        yield (block := data[position : position + size]), _snappy_size(block)
        position += size


def _snappy_size(block: memoryview) -> int:
    size: int = _cramjam().snappy.decompress_raw_len(block)
    if size > len(block) * _SNAPPY_RATIO_MAX:
        raise _Malformed(f"a block of {len(block)} bytes claims to hold {size}")
    return size


def _lz4_compress(data: memoryview, level: int) -> bytes:
    out = bytearray(LZ4_HEADER)
    for start in range(0, len(data), _LZ4_BLOCK):
        plain = data[start : start + _LZ4_BLOCK]
        block = _lz4_block(plain) if level == _LZ4_FAST_LEVEL else _lz4_dense_block(plain, level)
        if len(block) < len(plain):
            out += len(block).to_bytes(4, "little") + block
        else:
            out += (len(plain) | _LZ4_STORED).to_bytes(4, "little") + plain
    return bytes(out + b"\0\0\0\0")


def _lz4_block(plain: memoryview) -> Buffer:
    return bytes(_cramjam().lz4.compress_block(plain, store_size=False))


def _lz4_dense_block(plain: memoryview, level: int) -> Buffer:
    """The block inside a frame of the library: only its frames know levels, but their flags are not Kafka's.

    Older libraries cut 64 KiB into several blocks that refer to each other; then it is the fast compressor's block.
    """
    frame = memoryview(_cramjam().lz4.compress(plain, level))
    start = len(LZ4_HEADER) + (8 if frame[4] & _LZ4_CONTENT_SIZE else 0) + 4
    word = int.from_bytes(frame[start - 4 : start], "little")
    end = start + (word & ~_LZ4_STORED)
    checksums = bool(frame[4] & _LZ4_BLOCK_CHECKSUM) + bool(frame[4] & _LZ4_CONTENT_CHECKSUM)
    is_whole = end + 4 + 4 * checksums == len(frame)
    return frame[start:end] if is_whole else _lz4_block(plain)


def _read_lz4(data: memoryview, limit: int, scratch: Scratch) -> Buffer:
    """One frame of any flags but a dictionary. The library reads it, checksums and all; we say how much it may hold."""
    size_max = min(_lz4_size_max(data), limit)
    out = memoryview(scratch.room(size_max))[:size_max]
    return out[: _cramjam().lz4.decompress_into(data, out)]


def _lz4_size_max(data: memoryview) -> int:
    """What the frame can hold at most, going by the sizes of its blocks."""
    if len(data) < len(LZ4_HEADER) or data[:4] != LZ4_HEADER[:4]:
        raise _Malformed("it is no lz4 frame")
    flags, block_size = data[4], 1 << (8 + 2 * (data[5] >> 4 & 7))
    if flags & _LZ4_FIXED_FLAGS != _LZ4_VERSION_1 or block_size < _LZ4_BLOCK:
        raise _Malformed(f"frame flags {flags:#x}, {data[5]:#x}")
    position, size_max = len(LZ4_HEADER) + (8 if flags & _LZ4_CONTENT_SIZE else 0), 0
    while True:
        word = int.from_bytes(data[position : position + 4], "little")
        position, size = position + 4, word & ~_LZ4_STORED
        if word == 0:
            break
        if size > block_size or size > len(data) - position:
            raise _Malformed(f"a block of {size} bytes is cut off")
        size_max += min(block_size, size if word & _LZ4_STORED else size * _LZ4_RATIO_MAX)
        position += size + (4 if flags & _LZ4_BLOCK_CHECKSUM else 0)
    if position + (4 if flags & _LZ4_CONTENT_CHECKSUM else 0) != len(data):
        raise _Malformed("the frame does not end where the records end")
    return size_max


_READERS: dict[int, Callable[[memoryview, int, Scratch], Buffer]] = {
    NONE: _read_plain,
    GZIP: _read_gzip,
    SNAPPY: _read_snappy,
    LZ4: _read_lz4,
    ZSTD: _read_zstd,
}

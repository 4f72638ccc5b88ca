"""Streams made by hand: what other producers write, and bombs."""

from __future__ import annotations

import gzip
import random

import cramjam

from eventcore.format import compression
from eventcore.format.compression import GZIP, LZ4, SNAPPY, ZSTD

CODECS = (GZIP, SNAPPY, LZ4, ZSTD)
LIMIT = 1 << 20
EVENTS = b"".join(b'{"id": %d, "user": "u%d", "amount": %d}' % (n, n % 97, n * n % 1009) for n in range(4000))
NOISE = random.Random(1).randbytes(100_000)
SHORT = b"twelve bytes"


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


def zstd_rle_bomb(blocks: int) -> bytes:
    """Blocks of 4 bytes that each stand for 128 KiB of one byte."""
    header = bytes.fromhex("28b52ffd 00 58")  # no content size, no checksum; a window of 2 MiB
    block = (2 | 131072 << 3).to_bytes(3, "little") + b"a"
    last = (3 | 131072 << 3).to_bytes(3, "little") + b"a"
    return header + block * (blocks - 1) + last


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

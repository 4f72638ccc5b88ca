"""Named inputs that declare sizes which cannot be: what an attacker would send to make a reader ask for memory.

Each is nearly right but for one number, and its checksums hold. All of them must be refused with a typed error before
anything is allocated for what they claim.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from eventcore.files import seal
from eventcore.format import compression
from eventcore.format.layout import PRODUCER_SNAPSHOT_ENTRY
from tests.parity.twins import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, NOW, batch, crc32c, part, record, varint

BATCH, FILE, CODEC = "batch", "file", "codec"


class Case(NamedTuple):
    """`kind` says who reads it: the kernels a batch, `reader` a file, the codec `reader` a records area."""

    name: str
    kind: str
    data: bytes
    reader: str = ""


LENGTHS: dict[str, bytes] = {
    "2^31-1": varint(INT32_MAX),
    "2^30": varint(1 << 30),
    "2^24": varint(1 << 24),
    "one too long": b"",  # filled in by `_lengths`
    "-2": varint(-2),
    "-2^31": varint(INT32_MIN),
    "33 bits": varint(1 << 32),
    "2^63-1 in ten bytes": varint(INT64_MAX),
    "-2^63 in ten bytes": varint(INT64_MIN),
    "eleven bytes": b"\xff" * 10 + b"\x01",
    "five bytes with high bits": b"\xff\xff\xff\xff\x7f",
    "six bytes, zero": b"\x80\x80\x80\x80\x80\x00",
    "never ends": b"\x80" * 20,
}
"""Lengths as varints."""


def _lengths(left: int) -> Iterator[tuple[str, bytes]]:
    """Each bad length, with `left` bytes behind it."""
    for name, encoded in LENGTHS.items():
        yield name, encoded or varint(left + 1)


def _in_batch(name: str, area: bytes, count: int = 1) -> Case:
    return Case(name, BATCH, batch(area, count))


def _body(rest: bytes) -> bytes:
    """A record of no timestamp and offset delta: `rest` follows them, and its own length is right."""
    body = b"\0" + varint(0) + varint(0) + rest
    return varint(len(body)) + body


def record_cases() -> Iterator[Case]:
    """A length, a count or a delta of a record."""
    good = record(0)[1:]
    for name, encoded in _lengths(len(good)):
        yield _in_batch(f"record length {name}", encoded + good)
    for name, encoded in _lengths(20):
        yield _in_batch(f"key length {name}", _body(encoded + b"k" * 20))
        yield _in_batch(f"value length {name}", _body(part(b"k") + encoded + b"v" * 20))
        yield _in_batch(f"header count {name}", _body(part(b"k") + part(b"v") + encoded + b"h" * 20))
        one = part(b"k") + part(b"v") + varint(1)
        yield _in_batch(f"header key length {name}", _body(one + encoded + b"h" * 20))
        yield _in_batch(f"header value length {name}", _body(one + part(b"h") + encoded + b"x" * 20))
    yield _in_batch("header key length -1", _body(part(b"k") + part(b"v") + varint(1) + varint(-1) + part(b"x")))
    yield _in_batch("header count -1", _body(part(b"k") + part(b"v") + varint(-1)))
    yield _in_batch("record length 0", varint(0) + good)
    yield _in_batch("record length -1", varint(-1) + good)
    yield _in_batch("record length 5", varint(5) + good)
    yield _in_batch("record length one more than its fields", varint(len(good) + 1) + good + b"\0")
    yield _in_batch("record length one less than its fields", varint(len(good) - 1) + good)
    for count in (2, 3, 1000):
        headers = part(b"k") + part(b"v") + varint(count) + (part(b"h") + part(None)) * (count - 1)
        yield _in_batch(f"{count} headers where one less are", _body(headers))
    for delta in (-1, INT32_MIN, 1, INT32_MAX):
        yield _in_batch(f"offset delta {delta} in a batch of one", record(delta))
    for name in ("33 bits", "2^63-1 in ten bytes", "eleven bytes", "five bytes with high bits", "never ends"):
        body = b"\0" + varint(0) + LENGTHS[name] + part(b"k") + part(b"v") + b"\0"
        yield _in_batch(f"offset delta {name}", varint(len(body)) + body)
    for name in ("eleven bytes", "never ends"):
        body = b"\0" + LENGTHS[name] + varint(0) + part(b"k") + part(b"v") + b"\0"
        yield _in_batch(f"timestamp delta {name}", varint(len(body)) + body)
    for delta in (INT64_MAX, INT64_MAX - NOW + 1):
        yield _in_batch(f"timestamp {NOW} + {delta}", record(0, delta))


def header_cases() -> Iterator[Case]:
    """A number of a batch header."""
    area = b"".join(record(delta) for delta in range(3))
    for count in (INT32_MAX, INT32_MAX - 1, 1 << 30, 1 << 20, 1000, 4, 2, 1, 0, -1, -2, INT32_MIN):
        if count != 3:
            yield Case(f"record count {count} of 3", BATCH, batch(area, count, last_offset_delta=2))
            delta = max(count - 1, 0)
            yield Case(f"record count and offsets {count} of 3", BATCH, batch(area, count, last_offset_delta=delta))
    for delta in (INT32_MIN, -1, 0, 1):
        yield Case(f"last offset delta {delta} of 3 records", BATCH, batch(area, 3, last_offset_delta=delta))
    for length in (INT32_MAX, INT32_MAX - 12, 1 << 30, 1 << 20, 49 + len(area) + 1, 48, 1, 0, -1, -12, INT32_MIN):
        yield Case(f"batch length {length}", BATCH, batch(area, 3, length=length))
    for base in (INT64_MAX, INT64_MAX - 1, INT64_MAX - 2, -1, INT64_MIN):
        yield Case(f"base offset {base}", BATCH, batch(area, 3, base_offset=base))
    for bits in (5, 6, 7, 0x80, 0x100, 0x4000, -1, -(1 << 15)):
        yield Case(f"attributes {bits}", BATCH, batch(area, 3, attributes=bits))
    for magic in (-1, 0, 1, 3, 127):
        yield Case(f"magic {magic}", BATCH, batch(area, 3, magic=magic))
    for codec in range(1, 5):
        packed = compression.compress(codec, None, area)
        for count in (INT32_MAX, 1 << 28, 1 << 20, 4):
            data = batch(packed, count, last_offset_delta=count - 1, attributes=codec)
            yield Case(f"record count {count} of 3 in codec {codec}", BATCH, data)


def codec_cases() -> Iterator[Case]:
    """A size that a compressed stream declares."""
    plain = b"".join(record(delta) for delta in range(3))
    block = compression.compress(compression.SNAPPY, None, plain)[20:]
    for size in (INT32_MAX, 1 << 31, (1 << 32) - 1, 1 << 24, len(block) + 1):
        stream = compression.XERIAL_HEADER + struct.pack(">I", size) + block
        yield Case(f"snappy block of {size} bytes", CODEC, stream, "snappy")
    for size in (INT32_MAX, (1 << 32) - 1, 1 << 31, 1 << 24, 1 << 16):
        raw = _unsigned(size) + block[1:]
        yield Case(f"snappy block that holds {size}", CODEC, raw, "snappy")
        framed = compression.XERIAL_HEADER + struct.pack(">I", len(raw)) + raw
        yield Case(f"framed snappy block that holds {size}", CODEC, framed, "snappy")
    for name in ("eleven bytes", "never ends"):
        yield Case(f"snappy size {name}", CODEC, LENGTHS[name] + block[1:], "snappy")
    for size in (0x7FFFFFFF, 1 << 30, 1 << 20, (64 << 10) + 1, 0xFFFFFFFF, 0x80010001, 1000):
        stream = compression.LZ4_HEADER + struct.pack("<I", size) + plain[:20] + b"\0\0\0\0"
        yield Case(f"lz4 block of {size:#x} bytes", CODEC, stream, "lz4")
    dense = compression.compress(compression.LZ4, None, bytes(60_000))
    yield Case("lz4 block without an end", CODEC, dense[:-4], "lz4")
    for size in (INT64_MAX, 1 << 40, 1 << 31):
        stream = bytes.fromhex("04224d18684000") + struct.pack("<Q", size) + dense[7:]
        yield Case(f"lz4 content of {size} bytes", CODEC, stream, "lz4")
    for size in (INT64_MAX, 1 << 40, 1 << 32, 1 << 28):
        frame = b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", size) + b"\x01\0\0"
        yield Case(f"zstd content of {size} bytes", CODEC, frame, "zstd")
    for exponent in (18, 21, 31):
        frame = b"\x28\xb5\x2f\xfd\0" + bytes([exponent << 3]) + b"\x0b\0\0x"
        yield Case(f"zstd window of 2^{exponent + 10} bytes", CODEC, frame, "zstd")
    for size in ((1 << 21) - 1, 1 << 17, 1000):
        frame = b"\x28\xb5\x2f\xfd\0\x58" + (size << 3 | 1).to_bytes(3, "little") + b"x" * 40
        yield Case(f"zstd block of {size} bytes", CODEC, frame, "zstd")
    packed = compression.compress(compression.GZIP, None, plain)
    for size in (0xFFFFFFFF, INT32_MAX, 0, len(plain) + 1):
        yield Case(f"gzip size {size}", CODEC, packed[:-4] + struct.pack("<I", size), "gzip")
    for size in (0xFFFF, 0x100):
        extra = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H", size) + b"x" * 20
        yield Case(f"gzip extra field of {size} bytes", CODEC, extra, "gzip")


def _unsigned(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _snapshot(count: int, entries: bytes) -> bytes:
    body = struct.pack(">i", count) + entries
    return struct.pack(">hI", 1, crc32c(body)) + body


def _seal(blocks: int, damage: int, words: bytes) -> bytes:
    log = batch(record(0), 1)
    good = seal.encode(seal.Digest().seal(log, 100, len(log), 101))
    data = bytearray(good[: seal._HEADER_SIZE] + words)
    struct.pack_into(">qq", data, 56, blocks, damage)
    data[12:16] = crc32c(data[:12] + data[16:]).to_bytes(4, "big")
    return bytes(data)


def file_cases() -> Iterator[Case]:
    """A count in a file beside the log."""
    entry = PRODUCER_SNAPSHOT_ENTRY.struct.pack(1, 0, 0, 0, 0, NOW, -1, -1)
    for count in (INT32_MAX, 1 << 30, 1 << 20, 2, 0, -1, INT32_MIN, (1 << 32) // 46):
        if count:
            yield Case(f"snapshot of {count} producers, one there", FILE, _snapshot(count, entry), "snapshot")
        if count != 2:
            data = _snapshot(min(count + 2, INT32_MAX), b"")
            yield Case(f"snapshot of {count + 2} producers, none there", FILE, data, "snapshot")
    for count in (INT64_MAX, 1 << 62, 1 << 31, 1 << 20, -1, INT64_MIN, 2):
        yield Case(f"seal of {count} blocks", FILE, _seal(count, 0, bytes(32)), "seal")
        yield Case(f"seal of {count} damaged ranges", FILE, _seal(0, count, bytes(32)), "seal")
    # The sum comes out right where one of them is below 0, or where it wraps around.
    yield Case("seal of 4 blocks and -4 damaged ranges", FILE, _seal(4, -4, b""), "seal")
    yield Case("seal of -3 blocks and 4 damaged ranges", FILE, _seal(-3, 4, bytes(32)), "seal")
    yield Case("seal whose number of rows wraps", FILE, _seal(INT64_MAX, INT64_MAX, b""), "seal")
    for count in ("2147483647", "99999999999999999999", "2", "0", "-1", "1e9", " 1", "01"):
        yield Case(f"checkpoint of {count!r} entries", FILE, f"0\n{count}\n1 5\n".encode(), "epochs")
        yield Case(f"offset checkpoint of {count!r} entries", FILE, f"0\n{count}\nt 0 5\n".encode(), "offsets")
    for number in ("9223372036854775808", "-1", "9" * 4000):
        yield Case(f"checkpoint from offset {number[:20]}", FILE, f"0\n1\n1 {number}\n".encode(), "epochs")
    yield Case("checkpoint of epoch 2^31", FILE, b"0\n1\n2147483648 0\n", "epochs")


def all_cases() -> list[Case]:
    """Every case; names are unique."""
    return [*record_cases(), *header_cases(), *codec_cases(), *file_cases()]

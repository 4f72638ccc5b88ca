"""Zigzag varints as in Protocol Buffers and Kafka: 7 bits a byte, low group first, the high bit says "more follows".

An int32 takes at most 5 bytes, an int64 at most 10. A sixth or eleventh byte, or bits above the 32nd or 64th, are
refused: they would wrap.
"""

from __future__ import annotations

from eventcore.errors import CorruptRecord


def write_varint(out: bytearray, value: int) -> None:
    """Append `value` (an int64 at most) to `out`."""
    rest = (value << 1) ^ (value >> 63)
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)


def _read(buf: memoryview, pos: int, end: int, bits: int) -> tuple[int, int]:
    value = shift = 0
    while pos < end:
        byte = buf[pos]
        pos += 1
        if bits - shift < 7 and byte >> (bits - shift):
            raise CorruptRecord(f"a varint exceeds {bits} bits", position=pos - 1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), pos
        shift += 7
    raise CorruptRecord("a varint runs past the end of its record", position=pos)


def read_varint(buf: memoryview, pos: int, end: int) -> tuple[int, int]:
    """Read an int32 from `buf[pos:end]`: (value, position after it)."""
    return _read(buf, pos, end, 32)


def read_varlong(buf: memoryview, pos: int, end: int) -> tuple[int, int]:
    """Read an int64 from `buf[pos:end]`: (value, position after it)."""
    return _read(buf, pos, end, 64)

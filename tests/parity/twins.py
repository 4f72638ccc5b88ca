"""Both sets of kernels side by side, and raw batches made without either of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from eventcore._pure.crc32c import crc32c

NAMES = (
    "append",
    "arrow",
    "batch",
    "clean",
    "decode",
    "encode",
    "follow",
    "gather",
    "guard",
    "index",
    "marks",
    "points",
    "murmur2",
    "offset_map",
    "producers",
    "rows",
    "source",
    "tail",
    "transfer",
)
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
NOW = 1_700_000_000_000
EVERY = (INT64_MIN, INT64_MAX)
"""The offset range that leaves nothing out."""


def load(kind: str) -> SimpleNamespace | None:
    """The kernels `native` or `pure`; None if they were not built. One that is there and cannot be loaded raises."""
    try:
        return SimpleNamespace(kind=kind, **{name: import_module(f"eventcore._{kind}.{name}") for name in NAMES})
    except ModuleNotFoundError as error:
        if kind == "native" and str(error.name).startswith("eventcore._native."):
            return None
        raise


def outcome(call: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """What a caller can tell apart: the result, or the class, position and offset of the error."""
    try:
        return ("result", call(*args))
    except Exception as error:
        return (type(error), getattr(error, "position", None), getattr(error, "offset", None))


def varint(value: int) -> bytes:
    """Zigzag varint, as the format says."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def part(value: bytes | None) -> bytes:
    """A key or value with its length in front."""
    return varint(-1) if value is None else varint(len(value)) + value


def record(
    offset_delta: int,
    timestamp_delta: int = 0,
    key: bytes | None = b"key",
    value: bytes | None = b"value",
    headers: tuple[tuple[bytes, bytes | None], ...] = (),
) -> bytes:
    """One record as the format says; header keys are bytes, so that they may be no UTF-8."""
    body = b"\0" + varint(timestamp_delta) + varint(offset_delta) + part(key) + part(value) + varint(len(headers))
    body += b"".join(part(name) + part(content) for name, content in headers)
    return varint(len(body)) + body


def batch(
    area: bytes = b"",
    count: int = 0,
    *,
    base_offset: int = 100,
    length: int | None = None,
    leader_epoch: int = 7,
    magic: int = 2,
    attributes: int = 0,
    last_offset_delta: int | None = None,
    base_timestamp: int = NOW,
    max_timestamp: int = NOW + 9,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """A batch around a records area, with the CRC of whatever it is made of."""
    last = max(count - 1, 0) if last_offset_delta is None else last_offset_delta
    covered = struct.pack(">hiqqqhii", attributes, last, base_timestamp, max_timestamp, *producer, count) + area
    length = 9 + len(covered) if length is None else length
    return struct.pack(">qiibI", base_offset, length, leader_epoch, magic, crc32c(covered)) + covered


def resealed(data: bytes) -> bytes:
    """The same batch with the CRC it should have."""
    return data[:17] + crc32c(data[21:]).to_bytes(4, "big") + data[21:]


RECORDS = (
    record(0),
    record(1, 5, None, b"v" * 70),
    record(2, -3, b"", None, ((b"h", b"x"), ("é".encode(), None))),
)
SMALL = batch(b"".join(RECORDS), 3)
"""Three records with every kind of part: 3, 70 and 0 bytes, nulls, headers."""

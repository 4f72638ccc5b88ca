"""The records area of a batch: one record after another, no padding (Kafka RecordBatch v2).

    length varint | attributes int8 = 0 | timestamp delta varlong | offset delta varint | key length varint (-1 null)
    key | value length varint (-1 null) | value | header count varint | (key length, key, value length, value)*

`length` counts what follows it. Everything here is read from untrusted bytes, so each length is compared with what
is left of its record before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from eventcore._pure.varint import read_varint, read_varlong, write_varint
from eventcore.errors import CorruptRecord
from eventcore.types import Header, Record

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
_MIN_RECORD_SIZE = 7
"""length, attributes, two deltas, two lengths and a count of at least a byte each."""


class Slices(NamedTuple):
    """Where the parts of one record lie; a length of -1 means null. `key_at` is where the key's length stands."""

    timestamp_delta: int
    offset_delta: int
    key_at: int
    key_position: int
    key_length: int
    value_position: int
    value_length: int
    headers_position: int
    header_count: int
    end: int


def _length(buf: memoryview, pos: int, end: int, what: str, least: int) -> tuple[int, int]:
    length, pos = read_varint(buf, pos, end)
    if length < least or length > end - pos:
        raise CorruptRecord(f"a {what} of length {length} where {end - pos} bytes are left", position=pos)
    return length, pos


def slice_record(buf: memoryview, pos: int, end: int) -> Slices:
    """Find the parts of the record at `pos`; nothing beyond `end` is looked at."""
    size, pos = _length(buf, pos, end, "record", _MIN_RECORD_SIZE - 1)
    end = pos + size
    pos += 1  # attributes: no bit is in use
    timestamp_delta, pos = read_varlong(buf, pos, end)
    offset_delta, key_at = read_varint(buf, pos, end)
    key_length, key_position = _length(buf, key_at, end, "key", -1)
    pos = key_position + max(key_length, 0)
    value_length, value_position = _length(buf, pos, end, "value", -1)
    pos = value_position + max(value_length, 0)
    header_count, headers_position = _length(buf, pos, end, "header count", 0)
    return Slices(
        timestamp_delta,
        offset_delta,
        key_at,
        key_position,
        key_length,
        value_position,
        value_length,
        headers_position,
        header_count,
        end,
    )


def read_headers(buf: memoryview, parts: Slices) -> tuple[Header, ...]:
    """Decode the headers of a record and check that the record ends where it said."""
    headers: list[Header] = []
    pos = parts.headers_position
    for _ in range(parts.header_count):
        length, pos = _length(buf, pos, parts.end, "header key", 0)
        try:
            key = str(buf[pos : pos + length], "utf-8")
        except UnicodeDecodeError:
            raise CorruptRecord("a header key is not UTF-8", position=pos) from None
        pos += length
        length, pos = _length(buf, pos, parts.end, "header value", -1)
        headers.append((key, None if length < 0 else bytes(buf[pos : pos + length])))
        pos += max(length, 0)
    if pos != parts.end:
        raise CorruptRecord(f"a record says it is {parts.end - pos} bytes longer than its fields", position=pos)
    return tuple(headers)


def walk(buf: memoryview, pos: int, end: int, count: int, last_offset_delta: int) -> Iterator[tuple[Slices, int]]:
    """Yield the parts and position of each of `count` records; they must rise in offset and fill the area exactly."""
    previous = -1
    for _ in range(count):
        at = pos
        parts = slice_record(buf, pos, end)
        if not previous < parts.offset_delta <= last_offset_delta:
            raise CorruptRecord(f"an offset delta of {parts.offset_delta} after {previous}", position=at)
        previous = parts.offset_delta
        pos = parts.end
        yield parts, at
    if pos != end:
        raise CorruptRecord(f"{end - pos} bytes are left after the last of {count} records", position=pos)


def timestamp_of(base_timestamp: int, delta: int, position: int) -> int:
    """The timestamp of a record, refused where it leaves the 64 bits."""
    timestamp = base_timestamp + delta
    if not INT64_MIN <= timestamp <= INT64_MAX:
        raise CorruptRecord("a timestamp leaves the 64 bits", position=position)
    return timestamp


def _view(part: Any, what: str) -> memoryview | None:
    if part is None:
        return None
    try:
        return memoryview(part).cast("B")
    except TypeError:
        raise TypeError(
            f"a {what} must be bytes-like or None, not {type(part).__name__}"
            + ("; encode it first, e.g. text.encode()" if isinstance(part, str) else "")
        ) from None


def parts_of(item: Any, now: int) -> tuple[int, memoryview | None, memoryview | None, Any]:
    """(timestamp, key, value, headers) of what a caller hands in: a value, a (key, value) pair or a Record."""
    if isinstance(item, Record):
        _, timestamp, key, value, headers = item
        if not isinstance(timestamp, int):
            raise TypeError(f"a timestamp must be an int (ms since the epoch), not {type(timestamp).__name__}")
        if not -1 <= timestamp <= INT64_MAX:
            raise ValueError(f"a timestamp must be ms since the epoch or -1 for now, not {timestamp}")
        return (now if timestamp == -1 else timestamp), _view(key, "key"), _view(value, "value"), headers
    if isinstance(item, tuple):
        if len(item) != 2:
            raise TypeError(f"a tuple must be (key, value), not of length {len(item)}")
        return now, _view(item[0], "key"), _view(item[1], "value"), ()
    return now, None, _view(item, "value"), ()


def _put_bytes(out: bytearray, part: memoryview | None) -> None:
    write_varint(out, -1 if part is None else len(part))
    if part is not None:
        out += part


def encode_headers(headers: Any) -> bytes:
    """The header count and the headers of one record, from any iterable."""
    headers = tuple(headers)
    out = bytearray()
    write_varint(out, len(headers))
    for header in headers:
        if not isinstance(header, tuple) or len(header) != 2 or not isinstance(header[0], str):
            raise TypeError("a header must be a (str, bytes-like or None) pair")
        key = header[0].encode()
        write_varint(out, len(key))
        out += key
        _put_bytes(out, _view(header[1], "header value"))
    return bytes(out)


def encode_record(
    timestamp_delta: int, offset_delta: int, key: memoryview | None, value: memoryview | None, headers: Any
) -> bytes:
    """One record, its length in front."""
    body = bytearray(b"\0")
    write_varint(body, timestamp_delta)
    write_varint(body, offset_delta)
    _put_bytes(body, key)
    _put_bytes(body, value)
    body += encode_headers(headers) if headers else b"\0"
    out = bytearray()
    write_varint(out, len(body))
    return bytes(out + body)

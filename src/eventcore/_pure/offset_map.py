"""Which record of each key is the latest: the table that compaction goes by.

A key is a key by its bytes. The native twin keeps a hash and where they stand (16 bytes a slot, 3 of 4 slots at most in
use) and compares them there; this one keeps the bytes. Both are full with the same record.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from eventcore._pure.batch import (
    CONTROL,
    HEADER,
    HEADER_SIZE,
    BatchFields,
    as_bytes,
    batch_size,
    checked_range,
    checked_size,
)
from eventcore._pure.records import Slices, read_headers, walk
from eventcore.types import Buffer

__all__ = ["SLOT_SIZE", "OffsetMap", "hash_key"]

SLOT_SIZE = 16
_SECRET_SIZE = 16
_COPY_HEAD, _COPY_UNIT = 12, 8
_COPIES_MAX = ((1 << 31) - 1) * _COPY_UNIT
_LOG_SIZE_MAX = (1 << 31) - 1
_MASK = (1 << 64) - 1
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotated(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotated(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotated(v1, 17) ^ v2
    return v0, v1, _rotated(v2, 32), v3


def hash_key(key: Buffer, secret: bytes) -> int:
    """The 64-bit hash of a key under a secret of 16 bytes: SipHash-1-3. Only the native map uses it."""
    data = bytes(as_bytes(key))
    if len(secret) != _SECRET_SIZE:
        raise ValueError("a secret has 16 bytes")
    k0, k1 = int.from_bytes(secret[:8], "little"), int.from_bytes(secret[8:], "little")
    v0, v1, v2, v3 = (start ^ half for start, half in zip(_START, (k0, k1, k0, k1), strict=True))
    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    for word in [*words, (len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little")]:
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


class Place(NamedTuple):
    """Where the key of a record that lies in a log as it is stands. Places rise with offsets."""

    ordinal: int
    position: int


class Copied(NamedTuple):
    """The latest record is one of a compressed batch, whose key is copied."""

    offset: int


Latest = Union[Place, Copied]


class OffsetMap:
    """Maps the latest record of each key of one or more logs, which are mapped in the order of their offsets.

    `slots` are its size: so many times 16 bytes, of which 3 of 4 may be in use. Keys of compressed batches are copied
    into at most `copied_bytes` besides. `secret` (16 bytes) is what hashes are made with. `end_offset` is where the
    mapped records end, to be moved on by the owner over what is not to be mapped. `position` is that of the batch that
    was looked at last, for whoever catches an error. A `careful` map compares keys whenever it looks one up; any other
    only when a record is to be dropped, and then may say that it `collided`. With `first_slots` it begins with so many
    and grows with its keys.
    """

    def __init__(
        self, slots: int, copied_bytes: int, secret: bytes, careful: bool = False, first_slots: int = 0
    ) -> None:
        if slots < 2 or copied_bytes < 0:
            raise ValueError(f"a map of {slots} slots and {copied_bytes} bytes of keys")
        if len(secret) != _SECRET_SIZE:
            raise ValueError("a secret has 16 bytes")
        self._slots, self._limit = slots, slots - max(slots // 4, 1)
        self._copies_used, self._copies_limit = _COPY_UNIT, min(copied_bytes, _COPIES_MAX)
        self._latest: dict[bytes, Latest] = {}
        self._logs: list[memoryview] = [memoryview(b"")]
        self.full = False
        """Whether a key found no room: `end_offset` is the offset of its record."""
        self.collided = False
        """Two keys had one hash: what was mapped is not to be used (never so in this twin)."""
        self.end_offset = 0
        self.position = 0

    def __len__(self) -> int:
        return len(self._latest)

    @property
    def memory(self) -> int:
        """Bytes of the slots and of the copied keys (those that the native twin has)."""
        return self._slots * SLOT_SIZE + self._copies_used

    def attach(self, log: Buffer) -> int:
        """Take in the buffer of a log behind all others; its ordinal. It stays pinned as long as the map lives."""
        view = as_bytes(log)
        if len(view) > _LOG_SIZE_MAX:
            raise ValueError("a log has less than 2 GiB")
        self._logs.append(view)
        return len(self._logs) - 1

    def map_batches(
        self, ordinal: int, start: int, end: int, min_offset: int, stop_mask: int, until: int = _LOG_SIZE_MAX
    ) -> int:
        """Map the records at and above `min_offset` of the batches in [start, end) of a log; returns where it stopped.

        Control batches are passed over, and so are records without a key. It stops before a batch with an attribute of
        `stop_mask`, at or behind position `until`, and where the map is full. Raises CorruptRecord, with
        nothing of that batch mapped.
        """
        if not 1 <= ordinal < len(self._logs):
            raise ValueError(f"there is no log {ordinal}")
        view = self._logs[ordinal]
        end = checked_range(view, start, end)
        while start < min(end, until) and not self.full:
            self.position = start
            size = batch_size(view, start, end)
            fields = HEADER.unpack_from(view, start)
            if fields[5] & stop_mask:
                break
            if not fields[5] & CONTROL and fields[0] + fields[6] >= min_offset:
                checked_size(view, start, end, True)
                self._map(view, start + HEADER_SIZE, start + size, fields, min_offset, ordinal)
                if self.full:
                    break
            self._pass(fields, min_offset)
            start += size
        return start

    def map_records(self, data: Buffer, fields: BatchFields, min_offset: int) -> None:
        """Map the records of one batch whose area is decompressed, and so not in the log: their keys are copied."""
        view = as_bytes(data)
        if len(view) > _LOG_SIZE_MAX:
            raise ValueError("the records of a batch have less than 2 GiB")
        self._map(view, 0, len(view), fields, min_offset, 0)
        if not self.full:
            self._pass(fields, min_offset)

    def _pass(self, fields: BatchFields, min_offset: int) -> None:
        next_offset = fields[0] + fields[6] + 1
        if next_offset > min_offset:
            self.end_offset = max(self.end_offset, next_offset)

    def _map(self, view: memoryview, start: int, end: int, fields: BatchFields, min_offset: int, ordinal: int) -> None:
        for parts in listed(view, start, end, fields):
            offset = fields[0] + parts.offset_delta
            if parts.key_length < 0 or offset < min_offset:
                continue
            key = key_of(view, parts)
            self.full = key not in self._latest and len(self._latest) == self._limit
            if not self.full and ordinal == 0:
                self.full = not self._copy(key, offset)
            if self.full:
                return
            self._latest[key] = Place(ordinal, parts.key_at) if ordinal else Copied(offset)
            self.end_offset = max(self.end_offset, offset + 1)

    def _copy(self, key: bytes, offset: int) -> bool:
        if isinstance(self._latest.get(key), Copied):
            return True
        size = -(-(_COPY_HEAD + len(key)) // _COPY_UNIT) * _COPY_UNIT
        if size > self._copies_limit - self._copies_used:
            return False
        self._copies_used += size
        return True

    def is_latest(self, key: Buffer, ordinal: int, position: int, offset: int) -> bool:
        """Whether nothing later is mapped for a key than its record with this place (ordinal 0: before all) and offset.

        `position` is that of the key's length in its log. True, too, where the map finds that it `collided`.
        """
        known = self._latest.get(bytes(as_bytes(key)))
        if known is None:
            return True
        return offset >= known.offset if isinstance(known, Copied) else (ordinal, position) >= known

    def _knows(self, ordinal: int, log: Buffer) -> bool:
        """Whether a buffer may be this log of the map; any may be one that is not in it (0)."""
        return ordinal == 0 or (0 < ordinal < len(self._logs) and len(self._logs[ordinal]) == len(as_bytes(log)))


def listed(view: memoryview, start: int, end: int, fields: BatchFields) -> list[Slices]:
    """The records of an area, all of them checked before the first is used."""
    found = []
    for parts, _ in walk(view, start, end, fields[12], fields[6]):
        read_headers(view, parts)
        found.append(parts)
    return found


def key_of(view: memoryview, parts: Slices) -> bytes:
    """The key of a record that has one."""
    return bytes(view[parts.key_position : parts.key_position + parts.key_length])

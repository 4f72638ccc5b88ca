"""Records of `__transaction_state`: what a transaction coordinator knows of each transactional id.

Key: int16 0, the id as a string. Value: int16 version 0 or 1, then Kafka's TransactionLogValue; version 1, which is
written, is flexible. A value of None is a tombstone: the id is forgotten.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from eventcore.errors import CorruptRecord, UnsupportedFormat
from eventcore.format import fields
from eventcore.format.fields import FieldReader
from eventcore.types import TransactionState, TransactionStatus

TOPIC = "__transaction_state"
PARTITIONS = 50
_KEY_VERSION, _VERSION = 0, 1
_PREVIOUS_ID, _NEXT_ID, _CLIENT_VERSION, _NEXT_EPOCH = range(4)
_LEAST_TOPIC_BYTES = 3
_NO_PARTITIONS = b"\0"
"""Null where there is no transaction: Kafka does not write an empty list for that."""
_HEAD = struct.Struct(">hqhib")
_TIMES = struct.Struct(">qq")
_LONG, _SHORT = struct.Struct(">q"), struct.Struct(">h")


@lru_cache(maxsize=1 << 12)
def partition_of(transactional_id: str, count: int = PARTITIONS) -> int:
    """The partition of the topic that holds an id, or a group: Java's hash of the string (UTF-16 units)."""
    data = transactional_id.encode("utf-16-be", "surrogatepass")
    hashed = 0
    for at in range(0, len(data), 2):
        hashed = (31 * hashed + int.from_bytes(data[at : at + 2], "big")) & 0xFFFFFFFF
    hashed = hashed - (1 << 32) if hashed >> 31 else hashed
    return (0 if hashed == -(1 << 31) else abs(hashed)) % count


def encode_key(transactional_id: str) -> bytes:
    """The key of an id's records."""
    out = bytearray()
    fields.put_int(out, 2, _KEY_VERSION)
    fields.put_string(out, transactional_id)
    return bytes(out)


def decode_key(key: bytes) -> str:
    """The id. Raises CorruptRecord and UnsupportedFormat."""
    reader = FieldReader(key, "the key of a transaction's state")
    version = reader.integer(2)
    if version != _KEY_VERSION:
        raise UnsupportedFormat(f"a transaction's state with a key of version {version}")
    return reader.string()


def encode_value(state: TransactionState) -> bytes:
    """The value of a record."""
    who, epoch, timeout_ms, status, partitions, updated, started, *tagged = state
    head = _HEAD.pack(_VERSION, who, epoch, timeout_ms, status)
    places = _NO_PARTITIONS if status == TransactionStatus.EMPTY else _partition_bytes(partitions)
    return head + places + _TIMES.pack(updated, started) + _tagged_bytes(*tagged)


@lru_cache(maxsize=1 << 10)
def _tagged_bytes(previous_id: int, next_id: int, next_epoch: int, client_version: int) -> bytes:
    """They are the same from one transaction of an id to the next."""
    tagged: dict[int, bytes] = {}
    if previous_id != -1:
        tagged[_PREVIOUS_ID] = _LONG.pack(previous_id)
    if next_id != -1:
        tagged[_NEXT_ID] = _LONG.pack(next_id)
    if client_version:
        tagged[_CLIENT_VERSION] = _SHORT.pack(client_version)
    if next_epoch != -1:
        tagged[_NEXT_EPOCH] = _SHORT.pack(next_epoch)
    out = bytearray()
    fields.put_tagged(out, tagged)
    return bytes(out)


@lru_cache(maxsize=1 << 10)
def _partition_bytes(partitions: tuple[tuple[str, int], ...]) -> bytes:
    """Each state of a transaction has the same, and so has mostly the next one of the id."""
    topics: dict[str, list[int]] = {}
    for topic, partition in partitions:
        topics.setdefault(topic, []).append(partition)
    out = bytearray()
    fields.put_uvarint(out, len(topics) + 1)
    for topic, numbers in topics.items():
        fields.put_compact_string(out, topic)
        fields.put_uvarint(out, len(numbers) + 1)
        out += struct.pack(f">{len(numbers)}i", *numbers)
        fields.put_tagged(out, {})
    return bytes(out)


def decode_value(value: bytes) -> TransactionState:
    """A record's value. Raises CorruptRecord and UnsupportedFormat."""
    reader = FieldReader(value, "a transaction's state")
    version = reader.integer(2)
    if version not in (0, _VERSION):
        raise UnsupportedFormat(f"a transaction's state of version {version}")
    flexible = version == 1
    producer_id, epoch, timeout_ms = reader.integer(8), reader.integer(2), reader.integer(4)
    status, partitions = _status(reader.integer(1)), _partitions(reader, flexible)
    updated, started = reader.integer(8), reader.integer(8)
    tagged = reader.tagged() if flexible else {}

    def number(tag: int, default: int) -> int:
        return int.from_bytes(tagged[tag], "big", signed=True) if tag in tagged else default

    return TransactionState(
        producer_id,
        epoch,
        timeout_ms,
        status,
        partitions,
        updated,
        started,
        number(_PREVIOUS_ID, -1),
        number(_NEXT_ID, -1),
        number(_NEXT_EPOCH, -1),
        number(_CLIENT_VERSION, 0),
    )


def _status(number: int) -> TransactionStatus:
    try:
        return TransactionStatus(number)
    except ValueError:
        raise CorruptRecord(f"a transaction of status {number}") from None


def _partitions(reader: FieldReader, flexible: bool) -> tuple[tuple[str, int], ...]:
    number = reader.uvarint() - 1 if flexible else reader.integer(4)
    found: list[tuple[str, int]] = []
    for _ in range(reader.count(max(number, 0), _LEAST_TOPIC_BYTES)):
        topic = reader.compact_string() if flexible else reader.string()
        count = reader.count(reader.uvarint() - 1 if flexible else reader.integer(4), 4)
        found += [(topic, reader.integer(4)) for _ in range(count)]
        if flexible:
            reader.tagged()
    return tuple(found)

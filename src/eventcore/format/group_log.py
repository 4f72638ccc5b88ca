"""Records of `__consumer_offsets`: how far each consumer group is in each partition.

Key: int16 1 (or 0, of old Kafkas), group and topic as strings, int32 partition. Value: int16 version 0 to 4, then
Kafka's OffsetCommitValue; version 3, which is written, is what Kafka writes of a topic whose id it was not told. A
value of None is a tombstone: the group has no place there any more. Keys of other types are about Kafka's members.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from eventcore.errors import UnsupportedFormat
from eventcore.format import fields
from eventcore.format.fields import FieldReader
from eventcore.types import CommittedOffset

TOPIC = "__consumer_offsets"
PARTITIONS = 50
_OFFSET_KEYS = (0, 1)
_LAST_KEY = 30
"""Kafka 4.3 knows sixteen types of keys. Each begins with the group."""
_VERSION = 3
_FLEXIBLE = 4
_WITH_EPOCH = 3
_WITH_EXPIRY = 1
_HEAD, _TIME = struct.Struct(">hqih"), struct.Struct(">q")


class GroupKey(NamedTuple):
    """The key of a record: the group, and of an offset the partition; None if the record is about something else."""

    group: str
    partition: tuple[str, int] | None


@lru_cache(maxsize=1 << 12)
def encode_key(group: str, topic: str, partition: int) -> bytes:
    """The key of a group's offset in a partition."""
    out = bytearray()
    fields.put_int(out, 2, _OFFSET_KEYS[-1])
    fields.put_string(out, group)
    fields.put_string(out, topic)
    fields.put_int(out, 4, partition)
    return bytes(out)


def decode_key(key: bytes) -> GroupKey:
    """What a key says. Raises CorruptRecord and UnsupportedFormat."""
    reader = FieldReader(key, "the key of a group's record")
    kind = reader.integer(2)
    if not 0 <= kind <= _LAST_KEY:
        raise UnsupportedFormat(f"a group's record with a key of type {kind}")
    group = reader.string()
    if kind not in _OFFSET_KEYS:
        return GroupKey(group, None)
    return GroupKey(group, (reader.string(), reader.integer(4)))


def encode_value(committed: CommittedOffset) -> bytes:
    """The value of a record."""
    metadata = committed.metadata.encode()
    head = _HEAD.pack(_VERSION, committed.offset, committed.leader_epoch, len(metadata))
    return head + metadata + _TIME.pack(committed.commit_ms)


def decode_value(value: bytes) -> CommittedOffset:
    """What a record's value says. Raises CorruptRecord and UnsupportedFormat."""
    reader = FieldReader(value, "a group's offset")
    version = reader.integer(2)
    if not 0 <= version <= _FLEXIBLE:
        raise UnsupportedFormat(f"a group's offset of version {version}")
    offset = reader.integer(8)
    leader_epoch = reader.integer(4) if version >= _WITH_EPOCH else -1
    metadata = reader.compact_string() if version >= _FLEXIBLE else reader.string()
    commit_ms = reader.integer(8)
    if version == _WITH_EXPIRY:
        reader.integer(8)
    if version >= _FLEXIBLE:
        reader.tagged()
    return CommittedOffset(offset, leader_epoch, metadata, commit_ms)

"""Structures as data: fields in order, each with its type and its reason; offsets are summed, never typed.

The drawings in docs/format.md are generated from these, and tests compare the kernels' own constants with them.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

_KAFKA_TYPES = {"b": "int8", "h": "int16", "i": "int32", "I": "uint32", "q": "int64"}


class Field(NamedTuple):
    """One field: its name, its `struct` code, and why it is there."""

    name: str
    code: str
    why: str


class Layout:
    """A fixed-size structure of big-endian fields."""

    def __init__(self, title: str, *fields: Field) -> None:
        self.title = title
        self.fields = fields
        self.struct = struct.Struct(">" + "".join(field.code for field in fields))
        self.offsets: dict[str, int] = {}
        position = 0
        for field in fields:
            self.offsets[field.name] = position
            position += struct.calcsize(">" + field.code)

    @property
    def size(self) -> int:
        """Bytes of the whole structure."""
        return self.struct.size

    def unpack(self, data: Any, at: int = 0) -> dict[str, int]:
        """The fields by name."""
        values = self.struct.unpack_from(data, at)
        return {field.name: value for field, value in zip(self.fields, values, strict=True)}

    def pack(self, **values: int) -> bytes:
        """The bytes of the structure; every field must be given."""
        return self.struct.pack(*(values[field.name] for field in self.fields))

    def table(self) -> str:
        """A Markdown table of offset, size, type, name and reason."""
        lines = [f"| offset | bytes | type | {self.title} | |", "|---:|---:|---|---|---|"]
        for field in self.fields:
            size = struct.calcsize(">" + field.code)
            row = (self.offsets[field.name], size, _KAFKA_TYPES[field.code], f"`{field.name}`", field.why)
            lines.append("| " + " | ".join(map(str, row)) + " |")
        return "\n".join(lines)


BATCH_HEADER = Layout(
    "record batch v2",
    Field("base_offset", "q", "offset of the first record; the leader assigns it, so it is outside the CRC"),
    Field("length", "i", "bytes that follow this field; 0 means end of the log; outside the CRC"),
    Field("leader_epoch", "i", "rewritten by each leader, so outside the CRC"),
    Field("magic", "b", "2; at the same place in all of Kafka's formats; outside the CRC"),
    Field("crc", "I", "CRC-32C of every byte from attributes to the end of the batch, as stored"),
    Field("attributes", "h", "bits 0-2 codec, 3 append time, 4 transactional, 5 control, 6 delete horizon"),
    Field("last_offset_delta", "i", "last offset − base offset; kept by compaction, so it may exceed the count"),
    Field("base_timestamp", "q", "what the records' deltas count from; the delete horizon if bit 6 is set"),
    Field("max_timestamp", "q", "largest record timestamp, or the append time of all records if bit 3 is set"),
    Field("producer_id", "q", "-1 without idempotence"),
    Field("producer_epoch", "h", "-1 without idempotence"),
    Field("base_sequence", "i", "sequence of the first record; -1 without idempotence and for control batches"),
    Field("record_count", "i", "0 in a batch that compaction kept for its offset or producer only"),
)
OFFSET_INDEX_ENTRY = Layout(
    "offset index entry",
    Field("relative_offset", "i", "last offset of a batch − base offset of the segment"),
    Field("position", "i", "where that same batch starts in the .log"),
)
TIME_INDEX_ENTRY = Layout(
    "time index entry",
    Field("timestamp", "q", "largest timestamp of the segment so far"),
    Field("relative_offset", "i", "last offset of the batch that holds it − base offset of the segment"),
)
TXN_INDEX_ENTRY = Layout(
    "aborted transaction entry",
    Field("version", "h", "0"),
    Field("producer_id", "q", "whose transaction was aborted"),
    Field("first_offset", "q", "first data record of the transaction"),
    Field("last_offset", "q", "offset of its ABORT marker"),
    Field("last_stable_offset", "q", "last stable offset when it was aborted: how far a reader must look"),
)
PRODUCER_SNAPSHOT_HEADER = Layout(
    "producer snapshot",
    Field("version", "h", "1"),
    Field("crc", "I", "CRC-32C of everything behind this field"),
    Field("entry_count", "i", "entries that follow"),
)
PRODUCER_SNAPSHOT_ENTRY = Layout(
    "producer snapshot entry",
    Field("producer_id", "q", ""),
    Field("producer_epoch", "h", ""),
    Field("last_sequence", "i", "-1: no batch yet"),
    Field("last_offset", "q", "-1: no batch yet"),
    Field("offset_delta", "i", "last offset − first offset of the last batch"),
    Field("timestamp", "q", "when it was heard of; Kafka: of the last batch or marker"),
    Field("coordinator_epoch", "i", "of the last marker; -1: none"),
    Field("current_txn_first_offset", "q", "-1: no open transaction"),
)
PRODUCER_BATCH = Layout(
    "batch of a producer",
    Field("producer_id", "q", "of which there is an entry"),
    Field("last_offset", "q", "that of the entry, or one below"),
    Field("timestamp", "q", "of the batch"),
    Field("last_sequence", "i", ""),
    Field("offset_delta", "i", "last offset − first offset"),
)
LAYOUTS = (
    BATCH_HEADER,
    OFFSET_INDEX_ENTRY,
    TIME_INDEX_ENTRY,
    TXN_INDEX_ENTRY,
    PRODUCER_SNAPSHOT_HEADER,
    PRODUCER_SNAPSHOT_ENTRY,
    PRODUCER_BATCH,
)

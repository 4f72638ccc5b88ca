"""Golden bytes: what Kafka 4.3's own classes write for known input, with that input beside them.

They were computed independently of this package and compared byte for byte with Kafka's output. They never change:
a difference means that files of this package are no longer Kafka's files.
"""

from __future__ import annotations

from typing import NamedTuple

from eventcore.types import Record

TIMESTAMP = 1_700_000_000_000
NOTHING = -1
"""Kafka's "none" for producer ids, epochs and sequences."""


class GoldenBatch(NamedTuple):
    """A whole batch: its bytes, its 13 header fields (in the order of the bytes), its records."""

    name: str
    why: str
    data: bytes
    fields: tuple[int, ...]
    records: tuple[Record, ...]


PLAIN = GoldenBatch(
    "V1 plain",
    "base offset 100, leader epoch 7, two records: (ts, k1, v1) and (ts + 5, k2, null) with headers h=x and n=null",
    bytes.fromhex(
        "0000000000000064"  # base offset 100
        "0000004c"  # length 76: 88 bytes in all
        "00000007"  # leader epoch 7
        "02"  # magic
        "610ae70d"  # CRC-32C of everything below
        "0000"  # attributes: no codec, CreateTime
        "00000001"  # last offset delta
        "0000018bcfe56800"  # base timestamp
        "0000018bcfe56805"  # max timestamp
        "ffffffffffffffff"  # no producer id,
        "ffff"  # no epoch,
        "ffffffff"  # no sequence
        "00000002"  # two records
        "14 00 00 00 04 6b31 04 7631 00"  # length 10, attributes, deltas 0 and 0, "k1", "v1", no headers
        "1e 00 0a 02 04 6b32 01 04 0268 0278 026e 01"  # length 15, deltas 5 and 1, "k2", null, h=x, n=null
    ),
    (100, 76, 7, 2, 0x610AE70D, 0, 1, TIMESTAMP, TIMESTAMP + 5, NOTHING, NOTHING, NOTHING, 2),
    (
        Record(100, TIMESTAMP, b"k1", b"v1", ()),
        Record(101, TIMESTAMP + 5, b"k2", None, (("h", b"x"), ("n", None))),
    ),
)

_MARKER_FIELDS = (0x30, 0, TIMESTAMP, TIMESTAMP, 4000, 3, NOTHING, 1)

COMMIT_MARKER = GoldenBatch(
    "V3 commit marker",
    "base offset 5, leader epoch 7, producer 4000 epoch 3, coordinator epoch 9: key (version 0, type 1), "
    "value (version 0, coordinator epoch); transactional and control, never a sequence",
    bytes.fromhex(
        "0000000000000005000000420000000702"
        "3a976004"
        "0030000000000000018bcfe568000000018bcfe56800"
        "0000000000000fa00003ffffffff00000001"
        "20 00 00 00 08 00000001 0c 000000000009 00"
    ),
    (5, 66, 7, 2, 0x3A976004, *_MARKER_FIELDS),
    (Record(5, TIMESTAMP, b"\0\0\0\1", b"\0\0\0\0\0\x09", ()),),
)

ABORT_MARKER = GoldenBatch(
    "V3 abort marker",
    "the same with type 0",
    bytes.fromhex(
        "0000000000000005000000420000000702"
        "cea9b64c"
        "0030000000000000018bcfe568000000018bcfe56800"
        "0000000000000fa00003ffffffff00000001"
        "20 00 00 00 08 00000000 0c 000000000009 00"
    ),
    (5, 66, 7, 2, 0xCEA9B64C, *_MARKER_FIELDS),
    (Record(5, TIMESTAMP, b"\0\0\0\0", b"\0\0\0\0\0\x09", ()),),
)

RETAINED_EMPTY = GoldenBatch(
    "V4 retained empty",
    "what compaction leaves of a producer's last batch 100..101: no records, but offsets, sequences (base 10) and the "
    "old max timestamp stay; the base timestamp becomes -1",
    bytes.fromhex(
        "0000000000000064000000310000000702"
        "0f79a872"
        "000000000001ffffffffffffffff0000018bcfe56805"
        "0000000000000fa000030000000a00000000"
    ),
    (100, 49, 7, 2, 0x0F79A872, 0, 1, -1, TIMESTAMP + 5, 4000, 3, 10, 0),
    (),
)

TOMBSTONE_WITH_HORIZON = GoldenBatch(
    "V5 delete horizon",
    "a tombstone of k1 after its first cleaning at `ts` with delete.retention.ms of a day: attribute 0x40, the base "
    "timestamp is the horizon, so the record's own delta is minus a day",
    bytes.fromhex(
        "00000000000000640000003d0000000702"
        "6b59969d"
        "0040000000000000018bd50bc4000000018bcfe56800"
        "ffffffffffffffffffffffffffff00000001"
        "16 00 ffefb252 00 04 6b31 01 00"
    ),
    (100, 61, 7, 2, 0x6B59969D, 0x40, 0, TIMESTAMP + 86_400_000, TIMESTAMP, NOTHING, NOTHING, NOTHING, 1),
    (Record(100, TIMESTAMP, b"k1", None, ()),),
)

BATCHES = (PLAIN, COMMIT_MARKER, ABORT_MARKER, RETAINED_EMPTY, TOMBSTONE_WITH_HORIZON)

CRC32C_CHECK = (b"123456789", 0xE3069283)
"""The check value of CRC-32C (Castagnoli)."""

VARINTS = {
    0: "00",
    -1: "01",
    1: "02",
    -2: "03",
    63: "7e",
    -64: "7f",
    64: "8001",
    -65: "8101",
    300: "d804",
    2**31 - 1: "feffffff0f",
    -(2**31): "ffffffff0f",
}
"""Zigzag varints at every edge of a byte, and the ends of int32."""

VARLONGS = {2**63 - 1: "feffffffffffffffff01", -(2**63): "ffffffffffffffffff01"}
"""The ends of int64: ten bytes."""

OFFSET_INDEX_ENTRY = bytes.fromhex("0000002a 00002000")
"""Segment base 100: the batch that ends with offset 142 starts at position 8192."""

TIME_INDEX_ENTRIES = bytes.fromhex("0000018bcfe56800 0000002a 0000018bcfe56801 00000032")
"""Segment base 100: (ts, 142), then the entry that closing adds, (ts + 1, 150)."""

TXN_INDEX_ENTRY = bytes.fromhex("0000 0000000000000fa0 0000000000000064 0000000000000068 0000000000000069")
"""Version 0, producer 4000, first offset 100, ABORT marker at 104, last stable offset 105."""

SNAPSHOT_EMPTY = bytes.fromhex("0001 48674bc7 00000000")
"""A producer snapshot without producers: version 1, CRC-32C of the count, count 0."""

SNAPSHOT_ONE = bytes.fromhex(
    "0001 0cac92a7 00000001"
    "0000000000000fa0 0003 00000009 0000000000000077 00000004 0000018bcfe56800 00000009 0000000000000064"
)
"""Producer 4000 epoch 3: last sequence 9, last offset 119, delta 4, time ts, coordinator epoch 9, open since 100."""

SNAPSHOT_MARKER_ONLY = bytes.fromhex(
    "0001 9a97e1e7 00000001"
    "0000000000000fa0 0003 ffffffff ffffffffffffffff 00000000 0000018bcfe56800 00000009 0000000000000064"
)
"""The same producer when only a marker of it is in the log: no sequence, no last offset."""

LZ4_PREFIX = bytes.fromhex("04224d18 60 40 82")
"""Frame magic, FLG (version 1, independent blocks, nothing else), BD (64 KiB blocks), header checksum."""

SNAPPY_PREFIX = bytes.fromhex("82534e4150505900 00000001 00000001")
"""The xerial stream header: magic, version 1, compatible with version 1."""

MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"abc": 479470107,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
}
"""Kafka's key hash, signed as in Java. The partition of a key is (hash & 0x7fffffff) % partitions."""

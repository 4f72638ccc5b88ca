"""Logs written with this package, each with what was written: the cases that Kafka's tools and clients then read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eventcore as ec

T0 = 1_700_000_000_000
CODECS = ("uncompressed", "gzip", "snappy", "lz4", "zstd")
SMALL = {"segment.bytes": 16 << 10, "index.interval.bytes": 1024, "max.message.bytes": 8 << 10}


@dataclass
class Written:
    """A closed partition folder and the records that must be found in it."""

    folder: Path
    records: list[ec.Record] = field(default_factory=list)
    codec: str = "none"
    timestamp_type: str = "CreateTime"
    min_segments: int = 1


def sample(count: int, first: int = 0) -> list[ec.Record]:
    """Records with every kind of null, repeated header names and times that go back; all text is UTF-8 on one line."""
    return [
        ec.Record(
            offset=first + n,
            timestamp=T0 + n * 7 - (50 if n % 10 == 3 else 0),
            key=None if n % 5 == 0 else f"key-{n % 17} é".encode(),
            value=None if n % 11 == 4 else b"" if n % 13 == 5 else f"value {n} ".encode() * (1 + n % 23),
            headers=(("source", b"test"), ("empty", b""), ("null", None), ("source", b"twice")) if n % 3 == 0 else (),
        )
        for n in range(count)
    ]


def open_partition(folder: Path, **config: Any) -> ec.Partition:
    """Open for writing; configuration names are given with underscores for dots."""
    return ec.open_partition(folder, config={name.replace("_", "."): value for name, value in config.items()})


def extend(partition: ec.Partition, records: Sequence[ec.Record], at_once: int = 20) -> None:
    """Append in lots, each a batch or more of its own."""
    for start in range(0, len(records), at_once):
        partition.extend(records[start : start + at_once])


def one_codec(folder: Path, codec: str) -> Written:
    """Several batches of one codec in one segment, with index entries."""
    records = sample(400)
    with open_partition(folder, compression_type=codec, index_interval_bytes=512) as partition:
        extend(partition, records)
    return Written(folder, records, "none" if codec == "uncompressed" else codec)


def several_segments(folder: Path) -> Written:
    """Segments roll by size; each has its own indexes."""
    records = sample(1500)
    with ec.open_partition(folder, config=SMALL) as partition:
        extend(partition, records)
    return Written(folder, records, min_segments=4)


def rolled_by_hand(folder: Path) -> Written:
    """A roll after every few records, the last one leaving an empty active segment."""
    records = sample(60)
    with open_partition(folder, index_interval_bytes=0) as partition:
        for start in range(0, 60, 20):
            extend(partition, records[start : start + 20], at_once=5)
            partition.roll()
    return Written(folder, records, min_segments=3)


def log_append_time(folder: Path) -> Written:
    """The log's own clock in every record, whatever the records say."""
    with open_partition(folder, message_timestamp_type="LogAppendTime", index_interval_bytes=512) as partition:
        extend(partition, sample(200))
        records = list(partition.read(0))
    return Written(folder, records, timestamp_type="LogAppendTime")


def single_appends(folder: Path) -> Written:
    """One record a batch, and every optional argument of append."""
    records = sample(50)
    with open_partition(folder, index_interval_bytes=0) as partition:
        for record in records:
            partition.append(record.value, key=record.key, headers=record.headers, timestamp=record.timestamp)
    return Written(folder, records)


def sizes(folder: Path) -> Written:
    """Records of no, one and 900 KiB bytes."""
    values: list[bytes | None] = [b"", b"x", b"y" * (900 << 10), None, b"z"]
    records = [ec.Record(n, T0 + n, b"k", value) for n, value in enumerate(values)]
    with open_partition(folder, compression_type="uncompressed") as partition:
        extend(partition, records, at_once=1)
    return Written(folder, records)


def truncated(folder: Path) -> Written:
    """Cut back into an earlier segment, then written on."""
    before, after = sample(1500), sample(100)
    with ec.open_partition(folder, config=SMALL) as partition:
        extend(partition, before)
        partition.truncate(700)
        extend(partition, after)
    return Written(folder, _joined(before[:700], after), min_segments=2)


def reopened(folder: Path) -> Written:
    """Closed and opened again between appends: indexes are trimmed and grown."""
    records = sample(300)
    for start in range(0, 300, 100):
        with ec.open_partition(folder, config=SMALL) as partition:
            extend(partition, records[start : start + 100])
    return Written(folder, records)


def copied_while_open(folder: Path) -> Written:
    """What a crash leaves: reserved zeros behind the tail, no clean shutdown. Recovered, written on, closed."""
    records, original = sample(500), folder.with_name("original-0")
    original.mkdir()
    with ec.open_partition(original, config=SMALL) as partition:
        extend(partition, records)
        shutil.copytree(original, folder, dirs_exist_ok=True)
    with ec.open_partition(folder, config=SMALL) as partition:
        extend(partition, sample(50))
    return Written(folder, _joined(records, sample(50)), min_segments=2)


def torn_tail(folder: Path) -> Written:
    """The last batch cut in the middle, as by a power cut: it goes, the rest stays, appends go on."""
    records, original = sample(105), folder.with_name("original-0")
    original.mkdir()
    with ec.open_partition(original, fsync="never", config={"segment.bytes": 1 << 20}) as partition:
        extend(partition, records[:100])
        size = _written_size(original)
        extend(partition, records[100:])
        shutil.copytree(original, folder, dirs_exist_ok=True)
    os.truncate(folder / f"{0:020}.log", size + 70)
    (folder / "eventcore.state").unlink(missing_ok=True)  # it does not survive a power cut
    with ec.open_partition(folder) as partition:
        extend(partition, sample(10))
    return Written(folder, _joined(records[:100], sample(10)))


def _written_size(folder: Path) -> int:
    """Bytes of batches in the first segment of an open log: reserved zeros follow them."""
    return len((folder / f"{0:020}.log").read_bytes().rstrip(b"\0"))


def _joined(*parts: Sequence[ec.Record]) -> list[ec.Record]:
    records = [record for part in parts for record in part]
    return [record._replace(offset=offset) for offset, record in enumerate(records)]


CASES: dict[str, Callable[[Path], Written]] = {
    **{f"codec {codec}": lambda folder, codec=codec: one_codec(folder, codec) for codec in CODECS},  # type: ignore[misc]
    **{
        case.__name__: case
        for case in (
            several_segments,
            rolled_by_hand,
            log_append_time,
            single_appends,
            sizes,
            truncated,
            reopened,
            copied_while_open,
            torn_tail,
        )
    },
}

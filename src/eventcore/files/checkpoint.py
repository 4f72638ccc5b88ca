"""Kafka's small text files: checkpoints of leader epochs and of offsets, and `partition.metadata`.

A checkpoint is a version line, a line with the number of entries, and a line an entry, each ended by a newline; fields
are split by one space. An empty or missing file has no entries. Reading takes nothing that Kafka would not write: the
files have no checksum, so their form is all there is to check. Writing replaces the file: a crash leaves the old one or
the new one, which of them is certain after the folder was synced.
"""

from __future__ import annotations

import base64
import re
import uuid
from itertools import pairwise
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import CorruptFile
from eventcore.files.names import is_topic_name

VERSION = 0
_SIZE_MAX = 64 << 20
_METADATA_SIZE_MAX = 4096
_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_METADATA = re.compile(r"version: [0-9]{1,9}\ntopic_id: ([A-Za-z0-9_-]{21}[AQgw])\n?")
"""128 bits in base64: the last of 22 characters has only two of them."""
_NO_ID = uuid.UUID(int=0)


def _read_lines(disk: Disk, path: Path, fields: int) -> list[list[str]]:
    data = disk.read_file(path, _SIZE_MAX) if disk.exists(path) else b""
    if not data:
        return []
    try:
        version, count, *lines, rest = data.decode("ascii").split("\n")
    except ValueError:
        raise CorruptFile("a checkpoint that is no text of whole lines", path=path) from None
    if version != str(VERSION):
        raise CorruptFile(f"a checkpoint of version {version[:20]!r}", path=path)
    if rest or count != str(len(lines)):
        raise CorruptFile(f"a checkpoint of {len(lines)} whole lines that says {count[:20]!r}", path=path)
    entries = [line.split(" ") for line in lines]
    for number, entry in enumerate(entries, 3):
        if len(entry) != fields:
            raise CorruptFile(f"line {number} of a checkpoint has {len(entry)} fields", path=path)
    return entries


def _number(text: str, largest: int, path: Path) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > largest:
        raise CorruptFile(f"{text[:20]!r} where a number up to {largest} is expected", path=path)
    return int(text)


def _write_lines(disk: Disk, path: Path, lines: list[str]) -> None:
    disk.replace_file(path, "".join(f"{line}\n" for line in [str(VERSION), str(len(lines)), *lines]).encode())


def read_epochs(disk: Disk, path: Path) -> list[tuple[int, int]]:
    """(leader epoch, start offset), rising in both. Raises CorruptFile."""
    entries = [
        (_number(epoch, _INT32_MAX, path), _number(start, _INT64_MAX, path))
        for epoch, start in _read_lines(disk, path, 2)
    ]
    for (epoch, start), (next_epoch, next_start) in pairwise(entries):
        if not (epoch < next_epoch and start < next_start):
            raise CorruptFile(f"epoch {next_epoch} from {next_start} after epoch {epoch} from {start}", path=path)
    return entries


def write_epochs(disk: Disk, path: Path, entries: list[tuple[int, int]]) -> None:
    """Write `leader-epoch-checkpoint`."""
    _write_lines(disk, path, [f"{epoch} {start}" for epoch, start in entries])


def read_offsets(disk: Disk, path: Path) -> dict[tuple[str, int], int]:
    """{(topic, partition): offset}. Raises CorruptFile."""
    found: dict[tuple[str, int], int] = {}
    for topic, partition, offset in _read_lines(disk, path, 3):
        key = (topic, _number(partition, _INT32_MAX, path))
        if key in found or not is_topic_name(topic):
            raise CorruptFile(f"{topic[:20]!r} stands twice in a checkpoint, or is no topic", path=path)
        found[key] = _number(offset, _INT64_MAX, path)
    return found


def write_offsets(disk: Disk, path: Path, offsets: dict[tuple[str, int], int]) -> None:
    """Write an offset checkpoint."""
    _write_lines(disk, path, [f"{topic} {partition} {offset}" for (topic, partition), offset in offsets.items()])


def read_topic_id(disk: Disk, path: Path) -> uuid.UUID | None:
    """The topic id in `partition.metadata`; None if the file is missing. Raises CorruptFile, for an id of zeros too."""
    if not disk.exists(path):
        return None
    match = _METADATA.fullmatch(disk.read_file(path, _METADATA_SIZE_MAX).decode("ascii", "replace"))
    topic_id = uuid.UUID(bytes=base64.urlsafe_b64decode(match[1] + "==")) if match else _NO_ID
    if topic_id == _NO_ID:
        raise CorruptFile("no topic id in partition.metadata", path=path)
    return topic_id


def write_topic_id(disk: Disk, path: Path, topic_id: uuid.UUID) -> None:
    """Write `partition.metadata`; Kafka's has no newline at its end."""
    text = base64.urlsafe_b64encode(topic_id.bytes).decode().rstrip("=")
    disk.replace_file(path, f"version: 0\ntopic_id: {text}".encode())

"""Kafka's small text files: checkpoints of leader epochs and of offsets, and `partition.metadata`.

A checkpoint is a version line, a line with the number of entries, and a line an entry, each ended by a newline. An
empty or missing file has no entries. Writing replaces the file; it is durable on return.
"""

from __future__ import annotations

import base64
import uuid
from itertools import pairwise
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import CorruptFile

VERSION = 0
_SIZE_MAX = 64 << 20
_INT64_MAX = (1 << 63) - 1


def _read_lines(disk: Disk, path: Path, fields: int) -> list[list[str]]:
    data = disk.read_file(path, _SIZE_MAX) if disk.exists(path) else b""
    if not data:
        return []
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise CorruptFile("a checkpoint that is not text", path=path) from None
    if lines[0].strip() != str(VERSION):
        raise CorruptFile(f"a checkpoint of version {lines[0][:20]!r}", path=path)
    entries = [line.split() for line in lines[2:]]
    if len(lines) < 2 or not data.endswith(b"\n") or lines[1].strip() != str(len(entries)):
        raise CorruptFile("a checkpoint whose count does not match its lines", path=path)
    for number, entry in enumerate(entries, 3):
        if len(entry) != fields:
            raise CorruptFile(f"line {number} of a checkpoint has {len(entry)} fields", path=path)
    return entries


def _number(text: str, path: Path) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > _INT64_MAX:
        raise CorruptFile(f"{text[:20]!r} where a number is expected", path=path)
    return int(text)


def _write_lines(disk: Disk, path: Path, lines: list[str]) -> None:
    disk.replace_file(path, "".join(f"{line}\n" for line in [str(VERSION), str(len(lines)), *lines]).encode())


def read_epochs(disk: Disk, path: Path) -> list[tuple[int, int]]:
    """(leader epoch, start offset), rising in both. Raises CorruptFile."""
    entries = [(_number(epoch, path), _number(start, path)) for epoch, start in _read_lines(disk, path, 2)]
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
        key = (topic, _number(partition, path))
        if key in found:
            raise CorruptFile(f"{topic}-{partition} stands twice in a checkpoint", path=path)
        found[key] = _number(offset, path)
    return found


def write_offsets(disk: Disk, path: Path, offsets: dict[tuple[str, int], int]) -> None:
    """Write an offset checkpoint."""
    _write_lines(disk, path, [f"{topic} {partition} {offset}" for (topic, partition), offset in offsets.items()])


def read_topic_id(disk: Disk, path: Path) -> uuid.UUID | None:
    """The topic id in `partition.metadata`; None if the file is missing. Raises CorruptFile."""
    if not disk.exists(path):
        return None
    try:
        text = disk.read_file(path, 4096).decode("ascii")
        values = dict(line.split(": ", 1) for line in text.splitlines())
        topic_id = uuid.UUID(bytes=base64.urlsafe_b64decode(values["topic_id"] + "=="))
        if int(values["version"]) < 0 or topic_id.int == 0:
            raise ValueError
    except (KeyError, ValueError):
        raise CorruptFile("no topic id in partition.metadata", path=path) from None
    return topic_id


def write_topic_id(disk: Disk, path: Path, topic_id: uuid.UUID) -> None:
    """Write `partition.metadata`; Kafka's has no newline at its end."""
    text = base64.urlsafe_b64encode(topic_id.bytes).decode().rstrip("=")
    disk.replace_file(path, f"version: 0\ntopic_id: {text}".encode())

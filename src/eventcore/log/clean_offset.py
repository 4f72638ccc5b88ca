"""`cleaner-offset-checkpoint`: below which offset a log was compacted. Kafka's file and format.

A broker has one for all partitions of a log directory; here each partition has its own, beside its segments, so that
one can be opened alone, and a store writes Kafka's when it is closed. Of two that differ the lower one counts: what is
cleaned again is only work, what is taken for clean and is not stays so for ever.
"""

from __future__ import annotations

from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import CorruptFile
from eventcore.files import checkpoint, names

NAME = "cleaner-offset-checkpoint"


def _key(folder: Path) -> tuple[str, int]:
    """A folder that is not named as a partition has one all the same."""
    return names.parse_partition_folder(folder.name) or ("log", 0)


def read(disk: Disk, folder: Path) -> int:
    """The first offset that was not compacted; -1 if that is not known."""
    found = [_read(disk, place / NAME).get(_key(folder), -1) for place in (folder, folder.parent)]
    return min((offset for offset in found if offset >= 0), default=-1)


def own(disk: Disk, folder: Path) -> int:
    """What the partition itself has noted; -1 if nothing."""
    return max(_read(disk, folder / NAME).get(_key(folder), -1), -1)


def _read(disk: Disk, path: Path) -> dict[tuple[str, int], int]:
    """One that is damaged says nothing, as for Kafka."""
    try:
        return checkpoint.read_offsets(disk, path)
    except CorruptFile:
        return {}


def write(disk: Disk, folder: Path, offset: int) -> None:
    """Durable with the folder's next sync: until then the offset before it counts, and some is cleaned again."""
    checkpoint.write_offsets(disk, folder / NAME, {_key(folder): offset})


def lower(disk: Disk, folder: Path, offset: int) -> None:
    """The log is going to be cut at `offset`: what follows there is not clean. Durable on return."""
    if read(disk, folder) > offset:
        write(disk, folder, offset)
        disk.sync_dir(folder)

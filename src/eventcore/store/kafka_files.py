"""Kafka's own files in a store's folder: the checkpoints of all partitions, and the mark of a clean shutdown.

We write them when the store is closed, for a broker that may come next; each partition keeps the truth about itself.
What a broker has written since is taken over: it may have moved the start of a log. `eventcore.store` has the CRC of
the log starts that we wrote, or know, which tells whether they are a broker's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile
from eventcore.files import checkpoint, json_file, names
from eventcore.log import clean_offset

CLEAN_NAME = ".kafka_cleanshutdown"
RECOVERY_NAME = "recovery-point-offset-checkpoint"
LOG_START_NAME = "log-start-offset-checkpoint"
WATERMARK_NAME = "replication-offset-checkpoint"
CLEANER_NAME = "cleaner-offset-checkpoint"
OWN_NAME = "eventcore.store"
_CLEAN = json.dumps({"version": 0, "brokerEpoch": -1}, separators=(",", ":")).encode()
_SIZE_MAX = 64 << 20

Key = tuple[str, int]
Offsets = dict[Key, int]


class Ends(NamedTuple):
    """Where a partition's log began and ended when it was closed."""

    log_start: int
    first_base: int
    log_end: int


def take_clean_mark(disk: Disk, folder: Path) -> bool:
    """Whether the last owner closed the folder cleanly. The mark is used once: it is gone, durably, on return."""
    if not disk.exists(folder / CLEAN_NAME):
        return False
    disk.unlink(folder / CLEAN_NAME)
    disk.sync_dir(folder)
    return True


def read(disk: Disk, path: Path) -> Offsets:
    """A checkpoint; one that is damaged says nothing, as for Kafka."""
    try:
        return checkpoint.read_offsets(disk, path)
    except CorruptFile:
        return {}


def strangers_log_starts(disk: Disk, folder: Path) -> Offsets:
    """The log starts that a broker has written since we last knew them."""
    known = json_file.read(disk, folder / OWN_NAME) or {}
    return {} if known.get("log_starts_crc") == _crc(disk, folder) else read(disk, folder / LOG_START_NAME)


def know_log_starts(disk: Disk, folder: Path) -> None:
    """From now on what the file says is known, or out of date. Durable after `sync_dir`."""
    json_file.write(disk, folder / OWN_NAME, {"log_starts_crc": _crc(disk, folder)})


def _crc(disk: Disk, folder: Path) -> int:
    path = folder / LOG_START_NAME
    return kernels.crc32c.crc32c(disk.read_file(path, _SIZE_MAX)) if disk.exists(path) else 0


def write_all(disk: Disk, folder: Path, ends: dict[Key, Ends], there: Iterable[Key]) -> None:
    """Bring the checkpoints up to date with what was closed; partitions that are not there any more are left out."""
    kept = set(there)

    def merged(name: str, news: Offsets) -> None:
        old = {key: offset for key, offset in read(disk, folder / name).items() if key in kept and key not in ends}
        checkpoint.write_offsets(disk, folder / name, dict(sorted({**old, **news}.items())))

    log_ends = {key: end.log_end for key, end in ends.items()}
    merged(RECOVERY_NAME, log_ends)
    merged(WATERMARK_NAME, log_ends)
    merged(LOG_START_NAME, {key: end.log_start for key, end in ends.items() if end.log_start > end.first_base})
    cleaned = {key: offset for key, offset in read(disk, folder / CLEANER_NAME).items() if key in kept}
    for key in cleaned.keys() & ends.keys():  # a truncation has lowered what the partition itself has noted
        own = clean_offset.own(disk, folder / names.partition_folder(*key))
        cleaned[key] = min(cleaned[key], log_ends[key], own if own >= 0 else cleaned[key])
    checkpoint.write_offsets(disk, folder / CLEANER_NAME, cleaned)
    know_log_starts(disk, folder)
    disk.sync_dir(folder)


def note_cleaned(disk: Disk, folder: Path, partition: Key, offset: int) -> None:
    """Note how far one partition was compacted. Durable on return."""
    cleaned = {**read(disk, folder / CLEANER_NAME), partition: offset}
    checkpoint.write_offsets(disk, folder / CLEANER_NAME, dict(sorted(cleaned.items())))
    disk.sync_dir(folder)


def set_clean_mark(disk: Disk, folder: Path) -> None:
    """Say that everything here was closed cleanly. Durable on return."""
    disk.replace_file(folder / CLEAN_NAME, _CLEAN)
    disk.sync_dir(folder)

"""What can be said of a closed partition without opening it: enough to know whether housekeeping has to.

It is a guess where the files are not what they should be. Whoever acts on it opens the partition and looks again.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eventcore.disk import Disk
from eventcore.errors import NotALog
from eventcore.files import names
from eventcore.log.local import list_bases
from eventcore.log.retention import SegmentFacts, effective_time

_ENTRY_SIZE = 12


class Survey(NamedTuple):
    """The segments of a closed partition, by rising offsets; the last one has no end that is known."""

    segments: list[SegmentFacts]
    modified_ms: int
    """When it was last written to."""


def survey(disk: Disk, folder: Path, now: int) -> Survey:
    """Look at the names, sizes and last timestamps of a partition's segments."""
    facts, modified = [], 0
    bases = list_bases(disk, folder)
    for base, next_base in zip(bases, [*bases[1:], (1 << 63) - 1], strict=True):
        path = folder / names.file_name(base, names.LOG)
        modified = disk.modified_ms(path)
        time = effective_time(_last_timestamp(disk, path.with_suffix(names.TIME_INDEX)), now, lambda: modified)  # noqa: B023
        facts.append(SegmentFacts(base, next_base, disk.length(path), time))
    return Survey(facts, modified)


def _last_timestamp(disk: Disk, path: Path) -> int:
    """Of a closed segment's time index: its last entry has the largest timestamp. -1 if there is none."""
    try:
        fd = disk.open(path, write=False)
    except NotALog:
        return -1
    try:
        size = disk.size(fd)
        entry = disk.pread(fd, _ENTRY_SIZE, size - _ENTRY_SIZE) if size >= _ENTRY_SIZE else b""
        return int.from_bytes(entry[:8], "big", signed=True) if len(entry) == _ENTRY_SIZE else -1
    finally:
        disk.close(fd)

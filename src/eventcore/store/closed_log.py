"""What the files of a closed partition tell without opening it."""

from __future__ import annotations

from pathlib import Path

from eventcore.disk import Disk
from eventcore.files import names, recovery_point
from eventcore.log.local import list_bases


def closed_end(disk: Disk, folder: Path) -> int | None:
    """Where the log ends, if it is as a clean close, or its making, has left it; else None."""
    bases = list_bases(disk, folder)
    if not bases:
        return 0
    size = disk.length(folder / names.file_name(bases[-1], names.LOG))
    point = recovery_point.read(disk, folder / recovery_point.NAME)
    if point.closed_as(bases[-1], size):
        return point.recovery_point
    return 0 if bases == [0] and size == 0 else None

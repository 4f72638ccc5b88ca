"""`quarantine/` in a partition's folder: bytes that were taken out of the log, kept for whoever wants to look at them.

Nothing reads them again. Kafka ignores the folder.
"""

from __future__ import annotations

from pathlib import Path

from eventcore.disk import Disk
from eventcore.files.mapped_file import MappedFile
from eventcore.types import Buffer

NAME = "quarantine"


def copy(disk: Disk, folder: Path, name: str, data: Buffer) -> str:
    """Keep a copy of `data`; durable on return. Returns its path."""
    path = _free_path(disk, folder, name)
    disk.replace_file(path, memoryview(data))
    disk.sync_dir(path.parent)
    return str(path)


def copy_file(disk: Disk, folder: Path, path: Path) -> str:
    """Keep a copy of a whole file; durable on return. A rename would change two folders at once."""
    file = MappedFile(disk, path, write=False)
    return copy(disk, folder, path.stem, file.view)


def _free_path(disk: Disk, folder: Path, name: str) -> Path:
    place = folder / NAME
    disk.make_folder(place)
    taken = disk.entries(place)
    number = next(number for number in range(len(taken) + 1) if f"{name}-{number}.bytes" not in taken)
    return place / f"{name}-{number}.bytes"

"""What a crash may have left of a segment swap, by Kafka's names: `.cleaned` → `.swap` → live, `.deleted`."""

from __future__ import annotations

from pathlib import Path

from eventcore.disk import Disk
from eventcore.files import names, recovery_point
from eventcore.files.mapped_file import MappedFile
from eventcore.format.batch import BatchHeader
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.local import remove_files

_TEMPORARY = ".tmp"
_PREFIX_SIZE = 12  # base offset and length: never both zero


def list_bases(disk: Disk, folder: Path) -> list[int]:
    """Base offsets of the segments in a folder, rising."""
    parsed = (names.parse_file_name(name) for name in disk.list(folder))
    return sorted(base for base, suffix in filter(None, parsed) if suffix == names.LOG)


def first_swapped(disk: Disk, folder: Path) -> int | None:
    """Base offset of the first segment that a swap may replace; None if none was under way."""
    left = [int(name[:20]) for name in disk.list(folder) if name.endswith(names.SWAP) and _is_left_over(name)]
    return min(left, default=None)


def finish_swaps(disk: Disk, folder: Path) -> None:
    """Complete a swap whose `.swap` files are all there, undo one that was still being written (S1, S2)."""
    files = [name for name in disk.list(folder) if _is_left_over(name)]
    cleaned = [name for name in files if name.endswith(names.CLEANED)]
    swaps = [name for name in files if name.endswith(names.SWAP)]
    first_cleaned = min((int(name[:20]) for name in cleaned), default=None)
    doomed = [name for name in files if name.endswith((names.DELETED, _TEMPORARY))] + cleaned
    if first_cleaned is not None:
        undone = [name for name in swaps if int(name[:20]) >= first_cleaned]
        swaps = [name for name in swaps if name not in undone]
        doomed += undone
    for name in doomed:
        disk.unlink(folder / name)
    for name in [name for name in swaps if name.endswith(names.LOG + names.SWAP)]:
        _remove_replaced(disk, folder, name)
    for name in sorted(swaps, reverse=True):
        disk.rename(folder / name, folder / name[: -len(names.SWAP)])


def _is_left_over(name: str) -> bool:
    """Whether a file is one of a log's with the suffix of something unfinished; other people's files are not ours."""
    stem, _, suffix = name.rpartition(".")
    own = names.parse_file_name(stem) is not None or stem in (recovery_point.NAME, EPOCHS_NAME)
    return own and f".{suffix}" in (names.DELETED, names.CLEANED, names.SWAP, _TEMPORARY)


def _remove_replaced(disk: Disk, folder: Path, swap: str) -> None:
    """Remove the segments whose offsets a complete `.log.swap` covers: it was written to replace them."""
    start, end = int(swap[:20]), _next_offset(disk, folder / swap)
    for base in list_bases(disk, folder):
        if start <= base < max(end, start + 1):
            remove_files(disk, folder, base)
    disk.sync_dir(folder)


def _next_offset(disk: Disk, path: Path) -> int:
    """One beyond the last offset of a segment file that was completed before it got its name.

    Zeros end it: an opening that died had given it its name already, and room to grow.
    """
    file, position, end = MappedFile(disk, path, write=False), 0, int(path.name[:20])
    while any(file.view[position : position + _PREFIX_SIZE]):
        header = BatchHeader.read(file.view, position, file.size)
        position, end = position + header.size, header.next_offset
    return end

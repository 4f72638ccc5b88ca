"""Segments that take the place of others, by Kafka's names: `.cleaned` → `.swap` → live, `.deleted`.

The names are the manifest. As long as a `.cleaned` is there the new segments are not complete, and go. From the first
moment that all are `.swap` they stand for what they replace, and the old ones go; each tells by its seal up to which
offset it does. Between two steps the folder is synced, so no crash leaves names of two of them:

  1. all files are written, synced, and `.cleaned`
  2. `.swap`; the lowest one last, as it alone would say that nothing is `.cleaned` any more
  3. the old ones are `.deleted`
  4. `.swap` goes from the names, of the log's last: there is no segment without it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import names, recovery_point
from eventcore.files.mapped_file import MappedFile
from eventcore.files.seal import Seal, belongs
from eventcore.files.seal import read as read_seal
from eventcore.format.batch import BatchHeader
from eventcore.log.epochs import NAME as EPOCHS_NAME
from eventcore.log.local import list_bases, remove_files

_TEMPORARY = ".tmp"
_PREFIX_SIZE = 12  # base offset and length: never both zero


def first_swapped(disk: Disk, folder: Path) -> int | None:
    """Base offset of the first segment that a swap may replace; None if none was under way."""
    left = [int(name[:20]) for name in disk.list(folder) if name.endswith(names.SWAP) and _is_left_over(name)]
    return min(left, default=None)


def prepare(disk: Disk, folder: Path, bases: Sequence[int]) -> None:
    """From `.cleaned` to `.swap` (steps 1 and 2), of rising `bases`; durable on return."""
    disk.sync_dir(folder)
    for base in reversed(bases):
        if base == bases[0] and len(bases) > 1:
            disk.sync_dir(folder)
        _rename(disk, folder, base, names.CLEANED, names.SWAP)
    disk.sync_dir(folder)


def take_place(disk: Disk, folder: Path, bases: Sequence[int]) -> None:
    """From `.swap` to live (step 4). What they replace is out of the way, durably: an opening would do the rest."""
    for base in reversed(bases):
        _rename(disk, folder, base, names.SWAP, "")


def _rename(disk: Disk, folder: Path, base: int, old: str, new: str) -> None:
    for suffix in reversed(names.SEGMENT_SUFFIXES):
        name = names.file_name(base, suffix)
        if disk.exists(folder / (name + old)):
            disk.rename(folder / (name + old), folder / (name + new))


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
    """Where the log goes on behind a segment that was completed before it got its name: what its seal says.

    One without a seal (a broker's, a repaired one) replaces what holds offsets up to its last. Zeros
    end it: an opening that died had given it its name already, and room to grow.
    """
    file, position, end = MappedFile(disk, path, write=False), 0, int(path.name[:20])
    sealed = _seal_of(disk, path, file)
    if sealed is not None:
        return sealed.next_offset
    while any(file.view[position : position + _PREFIX_SIZE]):
        header = BatchHeader.read(file.view, position, file.size)
        position, end = position + header.size, header.next_offset
    return end


def _seal_of(disk: Disk, path: Path, log: MappedFile) -> Seal | None:
    """The seal beside a `.log.swap`, if it is about that log."""
    seal_path = path.with_name(names.file_name(int(path.name[:20]), names.SEAL) + names.SWAP)
    try:
        seal = read_seal(disk, seal_path)
    except StorageError:
        return None
    return seal if seal is not None and belongs(seal, log.size, log.view) else None

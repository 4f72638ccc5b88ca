"""The manifest of a snapshot: what a store's files were at one moment, and in which objects their bytes are.

One JSON object with its CRC-32C (over itself without that, keys sorted, without spaces):

    version, number, parent (the number of the snapshot that was the newest before, or null), created_ms,
    cluster_id, directory_id: of the store; new_bytes: what was stored for it
    partitions: [topic, partition, start, end]: the records in it, offsets [start, end)
    files: [path, size, crc32c, [[object, start, size] …]]: the pieces of a file, in order

A file grows, so a later snapshot has the pieces of an earlier one and adds one. Small files are put together in one
object. Nothing here is believed: a path must be one that a store has, an object's name one that we give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import SnapshotDamaged, UnsupportedFormat
from eventcore.files import meta_properties, names, recovery_point, topic_file, view_file
from eventcore.log import clean_offset, epochs
from eventcore.types import Buffer

VERSION = 1
SIZE_MAX = 256 << 20
FOLDER = "snapshots/"
OBJECTS = "objects/"
METADATA_NAME = "partition.metadata"
_NUMBER = re.compile(r"([0-9]{10})\.json")
_OBJECT = re.compile(rf"{OBJECTS}[A-Za-z0-9._-]{{1,255}}/[A-Za-z0-9._-]{{1,200}}")
_SIDECARS = frozenset((epochs.NAME, clean_offset.NAME, recovery_point.NAME, topic_file.NAME, METADATA_NAME))
_INT64_MAX = (1 << 63) - 1
_CRC_MAX = (1 << 32) - 1


class Piece(NamedTuple):
    """`size` bytes of an object, from `start` on."""

    object: str
    start: int
    size: int


class StoredFile(NamedTuple):
    """One file of the store, by its path in it."""

    path: str
    size: int
    crc: int
    pieces: tuple[Piece, ...]


class Extent(NamedTuple):
    """The records of one partition that are in it: offsets [start, end)."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True)
class Manifest:
    """One snapshot."""

    number: int
    parent: int | None
    created_ms: int
    cluster_id: str
    directory_id: str
    new_bytes: int
    """What had to be stored for it; the rest was there, of earlier ones."""
    partitions: tuple[Extent, ...]
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files: what a restore writes."""
        return sum(file.size for file in self.files)

    def objects(self) -> dict[str, int]:
        """The objects it needs, and how many bytes each must have at least."""
        needed: dict[str, int] = {}
        for file in self.files:
            for piece in file.pieces:
                needed[piece.object] = max(needed.get(piece.object, 0), piece.start + piece.size)
        return needed


def name_of(number: int) -> str:
    """The manifest's own name."""
    return f"{FOLDER}{number:010}.json"


def number_of(name: str) -> int | None:
    """The number in a manifest's name, None for any other name."""
    match = _NUMBER.fullmatch(name.removeprefix(FOLDER))
    return int(match[1]) if match and int(match[1]) > 0 else None


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest."""
    values = vars(manifest) | {"version": VERSION, "files": [[*file[:3], file.pieces] for file in manifest.files]}
    return json.dumps({**values, "crc32c": _crc(values)}, separators=(",", ":")).encode()


def _crc(values: dict[str, Any]) -> int:
    return kernels.crc32c.crc32c(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def decode(data: Buffer, number: int, where: str) -> Manifest:
    """The manifest in these bytes. Raises SnapshotDamaged for what cannot be one, UnsupportedFormat for a newer one."""
    try:
        values = json.loads(bytes(data))
        crc = values.pop("crc32c", None)
        is_whole = type(crc) is int and crc == _crc(values)
    except (ValueError, AttributeError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise SnapshotDamaged("a manifest that fails its CRC", path=where)
    if values.get("version") != VERSION:
        raise UnsupportedFormat(f"a snapshot of version {values.get('version')!r}", path=where)
    try:
        return _checked(values, number)
    except _Wrong as wrong:
        raise SnapshotDamaged(f"a manifest that cannot be: {wrong}", path=where) from None


class _Wrong(Exception):
    """What is wrong with a manifest."""


def _checked(values: dict[str, Any], number: int) -> Manifest:
    parent = values.get("parent")
    _want(values.get("number") == number, "it has another number than its name says")
    _want(parent is None or (_is_int(parent, number - 1) and parent > 0), "a parent that is not older")
    _want(all(_is_int(values.get(name), _INT64_MAX) for name in ("created_ms", "new_bytes")), "numbers out of range")
    _want(all(isinstance(values.get(name), str) for name in ("cluster_id", "directory_id")), "a store without a name")
    extents = _rows(values, "partitions", _extent)
    files = _rows(values, "files", _file)
    _want(len({extent[:2] for extent in extents}) == len(extents), "a partition twice")
    _want(len({file.path for file in files}) == len(files), "a file twice")
    folders = {file.path.partition("/")[0] for file in files if "/" in file.path}
    _want(folders == {names.partition_folder(*one[:2]) for one in extents}, "folders that are not its partitions'")
    _want(any(file.path == meta_properties.NAME for file in files), f"no {meta_properties.NAME}")
    return Manifest(
        number,
        parent,
        values["created_ms"],
        values["cluster_id"],
        values["directory_id"],
        values["new_bytes"],
        tuple(extents),
        tuple(files),
    )


def _want(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Wrong(otherwise)


def _is_int(value: object, largest: int) -> bool:
    return type(value) is int and 0 <= value <= largest


def _rows(values: dict[str, Any], name: str, read: Callable[[Sequence[Any]], Any]) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == 4 for row in found):
        raise _Wrong(f"{name} that are no list of rows")
    return [read(row) for row in found]


def _extent(row: Sequence[Any]) -> Extent:
    topic, partition, start, end = row
    _want(isinstance(topic, str) and names.is_topic_name(topic), "a topic's name that cannot be")
    _want(_is_int(partition, (1 << 31) - 1), "a partition's number out of range")
    _want(_is_int(end, _INT64_MAX) and _is_int(start, end), "offsets out of range")
    return Extent(topic, partition, start, end)


def _file(row: Sequence[Any]) -> StoredFile:
    path, size, crc, pieces = row
    _want(isinstance(path, str) and _is_path(path), "a path that no store has")
    _want(_is_int(size, _INT64_MAX) and _is_int(crc, _CRC_MAX), "a size or CRC out of range")
    _want(isinstance(pieces, list) and all(isinstance(one, list) and len(one) == 3 for one in pieces), "no pieces")
    found = tuple(_piece(*piece) for piece in pieces)
    _want(sum(piece.size for piece in found) == size, "pieces that are not as long as their file")
    return StoredFile(path, size, crc, found)


def _is_path(path: str) -> bool:
    """Whether a store has such a file, below its folder or a partition's."""
    folder, slash, name = path.rpartition("/")
    if not slash:
        return name == meta_properties.NAME or view_file.parse_file_name(name) is not None
    return names.parse_partition_folder(folder) is not None and (
        name in _SIDECARS or names.parse_file_name(name) is not None
    )


def _piece(name: Any, start: Any, size: Any) -> Piece:
    _want(isinstance(name, str) and is_object_name(name), "an object's name that we never give")
    _want(_is_int(start, _INT64_MAX) and _is_int(size, _INT64_MAX - start), "a piece out of range")
    return Piece(name, start, size)


def is_object_name(name: str) -> bool:
    """Whether we may have given an object this name: it becomes part of a path."""
    return _OBJECT.fullmatch(name) is not None and not {".", ".."} & set(name.split("/"))

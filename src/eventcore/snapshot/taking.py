"""How a snapshot is taken: a cut, the files as they are there, what of them is new, and last the manifest.

Between the cut and the files nothing waits but the partition whose files are just linked. What may not be linked where
the snapshot is kept is linked on a shelf in the store's folder first, and stored from there in any time it takes. The
shelf is called like a deleted partition: should we die, housekeeping removes it later, a broker's, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from eventcore import _kernels as kernels
from eventcore.clock import Clock
from eventcore.disk import Disk
from eventcore.errors import (
    ClosedError,
    CorruptFile,
    LogTruncated,
    MappingFault,
    NoSnapshot,
    NotALog,
    StorageError,
    UnknownTopic,
    UsageError,
)
from eventcore.files import meta_properties, names, topic_file, view_file
from eventcore.files.mapped_file import MappedFile
from eventcore.files.meta_properties import MetaProperties
from eventcore.log.local import list_bases
from eventcore.snapshot import manifest as manifests
from eventcore.snapshot.archive import Progress, Snapshots
from eventcore.snapshot.manifest import Extent, Manifest, Piece, StoredFile
from eventcore.snapshot.place import Place
from eventcore.store import cut
from eventcore.store.store_partition import StorePartition
from eventcore.types import Buffer

ROLL_BYTES = 16 << 20
"""A last segment of more is closed first, so that it can be linked; of others the bytes are copied."""
_SMALL = 1 << 16
"""Files of fewer bytes are put together."""
_PACK_BYTES = 16 << 20
_PIECE_BYTES = 64 << 20
"""What is stored at a time where files are not linked: so much is stored again after a kill."""
_ATTEMPTS = 20
_SMALL_FILE_MAX = 64 << 20

Key = tuple[str, int]


class Source(cut.Owner, Protocol):
    """The store."""

    disk: Disk
    path: Path
    clock: Clock


class Taken(NamedTuple):
    """A file as it was at the cut: its bytes, or where it is linked."""

    path: str
    data: bytes
    linked: Path | None
    """On the shelf; None: `data` is all of it."""
    size: int


class _Shelf:
    """Takes the files of one partition after the other; see `Shelf` of `log/freezing.py`."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self.partition = ""
        self.files: list[Taken] = []

    def link(self, name: str, path: Path) -> None:
        if self._disk.length(path) < _SMALL:
            with suppress(CorruptFile):  # a view's state may just have been replaced by a larger one
                return self.put(name, self._disk.read_file(path, _SMALL))
        on_shelf = self._folder / f"{len(self.files)}"
        if not self._disk.link(path, on_shelf):
            self._disk.copy(path, on_shelf)
        self.files.append(Taken(self._path(name), b"", on_shelf, self._disk.length(on_shelf)))

    def put(self, name: str, data: Buffer) -> None:
        view = memoryview(data)
        if view.nbytes < _SMALL:
            self.files.append(Taken(self._path(name), bytes(view), None, view.nbytes))
            return
        on_shelf = self._folder / f"{len(self.files)}"  # in memory they would be too much, of many partitions
        fd = self._disk.open(on_shelf, write=True, create=True)
        try:
            self._disk.pwrite_all(fd, view, 0)
        finally:
            self._disk.close(fd)
        self.files.append(Taken(self._path(name), b"", on_shelf, view.nbytes))

    def _path(self, name: str) -> str:
        return f"{self.partition}/{name}" if self.partition else name

    def clear(self) -> None:
        """Begin anew."""
        for name in self._disk.list(self._folder):
            self._disk.unlink(self._folder / name)
        self.files = []


@dataclass(frozen=True)
class _Cut:
    """All that a snapshot is made of."""

    created_ms: int
    extents: list[Extent]
    files: list[Taken]


def take(store: Source, place: Place, *, progress: Progress | None = None) -> Manifest:
    """Take a snapshot of a store that is being written, and keep it at a place; durable on return.

    Raises LogLocked while another snapshot is made there, UsageError for a place with another store's snapshots.
    """
    archive = Snapshots(place)
    meta = meta_properties.read(store.disk, store.path / meta_properties.NAME)
    with place.holding():
        numbers = archive.numbers()
        parent = _parent(archive, meta)
        number = numbers[-1] + 1 if numbers else 1
        with _shelf(store) as shelf:
            found = _frozen(store, shelf)
            storing = _Storing(store.disk, place, parent, number)
            stored = storing.store(found.files, progress)
        manifest = Manifest(
            number,
            parent.number if parent else None,
            found.created_ms,
            meta.cluster_id,
            meta.directory_id,
            storing.new_bytes,
            tuple(found.extents),
            tuple(stored),
        )
        place.settle()
        if not place.create(manifests.name_of(number), manifests.encode(manifest)):
            raise StorageError("somebody else has made a snapshot meanwhile", path=place.url, hint="take it again")
    return manifest


def _parent(archive: Snapshots, meta: MetaProperties) -> Manifest | None:
    try:
        parent = archive.latest()
    except NoSnapshot:
        return None
    if (parent.cluster_id, parent.directory_id) != (meta.cluster_id, meta.directory_id):
        raise UsageError(
            f"{archive.place.url} has snapshots of another store", hint="give each store a place of its own"
        )
    return parent


@contextmanager
def _shelf(store: Source) -> Iterator[_Shelf]:
    folder = store.path / names.deleted_folder("eventcore.snapshot", 0, uuid.uuid4().hex)
    store.disk.new_folder(folder)
    try:
        yield _Shelf(store.disk, folder)
    finally:
        with suppress(StorageError):  # housekeeping removes it later
            store.disk.remove_folder(folder)


def _frozen(store: Source, shelf: _Shelf) -> _Cut:
    """A cut and its files; another cut if a partition is not any more what it was then."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return _frozen_once(store, shelf)
        except (LogTruncated, ClosedError, UnknownTopic):  # a topic that was deleted is one of these
            if not attempts_left:
                raise
            shelf.clear()
    raise AssertionError("no attempt was made")


def _frozen_once(store: Source, shelf: _Shelf) -> _Cut:
    _close_large_tails(store)
    _put_checkpoints(store, shelf)
    created, places = store.clock.now_ms(), cut.take_cut(store)
    extents = [_freeze(store, key, place, shelf) for key, place in sorted(places.items(), key=lambda one: one[0])]
    shelf.partition = ""
    shelf.put(meta_properties.NAME, store.disk.read_file(store.path / meta_properties.NAME, _SMALL_FILE_MAX))
    return _Cut(created, extents, shelf.files)


def _close_large_tails(store: Source) -> None:
    for topic, number in store.partitions():
        partition = store.partition(topic, number)
        if _tail_size(store.disk, partition) >= ROLL_BYTES:
            partition.roll()


def _tail_size(disk: Disk, partition: StorePartition) -> int:
    log = partition.current
    if log is not None:
        return log.segments.active.log.size
    bases = list_bases(disk, partition.path)
    return disk.length(partition.path / names.file_name(bases[-1], names.LOG)) if bases else 0


def _put_checkpoints(store: Source, shelf: _Shelf) -> None:
    """What applications keep with the offsets it reflects: before the cut, so that these are not beyond it."""
    shelf.partition = ""
    for name in view_file.listed(store.disk, store.path):
        with suppress(NotALog):  # deleted since
            shelf.link(view_file.file_name(name), store.path / view_file.file_name(name))


def _freeze(store: Source, key: Key, place: cut.Place, shelf: _Shelf) -> Extent:
    partition = store.partition(*key)
    shelf.partition = names.partition_folder(*key)
    start, end = partition.freeze(*place, shelf)
    for name in (manifests.METADATA_NAME, topic_file.NAME):
        if store.disk.exists(partition.path / name):
            shelf.put(name, store.disk.read_file(partition.path / name, _SMALL_FILE_MAX))
    return Extent(*key, start, end)


class _Storing:
    """Stores what is new of the files of one snapshot."""

    def __init__(self, disk: Disk, place: Place, parent: Manifest | None, number: int) -> None:
        self._disk, self._place, self._number = disk, place, number
        self._there = place.sizes(manifests.OBJECTS)
        self._known = {file.path: file for file in parent.files if self._is_there(file)} if parent else {}
        self._written: list[int] = []
        self._pack = bytearray()
        self._packs = 0

    @property
    def new_bytes(self) -> int:
        """Of the objects that were not there before."""
        return sum(self._written)

    def _is_there(self, file: StoredFile) -> bool:
        return all(self._there.get(piece.object, 0) >= piece.start + piece.size for piece in file.pieces)

    def store(self, files: list[Taken], progress: Progress | None) -> list[StoredFile]:
        """All files; on return their objects are there."""
        small = [file for file in files if file.linked is None]
        large = [file for file in files if file.linked is not None]
        same = self._same_as_sealed(files)
        stored = [self._store_small(file) for file in small]
        self._store_pack()
        total, done = sum(file.size for file in large), 0
        with ThreadPoolExecutor(self._place.threads) as threads:
            for found in threads.map(lambda file: same.get(file.path) or self._store_large(file), large):
                stored.append(found)
                done += found.size
                if progress is not None:
                    progress(done, total)
        return sorted(stored)

    def _view(self, file: Taken) -> memoryview:
        return memoryview(file.data) if file.linked is None else MappedFile(self._disk, file.linked, write=False).view

    def _same_as_sealed(self, files: list[Taken]) -> dict[str, StoredFile]:
        """Files of segments whose seal and sizes are those of before: the seal vouches for what is in them."""
        same: dict[str, StoredFile] = {}
        sizes = {file.path: file.size for file in files}
        for file in files:
            stem, known = file.path.removesuffix(names.SEAL), self._known.get(file.path)
            if stem == file.path or known is None:
                continue
            if (known.size, known.crc) != (file.size, kernels.crc32c.crc32c(self._view(file))):
                continue
            for suffix in (names.LOG, names.INDEX, names.TIME_INDEX):
                before = self._known.get(stem + suffix)
                if before is not None and before.size == sizes.get(stem + suffix):
                    same[before.path] = before
        return same

    # -- small files -------------------------------------------------------------------------------------------

    def _store_small(self, file: Taken) -> StoredFile:
        crc, known = kernels.crc32c.crc32c(file.data), self._known.get(file.path)
        if known is not None and (known.size, known.crc) == (file.size, crc):
            return known
        if len(self._pack) + file.size > _PACK_BYTES:
            self._store_pack()
        piece = Piece(self._pack_name(), len(self._pack), file.size)
        self._pack += file.data
        return StoredFile(file.path, file.size, crc, (piece,) if file.size else ())

    def _pack_name(self) -> str:
        """Named by snapshot and place in it: an attempt that was killed may have left one, which nobody refers to."""
        return f"{manifests.OBJECTS}packs/{self._number:010}-{self._packs:06}"

    def _store_pack(self) -> None:
        if self._pack:
            self._place.write(self._pack_name(), bytes(self._pack))
            self._written.append(len(self._pack))
            self._packs += 1
            self._pack.clear()

    # -- large ones --------------------------------------------------------------------------------------------

    def _store_large(self, file: Taken) -> StoredFile:
        assert file.linked is not None
        mapped = MappedFile(self._disk, file.linked, write=False)
        stored = (self._link if self._place.links else self._store_view)(file, mapped.view)
        if mapped.broken:  # what was read may be nothing, its CRC, too
            raise MappingFault("a page of the file cannot be had", path=file.linked)
        return stored

    def _store_view(self, file: Taken, view: memoryview) -> StoredFile:
        crc, pieces = self._beginning(file, view)
        for at in range(sum(piece.size for piece in pieces), file.size, _PIECE_BYTES):
            part = view[at : at + _PIECE_BYTES]
            pieces.append(self._store_piece(file.path, at, part))
            crc = kernels.crc32c.crc32c(part, crc)
        return StoredFile(file.path, file.size, crc, tuple(pieces))

    def _beginning(self, file: Taken, view: memoryview) -> tuple[int, list[Piece]]:
        """What is stored of it already, if it begins with what it was before; and the CRC of that."""
        known = self._known.get(file.path)
        if known is not None and known.size <= file.size:
            crc = kernels.crc32c.crc32c(view[: known.size])
            if crc == known.crc:
                return crc, list(known.pieces)
        return 0, []

    def _link(self, file: Taken, view: memoryview) -> StoredFile:
        assert file.linked is not None
        crc = kernels.crc32c.crc32c(view)
        name = _object_name(file.path, 0, file.size, crc)
        if self._there.get(name) != file.size:
            if not self._place.link(name, file.linked):
                self._place.write(name, view)
            self._written.append(file.size)
        return StoredFile(file.path, file.size, crc, (Piece(name, 0, file.size),))

    def _store_piece(self, path: str, at: int, part: memoryview) -> Piece:
        name = _object_name(path, at, len(part), kernels.crc32c.crc32c(part))
        if self._there.get(name) != len(part):
            self._place.write(name, part)
            self._written.append(len(part))
        return Piece(name, 0, len(part))


def _object_name(path: str, at: int, size: int, crc: int) -> str:
    """What is in it: an object that has this name, and this size, need not be stored again."""
    folder, _, name = path.rpartition("/")
    return f"{manifests.OBJECTS}{folder or 'store'}/{name}.{at:x}.{size:x}.{crc:08x}"

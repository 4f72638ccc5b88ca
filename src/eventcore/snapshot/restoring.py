"""How a snapshot becomes a store again: in a folder beside the new one, checked whole, and then renamed.

The folder beside it, `<path>.restoring`, has a note of what it is to become. A restore that was killed is taken up by
the next call for the same: what is there, and right, is not fetched again. Nobody else's folder is ever touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.clock import Clock, Time, to_ms
from eventcore.config import LogConfig, StoreConfig
from eventcore.disk import Disk
from eventcore.errors import EventCoreError, NoSnapshot, RemoteError, SnapshotDamaged, UsageError
from eventcore.files import json_file, names
from eventcore.snapshot import rewind
from eventcore.snapshot.archive import STEP, Progress, Snapshots, content
from eventcore.snapshot.manifest import OBJECTS, Manifest, StoredFile
from eventcore.snapshot.place import Place
from eventcore.store import kafka_files
from eventcore.store.store import Store

SUFFIX = ".restoring"
NOTE = "eventcore.restoring"
_LOCK = "eventcore.restoring.lock"
_SYNC_BYTES = 4 * STEP
"""So often a large file is synced while it is written, and its memory used again: fresh memory is slow, and others
would have to go for it.
"""
Until = Mapping[tuple[str, int], int] | Time
Open = Callable[[Path], Store]


def restore(
    place: Place,
    path: Path,
    disk: Disk,
    clock: Clock,
    *,
    number: int | None = None,
    until: Until | None = None,
    as_replica: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """See `eventcore.restore`."""
    if until is not None and as_replica:
        raise UsageError("a replica goes on where the snapshot ends", hint="leave until out, or as_replica")
    if disk.exists(path) or not path.name:
        raise UsageError(f"there is something at {path}", hint="restore into a new folder")
    archive = Snapshots(place)
    manifest = archive.read(number) if number is not None else _chosen(archive, until)
    disk.make_folder(path.parent)
    with _staging(disk, path, manifest, until, as_replica) as staging:
        _fetch(place, manifest, disk, staging, progress)
        if as_replica:
            kafka_files.set_clean_mark(disk, staging)  # nothing is to be put in order: the leader goes on with it
        else:
            _put_in_order(disk, staging, clock, until)
        if disk.exists(path):
            raise UsageError(f"somebody else has made {path} meanwhile", hint="restore into another folder")
        disk.rename(staging, path)
        disk.sync_dir(path.parent)
    return manifest


def _chosen(archive: Snapshots, until: Until | None) -> Manifest:
    """The newest snapshot, or the oldest one that has all of what is asked for."""
    if until is None:
        return archive.latest()
    found = archive.all()
    for manifest in found:
        if _reaches(manifest, until):
            return manifest
    newest = f"; the newest is of {found[-1].created_ms} ms" if found else ""
    raise NoSnapshot(f"no snapshot reaches as far as that{newest}", path=archive.place.url)


def _reaches(manifest: Manifest, until: Until) -> bool:
    if isinstance(until, Mapping):
        extents = {(one.topic, one.partition): one for one in manifest.partitions}
        return all(key in extents and extents[key].start <= at <= extents[key].end for key, at in until.items())
    return to_ms(until) <= manifest.created_ms


@contextmanager
def _staging(disk: Disk, path: Path, manifest: Manifest, until: Until | None, as_replica: bool) -> Iterator[Path]:
    """The folder beside the new one, which nobody else works on; when it has got its name the note goes."""
    staging = path.with_name(path.name + SUFFIX)
    note = {
        "number": manifest.number,
        "cluster_id": manifest.cluster_id,
        "directory_id": manifest.directory_id,
        "created_ms": manifest.created_ms,
        "until": _as_text(until),
        "as_replica": as_replica,
    }
    if disk.exists(staging):
        _check_ours(disk, staging, note)
    else:
        disk.new_folder(staging)
    fd = disk.lock(staging / _LOCK, f"process {os.getpid()}, which restores a snapshot")
    try:
        json_file.write(disk, staging / NOTE, note)
        disk.sync_dir(staging)
        disk.sync_dir(path.parent)
        yield staging
        for name in (NOTE, _LOCK):
            disk.unlink(path / name)
        disk.sync_dir(path)
    except EventCoreError as error:
        if not isinstance(error, RemoteError) and disk.exists(staging):  # no later call could do better with it
            disk.remove_folder(staging)
        raise
    finally:
        disk.unlock(fd)


def _as_text(until: Until | None) -> str:
    if until is None:
        return ""
    if isinstance(until, Mapping):
        return " ".join(f"{topic}-{number}:{at}" for (topic, number), at in sorted(until.items()))
    return str(to_ms(until))


def _check_ours(disk: Disk, staging: Path, note: Mapping[str, object]) -> None:
    """Raise UsageError for a folder that is not the rest of the same restore."""
    is_ours = disk.is_folder(staging) and staging.name in disk.list_folders(staging.parent)
    found = json_file.read(disk, staging / NOTE) if is_ours else None
    if found is None and is_ours and disk.entries(staging) <= {_LOCK, NOTE + ".tmp"}:
        return
    if {name: value for name, value in (found or {}).items() if name != "version"} != note:
        text = f"{staging} is there, and is not the rest of the same restore"
        raise UsageError(text, hint="remove it, or restore into another folder")


# -- fetching ------------------------------------------------------------------------------------------------------


def _fetch(place: Place, manifest: Manifest, disk: Disk, staging: Path, progress: Progress | None) -> None:
    """On return all files are there, checked and durable, and nothing else is."""
    _check_objects(place, manifest)
    _clear_strangers(disk, staging, manifest)
    for extent in manifest.partitions:
        folder = staging / names.partition_folder(extent.topic, extent.partition)
        if not disk.exists(folder):
            disk.new_folder(folder)
    done = 0
    stop = threading.Event()
    with ThreadPoolExecutor(place.threads) as threads:
        try:
            for size in threads.map(lambda file: _fetch_file(place, file, disk, staging, stop), manifest.files):
                done += size
                if progress is not None:
                    progress(done, manifest.size)
        except BaseException:
            stop.set()
            raise
    for extent in manifest.partitions:
        disk.sync_dir(staging / names.partition_folder(extent.topic, extent.partition))
    disk.sync_dir(staging)


def _check_objects(place: Place, manifest: Manifest) -> None:
    """Before anything is written."""
    sizes = place.sizes(OBJECTS)
    for name, size in manifest.objects().items():
        if sizes.get(name, -1) < size:
            text = "an object is missing" if name not in sizes else f"an object of {sizes[name]} bytes, not {size}"
            raise SnapshotDamaged(text, path=f"{place.url}/{name}")


def _clear_strangers(disk: Disk, staging: Path, manifest: Manifest) -> None:
    """Remove what the attempt before has left that is no file of the snapshot."""
    wanted = {file.path for file in manifest.files}
    folders = {path.partition("/")[0] for path in wanted if "/" in path}
    for name in disk.list_folders(staging):
        if name not in folders:
            disk.remove_folder(staging / name)
            continue
        for inner in disk.list_folders(staging / name):
            disk.remove_folder(staging / name / inner)
        for inner in disk.entries(staging / name):
            if f"{name}/{inner}" not in wanted:
                disk.unlink(staging / name / inner)
    for name in disk.entries(staging) - set(disk.list_folders(staging)) - wanted - {NOTE, _LOCK}:
        disk.unlink(staging / name)


def _fetch_file(place: Place, file: StoredFile, disk: Disk, staging: Path, stop: threading.Event) -> int:
    path = staging / file.path
    if stop.is_set() or _is_there(disk, path, file):
        return file.size
    fd = disk.open(path, write=True, create=True)
    try:
        disk.cut(fd, 0)
        at = crc = 0
        for data in content(place, file):
            disk.pwrite_all(fd, memoryview(data), at)
            at, crc = at + len(memoryview(data)), kernels.crc32c.crc32c(data, crc)
            if at % _SYNC_BYTES == 0:
                disk.sync_away(fd)
            if stop.is_set():
                return file.size
        if crc != file.crc:
            text = f"{file.path} has the CRC {crc:08x}, not {file.crc:08x}"
            raise SnapshotDamaged(text, path=place.url)
        disk.sync(fd)
    finally:
        disk.close(fd)
    return file.size


def _is_there(disk: Disk, path: Path, file: StoredFile) -> bool:
    """Whether an attempt before has fetched it. What is in its way goes."""
    if not disk.exists(path):
        return False
    if disk.links(path) != 1 or path.name not in disk.list(path.parent) or disk.length(path) != file.size:
        disk.unlink(path)
        return False
    fd, crc = disk.open(path, write=False), 0
    try:
        for at in range(0, file.size, STEP):
            crc = kernels.crc32c.crc32c(disk.pread(fd, min(STEP, file.size - at), at), crc)
        disk.sync(fd)
    finally:
        disk.close(fd)
    return crc == file.crc


def _put_in_order(disk: Disk, staging: Path, clock: Clock, until: Until | None) -> None:
    """As an opening after a crash does: what was not decided is aborted. And leave it as a clean close does."""
    settings = StoreConfig().with_values({"store.housekeeping.enable": False, "store.transactions.survive": False})
    with Store(disk, staging, settings, LogConfig(), clock, "never", write=True, cluster_id=None) as store:
        if until is not None:
            rewind.rewind(store, until if isinstance(until, Mapping) else to_ms(until))

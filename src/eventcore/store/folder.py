"""The folder of a store: whose it is, who writes it, and what lies in it.

It is a Kafka log directory. What Kafka writes there keeps its meaning; files of our own are plain ones that Kafka
ignores. Folders that are neither a partition's nor wait to be removed are left alone, and reported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from eventcore.disk import Disk
from eventcore.errors import NotALog, UsageError
from eventcore.files import meta_properties, names
from eventcore.files.meta_properties import MetaProperties

LOCK_NAME = ".lock"
_HARMLESS = {LOCK_NAME, "lost+found", f"{meta_properties.NAME}.tmp"}
"""May be in a folder that is to become a store: a crash may leave them, and file systems do."""


class Problem(NamedTuple):
    """Something in the folder that is left alone, and why."""

    name: str
    reason: str


class Listing(NamedTuple):
    """What was found in the folder."""

    partitions: dict[str, list[int]]
    """The numbers of each topic's folders, rising."""
    deleted: list[str]
    """Folders that wait to be removed."""
    problems: list[Problem]


def check(disk: Disk, path: Path, *, write: bool, cluster_id: str | None) -> MetaProperties | None:
    """What `meta.properties` says; None for a folder that may become a store. Changes nothing.

    Raises NotALog for a path that is something else, UnsupportedFormat for a newer store, CorruptFile.
    """
    check_cluster_id(cluster_id)
    if not disk.is_folder(path):
        if disk.exists(path):
            raise NotALog("it is no folder", path=path, hint="give the folder of a store, or a new name")
        if not write:
            raise NotALog("there is no such folder", path=path, hint="check the path, or open it with mode='rw'")
        return None
    if not disk.exists(path / meta_properties.NAME):
        _refuse_foreign(disk, path)
        return None
    meta = meta_properties.read(disk, path / meta_properties.NAME)
    if cluster_id is not None and cluster_id != meta.cluster_id:
        raise NotALog(
            f"the store belongs to cluster {meta.cluster_id!r}, not {cluster_id!r}",
            path=path,
            hint="check the path, or open it without cluster_id",
        )
    return meta


def known(disk: Disk, path: Path, cluster_id: str | None) -> MetaProperties:
    """What `meta.properties` says, for a reader. Raises what `check` does."""
    meta = check(disk, path, write=False, cluster_id=cluster_id)
    if meta is None:
        raise NotALog("the folder holds no store", path=path, hint="open it with mode='rw' to make it one")
    return meta


def _refuse_foreign(disk: Disk, path: Path) -> None:
    found = disk.entries(path) - _HARMLESS
    if not found:
        return
    if any(names.parse_partition_folder(name) for name in found):
        raise NotALog(
            "the folder holds partitions, but no meta.properties: it is half a store",
            path=path,
            hint="restore meta.properties; or open a single partition with open_partition",
        )
    if any(names.parse_file_name(name) for name in found):
        raise NotALog("it is the folder of one partition", path=path, hint="open it with open_partition")
    raise NotALog(
        f"the folder holds something else: {', '.join(sorted(found)[:3])}",
        path=path,
        hint="give the folder of a store, an empty folder, or a new name",
    )


def take(disk: Disk, path: Path, cluster_id: str | None) -> tuple[int, MetaProperties]:
    """Take the folder's lock, which keeps brokers and other stores out; a new folder becomes a store.

    The answer is a descriptor for `Disk.unlock`. Raises LogLocked, and what `check` does.
    """
    check(disk, path, write=True, cluster_id=cluster_id)
    disk.make_folder(path)
    fd = disk.lock(path / LOCK_NAME, f"process {os.getpid()}")
    try:
        meta = check(disk, path, write=True, cluster_id=cluster_id)
        if meta is None:
            meta = MetaProperties(cluster_id or meta_properties.random_id(), 1, meta_properties.random_id())
            meta_properties.write(disk, path / meta_properties.NAME, meta)
            disk.sync_dir(path)
    except BaseException:
        disk.unlock(fd)
        raise
    return fd, meta


def listing(disk: Disk, path: Path) -> Listing:
    """What lies in the folder now. Symbolic links are not followed."""
    folders = disk.list_folders(path)
    partitions: dict[str, list[int]] = {}
    deleted, problems = [], []
    for name in folders:
        parsed = names.parse_partition_folder(name)
        if parsed is not None:
            partitions.setdefault(parsed[0], []).append(parsed[1])
        elif names.is_deleted_folder(name):
            deleted.append(name)
        elif name != "lost+found":
            problems.append(Problem(name, "a folder that is no partition"))
    for name in sorted(disk.entries(path) - set(folders)):
        if names.parse_partition_folder(name) is not None:
            problems.append(Problem(name, "named like a partition, but no folder"))
    for numbers in partitions.values():
        numbers.sort()
    return Listing(partitions, deleted, problems)


def check_cluster_id(cluster_id: str | None) -> None:
    """Raise UsageError for what cannot stand in `meta.properties`."""
    if cluster_id is not None and not names.is_topic_name(cluster_id):
        raise UsageError(f"the cluster id {cluster_id!r} is none", hint="use letters, digits, '-' and '_'")

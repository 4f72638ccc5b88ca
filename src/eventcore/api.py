"""How a store or a single partition is opened, and how several partitions become one table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from eventcore import _kernels as kernels
from eventcore.clock import Clock, SystemClock, Time
from eventcore.config import LogConfig, split_config
from eventcore.disk import Disk
from eventcore.errors import NotALog, UsageError
from eventcore.log.partition import Partition
from eventcore.log.partition_log import FSYNC_MODES, PartitionLog
from eventcore.log.query import Scan
from eventcore.log.ranges import Isolation
from eventcore.log.repair import RepairReport, repair
from eventcore.log.shared_log import SharedLog
from eventcore.paths import absolute
from eventcore.snapshot import restoring, taking
from eventcore.snapshot.archive import Progress, Snapshots
from eventcore.snapshot.manifest import Manifest
from eventcore.snapshot.places import Location, check_outside, open_place
from eventcore.store import store as plain
from eventcore.store.topic import Topic


class Store(plain.Store):
    """A Kafka log directory. Get one from `eventcore.open`; close it, or use it in a `with` statement.

    All methods may be called from several threads.
    """

    def snapshot(
        self,
        destination: Location,
        *,
        options: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Keep a copy of the whole store as it is at one moment; durable on return. Appends go on meanwhile.

        It has every record that readers could see at that moment, of each transaction all or nothing, and no group's
        offset beyond its partition. `destination` is a folder, or a URL (s3://, gs://, az://, file://; `options` are
        obstore's: credentials, endpoint), for the snapshots of this store alone. One beside earlier ones stores only
        what is new. In a folder on the store's own file system closed segments are linked, which takes no space; a
        last segment of more than 16 MiB is closed for that.

        Everything in it is durable in the store, too. Killed on the way it is not there, and the next one uses what it
        had stored. Raises LogLocked while another one is made there, UsageError for a destination inside of the store
        or with another store's snapshots, DiskFull, RemoteError.
        """
        self._check_writable()
        place = open_place(self.disk, destination, options)
        check_outside(place, self.path)
        return taking.take(self, place, progress=progress)


def snapshots(location: Location, *, options: Mapping[str, str] | None = None) -> Snapshots:
    """The snapshots at a place, a folder or URL: to list, verify and prune them. `options` are for object stores."""
    return Snapshots(open_place(Disk(), location, options))


def restore(
    source: Location,
    path: str | os.PathLike[str],
    until: Mapping[tuple[str, int], int] | Time | None = None,
    *,
    number: int | None = None,
    as_replica: bool = False,
    options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> Manifest:
    """Make a store in a new folder of the newest snapshot at a place, or of that `number`; durable on return.

    Everything is checked, by size and CRC, before the folder gets its name; it is closed cleanly then, so that a broker
    can take it over. Transactions that were open are aborted. With `until` it is the store of an earlier moment: a
    time (before the first record of each partition that is not older), or {(topic, partition): offset} for some of
    its partitions; of the oldest snapshot that reaches that far. A transaction of which only a part would be left is
    left out, with what stands behind it.

    `as_replica` leaves all as it was, open transactions too, for `append_batches(origin="replica")` to go on from
    where each partition ends.

    Killed on the way, the same call takes it up again. Raises UsageError for a path where something is, NoSnapshot,
    SnapshotDamaged, UnsupportedFormat, DiskFull, RemoteError; then there is nothing at `path`, and the source is as it
    was.
    """
    disk, target = disk or Disk(), absolute(path)
    place = open_place(disk, source, options)
    check_outside(place, target)
    return restoring.restore(
        place,
        target,
        disk,
        clock or SystemClock(),
        number=number,
        until=until,
        as_replica=as_replica,
        progress=progress,
    )


def open(
    path: str | os.PathLike[str],
    mode: Literal["rw", "r"] = "rw",
    fsync: Literal["always", "interval", "never"] = "always",
    config: LogConfig | Mapping[str, Any] | None = None,
    *,
    cluster_id: str | None = None,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> Store:
    """Open a store, a folder of topics that is a Kafka log directory; with `rw` it is created if missing.

    `rw`: the one writer; other stores and Kafka brokers are kept out. `r`: a reader, in any process, also while another
    writes; it changes nothing. `fsync` says what an append waits for, see `open_partition`. `config` has Kafka's names:
    those of topics are the defaults of all topics here, those of `StoreConfig` tell how the store is looked after.
    `cluster_id` is the one that the folder must belong to; a new one gets it.

    Raises LogLocked while another writer has the folder, NotALog for one that is no store or another cluster's,
    UnsupportedFormat for one of a newer version, InvalidConfig. A folder that is refused is left as it is.
    """
    _check_modes(mode, fsync)
    settings, defaults = split_config(config)
    return Store(
        disk or Disk(),
        absolute(path),
        settings,
        defaults,
        clock or SystemClock(),
        fsync,
        write=mode == "rw",
        cluster_id=cluster_id,
    )


def _check_modes(mode: str, fsync: str) -> None:
    if mode not in ("rw", "r"):
        raise UsageError(f"mode is {mode!r}", hint="allowed are 'rw' and 'r'")
    if fsync not in FSYNC_MODES:
        raise UsageError(f"fsync is {fsync!r}", hint=f"allowed are {', '.join(FSYNC_MODES)}")


def open_partition(
    path: str | os.PathLike[str],
    mode: Literal["rw", "r"] = "rw",
    fsync: Literal["always", "interval", "never"] = "always",
    config: LogConfig | Mapping[str, Any] | None = None,
    *,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> Partition:
    """Open the folder of one partition, in Kafka's format; with `rw` it is created if missing.

    `rw`: the one writer; an unclean folder is recovered first (see `Partition.recovery`). `r`: a reader, in any
    process, also while another writes; it creates and changes nothing. `fsync` says what an append waits for:
    `always` (the disk has it), `interval` (synced every `flush.ms`), `never` (the system's own pace). `config` uses
    Kafka's names. `clock` and `disk` are for tests.

    Raises LogLocked while another writer has the folder, NotALog for a path that cannot be a log, InvalidConfig.
    """
    _check_modes(mode, fsync)
    folder, disk, settings = absolute(path), disk or Disk(), LogConfig.of(config)
    if mode == "r":
        if not disk.is_folder(folder):
            raise NotALog("there is no such folder", path=folder, hint="check the path, or open it with mode='rw'")
        return Partition(SharedLog(disk, folder, settings))
    disk.make_folder(folder)
    return Partition(PartitionLog(disk, folder, settings, clock or SystemClock(), fsync))


def repair_partition(
    path: str | os.PathLike[str],
    config: LogConfig | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> RepairReport:
    """Read all of a partition; copy what cannot be read to its `quarantine/`, and make the rest a whole log again.

    Records keep their offsets; what was put aside is skipped from then on. Durable on return; after a crash on the way
    call it again. With `dry_run` it only reports. Raises LogLocked while somebody writes the folder.
    """
    folder, disk = absolute(path), disk or Disk()
    if not disk.is_folder(folder):
        raise NotALog("there is no such folder", path=folder, hint="check the path")
    return repair(disk, folder, LogConfig.of(config), clock or SystemClock(), dry_run=dry_run)


def scan(
    source: Partition | Topic | Sequence[Partition],
    *,
    columns: Sequence[str] | None = None,
    start: int | None = None,
    stop: int | None = None,
    since: Time | None = None,
    until: Time | None = None,
    isolation: Isolation = "read_uncommitted",
    batch_rows: int = 65_536,
) -> Scan:
    """A partition, a topic, or several partitions as one table for DuckDB, Polars, pyarrow and whoever else reads Arrow
    streams.

    `columns` are some of "offset", "timestamp", "key", "value" (the default) and "headers"; with several partitions
    "partition", too. [start, stop) are offsets; records with since ≤ timestamp < until are read (ms or aware
    datetimes; the time index finds where to begin). Nothing is read before it is asked for, and about `batch_rows` rows
    at a time.

    Raises UsageError and OffsetOutOfRange for what cannot be; reading raises as `Partition.read` does.
    """
    return Scan(
        source.partitions if isinstance(source, Topic) else source,
        columns=columns,
        start=start,
        stop=stop,
        since=since,
        until=until,
        isolation=isolation,
        batch_rows=batch_rows,
    )


def build_info() -> dict[str, str]:
    """Which kernels run, and which CRC-32C implementation this machine got."""
    return {"kernels": kernels.KERNELS, "crc32c": kernels.crc32c.implementation()}

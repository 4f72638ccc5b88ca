"""How a partition is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from eventcore import _kernels as kernels
from eventcore.clock import Clock, SystemClock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import NotALog, UsageError
from eventcore.log.partition import Partition
from eventcore.log.partition_log import FSYNC_MODES, PartitionLog
from eventcore.log.repair import RepairReport, repair
from eventcore.log.shared_log import SharedLog


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
    if mode not in ("rw", "r"):
        raise UsageError(f"mode is {mode!r}", hint="allowed are 'rw' and 'r'")
    if fsync not in FSYNC_MODES:
        raise UsageError(f"fsync is {fsync!r}", hint=f"allowed are {', '.join(FSYNC_MODES)}")
    folder, disk, settings = Path(path), disk or Disk(), LogConfig.of(config)
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
    folder, disk = Path(path), disk or Disk()
    if not disk.is_folder(folder):
        raise NotALog("there is no such folder", path=folder, hint="check the path")
    return repair(disk, folder, LogConfig.of(config), clock or SystemClock(), dry_run=dry_run)


def build_info() -> dict[str, str]:
    """Which kernels run, and which CRC-32C implementation this machine got."""
    return {"kernels": kernels.KERNELS, "crc32c": kernels.crc32c.implementation()}

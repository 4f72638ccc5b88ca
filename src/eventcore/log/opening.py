"""What a writer begins with: the parts of one partition, put in order by recovery."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.files.state_file import Testament
from eventcore.log.checkpoints import Checkpoints
from eventcore.log.epochs import EpochCache
from eventcore.log.local import LocalLog, Observer
from eventcore.log.producer_store import ProducerStore
from eventcore.log.recovery import Recovery, RecoveryReport


class Parts(NamedTuple):
    """One partition, ready to be written. `log_start_offset` is the first offset that may be read."""

    local: LocalLog
    epochs: EpochCache
    producer_store: ProducerStore
    log_start_offset: int
    report: RecoveryReport


def recovered(
    disk: Disk,
    folder: Path,
    config: LogConfig,
    clock: Clock,
    checkpoints: Checkpoints,
    testament: Testament,
    observer: Observer,
    opened: ExitStack,
) -> Parts:
    """Recover a folder in any state; what has to be closed again is left to `opened`. Nothing is acknowledged yet."""
    checkpoints.before_recovery()
    point, epochs = checkpoints.point, EpochCache(disk, folder, write=True)
    recovery = Recovery(disk, folder, config, clock, epochs, point, testament)
    local = LocalLog(disk, folder, config, clock, recovery.run(), observer)
    opened.callback(local.close)
    if point.log_start_offset > local.end_offset:  # rule S8: all that is left lies below the log start
        local.restart_at(point.log_start_offset)
    producer_store = ProducerStore(disk, folder)
    producer_store.rebuild(local.segments, local.end_offset, recovery.recovered, point, clock.now_ms())
    recovery.seal()
    log_start_offset = max(point.log_start_offset, local.segments.first.base_offset)
    return Parts(local, epochs, producer_store, log_start_offset, recovery.report)

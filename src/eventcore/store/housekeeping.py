"""Housekeeping: what a store does for its partitions in the background, one small step after the other.

Each round goes over all partitions. One that is closed is looked at without opening it. What goes wrong with one is
noted and tried again in the next round; it keeps no other from being looked after.

Deletion is a matter of names, and takes the lock of a partition only for as long as that. Compaction is told by a
throttle how fast it may go, and takes no lock while it reads and writes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.config import LogConfig, StoreConfig
from eventcore.disk import Disk
from eventcore.errors import ClosedError, EventCoreError, StorageError
from eventcore.files import json_file
from eventcore.log.retention import count_expired
from eventcore.store.coordinator import TransactionCoordinator
from eventcore.store.groups import GroupCoordinator
from eventcore.store.store_partition import StorePartition
from eventcore.store.survey import survey
from eventcore.store.throttle import Throttle

_INT64_MAX = (1 << 63) - 1
NAME = "eventcore.housekeeping"
"""In the store's folder: what its last rounds have done, for other processes to read."""
_MOST_TOLD = 2000
_INTERNAL = ("seen_end", "seen_at", "looked_at")


@dataclass
class Care:
    """What housekeeping has done for a partition since the store was opened, and what it ran into."""

    deleted_segments: int = 0
    deleted_bytes: int = 0
    idle_rolls: int = 0
    compactions: int = 0
    saved_bytes: int = 0
    """How much smaller compaction has made it."""
    quarantined: int = 0
    """Damaged ranges that compaction has put aside."""
    last_error: str = ""
    """Of the last round; empty if it went well."""
    seen_end: int = -1
    seen_at: int = 0
    looked_at: tuple[object, ...] = ()
    """The files of a closed partition that there was nothing to do for."""

    def as_dict(self) -> dict[str, Any]:
        """What is for people."""
        return {name: value for name, value in vars(self).items() if name not in _INTERNAL}


@dataclass
class HousekeepingReport:
    """One round."""

    partitions: int = 0
    deleted_segments: int = 0
    removed_folders: int = 0
    compactions: int = 0
    aborted_transactions: int = 0
    """Those that took longer than their timeout."""
    errors: dict[str, str] = field(default_factory=dict)
    """By `<topic>-<partition>`, or the name of a folder."""


class Owner(Protocol):
    """The store, as its housekeeper knows it."""

    disk: Disk
    path: Path
    clock: Clock
    settings: StoreConfig

    @property
    def transactions(self) -> TransactionCoordinator:
        """Its coordinator of transactions."""

    @property
    def groups(self) -> GroupCoordinator:
        """Its coordinator of consumer groups."""

    def partitions(self) -> list[tuple[str, int]]:
        """All partitions."""

    def partition(self, topic: str, number: int) -> StorePartition:
        """One of them. Raises UnknownTopic."""

    def config_of(self, topic: str) -> LogConfig:
        """A topic's configuration."""


class Housekeeper:
    """Rounds by hand (`run`) and by a thread (`start`), never two at a time."""

    def __init__(self, store: Owner, deleted: Sequence[str] = ()) -> None:
        self._store = store
        self._round = fork_safe.lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._care: dict[tuple[str, int], Care] = {}
        self._folders: dict[str, int] = {}
        self._rounds = 0
        self._told: dict[str, Any] = {}
        self.remove_later(deleted, LogConfig().file_delete_delay_ms)

    def remove_later(self, names: Sequence[str], delay_ms: int) -> None:
        """Folders to be removed after a while. An opening begins to count anew."""
        due = self._store.clock.now_ms() + delay_ms
        self._folders.update(dict.fromkeys(names, due))

    def metrics(self) -> dict[str, Any]:
        """Rounds, folders that wait to be removed, and what was done for each partition that something was done for."""
        care = {f"{topic}-{number}": care.as_dict() for (topic, number), care in self._care.copy().items()}
        idle = Care().as_dict()
        return {
            "running": self._thread is not None,
            "rounds": self._rounds,
            "folders_to_remove": len(self._folders),
            "partitions": {name: found for name, found in care.items() if found != idle},
        }

    # -- the thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Do a round now and then, from a thread of its own."""
        settings = self._store.settings
        pause_ms = min(settings.log_retention_check_interval_ms, settings.log_cleaner_backoff_ms)
        arguments = (weakref.ref(self), self._stopped, settings.log_initial_task_delay_ms / 1000, pause_ms / 1000)
        self._thread = threading.Thread(target=_rounds, args=arguments, name="eventcore-housekeeping", daemon=True)
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """End it; a step under way is waited for."""
        self._stopped.set()
        if not wait:
            return
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._round:  # one by hand, from another thread
            pass

    def _throttle(self) -> Throttle:
        def stopped() -> ClosedError:
            return ClosedError("the store is being closed")

        return Throttle(self._store.settings.log_cleaner_io_max_bytes_per_second, self._stopped.wait, stopped)

    # -- one round ---------------------------------------------------------------------------------------------

    def run(self) -> HousekeepingReport:
        """One round over all partitions."""
        with self._round:
            report = HousekeepingReport()
            self._remove_folders(report)
            self._end_late_transactions(report)
            self._take_over_offsets(report)
            partitions = self._store.partitions()
            for gone in self._care.keys() - set(partitions):
                del self._care[gone]
            for topic, number in partitions:
                if self._stopped.is_set():
                    break
                report.partitions += 1
                self._look_after(topic, number, report)
            self._rounds += 1
            self._tell()
            return report

    def _tell(self) -> None:
        """Leave word for other processes. It is not worth an error."""
        found = self.metrics()
        told = {**found, "running": False, "rounds": 0}
        if told != self._told:
            self._told = told
            some = dict(list(found["partitions"].items())[:_MOST_TOLD])
            with suppress(StorageError):
                json_file.write(self._store.disk, self._store.path / NAME, {**found, "partitions": some})

    def _remove_folders(self, report: HousekeepingReport) -> None:
        now, store = self._store.clock.now_ms(), self._store
        for name in [name for name, due in self._folders.items() if due <= now]:
            try:
                store.disk.remove_folder(store.path / name)
                del self._folders[name]
                report.removed_folders += 1
            except StorageError as error:
                report.errors[name] = str(error)

    def _end_late_transactions(self, report: HousekeepingReport) -> None:
        try:
            report.aborted_transactions += self._store.transactions.settle()
        except EventCoreError as error:
            report.errors["transactions"] = str(error)

    def _take_over_offsets(self, report: HousekeepingReport) -> None:
        """Of consumer groups whose members only read the store."""
        try:
            self._store.groups.settle()
        except EventCoreError as error:
            report.errors["groups"] = str(error)

    def _look_after(self, topic: str, number: int, report: HousekeepingReport) -> None:
        care = self._care.setdefault((topic, number), Care())
        try:
            partition, config = self._store.partition(topic, number), self._store.config_of(topic)
            if partition.current is None and not self._needs_care(partition, config, care):
                return
            self._retain(partition, care, report)
            if config.compacted and self._store.settings.log_cleaner_enable:
                self._roll_if_idle(partition, care)
                self._compact(partition, config, care, report)
            care.last_error = ""
        except EventCoreError as error:
            if not self._stopped.is_set():
                care.last_error = report.errors[f"{topic}-{number}"] = str(error)

    def _needs_care(self, partition: StorePartition, config: LogConfig, care: Care) -> bool:
        """Whether there may be something to do for a closed partition. Asked once, unless time makes a difference."""
        now = self._store.clock.now_ms()
        found = survey(self._store.disk, partition.path, now)
        if count_expired(found.segments, config, log_start=0, high_watermark=_INT64_MAX, now=now):
            return True
        if not config.compacted or not any(segment.size for segment in found.segments):
            return False
        is_idle = now - found.modified_ms >= self._store.settings.store_idle_roll_ms
        state = (tuple(segment[:3] for segment in found.segments), is_idle, config)
        seen, care.looked_at = care.looked_at, state
        return seen != state

    def _retain(self, partition: StorePartition, care: Care, report: HousekeepingReport) -> None:
        gone = partition.retain()
        care.deleted_segments += gone.segments
        care.deleted_bytes += gone.bytes
        report.deleted_segments += gone.segments

    def _roll_if_idle(self, partition: StorePartition, care: Care) -> None:
        """Only closed segments are compacted; a quiet partition would keep its last one open for days."""
        now, end = self._store.clock.now_ms(), partition.log_end_offset
        active = partition.segments.active
        if end != care.seen_end:
            is_first = care.seen_end < 0
            care.seen_end, care.seen_at = end, self._store.disk.modified_ms(active.log.path) if is_first else now
        if active.log.size and now - care.seen_at >= self._store.settings.store_idle_roll_ms:
            partition.roll()
            care.idle_rolls += 1

    def _compact(self, partition: StorePartition, config: LogConfig, care: Care, report: HousekeepingReport) -> None:
        now = self._store.clock.now_ms()
        if not partition.cleanable(now).is_due(config, now):
            return
        map_bytes = self._store.settings.log_cleaner_dedupe_buffer_size
        done = partition.compact(map_bytes=map_bytes, throttle=self._throttle(), now=now)
        if done is not None:
            care.compactions += 1
            care.saved_bytes += done.saved_bytes
            care.quarantined += len(done.losses)
            report.compactions += 1


def _rounds(housekeeper: weakref.ref[Housekeeper], stopped: threading.Event, delay_s: float, pause_s: float) -> None:
    """Until it is stopped, or nobody has the store any more."""
    pause = delay_s
    while not stopped.wait(pause):
        pause = pause_s
        found = housekeeper()
        if found is None:
            return
        try:
            found.run()
        except EventCoreError:
            return  # closed meanwhile
        del found

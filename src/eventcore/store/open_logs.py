"""OpenLogs: which partitions of a store have their files open. The least recently used ones give way.

Opening and closing one partition is done under its own lock, so a long recovery keeps nobody else waiting.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Protocol

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import ClosedError, EventCoreError, StorageFenced
from eventcore.log import clean_offset
from eventcore.log.partition_log import PartitionLog
from eventcore.log.shared_log import SharedLog
from eventcore.store import kafka_files
from eventcore.store.kafka_files import Ends, Key
from eventcore.store.limits import Limits, maps_of
from eventcore.store.store_partition import Log, StorePartition

METADATA_TOPIC = "__cluster_metadata"
"""A controller's own log lies beside the topics: it is read, and never written."""


class Settings(Protocol):
    """What is asked of the store."""

    disk: Disk
    clock: Clock
    fsync: str
    write: bool

    def config_of(self, topic: str) -> LogConfig:
        """A topic's configuration. Raises UnknownTopic."""

    def verifying(self, producer_id: int, epoch: int, partition: tuple[str, int]) -> AbstractContextManager[None]:
        """See `TransactionCoordinator.verifying`."""


class OpenLogs:
    """Opens, closes and counts the logs of one store."""

    def __init__(self, folder: Path, settings: Settings, limits: Limits, log_starts: dict[Key, int]) -> None:
        self.folder = folder
        self.ends: dict[Key, Ends] = {}
        """Of the partitions that were written: where they ended when they were last closed."""
        self._settings = settings
        self._limits = limits
        self._log_starts = log_starts
        self._lock = fork_safe.lock()
        self._cleaned = fork_safe.lock()
        self._open: OrderedDict[StorePartition, None] = OrderedDict()
        self._closed = False
        self._closed_maps = 0
        self._pid = os.getpid()

        self._partitions: dict[Key, StorePartition] = {}

    def __len__(self) -> int:
        return len(self._open)

    def partition(self, topic: str, number: int) -> StorePartition:
        """The handle of a partition: always the same one."""
        with self._lock:
            found = self._partitions.get((topic, number))
            if found is None:
                found = self._partitions[topic, number] = StorePartition(self, topic, number)
            return found

    def forget(self, topic: str) -> None:
        """A topic of that name that is made later is another one."""
        with self._lock:
            for key in [key for key in self._partitions if key[0] == topic]:
                del self._partitions[key]

    def writes(self, topic: str) -> bool:
        """Whether a topic's partitions are opened for writing."""
        return self._settings.write and topic != METADATA_TOPIC

    def config_of(self, topic: str) -> LogConfig:
        """A topic's configuration."""
        return self._settings.config_of(topic)

    def verifying(self, producer_id: int, epoch: int, partition: Key) -> AbstractContextManager[None]:
        """See `TransactionCoordinator.verifying`."""
        return self._settings.verifying(producer_id, epoch, partition)

    def check_open(self, partition: StorePartition) -> None:
        """Raise ClosedError if the store was closed, or in a forked child; or why the partition cannot be used."""
        if os.getpid() != self._pid:
            raise ClosedError("this store was opened by the parent of this process")
        if self._closed:
            raise ClosedError("this store is closed")
        if partition.failure is not None:
            raise partition.failure

    # -- open --------------------------------------------------------------------------------------------------

    def open(self, partition: StorePartition) -> Log:
        """The partition's log, opened if it is not. Raises what opening a partition does, and ClosedError."""
        self.check_open(partition)
        with partition.opening:
            log = partition.current
            if log is None:
                self._make_room()
                self.check_open(partition)
                log = self._open_log(partition)
                partition.current = log
                partition.touched = False
                with self._lock:
                    self._open[partition] = None
            return log

    def _open_log(self, partition: StorePartition) -> Log:
        settings, config = self._settings, self.config_of(partition.topic)
        start = self._log_starts.get((partition.topic, partition.number), 0)
        if not self.writes(partition.topic):
            return SharedLog(settings.disk, partition.path, config, log_start=start)
        log = PartitionLog(settings.disk, partition.path, config, settings.clock, settings.fsync, in_store=True)
        if start > log.log_start_offset:
            log.delete_records(min(start, log.high_watermark))
        return log

    def note_cleaned(self, partition: StorePartition) -> None:
        """Tell Kafka's checkpoint how far a partition was compacted: of two that differ the lower one counts."""
        disk = self._settings.disk
        offset = clean_offset.own(disk, partition.path)
        with self._cleaned:
            kafka_files.note_cleaned(disk, self.folder, (partition.topic, partition.number), offset)

    # -- close -------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Close logs until one more may be opened; those in use stay, even if that makes too many."""
        with self._lock:
            candidates = list(self._open)
        logs = [log for log in (partition.current for partition in candidates) if log is not None]
        maps = sum(maps_of(log.segment_count) for log in logs)
        for partition in [*candidates, *candidates]:  # who was used since the last time gets a second chance
            if len(self._open) < self._limits.partitions and maps < self._limits.maps:
                return
            log = partition.current
            if log is None:
                continue
            if partition.touched:
                partition.touched = False
                with self._lock:
                    if partition in self._open:
                        self._open.move_to_end(partition)
            elif partition.opening.acquire(blocking=False):
                try:
                    if self._retire(partition):
                        maps -= maps_of(log.segment_count)
                finally:
                    partition.opening.release()

    def _retire(self, partition: StorePartition, *, even_if_watched: bool = False) -> bool:
        """Close a partition's log unless somebody writes, or waits for news; its lock is held. Whether it is closed."""
        log = partition.current
        if log is None:
            return True
        if (partition.is_watched and not even_if_watched) or log.is_fenced:
            return False
        partition.current = None  # first: who begins to write from now on has to open it again
        if partition.users:
            partition.current = log
            return False
        self._close_log(partition, log)
        return True

    def _close_log(self, partition: StorePartition, log: Log) -> None:
        with self._lock:
            self._open.pop(partition, None)
        if isinstance(log, SharedLog):
            if partition.is_watched:
                log.close()  # ends its thread
            return
        try:
            log.retire()
        except EventCoreError as error:
            text = f"closing {partition.topic}-{partition.number} failed: {error}"
            partition.failure = StorageFenced(text, path=partition.path)
            raise partition.failure from error
        ends = Ends(log.log_start_offset, log.segments.first.base_offset, log.log_end_offset)
        self.ends[partition.topic, partition.number] = ends
        self._collect(maps_of(log.segment_count))

    def _collect(self, maps: int) -> None:
        """A log that was closed hangs in cycles with its maps; the collector does not know how many these may be."""
        with self._lock:
            self._closed_maps += maps
            if self._closed_maps < self._limits.maps // 2:
                return
            self._closed_maps = 0
        gc.collect()

    def give_back(self, partition: StorePartition) -> None:
        """Close a partition's log, if it is open and nobody else uses it."""
        with partition.opening:
            self._retire(partition, even_if_watched=True)

    def reopen(self, partition: StorePartition, wait: Callable[[], None]) -> None:
        """Close a partition's log, waiting for those who write: it is opened again with what is then its configuration.

        Raises StorageFenced if the log is fenced.
        """
        while True:
            with partition.opening:
                log = partition.current
                if log is not None and log.is_fenced:
                    raise StorageFenced("the partition's storage failed", path=partition.path)
                if self._retire(partition, even_if_watched=True):
                    return
            wait()

    def forbid(self, partition: StorePartition, failure: EventCoreError) -> None:
        """Close a partition's log for good. What goes wrong with that does not matter any more."""
        with partition.opening:
            partition.failure = failure
            log, partition.current = partition.current, None
            with self._lock:
                self._open.pop(partition, None)
            self.ends.pop((partition.topic, partition.number), None)
            if log is not None:
                _close_quietly(log)

    def abandon(self) -> None:
        """Nobody refers to the store any more: see `PartitionLog.abandon`."""
        self._closed = True
        with ExitStack() as leaving:  # all of them, whatever one of them says
            for partition in self._open:
                if partition.current is not None:
                    leaving.callback(partition.current.abandon)

    def close(self, failures: dict[Key, EventCoreError]) -> None:
        """Close all logs; what goes wrong is left in `failures`. Nothing can be opened any more."""
        self._closed = True
        with self._lock:
            partitions = list(self._open)
        for partition in partitions:
            with partition.opening:
                log, partition.current = partition.current, None
                if log is None:
                    continue
                fenced = log.is_fenced
                try:
                    self._close_log(partition, log)
                except EventCoreError as error:
                    failures[partition.topic, partition.number] = error
                if fenced:
                    text = "its storage failed while it was open"
                    failures[partition.topic, partition.number] = StorageFenced(text, path=partition.path)
            partition.notify()


def _close_quietly(log: Log) -> None:
    with suppress(EventCoreError):
        log.close()

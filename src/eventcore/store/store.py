"""Store: a folder of topics, as one process writes it and any number read it."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from eventcore import fork_safe
from eventcore.clock import Clock
from eventcore.config import LogConfig, StoreConfig
from eventcore.disk import Disk
from eventcore.errors import ClosedError, EventCoreError, ReadOnly, StorageError, StorageFenced, TopicExists
from eventcore.store import doomed, folder, kafka_files
from eventcore.store.care import Care
from eventcore.store.catalog import Catalog, check_not_reserved, checked
from eventcore.store.closed_log import closed_end
from eventcore.store.folder import Problem
from eventcore.store.housekeeping import Housekeeper
from eventcore.store.kafka_files import Key
from eventcore.store.limits import process_limits
from eventcore.store.open_logs import METADATA_TOPIC, OpenLogs
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.store.writers import Writers

logger = logging.getLogger("eventcore")

S = TypeVar("S", bound="Store")


class Store(Care, Writers):
    """A Kafka log directory. Get one from `eventcore.open`; close it, or use it in a `with` statement.

    All methods may be called from several threads.
    """

    _is_open = False

    def __init__(
        self,
        disk: Disk,
        path: Path,
        settings: StoreConfig,
        defaults: LogConfig,
        clock: Clock,
        fsync: str,
        *,
        write: bool,
        cluster_id: str | None,
    ) -> None:
        super().__init__()
        self.disk, self.path, self.settings, self.clock, self.fsync = disk, path, settings, clock, fsync
        self.write = write
        self._lock = fork_safe.rlock()
        self._pid = os.getpid()
        self._closed = False
        self._lock_fd = -1
        self._topics: dict[str, Topic] = {}
        self.was_clean = True
        """Whether the last owner of the folder closed it cleanly. If not, partitions are recovered as they are used."""
        if write:
            self._lock_fd, self._meta = folder.take(disk, path, cluster_id)
        else:
            self._meta = folder.known(disk, path, cluster_id)
        try:
            self._begin(defaults)
        except BaseException:
            self._closed = True
            self._unlock()
            raise
        self._is_open = True

    def _begin(self, defaults: LogConfig) -> None:
        limits, most = process_limits(), self.settings.store_open_partitions
        if most:
            limits = limits._replace(partitions=most)
        log_starts = kafka_files.strangers_log_starts(self.disk, self.path)
        if self.write:
            self.was_clean = kafka_files.take_clean_mark(self.disk, self.path)
            doomed.finish(self.disk, self.path)
        self._catalog = Catalog(self.disk, self.path, defaults)
        self.was_clean = self.was_clean or not self._catalog.partitions
        self._logs = OpenLogs(self.path, self, limits, log_starts)
        self._housekeeper = Housekeeper(self, self._catalog.deleted)
        if self.write:
            self._take_over(log_starts)
            self._settle()
            if self.settings.store_housekeeping_enable:
                self._housekeeper.start()

    def _settle(self) -> None:
        """What a crash has left decided, and what readers have committed since. A partition that cannot be used keeps
        the store from none of the others.
        """
        try:
            if not self.was_clean:
                self.transactions.settle(after_crash=not self.settings.store_transactions_survive)
            self.groups.settle(was_clean=self.was_clean)
        except EventCoreError as error:
            logger.warning("transactions and offsets of groups are not all settled: %s", error)

    def _take_over(self, log_starts: dict[Key, int]) -> None:
        """Let the partitions know where a broker has made them begin, so that its file can be forgotten."""
        for topic, number in list(log_starts):
            if number in self._catalog.partitions.get(topic, ()) and topic != METADATA_TOPIC:
                try:
                    _ = self.topic(topic)[number].log_start_offset
                except StorageError as error:
                    logger.warning("%s-%d: where a broker made it begin is not taken over: %s", topic, number, error)
                    return
        if log_starts:
            kafka_files.know_log_starts(self.disk, self.path)
            self.disk.sync_dir(self.path)
        log_starts.clear()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r} mode={self.mode!r} of {len(self._catalog.partitions)} topics>"

    @property
    def mode(self) -> str:
        """`rw` or `r`."""
        return "rw" if self.write else "r"

    @property
    def cluster_id(self) -> str:
        """The cluster the folder belongs to: a new one if eventcore has made it."""
        return self._meta.cluster_id

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this store is closed")
        if os.getpid() != self._pid:
            raise ClosedError("this store was opened by the parent of this process")

    def _check_writable(self) -> None:
        self._check_open()
        if not self.write:
            raise ReadOnly(f"{self.path} is open for reading only")

    # -- topics ------------------------------------------------------------------------------------------------

    @property
    def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        with self._lock:
            self._refresh()
            return self._catalog.topics

    @property
    def problems(self) -> list[Problem]:
        """What lies in the folder and is left alone, or is not whole: (name, why)."""
        with self._lock:
            self._refresh()
            return self._catalog.all_problems()

    def _refresh(self) -> None:
        """A reader looks what the writer has changed; he himself knows."""
        self._check_open()
        if not self.write:
            self._catalog.refresh()

    def topic(self, name: str) -> Topic:
        """A topic by its name. Raises UnknownTopic, and NotALog if parts of it are missing."""
        found = self._topics.get(name)
        if found is not None and not self._closed and os.getpid() == self._pid:  # `_check_open`, as a call more is seen
            return found
        with self._lock:
            self._check_open()
            found = self._topics.get(name)
            if found is None:
                self._refresh()
                partitions = [self._logs.partition(name, number) for number in range(self._catalog.check_whole(name))]
                found = self._topics[name] = Topic(self, name, self._catalog.topic_id(name), partitions)
            return found

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        config: LogConfig | Mapping[str, Any] | None = None,
        *,
        exist_ok: bool = False,
    ) -> Topic:
        """Make a topic of so many partitions (default: 1), with some configuration of its own. Durable on return.

        A crash leaves all of it or nothing. With `exist_ok` one that is there is returned as it is, if it has what was
        asked for. Raises TopicExists, InvalidConfig, and UsageError for names and numbers that cannot be.
        """
        with self._lock:
            self._check_writable()
            values = config.as_dict() if isinstance(config, LogConfig) else dict(config or {})
            values = checked(self._catalog.defaults, values)
            if exist_ok and name in self._catalog.partitions:
                return self._same_topic(name, partitions, values)
            self._catalog.check_new(name, 1 if partitions is None else partitions)
            self._catalog.create(name, partitions or 1, values)
            return self.topic(name)

    def has_topic(self, name: str) -> bool:
        """Whether there is a topic of that name."""
        with self._lock:
            self._check_open()
            if name not in self._catalog.partitions:
                self._refresh()
            return name in self._catalog.partitions

    def internal_topic(self, name: str, partitions: int, config: Mapping[str, Any]) -> Topic:
        """One of Kafka's own topics, which programs cannot make; made if it is missing."""
        with self._lock:
            self._check_writable()
            if name not in self._catalog.partitions:
                self._catalog.create(name, partitions, checked(self._catalog.defaults, config))
            return self.topic(name)

    def _same_topic(self, name: str, partitions: int | None, config: Mapping[str, Any]) -> Topic:
        topic, known = self.topic(name), self._catalog.config(name).as_dict()
        other = [f"{key}={known[key]}" for key, value in config.items() if known[key] != value]
        if partitions not in (None, len(topic)):
            other.append(f"{len(topic)} partitions")
        if other:
            raise TopicExists(
                f"there is a topic {name!r}, of {', '.join(other)}", hint="use `topic`, or `configure_topic`"
            )
        return topic

    def configure_topic(self, name: str, config: Mapping[str, Any]) -> None:
        """Change values of a topic's configuration, by Kafka's names; None goes back to the store's default.

        Durable, and valid for every partition, on return. Raises InvalidConfig with nothing changed.
        """
        with self._lock:
            self._check_writable()
            check_not_reserved(name)
            topic = self.topic(name)
            self._catalog.configure(name, config)
            for partition in topic:
                self._logs.reopen(partition, lambda: time.sleep(0.001))

    def delete_topic(self, name: str) -> None:
        """Remove a topic and all of its records. Durable on return; the files go after `file.delete.delay.ms`."""
        with self._lock:
            self._check_writable()
            check_not_reserved(name)
            delay = self._delete_delay_ms(name)
            failure = ClosedError(f"topic {name!r} was deleted", hint="create it again")
            numbers = self._catalog.numbers(name)
            try:
                topic_id = self._catalog.doom(name)
            except StorageFenced:
                self._forbid(name, numbers, failure)
                self._catalog.forget(name)
                raise
            self._forbid(name, numbers, failure)
            self._housekeeper.remove_later(self._catalog.delete(name, topic_id), delay)

    def _forbid(self, name: str, numbers: Sequence[int], failure: EventCoreError) -> None:
        """Nobody uses a topic's partitions any more."""
        self._topics.pop(name, None)
        for number in numbers:
            self._logs.forbid(self._logs.partition(name, number), failure)
        self._logs.forget(name)

    def _delete_delay_ms(self, name: str) -> int:
        try:
            return self._catalog.config(name).file_delete_delay_ms
        except StorageError:  # one whose configuration cannot be read is to go all the more
            return self._catalog.defaults.file_delete_delay_ms

    def partition(self, topic: str, number: int) -> StorePartition:
        """A partition by the name of its topic and its number. Raises UnknownTopic."""
        return self.topic(topic)[number]

    def end_of(self, topic: str, number: int) -> int:
        """Where a partition ends for readers; one that was closed cleanly is not opened for that."""
        known = self._closed_end(topic, number)
        return self.topic(topic)[number].high_watermark if known is None else known

    def _closed_end(self, topic: str, number: int) -> int | None:
        """Where a partition ended when it was closed; None if it was not."""
        ends = self._logs.ends.get((topic, number))
        return closed_end(self.disk, self._catalog.path(topic, number)) if ends is None else ends.log_end

    def config_of(self, topic: str) -> LogConfig:
        """The configuration of a topic's partitions."""
        with self._lock:
            return self._catalog.config(topic)

    def own_config(self, topic: str) -> dict[str, Any]:
        """What was set for a topic, by Kafka's names: where it differs from the store's defaults."""
        with self._lock:
            self._check_open()
            said = self._catalog.file(topic)
            return dict(said.config) if said else {}

    def check_topic(self, topic: str) -> None:
        """Raise ClosedError or UnknownTopic if a topic cannot be used any more."""
        if self._closed or os.getpid() != self._pid:
            self._check_open()
        self._catalog.numbers(topic)

    def partitions(self) -> list[tuple[str, int]]:
        """(topic, number) of every partition that may be written, for housekeeping."""
        with self._lock:
            found = self._catalog.partitions
            return [(name, number) for name in sorted(found) if name != METADATA_TOPIC for number in found[name]]

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every partition; all that was appended is durable on return, and a Kafka broker can take the folder.

        If a partition cannot be closed the others are, the folder counts as not closed cleanly, and the error is
        raised. Closing twice is fine.
        """
        if os.getpid() != self._pid:
            return
        self._housekeeper.stop()
        if not self._closed:
            self._end_clients()  # without the lock: who is in the coordinators may be waiting for it
        with self._lock:
            if self._closed:
                return
            failures: dict[Key, EventCoreError] = {}
            try:
                if self.write and not self.was_clean:
                    self._recover_the_rest(failures)
                self._closed = True
                self._logs.close(failures)
                if self.write:
                    self._leave(not failures)
            finally:
                self._closed = True
                self._unlock()
            for error in failures.values():
                raise error

    def _recover_the_rest(self, failures: dict[Key, EventCoreError]) -> None:
        """After an unclean stop: a broker would believe the mark of a clean shutdown, so it must be true of all."""
        for name, number in self.partitions():
            if self._closed_end(name, number) is not None:
                continue
            try:
                _ = self.topic(name)[number].log_end_offset
            except EventCoreError as error:
                failures[name, number] = error

    def _leave(self, clean: bool) -> None:
        kafka_files.write_all(self.disk, self.path, self._logs.ends, self.partitions())
        if clean:
            kafka_files.set_clean_mark(self.disk, self.path)

    def __del__(self) -> None:
        """Nobody can close it any more: let go of all as a kill would, without a lock."""
        if self._is_open and not self._closed and os.getpid() == self._pid and not sys.is_finalizing():
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                with suppress(StorageError):  # nobody is there to be told
                    self._abandon()

    def _abandon(self) -> None:
        self._closed = True
        self._housekeeper.stop(wait=False)
        with ExitStack() as leaving:
            leaving.callback(self._unlock)
            if self._groups is not None:
                leaving.callback(self._groups.close)
            self._logs.abandon()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            self.disk.unlock(fd)

"""StorePartition: a partition of a store. Its files are open only while it is used.

The store has few logs open at a time; which of them, `OpenLogs` decides. A handle here stays good all the time: what
it needs is opened again. Who reads from a log that is closed meanwhile goes on with what he has; who writes holds it
open: he says so before he looks for it, and who closes takes it away before he looks for writers, so one of them sees
the other. The appender alone needs none of that: who closes a log has its lock, and then it declines.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from eventcore import fork_safe
from eventcore.clock import Time
from eventcore.config import LogConfig
from eventcore.errors import EventCoreError, LogTruncated, StorageError
from eventcore.files import names
from eventcore.format.batch import BatchHeader
from eventcore.log.compaction import MAP_BYTES, CompactionReport
from eventcore.log.freezing import Frozen, Moment, Shelf
from eventcore.log.partition import Partition, decline, decline_sequenced
from eventcore.log.partition_log import PartitionLog
from eventcore.log.shared_log import SharedLog
from eventcore.log.subscribers import Subscribers
from eventcore.log.tailing import Standing
from eventcore.types import BatchInfo, Buffer

if TYPE_CHECKING:
    from eventcore.store.open_logs import OpenLogs

Log = PartitionLog | SharedLog
F = TypeVar("F", bound=Callable[..., Any])


def _held_open(method: F) -> F:
    """Nobody closes the log while the method runs."""

    @wraps(method)
    def call(self: StorePartition, *arguments: Any, **keywords: Any) -> Any:
        user = object()
        self.users.add(user)
        try:
            return method(self, *arguments, **keywords)
        finally:
            self.users.discard(user)

    return cast("F", call)


def _unknown(index: object) -> None:
    """In place of the table of places (see `Partition.__getitem__`) of a log that is not open."""


class StorePartition(Partition):
    """One partition of a topic: a `Partition` whose files are opened when they are needed.

    Get one by `topic[number]`. The store closes it; `close` here gives its files back until it is used again.
    """

    def __init__(self, logs: OpenLogs, topic: str, number: int) -> None:
        self.topic = topic
        """The name of its topic."""
        self.number = number
        """Its number within the topic."""
        self.opening = fork_safe.rlock()
        """Held while the log is opened or closed."""
        self.users: set[object] = set()
        """One for each call that writes just now."""
        self.failure: EventCoreError | None = None
        """Why it cannot be used any more."""
        self.touched = False
        self._logs = logs
        self._subscribers = Subscribers()
        self._leave_log: Callable[[], None] | None = None
        """Ends the one subscription that this object has with the log, while it has some of its own."""
        self._current: Log | None = None
        self._cleaned_to = 0
        self._append = self._append_all = decline
        self._append_sequenced, self._commit = decline_sequenced, decline
        self._point = _unknown

    def __repr__(self) -> str:
        return f"<Partition {self.topic}-{self.number} mode={self.mode!r}>"

    @property
    def _log(self) -> Log:  # type: ignore[override]
        self.touched = True
        log = self._current
        return log if log is not None else self._logs.open(self)

    @property
    def current(self) -> Log | None:
        """The log, if it is open."""
        return self._current

    @current.setter
    def current(self, log: Log | None) -> None:
        self._current = log
        appender = log.appender if isinstance(log, PartitionLog) else None
        self._append = appender.append if appender else decline
        self._append_all = appender.append_all if appender else decline
        self._append_sequenced = appender.append_sequenced if appender else decline_sequenced
        self._commit = appender.commit if appender else decline
        self._point = log.points.get if log is not None else _unknown
        if log is not None:
            leave, self._leave_log = self._leave_log, None
            if leave is not None:
                leave()
            if self.is_watched:
                self._leave_log = log.subscribe(self._subscribers.notify)

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to be told when the high watermark moves."""
        return bool(self._subscribers.callbacks)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._logs.folder / names.partition_folder(self.topic, self.number)

    @property
    def mode(self) -> str:
        """`rw` or `r`."""
        return "rw" if self._logs.writes(self.topic) else "r"

    @property
    def config(self) -> LogConfig:
        """The configuration of its topic."""
        return self._logs.config_of(self.topic)

    def close(self) -> None:
        """Close its files; everything appended is durable on return. They are opened again when they are needed."""
        self._logs.give_back(self)

    def standing(self) -> Standing | None:
        """What a waiting `Tail` watches; it stays good while the log is closed, as nobody writes then."""
        found = super().standing()
        return None if found is None else found._replace(check_open=lambda: self._logs.check_open(self))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Partition.subscribe`. While there is a callback, its files stay open."""
        with self.opening:
            leave = self._subscribers.add(callback)
            log = self._log
            if self._leave_log is None:
                self._leave_log = log.subscribe(self._subscribers.notify)
        return partial(self._unsubscribe, leave)

    def _unsubscribe(self, leave: Callable[[], None]) -> None:
        with self.opening:
            leave()
            leave_log = self._leave_log
            if leave_log is not None and not self.is_watched:
                self._leave_log = None
                leave_log()

    def notify(self) -> None:
        """Wake those who wait for news."""
        self._subscribers.notify()

    @_held_open
    def append_batches(self, data: Buffer, origin: Literal["client", "replica"] = "client") -> BatchInfo:
        """See `Partition.append_batches`. A client's batch that begins a transaction is refused with InvalidTxnState
        unless the coordinator knows that the partition is part of it (KIP-890).
        """
        header = self._beginning(data) if origin == "client" else None
        if header is None:
            return super().append_batches(data, origin)
        with self._logs.verifying(header.producer_id, header.producer_epoch, (self.topic, self.number)):
            return super().append_batches(data, origin)

    def _beginning(self, data: Buffer) -> BatchHeader | None:
        """The header of a batch that would begin a transaction; what is no batch is refused by whoever appends it."""
        with suppress(StorageError):
            header = BatchHeader.read(memoryview(data).cast("B"), 0)
            if header.transactional and not header.control:
                known = self.producer(header.producer_id)
                return header if known is None or known.txn_first_offset < 0 else None
        return None

    @_held_open
    def compact(
        self,
        *,
        map_bytes: int = MAP_BYTES,
        throttle: Callable[[int], None] | None = None,
        now: Time | None = None,
    ) -> CompactionReport | None:
        """See `Partition.compact`; a broker that takes the store over goes on where this has ended."""
        log = self._writer()
        try:
            report = super().compact(map_bytes=map_bytes, throttle=throttle, now=now)
        finally:
            self._cleaned_to = max(self._cleaned_to, log.cleaned_to)
        if report is not None:
            self._logs.note_cleaned(self)
        return report

    def moment(self) -> Moment | None:
        """Its log as it is now, for `freeze`; None if it is closed."""
        log = self._current
        return log.moment() if isinstance(log, PartitionLog) else None

    @_held_open
    def freeze(self, moment: Moment | None, end: int, shelf: Shelf) -> Frozen:
        """See `Freezing.freeze`; for snapshots of the store. A log that was closed at that moment ended at `end`.

        Raises LogTruncated if what it was cannot be had any more.
        """
        log = self._writer()
        if moment is None or moment.log is not log:
            moment = log.moment()._replace(end=end)
            if max(log.cleaned_to, self._cleaned_to) > end or not moment.start <= end <= log.log_end_offset:
                text = f"the log is not any more what it was when it ended at {end}"
                raise LogTruncated(text, hint="take the snapshot again")
        return log.freeze(moment, shelf)

    # Not `append` and the like: what the appender does alone needs nobody to hold the log open.
    _write = _held_open(Partition._write)
    _write_sequenced = _held_open(Partition._write_sequenced)
    _write_end = _held_open(Partition._write_end)
    _acknowledge = _held_open(Partition._acknowledge)
    extend_columns = _held_open(Partition.extend_columns)
    next_sequence = _held_open(Partition.next_sequence)
    set_leader_epoch = _held_open(Partition.set_leader_epoch)
    sync = _held_open(Partition.sync)
    roll = _held_open(Partition.roll)
    truncate = _held_open(Partition.truncate)
    delete_records = _held_open(Partition.delete_records)
    retain = _held_open(Partition.retain)
    cleanable = _held_open(Partition.cleanable)

"""Consumer: records of topics for one of the members of a group, and how far the group has done with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, Literal

from eventcore.clock import Clock
from eventcore.errors import ClosedError, EventCoreError, LogTruncated, OffsetOutOfRange, UnknownTopic, UsageError
from eventcore.log.ranges import Isolation, is_committed
from eventcore.log.tailing import latest_truncation
from eventcore.store.committed_offsets import Key
from eventcore.store.groups import GroupCoordinator, Offset, Source, To, offset_of
from eventcore.store.membership import Membership
from eventcore.store.store_partition import StorePartition
from eventcore.types import CommittedOffset, Record

SESSION_TIMEOUT_MS = 45_000
"""Kafka's session.timeout.ms."""
MOST_SESSION_TIMEOUT_MS = 86_400_000
_LEAST_SESSION_TIMEOUT_MS = 30
_LONGEST_WAIT_S = 1.0
Start = Literal["earliest", "latest", "none"]
_STARTS = ("earliest", "latest", "none")


class ConsumerRecord(Record):
    """A Record that knows its topic and its partition: those of its class, of which there is one for each partition, so
    that it costs no more than a Record.
    """

    __slots__ = ()
    topic: str = ""
    partition: int = -1

    def __repr__(self) -> str:
        return f"<{self.topic}-{self.partition} {super().__repr__()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.topic, self.partition, *self)


@lru_cache(maxsize=1 << 14)
def record_type(topic: str, partition: int) -> type[ConsumerRecord]:
    """The class of a partition's records."""
    return type("ConsumerRecord", (ConsumerRecord,), {"__slots__": (), "topic": topic, "partition": partition})


def _again(topic: str, partition: int, *fields: Any) -> ConsumerRecord:
    return record_type(topic, partition)(*fields)


class _Place:
    """Where the consumer is in one partition."""

    def __init__(self, partition: StorePartition, position: int, committed: bool) -> None:
        self.partition, self.position = partition, position
        self._type = record_type(partition.topic, partition.number)
        self._committed = committed
        self._isolation: Isolation = "read_committed" if committed else "read_uncommitted"
        self._rows: Iterator[ConsumerRecord] | None = None
        self._end = position
        self._truncations = partition.truncations()

    def end(self) -> int:
        """The end of what it may read now."""
        return self.partition.end(self._committed)

    def take(self, count: int) -> list[ConsumerRecord]:
        """The next records, at most so many. What was read before something goes wrong is not lost: the error comes
        when one goes on there.
        """
        if self._rows is None:
            self._check_cut()
            self._end = self.end()
            if self._end <= self.position:
                return []
            self._rows = self.partition.read_as(self._type, self.position, self._end, isolation=self._isolation)
        found: list[ConsumerRecord] = []
        try:
            found.extend(islice(self._rows, count))
        except EventCoreError as error:
            self._rows = None
            if not found and not isinstance(error, LogTruncated):  # of that the next call tells what it means
                raise
        if found:
            self.position = found[-1].offset + 1
        if self._rows is not None and len(found) < count:
            self._rows, self.position = None, self._end
        return found

    def _check_cut(self) -> None:
        """Raise LogTruncated, once, if records that were handed out may have been replaced since the last look; one
        goes on where the log was cut (as `Tail` does). Of several truncations only the last is known.
        """
        before = self._truncations
        if self.partition.truncations() == before:
            return
        self._truncations, cut = latest_truncation(self.partition)
        if self._truncations == before + 1 and cut >= self.position:
            return
        passed, self.position = self.position, min(self.position, cut)
        name = f"{self.partition.topic}-{self.partition.number}"
        raise LogTruncated(f"{name} was truncated to offset {cut}; {passed} was the next one to be read")

    def move(self, position: int) -> None:
        """Read on from there."""
        self._rows, self.position = None, position


class Consumer:
    """One member of a group. Get it by `store.consumer(group, topics)`; close it, or use it in a `with` statement.

    The partitions of its topics are shared among the members of the group, in this process and in others. One thread at
    a time may use it. It says that it is there whenever it polls: who does not come back within its session timeout is
    replaced by others, who begin at what is committed.
    """

    def __init__(
        self,
        source: Source,
        groups: GroupCoordinator,
        clock: Clock,
        group: str,
        topics: Sequence[str],
        start: Start,
        isolation: Isolation,
        session_timeout_ms: int,
    ) -> None:
        self.group = group
        """The group it belongs to."""
        self.source = source
        """The store that it reads."""
        _check(topics, start, session_timeout_ms)
        self._groups, self._start = groups, start
        self._committed = is_committed(isolation)
        for topic in topics:
            source.topic(topic)
        self._member = Membership(groups.files, clock, self._count, group, topics, session_timeout_ms)
        self._member_id = self._member.member_id
        self._wait_s = min(_LONGEST_WAIT_S, session_timeout_ms / 10_000)
        self._places: dict[Key, _Place] = {}
        self._unplaced: set[Key] = set()
        self._failure: EventCoreError | None = None
        self._is_closed = False
        try:
            self._keep()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer of group {self.group!r} with {len(self._places)} partitions>"

    @property
    def member_id(self) -> str:
        """What its group knows it by."""
        return self._member.member_id

    @property
    def assignment(self) -> list[Key]:
        """(topic, partition) of those that are its own, as of the last `poll`."""
        return sorted(self._places.keys() | self._unplaced)

    @property
    def positions(self) -> dict[Key, int]:
        """The offset of the next record that `poll` gives, for each partition."""
        return {key: place.position for key, place in self._places.items()}

    def poll(self, timeout: float = 0.0, max_records: int = 500) -> list[ConsumerRecord]:
        """The next records of its partitions, those of each in the order of the log. It waits up to `timeout` seconds
        for the first ones; an empty list if none came.

        Whatever was polled before counts as done: partitions that others wait for are given back. So commit before.
        Raises what reading does, and OffsetOutOfRange if it has no place and `start` is "none".
        """
        self._check_open()
        if max_records < 1:
            raise UsageError(f"max_records is {max_records}", hint="give 1 or more")
        deadline = time.monotonic() + timeout
        while True:
            self._keep()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            found = self._take(max_records)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            self._wait(min(left, self._wait_s))

    def commit(self, offsets: Mapping[Key, Offset] | None = None) -> None:
        """Say that the group has done with all that was polled, or with what is below these offsets. See
        `GroupCoordinator.commit` for what that means and what it raises.
        """
        self._check_open()
        wanted = self.positions if offsets is None else offsets
        self._groups.commit(self.group, wanted, self._member_id, self.source)

    def seek(self, to: To, topic: str | None = None, partition: int | None = None) -> None:
        """Read on from elsewhere: an offset, the first record at or after an aware datetime, "earliest", "latest", or
        "committed"; in all of its partitions, those of a topic, or one. Nothing is committed by that.
        """
        self._check_open()
        chosen = [key for key in self._places if topic in (None, key[0]) and partition in (None, key[1])]
        if isinstance(to, int) and (topic is None or partition is None):
            raise UsageError(f"offset {to} of which partition?", hint="give topic and partition, too")
        if not chosen and topic is not None:
            raise UsageError(f"no such partition of {topic!r} is this consumer's", hint="`assignment` tells which are")
        committed = self._groups.offsets(self.group) if to == "committed" else {}
        for key in chosen:
            place = self._places[key]
            found = self._first(key, committed) if to == "committed" else offset_of(place.partition, to)
            if not place.partition.log_start_offset <= found <= place.partition.high_watermark:
                raise OffsetOutOfRange(f"there is no offset {found} in {key[0]}-{key[1]}")
            place.move(found)

    def committed(self) -> dict[Key, int]:
        """What the group has committed, for the partitions that are its own."""
        found = self._groups.offsets(self.group)
        return {key: found[key].offset for key in self.assignment if key in found}

    def lag(self) -> dict[Key, int]:
        """How many offsets lie before it, for each of its partitions."""
        return {key: place.end() - place.position for key, place in self._places.items()}

    def close(self) -> None:
        """Leave the group; what was not committed comes again, to others. Closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        self._places.clear()
        self._member.leave()

    # -- inside ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError(f"this consumer of group {self.group!r} is closed")

    def _count(self, topic: str) -> int:
        try:
            return len(self.source.topic(topic))
        except UnknownTopic:
            return 0

    def _keep(self) -> None:
        """Stay in the group, and have what is its own."""
        own = self._member.keep()
        if self._member_id != self._member.member_id:  # it was forgotten: others may have been at its partitions
            self._member_id = self._member.member_id
            self._places.clear()
            self._unplaced.clear()
        if self._unplaced or own != self._places.keys():
            self._places = {key: place for key, place in self._places.items() if key in own}
            self._unplaced = set(own - self._places.keys())
            self._find_places()

    def _find_places(self) -> None:
        """Begin at what is committed; where a transaction is about to commit something, that is waited for."""
        pending = self._groups.pending(self.group)  # before the offsets: what it commits is then among these
        committed = self._groups.offsets(self.group)
        for key in sorted(self._unplaced - pending):
            partition = self.source.topic(key[0])[key[1]]
            self._places[key] = _Place(partition, self._first(key, committed), self._committed)
            self._unplaced.discard(key)

    def _first(self, key: Key, committed: Mapping[Key, CommittedOffset]) -> int:
        """Where to begin in a partition."""
        partition = self.source.topic(key[0])[key[1]]
        start, end = partition.log_start_offset, partition.high_watermark
        if key in committed and committed[key].offset >= start:
            return min(committed[key].offset, end)  # for who only reads after a crash, see `GroupCoordinator.settle`
        if self._start == "none":
            raise OffsetOutOfRange(
                f"group {self.group!r} has no place in {key[0]}-{key[1]}", hint="`store.groups.reset` gives it one"
            )
        return start if self._start == "earliest" else end

    def _take(self, count: int) -> list[ConsumerRecord]:
        """From one partition after the other; the one behind the last that was looked at comes first, so that none has
        to wait for the others, or for one that cannot be read.
        """
        found: list[ConsumerRecord] = []
        for key, place in list(self._places.items()):
            self._places[key] = self._places.pop(key)
            try:
                if place.position < place.partition.log_start_offset:
                    place.move(self._first(key, {}))  # retention was quicker
                taken = place.take(count - len(found))
            except EventCoreError as error:
                if not found:
                    raise
                self._failure = error  # what was found would not come again
                break
            found = found + taken if found else taken
            if len(found) >= count:
                break
        return found

    def _wait(self, timeout_s: float) -> None:
        """Until something was appended to one of its partitions, at most so long."""
        moved = threading.Event()
        with ExitStack() as stack:
            for place in self._places.values():
                stack.callback(place.partition.subscribe(moved.set))
            if all(place.end() <= place.position for place in self._places.values()):
                moved.wait(timeout_s)


def _check(topics: Sequence[str], start: str, session_timeout_ms: int) -> None:
    if isinstance(topics, str) or not topics or not all(isinstance(topic, str) for topic in topics):
        raise UsageError(f"the topics of a consumer are {topics!r}", hint="give a list of names")
    if start not in _STARTS:
        raise UsageError(f"start is {start!r}", hint=f"allowed are {', '.join(_STARTS)}")
    if not _LEAST_SESSION_TIMEOUT_MS <= session_timeout_ms <= MOST_SESSION_TIMEOUT_MS:
        hint = f"allowed are {_LEAST_SESSION_TIMEOUT_MS} to {MOST_SESSION_TIMEOUT_MS}"
        raise UsageError(f"a session timeout of {session_timeout_ms} ms", hint=hint)

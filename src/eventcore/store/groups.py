"""GroupCoordinator: how far each consumer group is; its log, and what people do with groups.

An offset is a record of `__consumer_offsets`, in Kafka's schema and partition. Who only reads cannot write there: what
he commits stands in the group's file (see `group_files`) until the writer takes it over into the log.

An offset never points beyond what can be read. What a crash takes from a partition's end, it takes from the groups,
too, before anything else is appended there: see `settle`. So nothing is passed over that gets those offsets later.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eventcore import fork_safe
from eventcore.clock import Clock, Time
from eventcore.disk import Disk
from eventcore.errors import (
    EventCoreError,
    GroupNotEmpty,
    OffsetOutOfRange,
    ReadOnly,
    UnknownGroup,
    UnknownTopic,
    UsageError,
)
from eventcore.format import group_log
from eventcore.format.transaction_log import partition_of
from eventcore.store.committed_offsets import CommittedOffsets, Key, Placed
from eventcore.store.coordinator import Identity
from eventcore.store.group_files import GroupFiles, GroupState, Member
from eventcore.store.membership import check_owner
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.types import CommittedOffset

logger = logging.getLogger("eventcore")

_CONFIG = {"cleanup.policy": "compact", "segment.bytes": 100 << 20, "compression.type": "producer"}
_LONGEST = 1 << 12
Offset = int | CommittedOffset
To = int | Time | str
"""An offset, an aware datetime, "earliest" or "latest"."""


class GroupPartition(NamedTuple):
    """A group's place in a partition. `committed` and `lag` are None where it has none, `end_offset` and `lag` if it is
    of another store; `member_id` is the owner's.
    """

    topic: str
    partition: int
    committed: CommittedOffset | None
    end_offset: int | None
    lag: int | None
    member_id: str | None


class GroupDescription(NamedTuple):
    """A consumer group: its members with the topics they want, and its places."""

    group: str
    members: dict[str, tuple[str, ...]]
    partitions: list[GroupPartition]


class Source(Protocol):
    """A store, as that which has the topics."""

    def topic(self, name: str) -> Topic:
        """A topic by its name."""


class Owner(Source, Protocol):
    """The store, as its coordinator of groups knows it."""

    disk: Disk
    path: Path
    clock: Clock
    write: bool

    def internal_topic(self, name: str, partitions: int, config: Mapping[str, Any]) -> Topic:
        """One of Kafka's own topics, made if it is missing."""

    def has_topic(self, name: str) -> bool:
        """Whether it is there."""


class GroupCoordinator:
    """The groups of a store. All methods may be called from several threads, and in several processes."""

    def __init__(self, store: Owner) -> None:
        self.files = GroupFiles(store.disk, store.path)
        """Who is in which group."""
        self._store = store
        self._lock = fork_safe.rlock()
        self._logs: dict[int, CommittedOffsets] = {}
        self._homes: dict[str, StorePartition] = {}

    def close(self) -> None:
        """The store is closed."""
        self.files.close()

    # -- Kafka's operations ------------------------------------------------------------------------------------

    def commit(
        self, group: str, offsets: Mapping[Key, Offset], member_id: str | None = None, source: Source | None = None
    ) -> None:
        """Say that a group has done with everything below these offsets. On return it is as durable as `fsync` says; by
        a store that only reads, durable.

        Raises OffsetOutOfRange for an offset that nobody can have come to, UnknownMember and IllegalGeneration for a
        member that has been replaced, and for who is no member of a group that has some; nothing is committed then. The
        topics are those of another store, if there is a `source`.
        """
        wanted = self._checked(group, offsets, source)
        self.files.change(group, lambda state: self._committed(state, wanted, member_id))

    def commit_in_transaction(
        self,
        group: str,
        offsets: Mapping[Key, Offset],
        identity: Identity,
        member_id: str | None = None,
        source: Source | None = None,
    ) -> None:
        """`commit` as part of a producer's transaction: the offsets count if it commits. The coordinator has to know of
        the group's partition (`place_of`) before. Without a member id it is not asked who is in the group (KIP-447).
        """
        wanted = self._checked(group, offsets, source)

        partition, records = self._partition(group), _records(group, wanted)
        if member_id is None:  # what readers have committed is older, and is taken over when it has to be
            partition.append_sequenced(records, *identity, transactional=True)
            return

        def write(state: GroupState) -> GroupState:
            check_owner(state, member_id, wanted, ())
            taken = self._taken_over(state)
            partition.append_sequenced(records, *identity, transactional=True)
            return taken

        self.files.change(group, write)

    def place_of(self, group: str) -> Key:
        """The partition of `__consumer_offsets` that a group's offsets are in."""
        return group_log.TOPIC, self._partition(group).number

    def offsets(self, group: str) -> dict[Key, CommittedOffset]:
        """What was committed last for each partition. Those of an open transaction do not count yet: see `pending`."""
        _check_group(group)
        noted = self.files.look(group).offsets  # before the log: what is taken over meanwhile is found there
        placed = self._logged(group)
        placed.update({key: one for key, one in noted.items() if key not in placed or placed[key].at < one.at})
        return {key: one.committed for key, one in placed.items() if one.committed is not None}

    def pending(self, group: str) -> set[Key]:
        """The partitions whose offset an open transaction is about to change (KIP-447)."""
        log = self._caught_up(group)
        return set() if log is None else log.pending(group)

    # -- what people do ----------------------------------------------------------------------------------------

    def list(self) -> list[str]:
        """The names of all groups, sorted."""
        found = set(self.files.groups())
        if self._store.has_topic(group_log.TOPIC):
            for partition in self._store.topic(group_log.TOPIC):
                found |= self._replayed(partition).groups()
        return sorted(found)

    def describe(self, group: str) -> GroupDescription:
        """Members, places and lag of a group. Raises UnknownGroup."""
        state, committed = self.files.look(group), self.offsets(group)
        members = self._living(state)
        if not committed and not members:
            raise UnknownGroup(f"there is no group {group!r}")
        places = [
            self._place(key, committed.get(key), state.owners.get(key))
            for key in sorted(committed.keys() | state.owners.keys())
        ]
        return GroupDescription(group, {name: one.topics for name, one in members.items()}, places)

    def _place(self, key: Key, committed: CommittedOffset | None, member_id: str | None) -> GroupPartition:
        end = self._store.topic(key[0])[key[1]].high_watermark if self._store.has_topic(key[0]) else None
        lag = None if committed is None or end is None else end - committed.offset
        return GroupPartition(*key, committed, end, lag, member_id)

    def reset(self, group: str, to: To, partitions: Collection[Key] | None = None) -> dict[Key, int]:
        """Move a group without members: to "earliest", "latest", an offset, or the first record at or after a time; in
        these partitions, or in all that it has a place in. Returns where it is now. Raises what `commit` does.
        """
        keys = sorted(self.offsets(group)) if partitions is None else list(partitions)
        if not keys:
            raise UnknownGroup(f"group {group!r} has no place that could be moved", hint="say in which partitions")
        found = {key: offset_of(self._store.topic(key[0])[key[1]], to) for key in keys}
        wanted = self._checked(group, found)

        def write(state: GroupState) -> GroupState:
            self._check_empty(state)
            return self._committed(state, wanted, None)

        self.files.change(group, write)
        return found

    def delete(self, group: str) -> None:
        """Forget a group without members. Raises UnknownGroup, GroupNotEmpty and ReadOnly."""
        if not self._store.write:
            raise ReadOnly(f"{self._store.path} is open for reading only")

        def write(state: GroupState) -> GroupState:
            self._check_empty(state)
            log = self._caught_up(group)
            keys: Any = []
            if log is not None:
                keys += [group_log.encode_key(group, *key) for key, one in log.of(group).items() if one.committed]
                keys += sorted(log.other_keys(group))
            if not keys and not state.offsets:
                raise UnknownGroup(f"there is no group {group!r}")
            if keys:
                self._partition(group).extend([(key, None) for key in keys])
            return GroupState(group, state.generation + 1)

        self.files.change(group, write)

    def _check_empty(self, state: GroupState) -> None:
        members = self._living(state)
        if members:
            raise GroupNotEmpty(f"group {state.group!r} has {len(members)} members")

    # -- care --------------------------------------------------------------------------------------------------

    def settle(self, *, was_clean: bool = True) -> None:
        """Take over into the log what readers have committed. After a crash: no group is beyond the end of a partition,
        whose records may be gone; that must be so before anything is appended there.
        """
        for group in self.files.groups() if was_clean else self._all_that_can_be_read():
            try:
                self.files.change(group, self._taken_over)
                if not was_clean:
                    self._move_back(group)
            except EventCoreError as error:
                logger.warning("the offsets of group %r are not settled: %s", group, error)

    def _all_that_can_be_read(self) -> set[str]:
        found = set(self.files.groups())
        if self._store.has_topic(group_log.TOPIC):
            for partition in self._store.topic(group_log.TOPIC):
                try:
                    found |= self._replayed(partition).groups()
                except EventCoreError as error:
                    logger.warning("%s-%d cannot be read: %s", group_log.TOPIC, partition.number, error)
        return found

    def _move_back(self, group: str) -> None:
        lost = {}
        for (topic, number), committed in self.offsets(group).items():
            try:
                end = self._store.topic(topic)[number].log_end_offset
            except UnknownTopic:
                continue  # deleted since
            except EventCoreError as error:
                logger.warning("group %r: %s-%d cannot be looked at: %s", group, topic, number, error)
                continue
            if committed.offset > end:
                logger.warning("group %r: %s-%d has lost its end, back to %d", group, topic, number, end)
                lost[topic, number] = committed._replace(offset=end)
        if lost:
            self._append(group, lost)

    # -- inside ------------------------------------------------------------------------------------------------

    def _checked(
        self, group: str, offsets: Mapping[Key, Offset], source: Source | None = None
    ) -> dict[Key, CommittedOffset]:
        """The offsets as they will be written."""
        _check_group(group)
        now = self._store.clock.now_ms()
        found = {}
        for (topic, number), wanted in offsets.items():
            one = wanted if isinstance(wanted, CommittedOffset) else CommittedOffset(wanted, commit_ms=now)
            end = (source or self._store).topic(topic)[number].high_watermark
            if not 0 <= one.offset <= end:
                text = f"group {group!r} cannot be at offset {one.offset} of {topic}-{number}"
                raise OffsetOutOfRange(text, hint=f"it ends at {end}")
            if len(one.metadata.encode()) > _LONGEST:
                raise UsageError("metadata of a commit that is too long", hint=f"up to {_LONGEST} bytes")
            found[topic, number] = one if one.commit_ms >= 0 else one._replace(commit_ms=now)
        return found

    def _committed(self, state: GroupState, wanted: dict[Key, CommittedOffset], member_id: str | None) -> GroupState:
        check_owner(state, member_id, wanted, () if member_id else self._living(state))
        if self._store.write:
            self._append(state.group, {**self._waiting(state), **wanted})
            return state._replace(offsets={})
        end = self._log_end(state.group)
        return state._replace(offsets={**state.offsets, **{key: Placed(end, one) for key, one in wanted.items()}})

    def _taken_over(self, state: GroupState) -> GroupState:
        """Write into the log what readers have committed."""
        if state.offsets:
            self._append(state.group, self._waiting(state))
        if not self._living(state):
            return GroupState(state.group)
        return state._replace(offsets={}) if state.offsets else state

    def _waiting(self, state: GroupState) -> dict[Key, CommittedOffset]:
        """What readers have committed, unless the log has something newer."""
        if not state.offsets:
            return {}
        placed = self._logged(state.group)
        newer = {key for key, one in state.offsets.items() if key in placed and placed[key].at >= one.at}
        return {key: one.committed for key, one in state.offsets.items() if key not in newer and one.committed}

    def _living(self, state: GroupState) -> dict[str, Member]:
        return self.files.living(state, self._store.clock.now_ms())

    def _append(self, group: str, offsets: Mapping[Key, CommittedOffset]) -> None:
        if offsets:
            self._partition(group).extend(_records(group, offsets), atomic=True)

    def _partition(self, group: str) -> StorePartition:
        found = self._homes.get(group)
        if found is None:
            topic = self._store.internal_topic(group_log.TOPIC, group_log.PARTITIONS, _CONFIG)
            found = self._homes[group] = topic[partition_of(group, len(topic))]
        return found

    def _known_partition(self, group: str) -> StorePartition | None:
        if not self._store.has_topic(group_log.TOPIC):
            return None
        topic = self._store.topic(group_log.TOPIC)
        return topic[partition_of(group, len(topic))]

    def _log_end(self, group: str) -> int:
        partition = self._known_partition(group)
        return 0 if partition is None else partition.high_watermark

    def _logged(self, group: str) -> dict[Key, Placed]:
        log = self._caught_up(group)
        return {} if log is None else log.of(group)

    def _caught_up(self, group: str) -> CommittedOffsets | None:
        partition = self._known_partition(group)
        return None if partition is None else self._replayed(partition)

    def _replayed(self, partition: StorePartition) -> CommittedOffsets:
        with self._lock:
            found = self._logs.get(partition.number)
            if found is None:
                found = self._logs[partition.number] = CommittedOffsets(partition)
            found.catch_up()
            return found


def _records(group: str, offsets: Mapping[Key, CommittedOffset]) -> Sequence[tuple[bytes, bytes]]:
    return [(group_log.encode_key(group, *key), group_log.encode_value(one)) for key, one in offsets.items()]


def _check_group(group: str) -> None:
    if not isinstance(group, str) or not 0 < len(group.encode()) <= _LONGEST:
        raise UsageError(f"{group!r} is no name of a group", hint=f"1 to {_LONGEST} bytes")


def offset_of(partition: StorePartition, to: To) -> int:
    """The offset that a word, a time or a number stands for."""
    if to == "earliest":
        return partition.log_start_offset
    if to == "latest":
        return partition.high_watermark
    if isinstance(to, str):
        raise UsageError(
            f"{to!r} is no place", hint='allowed are an offset, an aware datetime, "earliest" and "latest"'
        )
    if isinstance(to, int):
        return to
    found = partition.offset_for_time(to)
    return partition.high_watermark if found is None else found

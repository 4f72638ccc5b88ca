"""Membership: one consumer among those of its group, and the partitions that are its own just now.

What changes is changed in the group's file, by one member at a time: who comes or goes, or finds that another one was
silent for too long, works out anew who is to have which partition (`targets`). A partition changes hands in two steps:
its owner gives it back, when it has done with what it read from it, and then the other one takes it. So each has one
owner at a time, and what an owner commits counts only while it is that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence

from eventcore.clock import Clock
from eventcore.errors import IllegalGeneration, UnknownMember
from eventcore.store.assignment import assign
from eventcore.store.committed_offsets import Key
from eventcore.store.group_files import GroupFiles, GroupState, Member

_DOUBT_MS = 500
"""So often one looks whether the other members' processes live."""
_BEATS = 3
"""So often within its timeout a member says that it is there."""


class Membership:
    """One member. `count` tells how many partitions a topic has; 0 if there is no such topic any more."""

    def __init__(
        self,
        files: GroupFiles,
        clock: Clock,
        count: Callable[[str], int],
        group: str,
        topics: Sequence[str],
        timeout_ms: int,
    ) -> None:
        self.group = group
        self.member_id = uuid.uuid4().hex
        """What its group knows it by. It has another one after its group has forgotten it."""
        self.timeout_ms = timeout_ms
        self._files, self._clock, self._count = files, clock, count
        self._topics = tuple(topics)
        files.appear()
        self._seen: GroupState | None = None
        self._own: frozenset[Key] = frozenset()
        self._looked = self._look_at = 0

    def keep(self) -> frozenset[Key]:
        """Say that it is there; the partitions that are its own from now on. Those that others wait for are given
        back: it must have done with what it has read from them.
        """
        now, state = self._clock.now_ms(), self._files.look(self.group)
        if state is not self._seen or not self._looked <= now < self._look_at:
            state = self._files.change(self.group, lambda found: self._kept(found, now))
            self._seen = state
            self._own = frozenset(key for key, owner in state.owners.items() if owner == self.member_id)
            self._looked = now
            self._look_at = min(now + self._beat_ms, *(self._doubt_ms(one, now) for one in state.members.values()))
        return self._own

    def leave(self) -> None:
        """Give everything back."""
        self._seen = None
        self._files.change(self.group, self._left)

    def _doubt_ms(self, member: Member, now: int) -> int:
        """When to look whether another member is still there."""
        over = member.seen_ms + member.timeout_ms + 1
        return over if member.process == self._files.process else min(over, now + _DOUBT_MS)

    @property
    def _beat_ms(self) -> int:
        return max(self.timeout_ms // _BEATS, 1)

    def _kept(self, state: GroupState, now: int) -> GroupState:
        if self._seen is not None and self.member_id not in state.members:
            self.member_id = uuid.uuid4().hex
        mine = Member(self._topics, now, self.timeout_ms, self._files.process)
        members = self._files.living(state, now)
        last = members.get(self.member_id)
        if last is not None and abs(now - last.seen_ms) < self._beat_ms:
            mine = last
        return self._exchanged(self._planned(self._changed(state, {**members, self.member_id: mine})))

    def _left(self, state: GroupState) -> GroupState:
        members = {name: member for name, member in state.members.items() if name != self.member_id}
        return self._changed(state, members) if self.member_id in state.members else state

    def _changed(self, state: GroupState, members: dict[str, Member]) -> GroupState:
        """The same with these members."""
        owners = {key: owner for key, owner in state.owners.items() if owner in members}
        changes = owners != state.owners or members.keys() != state.members.keys()
        return state._replace(generation=state.generation + changes, members=members, owners=owners)

    def _planned(self, state: GroupState) -> GroupState:
        """The targets are for those who are there now."""
        members = tuple(sorted(state.members))
        if members == state.planned:
            return state
        topics = {name: member.topics for name, member in state.members.items()}
        counts = {topic: self._count(topic) for topic in {topic for wanted in topics.values() for topic in wanted}}
        return state._replace(targets=assign(topics, counts, state.owners), planned=members)

    def _exchanged(self, state: GroupState) -> GroupState:
        """What others are to have is given back, what is free and for it is taken."""
        me, targets = self.member_id, state.targets
        owners = {key: owner for key, owner in state.owners.items() if owner != me or targets.get(key) == me}
        owners |= {key: me for key, target in targets.items() if target == me and key not in owners}
        return state._replace(generation=state.generation + (owners != state.owners), owners=owners)


def check_owner(state: GroupState, member_id: str | None, partitions: Collection[Key], living: Collection[str]) -> None:
    """Raise UnknownMember and IllegalGeneration for who may not commit these offsets; None is who is no member."""
    if member_id is None:
        if living:
            raise UnknownMember(
                f"group {state.group!r} has members, and this commit is of none of them",
                hint="commit with the consumer; or close the consumers first",
            )
        return
    if member_id not in state.members:
        raise UnknownMember(f"group {state.group!r} does not know this consumer any more")
    for topic, number in partitions:
        if state.owners.get((topic, number)) != member_id:
            raise IllegalGeneration(f"{topic}-{number} is not this consumer's in group {state.group!r}")

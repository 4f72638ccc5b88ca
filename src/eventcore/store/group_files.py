"""GroupFiles: who is in a consumer group and has which partition, and what its readers have committed.

`__consumer_offsets` can only be written by the store's writer. Consumers are in any process, also in those that only
read: so what a group's members tell each other stands in a file of its own, `eventcore.group-<digest>`, that all of
them may replace, one at a time. It is one JSON object: members, owners, and the offsets that were committed by who only
reads, each with the end of the group's log at that time. One that stands in the log behind that end is newer; the
writer takes them over into the log when he gets to it.

A process with members holds the lock of `eventcore.process-<id>` as long as it lives, so that others need not wait
until its members have been silent for too long.

`eventcore.groups` is the lock of all these files. Its 8 bytes count the changes, so that who has looked need not look
again. It is counted before a file is replaced: whoever then finds the new number waits for the lock to look.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from eventcore import fork_safe
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, StorageError
from eventcore.files import json_file
from eventcore.store.committed_offsets import Key, Placed
from eventcore.types import CommittedOffset

LOCK_NAME = "eventcore.groups"
PREFIX = "eventcore.group-"
PROCESS_PREFIX = "eventcore.process-"
_COUNT = struct.Struct("<q")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Member(NamedTuple):
    """A consumer: the topics it wants, when it was last heard of, how long it may be silent (all ms), its process."""

    topics: tuple[str, ...]
    seen_ms: int
    timeout_ms: int
    process: str


class GroupState(NamedTuple):
    """What a group's file says. Nobody changes the dicts: others may have them."""

    group: str
    generation: int = 0
    """How often members or owners have changed."""
    members: Mapping[str, Member] = _NOTHING
    owners: Mapping[Key, str] = _NOTHING
    """Who has which partition now."""
    targets: Mapping[Key, str] = _NOTHING
    """Who is to have it, once its owner has given it back."""
    planned: tuple[str, ...] = ()
    """The members that the targets are for."""
    offsets: Mapping[Key, Placed] = _NOTHING
    """Committed by readers, each with the end of the group's log then."""


class GroupFiles:
    """The files of a store's groups. Any number of threads and processes may use them."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self._lock = fork_safe.rlock()
        self._fd = -1
        self._counter = memoryview(b"")
        self._is_closed = False
        self.process = uuid.uuid4().hex
        """What the members of this process, and of this handle of the store, say that they are of."""
        self._process_fd = -1
        self._known: dict[str, tuple[int, GroupState]] = {}

    def close(self) -> None:
        """Give the descriptor back. Members may still leave."""
        with self._lock:
            self._is_closed = True
            self._counter = memoryview(b"")
            if self._fd >= 0:
                self._disk.close(self._fd)
            self._fd = -1
            if self._process_fd >= 0:
                fd, self._process_fd = self._process_fd, -1
                self._disk.unlock(fd)
                self._forget(self.process)

    def look(self, group: str) -> GroupState:
        """What there is now. It costs little while nothing changes."""
        with self._lock:
            if self._fd < 0 and not self._disk.exists(self._folder / LOCK_NAME):
                return GroupState(group)  # nobody was ever in any group here
            known = self._known.get(group)
            if known is not None and self._counter and known[0] == self._count():
                return known[1]
        return self.change(group, lambda state: state)

    def change(self, group: str, edit: Callable[[GroupState], GroupState]) -> GroupState:
        """Replace what there is by what `edit` makes of it. Nobody else changes any group meanwhile. What it does to
        the offsets is durable on return.
        """
        with self._lock:
            fd = self._open()
            self._disk.take_turn(fd)
            try:
                return self._changed(group, edit)
            finally:
                self._disk.give_turn(fd)
                if self._is_closed:
                    self.close()

    def _changed(self, group: str, edit: Callable[[GroupState], GroupState]) -> GroupState:
        count, known = self._count(), self._known.get(group)
        before = known[1] if known is not None and known[0] == count else self._read(group)
        after = edit(before)
        if after != before:
            count += 1
            self._disk.pwrite_all(self._fd, _COUNT.pack(count), 0)
            self._write(after)
            if after.offsets != before.offsets:
                self._disk.sync_dir(self._folder)
        self._known[group] = (count, after)
        return after

    def appear(self) -> None:
        """Let others know that this process lives, until `close` or until it dies."""
        with self._lock:
            if self._process_fd < 0:
                path = self._folder / (PROCESS_PREFIX + self.process)
                self._process_fd = self._disk.lock(path, f"process {os.getpid()}")

    def living(self, state: GroupState, now: int) -> dict[str, Member]:
        """The members that were heard of in time, and whose process lives. A time in the future is of a clock that was
        set back.
        """
        heard = {name: one for name, one in state.members.items() if abs(now - one.seen_ms) <= one.timeout_ms}
        dead = {one.process for one in heard.values() if one.process != self.process and not self._lives(one.process)}
        for process in dead:
            self._forget(process)
        return {name: one for name, one in heard.items() if one.process not in dead}

    def _lives(self, process: str) -> bool:
        return self._disk.locked(self._folder / (PROCESS_PREFIX + process))

    def _forget(self, process: str) -> None:
        path = self._folder / (PROCESS_PREFIX + process)
        if self._disk.exists(path):
            with suppress(StorageError):  # somebody else was quicker
                self._disk.unlink(path)

    def groups(self) -> list[str]:
        """The groups that have a file."""
        names = [
            name for name in self._disk.entries(self._folder) if name.startswith(PREFIX) and not name.endswith(".tmp")
        ]
        found = [json_file.read(self._disk, self._folder / name) for name in names]
        return sorted(str(values["group"]) for values in found if values is not None)

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = self._disk.open(self._folder / LOCK_NAME, write=True, create=True)
        return self._fd

    def _count(self) -> int:
        """By a map, because every poll asks. Whoever changes it has the lock."""
        if not self._counter:
            if self._disk.size(self._fd) < _COUNT.size:
                self._disk.pwrite_all(self._fd, _COUNT.pack(0), 0)
            self._counter = memoryview(self._disk.map(self._fd, _COUNT.size, write=False))
        return int(_COUNT.unpack_from(self._counter)[0])

    def _path(self, group: str) -> Path:
        return self._folder / (PREFIX + hashlib.sha256(group.encode()).hexdigest()[:32])

    def _read(self, group: str) -> GroupState:
        path = self._path(group)
        values = json_file.read(self._disk, path)
        if values is None:
            return GroupState(group)
        try:
            return _decoded(values)
        except (KeyError, TypeError, ValueError) as error:
            text = f"the file of a consumer group that cannot be: {error!r}"
            hint = "remove it: the group then is where __consumer_offsets says"
            raise CorruptFile(text, path=path, hint=hint) from None

    def _write(self, state: GroupState) -> None:
        path = self._path(state.group)
        if state.members or state.offsets:
            json_file.write(self._disk, path, _encoded(state))
        elif self._disk.exists(path):
            self._disk.unlink(path)


def _encoded(state: GroupState) -> dict[str, Any]:
    return {
        "group": state.group,
        "generation": state.generation,
        "members": {name: [list(one.topics), *one[1:]] for name, one in state.members.items()},
        "owners": [[*key, owner] for key, owner in state.owners.items()],
        "targets": [[*key, owner] for key, owner in state.targets.items()],
        "planned": list(state.planned),
        "offsets": [[*key, at, *(found or ())] for key, (at, found) in state.offsets.items()],
    }


def _checked(process: str) -> str:
    """It is part of a path."""
    return uuid.UUID(process).hex


def _decoded(values: dict[str, Any]) -> GroupState:
    return GroupState(
        str(values["group"]),
        int(values["generation"]),
        {
            name: Member(tuple(map(str, topics)), int(seen), int(timeout), _checked(process))
            for name, (topics, seen, timeout, process) in values["members"].items()
        },
        {(str(topic), int(number)): str(owner) for topic, number, owner in values["owners"]},
        {(str(topic), int(number)): str(owner) for topic, number, owner in values["targets"]},
        tuple(map(str, values["planned"])),
        {
            (str(topic), int(number)): Placed(int(at), CommittedOffset(int(offset), int(epoch), str(text), int(time)))
            for topic, number, at, offset, epoch, text, time in values["offsets"]
        },
    )

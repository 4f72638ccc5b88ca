"""Which topics a store has, and how they are configured: what lies in its folder, and what changes it.

Every change is made by one thread at a time, and is whole after a crash: see `doomed`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, NotALog, StorageError, TopicExists, UnknownTopic, UsageError
from eventcore.files import checkpoint, names, topic_file
from eventcore.files.topic_file import TopicFile
from eventcore.store import doomed
from eventcore.store.folder import Problem, listing

MOST_PARTITIONS = 10_000
"""Of one topic: each has a folder."""


class Catalog:
    """The topics by name. Its owner sees to it that one thread at a time changes it."""

    def __init__(self, disk: Disk, folder: Path, defaults: LogConfig) -> None:
        self._disk = disk
        self._folder = folder
        self.defaults = defaults
        """The configuration of a topic that has none of its own."""
        self._files: dict[str, TopicFile | None] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder anew. A topic that is just being made or removed, by another process, is not there."""
        before = doomed.noted(self._disk, self._folder)
        self.partitions, self.deleted, self.problems = listing(self._disk, self._folder)
        for topic in (before, doomed.noted(self._disk, self._folder)):
            self.partitions.pop(topic, None)
        self._files.clear()

    @property
    def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(self.partitions)

    def numbers(self, topic: str) -> list[int]:
        """The partitions that have a folder. Raises UnknownTopic."""
        try:
            return self.partitions[topic]
        except KeyError:
            raise UnknownTopic(f"there is no topic {topic[: names.TOPIC_NAME_SIZE_MAX]!r}") from None

    def path(self, topic: str, partition: int) -> Path:
        """A partition's folder."""
        return self._folder / names.partition_folder(topic, partition)

    def check_whole(self, topic: str) -> int:
        """How many partitions a topic has. Raises NotALog if some of their folders are missing."""
        numbers = self.numbers(topic)
        said = self.file(topic)
        count = max(numbers[-1] + 1, said.partitions if said else 0)
        missing = sorted(set(range(count)) - set(numbers)) if count <= MOST_PARTITIONS else [count]
        if missing:
            raise NotALog(
                f"topic {topic!r} has {count} partitions, but there is no folder of partition {missing[0]}",
                path=self._folder,
                hint="restore the folder from a copy; the others can be opened one by one with open_partition",
            )
        return count

    def topic_id(self, topic: str) -> uuid.UUID | None:
        """The topic's id, None if its folders have none."""
        return doomed.topic_id_of(self._disk, self.path(topic, self.numbers(topic)[0]))

    def file(self, topic: str) -> TopicFile | None:
        """What was noted of a topic; None of one that somebody else has made. Raises CorruptFile."""
        if topic not in self._files:
            path = self.path(topic, self.numbers(topic)[0]) / topic_file.NAME
            self._files[topic] = topic_file.read(self._disk, path)
        return self._files[topic]

    def config(self, topic: str) -> LogConfig:
        """The configuration of a topic. Raises UnknownTopic, and CorruptFile if what was set cannot be known."""
        said = self.file(topic)
        try:
            return self.defaults.with_values(said.config) if said else self.defaults
        except UsageError as error:
            path = self.path(topic, 0) / topic_file.NAME
            raise CorruptFile(f"a configuration that cannot be: {error.message}", path=path) from None

    def all_problems(self) -> list[Problem]:
        """What is wrong in the folder, or does not belong there; each topic is looked at."""
        found = list(self.problems)
        for topic in self.topics:
            try:
                self.check_whole(topic)
                self.config(topic)
            except StorageError as error:
                found.append(Problem(topic, str(error)))
        return found

    # -- changes -----------------------------------------------------------------------------------------------

    def check_new(self, topic: str, partitions: int) -> None:
        """Raise UsageError for what cannot be made, TopicExists for a name that Kafka could not tell from another."""
        names.check_topic_name(topic)
        check_not_reserved(topic)
        if isinstance(partitions, bool) or not isinstance(partitions, int) or not 1 <= partitions <= MOST_PARTITIONS:
            raise UsageError(f"a topic of {partitions!r} partitions", hint=f"allowed are 1 to {MOST_PARTITIONS}")
        if topic in self.partitions:
            raise TopicExists(f"there is a topic {topic!r}")
        like = topic.replace(".", "_")
        clash = [name for name in self.topics if name.replace(".", "_") == like]
        if clash:  # Kafka's metrics have '_' for '.'
            raise TopicExists(f"topic {topic!r} could not be told from {clash[0]!r}: Kafka takes '.' and '_' for one")
        for number in range(partitions):
            if self._disk.exists(self.path(topic, number)):
                text = "something else has the name of a partition's folder"
                raise NotALog(text, path=self.path(topic, number), hint="move it away")

    def create(self, topic: str, partitions: int, config: Mapping[str, Any]) -> None:
        """Make a topic that `check_new` has nothing against. Durable on return; if it fails nothing is left."""
        topic_id = random_topic_id()
        doomed.note(self._disk, self._folder, topic, topic_id)
        try:
            for number in reversed(range(partitions)):
                self._make_partition(topic, number, topic_id)
                if number == 0:
                    topic_file.write(self._disk, self.path(topic, 0) / topic_file.NAME, partitions, config)
                self._disk.sync_dir(self.path(topic, number))
            doomed.forget(self._disk, self._folder)
        except BaseException:
            with suppress(StorageError):  # what went wrong first is what one needs to know
                self._undo(topic, topic_id)
            raise
        self.partitions[topic] = list(range(partitions))

    def _make_partition(self, topic: str, number: int, topic_id: uuid.UUID) -> None:
        """The id first: a broker must never find records of no topic. It complains of a log without its indexes."""
        path = self.path(topic, number)
        self._disk.new_folder(path)
        checkpoint.write_topic_id(self._disk, path / doomed.METADATA_NAME, topic_id)
        for suffix in (names.INDEX, names.TIME_INDEX, names.LOG):
            self._disk.close(self._disk.open(path / names.file_name(0, suffix), write=True, create=True))

    def _undo(self, topic: str, topic_id: uuid.UUID) -> None:
        removed = doomed.rename_folders(self._disk, self._folder, topic, topic_id)
        doomed.forget(self._disk, self._folder)
        for name in removed:
            self._disk.remove_folder(self._folder / name)

    def doom(self, topic: str) -> uuid.UUID | None:
        """From here on the topic is deleted, whatever happens; the answer is its id. Durable on return."""
        topic_id = self.topic_id(topic)
        doomed.note(self._disk, self._folder, topic, topic_id)
        return topic_id

    def delete(self, topic: str, topic_id: uuid.UUID | None) -> list[str]:
        """Take a doomed topic out of the store; the answer are the folders that wait to be removed."""
        self.forget(topic)
        removed = doomed.rename_folders(self._disk, self._folder, topic, topic_id)
        doomed.forget(self._disk, self._folder)
        return removed

    def forget(self, topic: str) -> None:
        """It is not to be found any more."""
        del self.partitions[topic]
        self._files.pop(topic, None)

    def configure(self, topic: str, changes: Mapping[str, Any]) -> None:
        """Set values of a topic, or with None go back to the default. Durable on return. Raises InvalidConfig."""
        count, said = self.check_whole(topic), self.file(topic)
        config = {**(said.config if said else {}), **changes}
        config = checked(self.defaults, {name: value for name, value in config.items() if value is not None})
        LogConfig().with_values({name: LogConfig().as_dict().get(name) for name in changes})  # also of what goes
        path = self.path(topic, 0)
        self._files.pop(topic)  # should it fail, what is in the file then counts
        topic_file.write(self._disk, path / topic_file.NAME, count, config)
        self._disk.sync_dir(path)


def checked(defaults: LogConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they will be kept: of the right type. Raises InvalidConfig."""
    values = defaults.with_values(config).as_dict()
    return {name: values[name] for name in config}


def check_not_reserved(topic: str) -> None:
    """Raise UsageError for Kafka's own topics."""
    if topic in names.RESERVED_TOPICS:
        raise UsageError(f"topic {topic!r} is Kafka's own", hint="choose another name; it can be read, not changed")


def random_topic_id() -> uuid.UUID:
    """A new topic id; Kafka's never begin with a hyphen in their text."""
    while True:
        topic_id = uuid.uuid4()
        if topic_id.bytes[0] >> 2 != 62:  # '-' in base64url
            return topic_id

"""Every error eventcore raises: what happened, where, whether a retry can help, what to do now.

A message is built from four parts: the sentence, the place (`path`, `position`, `offset`), the hint of the class
or of the instance. `position` is a byte position in the file, `offset` a logical offset in the log.
No error carries payload or key bytes: messages end up in logs that other people read.
"""

from __future__ import annotations

from os import PathLike, fspath


class EventCoreError(Exception):
    """The base of all errors of this package."""

    retriable: bool = False
    """True where the same call may succeed later without a change by the caller."""
    hint: str = ""
    """What to do now."""
    appended: range = range(0)
    """Offsets that the same call had appended before: they stay, and are as durable as those of a call that returns."""

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def _place(self) -> str:
        return ""

    def __str__(self) -> str:
        text = self.message + self._place()
        if self.appended:
            text += f"; offsets {self.appended.start} to {self.appended.stop - 1} were appended before, and stay"
        return f"{text}; {self.hint}" if self.hint else text


class UsageError(EventCoreError, ValueError):
    """The call can never work as it is: fix the call."""


class InvalidConfig(UsageError):
    """A configuration name or value that is unknown or out of range; names what is allowed."""


class UnknownTopic(UsageError, LookupError):
    """The store has no topic, or no partition, of that name."""

    hint = "`store.topics` lists what there is"


class TopicExists(UsageError):
    """There is a topic of that name already, or one that Kafka would not keep apart from it."""

    hint = "choose another name, or use exist_ok=True for one that is the same"


class InvalidRecord(UsageError):
    """A batch or record that Kafka's LogValidator would refuse; nothing of the batch was appended."""


class RecordTooLarge(UsageError):
    """A record or batch above `max.message.bytes` or `segment.bytes`; nothing of it was appended."""

    hint = "send less in one record or batch, or raise max.message.bytes"


class OffsetOutOfRange(EventCoreError, IndexError):
    """The offset lies outside what this partition holds."""

    hint = "read from log_start_offset or high_watermark"


class LogTruncated(OffsetOutOfRange):
    """The log was truncated below what was being read: records handed out before may have been replaced."""

    hint = "read on from the log end offset, or from where the truncation cut"


class OffsetMismatch(EventCoreError):
    """A conditional append found the log end elsewhere; nothing was appended."""

    hint = "read what was appended since, decide again, append with the new log end offset"


class ClosedError(EventCoreError):
    """The handle was closed, or belongs to the parent of this forked process."""

    hint = "open it again"


class ReadOnly(EventCoreError):
    """The handle was opened with mode='r'."""

    hint = "open it with mode='rw'"


class Fenced(EventCoreError):
    """A newer epoch exists: stop, do not retry."""


class InvalidProducerEpoch(Fenced):
    """A producer epoch below the one known (Kafka: INVALID_PRODUCER_EPOCH)."""


class CoordinatorFenced(Fenced):
    """A transaction marker of an older coordinator epoch (Kafka: TRANSACTION_COORDINATOR_FENCED)."""


class UnknownMember(Fenced):
    """A consumer that its group does not know any more, or a commit from outside while the group has members (Kafka:
    UNKNOWN_MEMBER_ID); nothing was committed.
    """

    hint = "its session timeout is over: `poll` joins again, and begins at what is committed"


class IllegalGeneration(Fenced):
    """A commit for a partition that another member of the group has by now (Kafka: ILLEGAL_GENERATION); nothing was
    committed.
    """

    hint = "go on with `poll`"


class FencedLeaderEpoch(Fenced):
    """A leader epoch below the one known (Kafka: FENCED_LEADER_EPOCH)."""


class OutOfOrderSequence(EventCoreError):
    """A producer's sequence number leaves a gap or repeats an old batch (Kafka: OUT_OF_ORDER_SEQUENCE_NUMBER)."""


class InvalidTxnState(EventCoreError):
    """A batch or marker that does not fit the producer's open transaction (Kafka: INVALID_TXN_STATE)."""


class GroupNotEmpty(UsageError):
    """The group has members, which would not know that its offsets were changed (Kafka: NON_EMPTY_GROUP)."""

    hint = "close its consumers first"


class UnknownGroup(UsageError, LookupError):
    """Nothing was ever committed for this group, and nobody is in it (Kafka: GROUP_ID_NOT_FOUND)."""

    hint = "`store.groups.list()` lists what there is"


class StorageError(EventCoreError):
    """Something about the files; `path`, `position` and `offset` say where as far as it is known."""

    def __init__(
        self,
        message: str = "",
        *,
        path: str | PathLike[str] | None = None,
        position: int | None = None,
        offset: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = None if path is None else fspath(path)
        self.position = position
        self.offset = offset

    def _place(self) -> str:
        parts = [
            f"{name} {value}"
            for name, value in (("in", self.path), ("at position", self.position), ("at offset", self.offset))
            if value is not None
        ]
        return f" ({', '.join(parts)})" if parts else ""


class Truncated(StorageError):
    """The bytes end before the structure does: a torn tail, normal after a crash."""


class CorruptRecord(StorageError):
    """The bytes are all there and wrong: never normal."""

    hint = "run `eventcore verify`; the rest of the log stays readable"


class CorruptFile(StorageError):
    """A sidecar file (index, snapshot, checkpoint) that fails its checks; it is derived from the log."""

    hint = "it can be rebuilt from the log: open the partition with mode='rw'"


class UnsupportedFormat(StorageError):
    """A format version this release does not know; the file was left as it is."""

    hint = "written by another version: use a release that knows it"


class MissingCodec(StorageError):
    """A batch is compressed with a codec whose library is not installed."""

    hint = "pip install 'eventcore[codecs]'"


class DiskFull(StorageError):
    """No space left; nothing of the call was appended, appends go on once there is space."""

    retriable = True
    hint = "free some space and call again"


class StorageFenced(StorageError):
    """A sync failed, a map broke, or a change was cut short: this handle refuses further work, for good."""

    hint = "look at the disk, then open the partition again"


class MappingFault(StorageError):
    """A page of a mapped file could not be had: the device failed, or somebody else cut the file."""

    hint = "look at the disk and the file, then open the partition again"


class LogLocked(StorageError):
    """Another writer has the folder."""

    retriable = True
    hint = "close the other writer, or open with mode='r'"


class NotALog(StorageError):
    """The folder is missing, is no partition folder, or cannot be used as one."""


class NoSnapshot(StorageError):
    """There is no such snapshot, or none at all, at this place."""

    hint = "`eventcore snapshots list` shows what there is"


class SnapshotDamaged(StorageError):
    """A snapshot that fails its checks: a part is missing, has another size or CRC, or its manifest cannot be."""

    hint = "restore an earlier one; `eventcore snapshots verify` tells which are whole"


class RemoteError(StorageError):
    """An object store could not be reached, or refused the call; `retriable` tells whether a retry may help."""

    def __init__(self, message: str = "", *, path: str | None = None, retriable: bool, hint: str | None = None) -> None:
        super().__init__(message, path=path, hint=hint)
        self.retriable = retriable


class MissingObject(RemoteError):
    """There is no object of that name."""

    def __init__(self, path: str) -> None:
        super().__init__("there is no such object", path=path, retriable=False)

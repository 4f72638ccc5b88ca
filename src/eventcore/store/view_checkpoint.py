"""ViewCheckpoint: the state of a view over topics, kept together with the offsets that it reflects.

Offsets that are saved never point beyond what is durable: records that get those offsets after a crash would be passed
over. A writer syncs the partitions first. Who only reads syncs their files himself (a sync through any descriptor of a
file is one of the file): waiting for the writer's sync could take for ever with `fsync="never"`, and without a living
writer nobody knows what the last one has synced.

Whether the log still is the one that was folded is told as by Kafka's consumers (KIP-320): the epoch of the record
before an offset must not end below it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from eventcore.clock import Clock
from eventcore.disk import Disk
from eventcore.errors import LogTruncated, OffsetOutOfRange, StorageError, UnknownTopic, UsageError
from eventcore.files import names, recovery_point, view_file
from eventcore.files.view_file import Key, Place
from eventcore.log.ranges import Isolation, is_committed
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.types import Buffer

logger = logging.getLogger("eventcore")


class Owner(Protocol):
    """The store, as its checkpoints know it."""

    disk: Disk
    path: Path
    clock: Clock

    def topic(self, name: str) -> Topic:
        """A topic by its name."""

    def _check_open(self) -> None:
        """Raise ClosedError for one that is closed."""


class SavedView(NamedTuple):
    """What was saved: the state, and for each (topic, partition) the offset of the first record that is not in it.

    The data is mapped, not copied, and begins at a multiple of 64 bytes. It stays what it is when the checkpoint is
    saved again or deleted.
    """

    offsets: dict[Key, int]
    data: memoryview
    saved_ms: int


class ViewCheckpoint:
    """The checkpoint of a view, by its name. Get it by `store.checkpoint(name)`, in any process; one thread at a time.

    At start `load` gives back what was saved; then `unread` says what has come since, and where it goes on:

        saved = checkpoint.load()
        state = decoded(saved.data) if saved else empty()
        for partition, start, stop in checkpoint.unread("orders"):
            for record in partition.read(start, stop):
                state.apply(record)
        checkpoint.save(encoded(state))
    """

    def __init__(self, store: Owner, name: str) -> None:
        self.name = view_file.check_name(name)
        """Its name."""
        self.reason = ""
        """Why `load` gave None, although something was saved."""
        self._store = store
        self._path = store.path / view_file.file_name(name)
        self._places: dict[Key, Place] = {}
        self._under_way = ""

    def __repr__(self) -> str:
        return f"<ViewCheckpoint {self.name!r} of {len(self._places)} partitions>"

    @property
    def offsets(self) -> dict[Key, int]:
        """Where the view is: what was loaded, moved on by `unread`."""
        return {key: place.offset for key, place in self._places.items()}

    def load(self, *, allow_gap: bool = False) -> SavedView | None:
        """What was saved last, and the view begins there; None, and it begins at the start of the log, if there is
        nothing, or if the log is not any more what the state was made of: a topic was deleted or made anew, the log was
        truncated below the offset, or is older (restored from a snapshot). Then `reason` says what, and so does a
        warning: a replay gives the right state.

        Where records that the state does not have were deleted (by retention, `delete_records`), neither the state nor
        a replay is whole: that raises OffsetOutOfRange; with `allow_gap` the state is given, and the view goes on at
        the log start. Raises CorruptFile for a damaged file, UnsupportedFormat for one of a later version; both are
        left as they are. Compaction is none of this: it leaves the last value of each key.
        """
        self._store._check_open()
        self._places, self._under_way, self.reason = {}, "", ""
        found = view_file.read(self._store.disk, self._path)
        if found is None:
            return None
        head, data = found
        self.reason = next(filter(None, (self._difference(*one) for one in head.places.items())), "")
        if self.reason:
            logger.warning("checkpoint %r is not used: %s", self.name, self.reason)
            return None
        places = {key: self._without_gap(key, place, allow_gap) for key, place in head.places.items()}
        self._places = places
        return SavedView(self.offsets, data, head.saved_ms)

    def unread(
        self, *topics: str, isolation: Isolation = "read_uncommitted"
    ) -> Iterator[tuple[StorePartition, int, int]]:
        """What the view has not seen of these topics: (partition, start, stop), for each partition where that is
        something, up to its end now; read it with `isolation`. The view's place moves on when the next is asked for.

        Raises UnknownTopic; OffsetOutOfRange if records that it has not seen were deleted; LogTruncated if some that it
        has seen are not in the log any more: `load` again.
        """
        committed = is_committed(isolation)
        for name in topics:
            topic = self._store.topic(name)
            for partition in topic:
                key = (name, partition.number)
                first = partition.log_start_offset
                place = self._places.get(key) or _place(topic, partition, first)
                self._check_same(key, place)
                place = self._without_gap(key, place, False)
                stop = max(place.offset, partition.end(committed))
                after = place if stop == place.offset else _place(topic, partition, stop)
                if after is not place:
                    self._under_way = f"{name}-{partition.number}"
                    yield partition, place.offset, stop
                    self._under_way = ""
                self._places[key] = after

    def save(self, data: Buffer | Callable[[BinaryIO], object], offsets: Mapping[Key, int] | None = None) -> None:
        """Keep a state, with the offsets where the view is, or with these. Durable on return, as is the log below the
        offsets; until then, and if it fails or is killed, the checkpoint is what it was.

        The data is any buffer of bytes, which nobody may change meanwhile, or a function that writes it to the binary
        file that it is given. If several save the same checkpoint, in this process or others, each waits for its turn
        and the last one counts. Raises UsageError for what cannot be, OffsetOutOfRange for offsets that nobody can have
        come to, LogTruncated if records that the view has seen are not in the log any more, DiskFull.
        """
        self._store._check_open()
        fill = data if callable(data) else _bytes_of(data)
        places = self._own_places() if offsets is None else self._places_at(offsets)
        if not places:
            raise UsageError(
                "a state of no partition would be folded twice", hint="read with `unread`, or give offsets"
            )
        for (topic, number), place in places.items():
            self._make_durable(self._store.topic(topic)[number], place.offset)
        view_file.write(self._store.disk, self._path, places, self._store.clock.now_ms(), fill)
        self._places |= places  # given offsets may be those of some partitions only

    def delete(self) -> None:
        """Forget what was saved, be it damaged; the view begins at the start of the log. Durable on return."""
        self._store._check_open()
        view_file.remove(self._store.disk, self._path)
        self._places, self._under_way, self.reason = {}, "", ""

    # -- inside ------------------------------------------------------------------------------------------------

    def _difference(self, key: Key, place: Place) -> str:
        """Why the log is not what the view has seen below a place; "" if it is."""
        name, number = key
        try:
            topic = self._store.topic(name)
            partition = topic[number]
        except UnknownTopic:
            return f"there is no {name}-{number} any more"
        if topic.topic_id != place.topic_id:
            return f"topic {name!r} was made anew"
        end = partition.log_end_offset
        if place.offset > end:
            return f"{name}-{number} ends at {end}, below offset {place.offset}"
        if place.epoch >= 0 and partition.end_offset_for_epoch(place.epoch).end_offset < place.offset:
            return f"{name}-{number} was truncated below offset {place.offset}"
        return ""

    def _check_same(self, key: Key, place: Place) -> None:
        reason = self._difference(key, place)
        if reason:
            raise LogTruncated(
                f"view {self.name!r} has seen records that are gone: {reason}", hint="`load` it again, and read on"
            )

    def _without_gap(self, key: Key, place: Place, allow_gap: bool) -> Place:
        topic = self._store.topic(key[0])
        partition = topic[key[1]]
        start = partition.log_start_offset
        if place.offset >= start:
            return place
        if not allow_gap:
            text = f"view {self.name!r} has not seen offsets {place.offset} to {start - 1} of {key[0]}-{key[1]}"
            raise OffsetOutOfRange(f"{text}, which were deleted", hint="`load(allow_gap=True)` goes on without them")
        return _place(topic, partition, start)

    def _own_places(self) -> dict[Key, Place]:
        if self._under_way:
            text = f"{self._under_way} was not read to the end that `unread` gave"
            raise UsageError(f"no offset is known that fits the state: {text}", hint="`load` again, or give offsets")
        for key, place in self._places.items():
            self._check_same(key, place)
        return dict(self._places)

    def _places_at(self, offsets: Mapping[Key, int]) -> dict[Key, Place]:
        """Where the view is, with the epochs that it has seen; elsewhere with those of the log now."""
        found = {}
        for (name, number), offset in offsets.items():
            topic = self._store.topic(name)
            partition = topic[number]
            if not 0 <= offset <= partition.high_watermark:
                text = f"view {self.name!r} cannot be at offset {offset} of {name}-{number}"
                raise OffsetOutOfRange(text, hint=f"it ends at {partition.high_watermark}")
            known = self._places.get((name, number))
            if known is not None:
                self._check_same((name, number), known)
            if known is None or known.offset != offset:
                known = _place(topic, partition, offset)
            found[name, number] = known
        return found

    def _make_durable(self, partition: StorePartition, offset: int) -> None:
        if partition.mode == "rw":
            if partition.durable_offset < offset:
                partition.sync()
        elif partition.durable_offset < offset or not partition.io:
            _sync_files(self._store.disk, partition, offset)


def checkpoint_files(disk: Disk, folder: Path) -> dict[str, dict[Key, int] | None]:
    """The checkpoints in a store's folder by name, with their offsets; None where those cannot be known, as the file is
    damaged or of a later version. The data is not read. `view_file.file_name` says what their files are called.
    """
    found: dict[str, dict[Key, int] | None] = {}
    for name in view_file.listed(disk, folder):
        try:
            head = view_file.read_head(disk, folder / view_file.file_name(name))
        except StorageError as error:
            logger.warning("checkpoint %r cannot be read: %s", name, error)
            found[name] = None
            continue
        if head is not None:
            found[name] = {key: place.offset for key, place in head.places.items()}
    return found


def _place(topic: Topic, partition: StorePartition, offset: int) -> Place:
    return Place(offset, partition.epoch_at(offset - 1), topic.topic_id)


def _bytes_of(data: Buffer) -> Buffer:
    try:
        view = memoryview(data)
        if view.format == "O":
            raise TypeError("an array of objects holds addresses")
        return view.cast("B") if view.nbytes else b""
    except (TypeError, ValueError) as error:
        hint = "give bytes, a contiguous array of numbers, or a function that writes to a file"
        raise UsageError(f"the state is no buffer of bytes: {error}", hint=hint) from None


def _sync_files(disk: Disk, partition: StorePartition, offset: int) -> None:
    """Make the log below `offset` durable, as far as it is not known to be. A segment's name is so since the roll."""
    known = recovery_point.read(disk, partition.path / recovery_point.NAME).recovery_point
    segments = partition.segments
    for segment in segments.starting_at(known):
        path = segment.path(names.LOG)
        if segment.base_offset < offset and disk.exists(path):  # retention may have been quicker
            fd = disk.open(path, write=False)
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)

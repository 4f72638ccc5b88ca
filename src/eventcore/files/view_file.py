"""`eventcore.checkpoint-<name>.view`: the state of an application's view, and how far it has read to come to it.

    0 magic "evc-view" | 8 version u32 = 1 | 12 crc u32: CRC-32C of bytes 0 to 11 and of 16 up to the data
   16 where the data begins i64, a multiple of 64
   24 size of the data i64 | 32 when it was saved, in ms i64 | 40 CRC-32C of the data u32 | 44 number of places u32
   48 places: topic id 16 bytes (zeros: none) | offset i64: the next one to be read | epoch i32: leader epoch of the
      record before it (-1: none) | partition i32 | size of the topic's name u16 | the topic's name
      zeros up to the data, which goes to the end of the file

All integers are big-endian, as Kafka's are. The first 24 bytes mean the same in every version. Data and places are in
one file so that no crash parts them; it is replaced as a whole. The suffix keeps a name that ends in "-0" from looking
like a partition's folder. Beside the file lie its lock (`.lock`, empty), which savers hold one after the other, and for
as long as somebody saves, or was killed at it, what will replace it (`.tmp`).
"""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, MappingFault, StorageError, UnsupportedFormat, UsageError
from eventcore.files import names
from eventcore.types import Buffer

PREFIX, SUFFIX = "eventcore.checkpoint-", ".view"
NAME_SIZE_MAX = 200
"""The names of the file, its lock and its successor must fit a file system's 255."""
MAGIC = b"evc-view"
VERSION = 1
_FRAME = struct.Struct(">8sIIq")
_BODY = struct.Struct(">qqII")
_PLACE = struct.Struct(">16sqiiH")
_ALIGNMENT = 64
"""So that arrays of any type may lie where the data is mapped."""
_HEAD_MAX = 16 << 20
_BUFFER_SIZE = 1 << 20
_NO_ID = uuid.UUID(int=0)
_HINT = "the view can be made anew: `delete` the checkpoint, and fold its topics from their start"

Key = tuple[str, int]


class Place(NamedTuple):
    """How far a view has read in a partition: the next offset, and the leader epoch of the record before it."""

    offset: int
    epoch: int = -1
    topic_id: uuid.UUID | None = None


class Head(NamedTuple):
    """All but the data; `start` and `size` say where that is."""

    places: dict[Key, Place]
    saved_ms: int
    start: int
    size: int
    crc: int


def check_name(name: str) -> str:
    """The name itself, if it may name a checkpoint. It becomes part of a file's name, so it is not to be trusted."""
    if not isinstance(name, str) or not _is_name(name):
        hint = f"use up to {NAME_SIZE_MAX} of A-Z a-z 0-9 . _ -, and not '.' or '..' alone"
        raise UsageError(f"{str(name)[:NAME_SIZE_MAX]!r} cannot name a checkpoint", hint=hint)
    return name


def _is_name(name: str) -> bool:
    return names.is_topic_name(name) and len(name) <= NAME_SIZE_MAX


def file_name(name: str) -> str:
    """The name of a checkpoint's file."""
    return PREFIX + name + SUFFIX


def parse_file_name(name: str) -> str | None:
    """The checkpoint's name; None for any other file."""
    inner = name[len(PREFIX) : -len(SUFFIX)]
    return inner if name == file_name(inner) and _is_name(inner) else None


def listed(disk: Disk, folder: Path) -> list[str]:
    """The names of the checkpoints in a store's folder, sorted."""
    return sorted(filter(None, map(parse_file_name, disk.entries(folder))))


# -- read ------------------------------------------------------------------------------------------------------


def read_head(disk: Disk, path: Path) -> Head | None:
    """The head alone, None if the file is missing. Raises CorruptFile, and UnsupportedFormat for a later version."""
    if not disk.exists(path):
        return None
    fd = disk.open(path, write=False)
    try:
        return _head(disk, fd, path)
    finally:
        disk.close(fd)


def read(disk: Disk, path: Path) -> tuple[Head, memoryview] | None:
    """Head and data, which is mapped and stays what it is when the file is replaced; None if the file is missing.

    Raises what `read_head` does, and MappingFault where the device fails.
    """
    if not disk.exists(path):
        return None
    fd = disk.open(path, write=False)
    try:
        head = _head(disk, fd, path)
        mapping = disk.map(fd, head.start + head.size, write=False)
    finally:
        disk.close(fd)
    data = memoryview(mapping).toreadonly()[head.start :]
    crc = kernels.crc32c.crc32c(data)
    if mapping.broken:
        raise MappingFault("a page of the file cannot be had", path=path)
    if crc != head.crc:
        raise CorruptFile("the CRC of a checkpoint's data does not match its bytes", path=path, hint=_HINT)
    return head, data


def _head(disk: Disk, fd: int, path: Path) -> Head:
    size, frame = disk.size(fd), disk.pread(fd, _FRAME.size, 0)
    try:
        return decode(disk.pread(fd, _head_size(frame, size), 0), size)
    except StorageError as error:
        error.path = str(path)
        raise


def _head_size(frame: bytes, size: int) -> int:
    """How many bytes the head has, as the first ones of a file of `size` bytes say."""
    found = _FRAME.unpack(frame)[3] if len(frame) == _FRAME.size and frame.startswith(MAGIC) else -1
    if not _FRAME.size + _BODY.size <= found <= min(size, _HEAD_MAX) or found % _ALIGNMENT:
        raise CorruptFile(f"{size} bytes that are no checkpoint of a view", hint=_HINT)
    return int(found)


def decode(data: bytes, size: int) -> Head:
    """The head whose bytes these are, of a file of `size` bytes."""
    start = _head_size(data[: _FRAME.size], size)
    _, version, crc, _ = _FRAME.unpack_from(data)
    if len(data) != start or crc != _crc(data):
        raise CorruptFile("the CRC of a checkpoint's head does not match its bytes", hint=_HINT)
    if version != VERSION:
        raise UnsupportedFormat(f"a checkpoint of version {version}")
    data_size, saved_ms, data_crc, count = _BODY.unpack_from(data, _FRAME.size)
    if start + data_size != size:
        raise CorruptFile(f"a checkpoint of {size} bytes that says it has {start + data_size}", hint=_HINT)
    return Head(_places(data, count), saved_ms, start, data_size, data_crc)


def _crc(head: bytes | bytearray) -> int:
    return kernels.crc32c.crc32c(memoryview(head)[16:], kernels.crc32c.crc32c(memoryview(head)[:12]))


def _places(data: bytes, count: int) -> dict[Key, Place]:
    found: dict[Key, Place] = {}
    at = _FRAME.size + _BODY.size
    for _ in range(count):
        if at + _PLACE.size > len(data):
            break
        topic_id, offset, epoch, partition, length = _PLACE.unpack_from(data, at)
        topic = data[at + _PLACE.size : at + _PLACE.size + length].decode("ascii", "replace")
        at += _PLACE.size + length
        if at > len(data) or not names.is_topic_name(topic) or min(offset, partition, epoch + 1) < 0:
            break
        found[topic, partition] = Place(offset, epoch, uuid.UUID(bytes=topic_id) if any(topic_id) else None)
    if len(found) != count or any(data[at:]):
        raise CorruptFile("the places of a checkpoint cannot be", hint=_HINT)
    return found


# -- write -----------------------------------------------------------------------------------------------------


def write(
    disk: Disk, path: Path, places: Mapping[Key, Place], saved_ms: int, fill: Callable[[BinaryIO], object] | Buffer
) -> None:
    """Replace the file by these places, and what `fill` is or writes. Durable on return; if it fails, or is killed, the
    file is what it was. Whoever else saves it meanwhile waits.
    """
    with _turn(disk, path):
        temporary = path.with_name(path.name + ".tmp")
        if disk.exists(temporary):
            disk.unlink(temporary)
        try:
            _write_synced(disk, temporary, places, saved_ms, fill)
            disk.rename(temporary, path)
        except BaseException:
            with suppress(StorageError):  # what went wrong first is what the caller needs to know
                disk.unlink(temporary)
            raise
        disk.sync_dir(path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Remove the file, if it is there; durable on return."""
    with _turn(disk, path):
        if disk.exists(path):
            disk.unlink(path)
            disk.sync_dir(path.parent)


@contextmanager
def _turn(disk: Disk, path: Path) -> Iterator[None]:
    """Until the lock is closed. It stays: who waits for one that is removed waits for another than who comes later."""
    fd = disk.open(path.with_name(path.name + ".lock"), write=True, create=True)
    try:
        disk.take_turn(fd)
        yield
    finally:
        disk.close(fd)


def _write_synced(
    disk: Disk, path: Path, places: Mapping[Key, Place], saved_ms: int, fill: Callable[[BinaryIO], object] | Buffer
) -> None:
    """The head last: it has the size and the CRC of the data."""
    start = len(encode(Head(dict(places), saved_ms, 0, 0, 0)))
    fd = disk.open(path, write=True, create=True)
    try:
        sink = _Sink(disk, fd, start)
        if callable(fill):
            _fill(sink, fill)
        else:
            sink.write(fill)
        disk.pwrite_all(fd, encode(Head(dict(places), saved_ms, start, sink.at - start, sink.crc)), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)


def encode(head: Head) -> bytes:
    """The bytes before the data; where that starts follows from the places."""
    found = bytearray(_FRAME.size)
    found += _BODY.pack(head.size, head.saved_ms, head.crc, len(head.places))
    for (topic, partition), place in head.places.items():
        name = topic.encode("ascii")
        topic_id = (place.topic_id or _NO_ID).bytes
        found += _PLACE.pack(topic_id, place.offset, place.epoch, partition, len(name)) + name
    found += bytes(-len(found) % _ALIGNMENT)
    if len(found) > _HEAD_MAX:
        raise UsageError(f"a checkpoint of {len(head.places)} partitions is too large", hint="make several of it")
    _FRAME.pack_into(found, 0, MAGIC, VERSION, 0, len(found))
    struct.pack_into(">I", found, 12, _crc(found))
    return bytes(found)


def _fill(sink: _Sink, fill: Callable[[BinaryIO], object]) -> None:
    file = io.BufferedWriter(cast(io.RawIOBase, sink), _BUFFER_SIZE)
    try:
        fill(cast(BinaryIO, file))
        if not file.closed:  # compressors close what they write to
            file.flush()
    finally:
        sink.ended = True
        if not file.closed:
            file.close()


class _Sink(io.RawIOBase):
    """Where the data goes. Once it has `ended` nothing is written any more: what a failure has left in the buffer."""

    def __init__(self, disk: Disk, fd: int, at: int) -> None:
        super().__init__()
        self._disk, self._fd = disk, fd
        self.at = at
        self.crc = 0
        self.ended = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if not self.ended:
            self._disk.pwrite_all(self._fd, view, self.at)
            self.crc = kernels.crc32c.crc32c(view, self.crc)
            self.at += len(view)
        return len(view)

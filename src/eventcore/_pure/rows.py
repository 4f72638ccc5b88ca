"""Records one by one, out of batches that were checked whole before the first of their records is handed out.

Bytes may change under a reader: a truncation zeroes them in place. So everything copied from a `Source` is believed
only if afterwards the log still was not truncated, its map not broken, and the batch still the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, final

from eventcore._pure import records
from eventcore._pure.batch import (
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    BatchFields,
    batch_size,
    checked_range,
    checked_size,
)
from eventcore._pure.source import Source
from eventcore.errors import CorruptRecord, LogTruncated, StorageError
from eventcore.types import Header, Record

__all__ = [
    "FIELDS",
    "SHAPE_LAZY",
    "SHAPE_RECORD",
    "SHAPE_TUPLE",
    "SHAPE_VALUE",
    "LazyRecord",
    "Rows",
    "decode_rows",
    "read_rows",
]

SHAPE_RECORD, SHAPE_LAZY, SHAPE_TUPLE, SHAPE_VALUE = range(4)
"""What is made of a record: a `Record`, a `LazyRecord`, a tuple of some fields, or one field by itself."""
FIELDS = ("offset", "timestamp", "key", "value", "headers")
"""Fields are numbers into this."""

_LEAST_RECORD = 7
_CHANGED = "the log was truncated while it was read"


def _check(source: Source, at: int, stamp: bytes) -> None:
    """Whether what was just copied from a batch can be believed."""
    source.check()
    if _stamp(source._view, at) != stamp:
        raise LogTruncated(_CHANGED)


def _stamp(view: memoryview, at: int) -> bytes:
    """What tells a batch from any other that might stand at its place later; nothing for a bare records area."""
    return b"" if at < 0 else bytes(view[at + 8 : at + 12]) + bytes(view[at + 17 : at + 21])


@final
class LazyRecord:
    """A record that decodes key, value and headers when they are asked for. It compares, hashes and prints as a Record.

    It pins the bytes it lies in: it stays valid whatever happens to the partition, with one exception. A truncation
    changes the bytes; a key, value or header that is asked for after it raises LogTruncated. `record()` gives what does
    not depend on the log any more.
    """

    __slots__ = ("_at", "_parts", "_source", "_stamp", "offset", "timestamp")
    offset: int
    timestamp: int
    _source: Source
    _parts: records.Slices
    _at: int
    _stamp: bytes

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("records come from a partition; make a Record")

    def _checked(self, found: Any) -> Any:
        _check(self._source, self._at, self._stamp)
        return found

    def _take(self, position: int, length: int) -> bytes | None:
        view = self._source._view
        return self._checked(None if length < 0 else bytes(view[position : position + length]))  # type: ignore[no-any-return]

    @property
    def key(self) -> bytes | None:
        """The key."""
        return self._take(self._parts.key_position, self._parts.key_length)

    @property
    def value(self) -> bytes | None:
        """The value."""
        return self._take(self._parts.value_position, self._parts.value_length)

    @property
    def headers(self) -> tuple[Header, ...]:
        """The headers."""
        try:
            return self._checked(records.read_headers(self._source._view, self._parts))  # type: ignore[no-any-return]
        except StorageError:
            self._checked(None)
            raise

    def record(self) -> Record:
        """The same as a plain Record."""
        return Record(self.offset, self.timestamp, self.key, self.value, self.headers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyRecord):
            return self.record() == other.record()
        return self.record() == other

    def __hash__(self) -> int:
        return hash(self.record())

    def __repr__(self) -> str:
        return "Lazy" + repr(self.record())


@final
class Rows:
    """An iterator over the records of whole batches, from `read_rows` or `decode_rows`.

    `position` is where the next batch starts. It ends early, without an error, before a batch that has an attribute of
    the stop mask, begins at or above the last offset, or is not right: who reads on from there is told what is wrong.
    """

    position: int = 0

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("rows come from read_rows or decode_rows")

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    _items: Iterator[Any]


class _Batch(NamedTuple):
    """One batch that is right: where it lies (-1: a bare records area), what it was then, what to make of it."""

    source: Source
    at: int
    stamp: bytes
    shape: int
    fields: tuple[int, ...]
    record: type[Record]


def _shaped(batch: _Batch, parts: records.Slices, offset: int, timestamp: int) -> Any:
    lazy = object.__new__(LazyRecord)
    lazy.offset, lazy.timestamp, lazy._parts = offset, timestamp, parts
    lazy._source, lazy._at, lazy._stamp = batch.source, batch.at, batch.stamp
    if batch.shape == SHAPE_LAZY:
        return lazy
    found = [getattr(lazy, FIELDS[field]) for field in batch.fields]
    if batch.shape == SHAPE_VALUE:
        return found[0]
    return tuple(found) if batch.shape == SHAPE_TUPLE else batch.record(*found)


def _checked_fields(shape: int, fields: tuple[int, ...], record: type[Record]) -> tuple[int, ...]:
    if not issubclass(record, Record) or record.__basicsize__ != Record.__basicsize__ or record.__dictoffset__:
        raise TypeError(f"{record} is no Record with class attributes only")
    if not SHAPE_RECORD <= shape <= SHAPE_VALUE:
        raise ValueError(f"there is no shape {shape}")
    if shape in (SHAPE_RECORD, SHAPE_LAZY):
        return tuple(range(5))
    if not 1 <= len(fields) <= 5 or any(not 0 <= field < 5 for field in fields) or (shape == 3 and len(fields) != 1):
        raise ValueError(f"{fields} are no fields of that shape")
    return tuple(fields)


def _items(batch: _Batch, start: int, end: int, header: BatchFields, bounds: tuple[int, int]) -> list[Any]:
    """The arguments of `_shaped` for each wanted record of a batch, all of whose records were looked at."""
    if header[12] * _LEAST_RECORD > end - start:
        raise CorruptRecord(f"{header[12]} records do not fit into their batch", position=start)
    found = []
    view = batch.source._view
    for parts, position in records.walk(view, start, end, header[12], header[6]):
        records.read_headers(view, parts)
        offset = header[0] + parts.offset_delta
        if not bounds[0] <= offset < bounds[1]:
            continue
        append_time = header[5] & LOG_APPEND_TIME
        time = header[8] if append_time else records.timestamp_of(header[7], parts.timestamp_delta, position)
        found.append((batch, parts, offset, time))
    return found


def _batches(
    rows: Rows, source: Source, end: int, bounds: tuple[int, int], stop_mask: int, verify: bool, shape: int,
    fields: tuple[int, ...], record: type[Record],
) -> Iterator[Any]:  # fmt: skip
    view = source._view
    while rows.position < end:
        start = rows.position
        try:
            size = batch_size(view, start, end)
            header = HEADER.unpack_from(view, start)
            if header[5] & stop_mask or header[0] >= bounds[1]:
                return
            checked_size(view, start, end, verify)
            batch = _Batch(source, start, _stamp(view, start), shape, fields, record)
            found = _items(batch, start + HEADER_SIZE, start + size, header, bounds)
        except StorageError:
            return
        rows.position = start + size
        for item in found:
            made = _shaped(*item)
            _check(source, start, batch.stamp)
            yield made


def read_rows(
    source: Source, start: int, end: int, min_offset: int, max_offset: int, stop_mask: int, verify: bool, shape: int,
    fields: tuple[int, ...] = (), record: type[Record] = Record,
) -> Rows:  # fmt: skip
    """The records with min_offset ≤ offset < max_offset of the whole batches in [start, end), in a shape.

    `record` is the type of SHAPE_RECORD: Record, or a subclass of it that adds nothing to an instance.
    """
    fields = _checked_fields(shape, fields, record)
    end = checked_range(source._view, start, end)
    rows = object.__new__(Rows)
    rows.position = start
    rows._items = _batches(rows, source, end, (min_offset, max_offset), stop_mask, verify, shape, fields, record)
    return rows


def decode_rows(
    source: Source, header: BatchFields, min_offset: int, max_offset: int, shape: int, fields: tuple[int, ...] = (),
    record: type[Record] = Record,
) -> Rows:  # fmt: skip
    """`read_rows` of one records area that is already decompressed. One that is not right raises CorruptRecord."""
    batch = _Batch(source, -1, b"", shape, _checked_fields(shape, fields, record), record)
    rows = object.__new__(Rows)
    rows.position = len(source)
    rows._items = (_shaped(*item) for item in _items(batch, 0, len(source), header, (min_offset, max_offset)))
    return rows

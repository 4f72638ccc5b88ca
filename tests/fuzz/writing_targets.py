"""The kernels that store what comes from outside: batches copied into a log, records and columns appended; Arrow
streams, whose arrays anybody may have made; and all of them, with those that read, against their pure twins.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eventcore import _kernels as kernels
from eventcore.types import Record
from tests.fuzz.arena import Arena
from tests.fuzz.kernel_targets import HEADER_PLACES, RECORD_FACTOR, batch_seeds, seal_batches
from tests.fuzz.mutate import SIZE_MAX
from tests.fuzz.reading_targets import fix_behind, places_behind
from tests.fuzz.target import MALFORMED, Target
from tests.parity import twins
from tests.parity.twins import EVERY, INT64_MAX, NOW

batch, transfer = kernels.batch, kernels.transfer

_NATIVE, _PURE = twins.load("native"), twins.load("pure")
_OUT = Arena()

# -- batches from outside --------------------------------------------------------------------------------------

_COPY_CODE = "qihh"
_COPY = struct.Struct(">" + _COPY_CODE)
_PREFIX = batch.PREFIX_SIZE
_EPOCH_AT, _MAGIC_AT = 12, 16


def copy_seeds() -> list[bytes]:
    """(base offset, leader epoch, position in the log, bytes that are left behind the batch) before batches."""
    seeds = []
    for data in batch_seeds():
        seeds += [_COPY.pack(5, 9, 3, 4) + data, _COPY.pack(INT64_MAX - 999, -1, 0, 0) + data]
    return seeds


def run_transfer(data: memoryview) -> None:
    """A batch is copied with its new offset and epoch; or not, and then no batch stands there."""
    if len(data) < _COPY.size:
        return
    base_offset, epoch, at, spare = _COPY.unpack_from(data)
    source = data[_COPY.size :]
    out = _OUT.place(bytes(min(max(len(source) + spare, 0), SIZE_MAX)))
    try:
        holds = transfer.copy_batch(out, at, source, 0, base_offset, epoch)
        size = _PREFIX + batch.read_header(source, 0)[1]
    except (IndexError, *MALFORMED):
        if any(out):
            raise AssertionError("it stored something and refused") from None
        return
    if any(out[:at]) or any(out[at + size :]):
        raise AssertionError("it stored something outside of its batch")
    if holds != batch.crc_holds(source, 0, size):
        raise AssertionError(f"it says {holds} of the CRC")
    if not holds:
        if any(out[at : at + _PREFIX]):
            raise AssertionError("a bad batch left a prefix")
        return
    expected = struct.pack(">q", base_offset) + source[8:12] + struct.pack(">i", epoch) + source[_MAGIC_AT:size]
    if out[at : at + size] != expected:
        raise AssertionError("the copy is another batch")


# -- appends ---------------------------------------------------------------------------------------------------

_APPENDS_CODE = "qqhhbb"
_APPENDS = struct.Struct(">" + _APPENDS_CODE)
_STEP = struct.Struct(">bbbq")
_SLOTS = 6
_STEPS = 12
_LOG_SIZE = 2048
_REFUSED = (IndexError, TypeError, ValueError)


class Segment:
    """What an appender moves on. The maps stand in arenas of their own, as large as the input says."""

    def __init__(self, loaded: Any, arenas: tuple[Arena, Arena, Arena] | None, data: memoryview) -> None:
        base, next_offset, size, slots, attributes, visible = _APPENDS.unpack_from(data)
        self.base = base % (INT64_MAX - (1 << 34))
        sizes = (size % _LOG_SIZE, slots % _SLOTS * 8 + slots % 8, slots % _SLOTS * 12 + slots % 5)
        self.log, self.index, self.times = (
            arenas[at].place(bytes(one)) if arenas else memoryview(bytearray(one)) for at, one in enumerate(sizes)
        )
        self.page = bytearray(loaded.tail.STATE_SIZE)
        self.marks, self.end = loaded.marks.Marks(), loaded.marks.End()
        self.entries, self.time_entries = loaded.marks.Entries(), loaded.marks.Entries()
        self.marks.next_offset = self.marks.batches_end = self.base + next_offset % (1 << 33)
        self.first = self.marks.next_offset
        self.appender = loaded.append.Appender(size % 500, 30, 1 << 40, attributes & 8, False)
        self.appender.attach(
            self.page, self.marks, self.base, NOW, self.end, self.log, self.entries, self.index, self.time_entries,
            self.times,
        )  # fmt: skip
        self.appender.allow(len(self.log), len(self.index) // 8, len(self.times) // 12)
        self.appender.stamp(3, bool(visible & 1), self.first + 2, loaded.guard.faults())

    def close(self) -> None:
        """Give the arenas back."""
        self.appender.detach()

    def told(self) -> list[Any]:
        """What a caller can tell apart."""
        names = ("next_offset", "batches_end", "max_timestamp", "max_timestamp_offset", "first_timestamp", "unindexed")
        marks = [getattr(self.marks, name) for name in names]
        counts = [self.end.size, self.entries.count, self.time_entries.count]
        return [marks, counts, bytes(self.log[: self.end.size]), bytes(self.index), bytes(self.times), bytes(self.page)]


def append_seeds() -> list[bytes]:
    """Some appends of each kind to segments with much room and little."""
    seeds = []
    for size, slots in ((2000, 5), (450, 2), (61, 1), (0, 0), (300, 4)):
        for visible in (0, 1):
            head = _APPENDS.pack(100, 0, size, slots, 8 * visible, visible)
            steps = b"".join(_STEP.pack(kind, 7 * kind, 3, NOW + kind) + bytes(9 * kind) for kind in range(5))
            columns = _STEP.pack(4, 24, 2, NOW) + struct.pack("<3q", 0, 2, 5) + b"\0\1" + b"abcde"
            seeds += [head + steps + columns, head + steps[::-1] + columns * 3]
    return seeds


def _steps(data: memoryview) -> Iterator[tuple[int, bytes, int, int]]:
    """(kind, bytes, a number, a timestamp), until the input ends."""
    position = _APPENDS.size
    for _ in range(_STEPS):
        if len(data) - position < _STEP.size:
            return
        kind, size, number, timestamp = _STEP.unpack_from(data, position)
        position += _STEP.size
        yield kind, bytes(data[position : position + size % 128]), number, timestamp
        position += size % 128


def _columns(part: bytes, rows: int, timestamp: int) -> tuple[Any, ...]:
    """Of `rows` rows: offsets and nulls as they stand in the input, in that order, and what is left as the bytes."""
    ends = part[: 8 * (rows + 1)]
    nulls = part[len(ends) : len(ends) + rows] if timestamp % 3 else None
    area = part[len(ends) + rows :]
    times = struct.pack(f"<{rows}q", *([timestamp] * rows)) if timestamp % 2 else None
    return area, ends, nulls, area, ends, None, times


def _play(segment: Segment, kind: int, part: bytes, number: int, timestamp: int) -> Any:
    appender = segment.appender
    whole, rows = bool(number & 64), number % 8
    if kind % 5 == 0:
        return appender.append_all([part] * rows)
    if kind % 5 == 1:
        items = [(part[:rows], part[rows:]), part, memoryview(part), (None, None)]
        return appender.extend(items, number % 6 - 1, NOW, whole)
    if kind % 5 == 2:
        headers = [(part[:rows].decode("latin-1"), part[rows:] or None)] * rows
        return appender.extend([Record(-1, timestamp, part or None, None, headers)] * 2, 0, NOW, whole, 7, 1, number)
    if kind % 5 == 3:
        return appender.append(part, None, timestamp)
    return appender.extend_columns(rows, number % 3, timestamp & INT64_MAX, whole, _columns(part, rows, timestamp))


def _checked(segment: Segment, loaded: Any) -> None:
    """All that was appended can be read again, offset by offset; indexes lie where they may."""
    end, position, offset = segment.end.size, 0, segment.first
    while position < end:
        header = loaded.batch.read_header(segment.log, position)
        after = position + _PREFIX + header[1]
        if header[0] != offset or after > end or not loaded.batch.crc_holds(segment.log, position, after):
            raise AssertionError(f"a batch {header} at {position} of {end}, not at offset {offset}")
        records, stop = loaded.decode.read_records(segment.log, position, after, *EVERY, SIZE_MAX, 0, False)
        if stop != after or [one.offset for one in records] != list(range(offset, offset + header[12])):
            raise AssertionError(f"{records} in a batch {header}")
        position, offset = after, offset + header[12]
    if (position, offset) != (end, segment.marks.next_offset):
        raise AssertionError(f"ends at {position}, {offset}, not at {end}, {segment.marks.next_offset}")
    for entries, view, size in ((segment.entries, segment.index, 8), (segment.time_entries, segment.times, 12)):
        if not 0 <= entries.count <= len(view) // size or any(view[entries.count * size :]):
            raise AssertionError(f"{entries.count} entries in {bytes(view)!r}")


_ARENAS = (Arena(), Arena(), Arena())


def run_append(data: memoryview) -> None:
    """Appends of all kinds to a segment of any size: done, or declined with nothing changed, or refused."""
    if len(data) < _APPENDS.size:
        return
    segment = Segment(kernels, _ARENAS, data)
    for kind, part, number, timestamp in _steps(data):
        before = segment.end.size, segment.marks.next_offset
        try:
            given = _play(segment, kind, part, number, timestamp)
        except _REFUSED:
            given = 0
        declined = given == 0 if kind % 5 in (1, 2, 4) else given < 0
        if declined != (before == (segment.end.size, segment.marks.next_offset)):
            raise AssertionError(f"{given} for {kind}: from {before} to {segment.end.size}, {segment.marks}")
    _checked(segment, kernels)
    segment.close()


# -- Arrow streams ---------------------------------------------------------------------------------------------

_RELEASE_AT = {b"arrow_schema": 56, b"arrow_array": 64}
_STRUCT_SIZE = 80
_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype, _capsule_new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


@_Release
def _release(at: int) -> None:
    """Nothing is owned."""


class Part:
    """A schema and an array in one, good or of a kind that no consumer may be given."""

    def __init__(self, kind: int, text: bytes) -> None:
        self.kind, self.text = kind, text
        self.memory = ctypes.create_string_buffer(_STRUCT_SIZE)

    def _capsule(self, name: bytes) -> Any:
        if self.kind == 1:
            raise ValueError(self.text.decode("utf-8", "surrogateescape"))
        if self.kind == 2:
            name = b"arrow_other"
        if self.kind == 3:
            return self.text
        address = ctypes.cast(_release, ctypes.c_void_p).value or 0
        struct.pack_into("@P", self.memory, _RELEASE_AT.get(name, 0), address)
        return _capsule_new(ctypes.addressof(self.memory), name, None)

    def __arrow_c_schema__(self) -> Any:
        return self._capsule(b"arrow_schema")

    def __arrow_c_array__(self) -> Any:
        if self.kind == 4:
            return ()
        return None, self._capsule(b"arrow_array")


class Unsaid(Exception):
    """Its words cannot be had."""

    def __str__(self) -> str:
        raise ValueError("none")


def _parts(data: memoryview) -> Iterator[Any]:
    text = bytes(data)
    for at in range(1, min(len(text), 8)):
        if text[at] == 5:
            raise OSError(text.decode("utf-8", "surrogateescape"))
        if text[at] == 6:
            raise Unsaid
        yield Part(text[at] % 8, text[at:]) if text[at] != 7 else text


def run_arrow(data: memoryview) -> None:
    """Whatever a producer of arrays does, the consumer is given a good one, the end, or an error with words."""
    if not len(data) or kernels.KERNELS == "pure":
        return
    schema = Part(data[0] % 8, bytes(data))
    capsule = kernels.arrow.export_stream(schema, _parts(data), None)
    stream = _capsule_pointer(capsule, b"arrow_array_stream")
    get_schema, get_next, get_error = (
        ctypes.CFUNCTYPE(kind, *arguments)(struct.unpack("@P", ctypes.string_at(stream + 8 * at, 8))[0])
        for at, (kind, arguments) in enumerate(
            ((ctypes.c_int, (ctypes.c_void_p,) * 2),) * 2 + ((ctypes.c_char_p, (ctypes.c_void_p,)),)
        )
    )
    for call, name in ((get_schema, b"arrow_schema"), *((get_next, b"arrow_array"),) * 8):
        out = ctypes.create_string_buffer(b"\xee" * _STRUCT_SIZE, _STRUCT_SIZE)
        if call(stream, ctypes.addressof(out)):
            if not get_error(stream):
                raise AssertionError("an error without words")
            continue
        release = struct.unpack_from("@P", out.raw, _RELEASE_AT[name])[0]
        if release not in (0, ctypes.cast(_release, ctypes.c_void_p).value):
            raise AssertionError(f"{name!r} was not given, but there was no error")


def arrow_seeds() -> list[bytes]:
    """Good streams, and one with each kind of trouble."""
    return [bytes([kind, 0, 0, kind, 8, 0]) + b"w\xffrds" for kind in range(8)]


# -- twins -----------------------------------------------------------------------------------------------------


def _map(loaded: Any, data: bytes) -> Any:
    """What stands in for a map."""
    return np.frombuffer(data, np.uint8).view(_Whole)


class _Whole(np.ndarray[Any, Any]):
    broken = False


def _follow(loaded: Any, data: bytes, first: int) -> list[Any]:
    page = bytearray(loaded.tail.STATE_SIZE)
    loaded.tail.publish(page, first + 3, first + 3, first + 3, 0)
    try:
        one = loaded.follow.Follower(page, _map(loaded, data), loaded.tail.HIGH_WATERMARK, 0, first, 0, 0, 0x27)
    except IndexError:
        return []
    return [one.follow(2, 0, 0), one.position, one.next_offset, one.follow(1000, 0, 0), one.position, one.next_offset]


def _path_outcomes(loaded: Any, data: bytes) -> list[Any]:
    outcome, end = twins.outcome, len(data)
    out = bytearray(end + 3)
    source = loaded.source.Source(data)
    given = loaded.rows.read_rows(source, 0, end, 101, INT64_MAX, 0, True, 2, (0, 1, 2, 3, 4))
    found: list[Any] = [list(given), given.position]
    found += [outcome(loaded.transfer.copy_batch, out, 2, data, 0, 7, 8), bytes(out)]
    first = int.from_bytes(data[:8], "big", signed=True)
    if data and -(1 << 62) < first < 1 << 62:
        found += _follow(loaded, data, first)
    words = struct.unpack_from(f"<{min(end // 8, 8)}q", data)
    ends, valid = bytearray(8 * len(words) + 8), bytearray((len(words) + 7) // 8)
    sizes = struct.pack(f"<{len(words)}q", *(word % 300 - 2 for word in words))
    starts = struct.pack(f"<{len(words)}q", *(word >> 55 for word in words))
    found += [outcome(loaded.gather.measure_parts, sizes, ends, valid), bytes(ends), bytes(valid)]
    found += [outcome(loaded.gather.copy_parts, data, starts, sizes, out), bytes(out)]
    return found


def _append_outcomes(loaded: Any, data: memoryview) -> list[Any]:
    segment, found = Segment(loaded, None, data), []
    for kind, part, number, timestamp in _steps(data):
        found.append((kind, twins.outcome(_play, segment, kind, part, number, timestamp)))
        found.append(segment.told())
    return found


def _differ(name: str, outcomes: Callable[[Any], list[Any]]) -> None:
    assert _NATIVE is not None
    assert _PURE is not None
    native, pure = outcomes(_NATIVE), outcomes(_PURE)
    if native != pure:
        at = next(at for at, (a, b) in enumerate(zip(native, pure, strict=True)) if a != b)
        raise AssertionError(f"{name}: outcome {at} is {native[at]!r}, of the twin {pure[at]!r}"[:2000])


def run_path_twins(data: memoryview) -> None:
    """Native and pure kernels read, copy and gather the same."""
    if _NATIVE is not None:
        _differ("path", lambda loaded: _path_outcomes(loaded, bytes(data)))


def run_append_twins(data: memoryview) -> None:
    """Native and pure kernels append the same."""
    if _NATIVE is not None and len(data) >= _APPENDS.size:
        _differ("append", lambda loaded: _append_outcomes(loaded, data))


_COPY_PLACES = places_behind(_COPY_CODE, HEADER_PLACES)
_APPEND_PLACES = places_behind(_APPENDS_CODE, ())
_MEMORY = 192 << 10
"""Two of each twin's pages, maps and outcomes, step by step."""

TARGETS = (
    Target("transfer", run_transfer, copy_seeds, 10, fix_behind(_COPY.size, seal_batches), _COPY_PLACES, factor=8),
    Target("append", run_append, append_seeds, 4, None, _APPEND_PLACES, factor=RECORD_FACTOR),
    Target("arrow", run_arrow, arrow_seeds, 1, factor=16),
    Target("path-twins", run_path_twins, batch_seeds, 0.5, seal_batches, HEADER_PLACES, factor=4 * RECORD_FACTOR),
    Target(
        "append-twins",
        run_append_twins,
        append_seeds,
        0.5,
        None,
        _APPEND_PLACES,
        memory=_MEMORY,
        factor=4 * RECORD_FACTOR,
    ),
)

"""The kernels that hand out records: rows and the source they lie in, followers, columns gathered for Arrow.

What they read may change meanwhile: a truncation in another process zeroes it. So each gets bytes that stay, and must
say what `decode` says, and bytes that change under it, where it must stay inside of them and own up to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np

from eventcore import _kernels as kernels
from eventcore.errors import LogTruncated
from eventcore.types import Record
from tests.fuzz.arena import Arena
from tests.fuzz.kernel_targets import HEADER_PLACES, RECORD_FACTOR, batch_seeds, seal_batches
from tests.fuzz.mutate import SIZE_MAX, Fix
from tests.fuzz.target import MALFORMED, Target
from tests.parity.twins import EVERY, INT64_MAX

batch, decode, follow, gather, rows, tail = (
    kernels.batch,
    kernels.decode,
    kernels.follow,
    kernels.gather,
    kernels.rows,
    kernels.tail,
)
Source = kernels.source.Source

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_AT, _CRC_END = 17, 21
_GENERATION, _TRUNCATIONS = 2, 5
_HEADERS = 4
_SHAPES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (rows.SHAPE_RECORD, ()),
    (rows.SHAPE_LAZY, ()),
    (rows.SHAPE_TUPLE, (0, 1, 2, 3, 4)),
    (rows.SHAPE_TUPLE, (3, 2)),
    (rows.SHAPE_VALUE, (3,)),
    (rows.SHAPE_VALUE, (4,)),
)


# -- an input with words in front of its batches ---------------------------------------------------------------


def fix_behind(size: int, fix: Fix) -> Fix:
    """`fix` for what stands behind the first `size` bytes."""

    def fixed(data: bytearray, rng: Random) -> None:
        rest = data[size:]
        fix(rest, rng)
        data[size:] = rest

    return fixed


def places_behind(code: str, places: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """The integers of a struct of that code, and those of what stands behind it."""
    size = struct.calcsize(">" + code)
    words = tuple((struct.calcsize(">" + code[:at]), one) for at, one in enumerate(code))
    return words + tuple((size + at, one) for at, one in places)


def choice(data: memoryview) -> int:
    """A number that changes with every other byte of the first batch: its CRC."""
    return int.from_bytes(data[_CRC_AT:_CRC_END], "big")


# -- rows ------------------------------------------------------------------------------------------------------


def _plain(data: memoryview, low: int, high: int, mask: int, verify: bool) -> tuple[list[Record], int]:
    """By `decode`, up to the first batch that is not right."""
    found: list[Record] = []
    position = 0
    while position < len(data):
        try:
            end = position + batch.PREFIX_SIZE + batch.read_header(data, position)[1]
            records, after = decode.read_records(data, position, end, low, high, 1, mask, verify)
        except MALFORMED:
            break
        found += records
        if after == position:
            break
        position = after
    return found, position


def _shaped(record: Record, shape: int, fields: tuple[int, ...]) -> Any:
    if shape in (rows.SHAPE_RECORD, rows.SHAPE_LAZY):
        return record
    return record[fields[0]] if shape == rows.SHAPE_VALUE else tuple(record[at] for at in fields)


def _check(given: Any, expected: Sequence[Record], shape: int, fields: tuple[int, ...]) -> None:
    count = 0
    for row in given:
        wanted = _shaped(expected[count], shape, fields) if count < len(expected) else None
        found = row.record() if shape == rows.SHAPE_LAZY else row
        if found != wanted:
            raise AssertionError(f"row {count} is {found!r}, not {wanted!r}")
        count += 1
    if count != len(expected):
        raise AssertionError(f"{count} rows of {len(expected)}")


def run_rows(data: memoryview) -> None:
    """The rows of all batches, and of a bare area, are the records that `decode` finds."""
    number = choice(data)
    shape, fields = _SHAPES[number % len(_SHAPES)]
    first = int.from_bytes(data[:8], "big", signed=True)
    low, high = EVERY if number & 0x100 else (first, min(first + 2, INT64_MAX))
    mask, verify = (0, True) if number & 0x200 else (0x27, False)
    source = Source(data)
    given = rows.read_rows(source, 0, len(data), low, high, mask, verify, shape, fields)
    expected, position = _plain(data, low, high, mask, verify)
    _check(given, expected, shape, fields)
    if given.position != position:
        raise AssertionError(f"the rows end at {given.position}, not {position}")
    if len(data) >= _HEADER.size:
        _run_area(data[_HEADER.size :], _HEADER.unpack_from(data), shape, fields)


def _run_area(area: memoryview, header: Any, shape: int, fields: tuple[int, ...]) -> None:
    try:
        expected = decode.decode_records(area, header, *EVERY)
    except MALFORMED as error:
        wrong: Exception | None = error
    else:
        wrong = None
    try:
        given = rows.decode_rows(Source(area), header, *EVERY, shape, fields)
    except MALFORMED as error:
        if wrong is None:
            raise AssertionError("decode finds nothing wrong") from error
        return
    if wrong is not None:
        raise AssertionError(f"the rows find nothing wrong: {wrong}")
    _check(given, expected, shape, fields)


_OTHER = Arena()
_PAGE = bytearray(tail.STATE_SIZE)


def _page(word: int = 0) -> bytearray:
    """The state page as it is before anything happens to the log."""
    tail.store(_PAGE, tail.HIGH_WATERMARK, word)
    tail.store(_PAGE, tail.GENERATION, _GENERATION)
    tail.store(_PAGE, tail.TRUNCATIONS, _TRUNCATIONS)
    return _PAGE


def _zero(data: memoryview) -> None:
    data[:] = bytes(len(data))


def _count(data: memoryview) -> None:
    tail.store(_PAGE, tail.TRUNCATIONS, _TRUNCATIONS + 1)


def _turn_areas(data: memoryview) -> None:
    """Other records of the same sizes, with a header that did not change: nothing tells."""
    data[_HEADER.size :] = bytes(data[: _HEADER.size - 1 : -1])


def _turn(data: memoryview) -> None:
    data[:] = bytes(data[::-1])


_CHANGES: tuple[tuple[Callable[[memoryview], None], bool], ...] = (
    (_zero, True),
    (_count, True),
    (_turn_areas, False),
    (_turn, False),
)
"""What happens meanwhile, and whether it must be noticed."""


def run_changing_rows(data: memoryview) -> None:
    """Some rows are taken before the bytes change, the others after; lazy ones are looked at only then."""
    number = choice(data)
    shape, fields = _SHAPES[number % len(_SHAPES)]
    change, noticed = _CHANGES[(number >> 8) % len(_CHANGES)]
    page = _page()
    shared = _OTHER.place(data)
    if number & 0x10000:
        given = rows.read_rows(Source(shared, page, _TRUNCATIONS), 0, len(shared), *EVERY, 0, True, shape, fields)
    elif len(data) >= _HEADER.size and change is not _zero:
        area = shared[_HEADER.size :]
        try:
            header = _HEADER.unpack_from(data)
            given = rows.decode_rows(Source(area, page, _TRUNCATIONS), header, *EVERY, shape, fields)
        except MALFORMED:
            return
    else:
        return
    taken = [row for row, _ in zip(given, range(number >> 20 & 3), strict=False)]
    change(shared)
    _look_again(given, taken, shape, noticed and bool(choice(data)))


def _look_again(given: Any, taken: list[Any], shape: int, noticed: bool) -> None:
    """Zeros where a CRC of 0 stood are not told apart by it."""
    behind: list[Any] = []
    with suppress(LogTruncated, *MALFORMED):
        behind.extend(given)
    if behind and noticed and taken:
        raise AssertionError(f"{len(behind)} rows of a log that was truncated")
    if shape == rows.SHAPE_LAZY:
        for row in taken:
            try:
                row.record()
            except (LogTruncated, *MALFORMED):
                continue
            if noticed:
                raise AssertionError("a lazy record of a log that was truncated")


def run_source(data: memoryview) -> None:
    """A state page of any size and place: refused, or looked at inside of it; also by who was refused."""
    source = Source.__new__(Source) if kernels.KERNELS == "native" else None
    truncations = int.from_bytes(data[:8], "little", signed=True)
    at = len(data) % 9
    try:
        if source is None:
            source = Source(data, data[at:] if len(data[at:]) >= tail.STATE_SIZE else None, truncations)
        else:
            source.__init__(data, data[at:], truncations)  # type: ignore[misc]
    except ValueError:
        assert source is not None
        source.check()
    with suppress(LogTruncated):
        source.check()
    if len(source) != len(data):
        raise AssertionError(f"a source of {len(source)} bytes, not {len(data)}")


def source_seeds() -> list[bytes]:
    """Short pages, one of the least size, and a whole one."""
    return [bytes(size) for size in (0, 8, 120, 127, 128, 129, 136)] + [bytes(120) + b"\5" + bytes(3975)]


# -- followers -------------------------------------------------------------------------------------------------

_PLACE_CODE = "qqibb"
_PLACE = struct.Struct(">" + _PLACE_CODE)


class Map(np.ndarray[Any, Any]):
    """What stands in for a map: bytes, and whether they can be believed. Asked for that, something may happen."""

    after: int = 0

    @property
    def broken(self) -> bool:
        """Asked when everything has been read."""
        if self.after == 1:
            _count(memoryview(b""))
        return self.after == 2


def follow_seeds() -> list[bytes]:
    """Batches that are published, in part, and behind a place that is not their beginning."""
    found = []
    for data in batch_seeds():
        first, last = struct.unpack_from(">q", data)[0], struct.unpack_from(">i", data, 23)[0]
        for limit, position in ((first + last + 1, 0), (first + last, 0), (INT64_MAX, 0), (first + 1, 3)):
            found.append(_PLACE.pack(limit, first, position, 0x27, 0) + data)
    return found


def run_follower(data: memoryview) -> None:
    """It gives what `decode` finds below the published end, in order, and stands behind it; or says to look again."""
    if len(data) <= _PLACE.size:
        return
    limit, next_offset, position, mask, after = _PLACE.unpack_from(data)
    log = np.frombuffer(data[_PLACE.size :], np.uint8).view(Map)
    log.after = after % 4
    page = _page(limit)
    try:
        one = follow.Follower(
            page, log, tail.HIGH_WATERMARK, position, next_offset, _GENERATION, _TRUNCATIONS, mask & 0x7F
        )
    except IndexError:
        if 0 <= position <= len(log):
            raise
        return
    for max_count in (1, 1000):
        given = one.follow(max_count, 0, 0)
        if not given:
            if (one.position, one.next_offset) != (position, next_offset):
                raise AssertionError("it moved and gave nothing")
            return
        if log.after in (1, 2):
            raise AssertionError("records that must not be believed")
        start, first = position, next_offset
        position, next_offset = one.position, one.next_offset
        if not start < position <= len(log) or not first < next_offset <= limit:
            raise AssertionError(f"from {start}, {first} to {position}, {next_offset}, below {limit}")
        expected = decode.read_records(log, start, position, first, next_offset, len(data), 0, True)
        if expected != (given, position):
            raise AssertionError(f"{given}, not {expected}")


# -- columns ---------------------------------------------------------------------------------------------------

_ROWS = 64
_ARRAYS = tuple(np.zeros(_ROWS, np.int64) for _ in range(6))
_COLUMNS = tuple(array.data.cast("B") for array in _ARRAYS)


def _gathered(data: memoryview, positions: Any, lengths: Any) -> list[bytes | None]:
    """A column as Arrow has it, taken apart."""
    count = len(lengths)
    ends, valid = np.empty(count + 1, np.int64), np.empty((count + 7) // 8, np.uint8)
    total, nulls = gather.measure_parts(lengths.data, ends.data, valid.data)
    out = np.empty(total, np.uint8)
    if gather.copy_parts(data, positions.data, lengths.data, out.data) != total:
        raise AssertionError("as many bytes as were measured")
    bits = np.unpackbits(valid, bitorder="little")[:count].tolist()
    if nulls != count - sum(bits):
        raise AssertionError(f"{nulls} nulls, but {count - sum(bits)} bits")
    parts, bounds = out.tobytes(), ends.tolist()
    return [parts[bounds[row] : bounds[row + 1]] if bits[row] else None for row in range(count)]


def run_columns(data: memoryview) -> None:
    """Keys and values out of whole batches, gathered as for Arrow, are those of the records."""
    try:
        row, position = decode.read_columns(data, 0, len(data), *EVERY, _COLUMNS, 0, 7, True)
    except MALFORMED:
        return
    expected = decode.read_records(data, 0, position, *EVERY, len(data), 0, False)[0] if position else []
    offset, timestamp, key_at, key_size, value_at, value_size = (array[:row] for array in _ARRAYS)
    keys, values = _gathered(data, key_at, key_size), _gathered(data, value_at, value_size)
    found = list(zip(offset.tolist(), timestamp.tolist(), keys, values, strict=True))
    if found != [record[:4] for record in expected]:
        raise AssertionError(f"{found}, not {expected}")


_PAIR = 16


def gather_seeds() -> list[bytes]:
    """A number of rows; the positions and lengths of that many parts; bytes in which they lie, or not."""
    data = bytes(range(200))
    parts: tuple[list[tuple[int, int]], ...] = (
        [],
        [(0, 200)],
        [(n * 9, n * 9) for n in range(14)],
        [(5, -1), (0, 0), (199, 1), (200, 0), (0, 17)],
        [(1, 255), (0, 300), (INT64_MAX, 1), (-1, 1), (0, INT64_MAX)],
    )
    found = []
    for rows_ in parts:
        for order in (rows_, rows_[::-1]):
            words = [place for place, _ in order] + [size for _, size in order]
            found.append(bytes([len(order), 40]) + struct.pack(f"<{len(words)}q", *words) + data)
    return found


def run_gather(data: memoryview) -> None:
    """Positions and lengths that nobody has checked: refused, or copied as slices are."""
    if len(data) < 2:
        return
    count = min(data[0], (len(data) - 2) // _PAIR)
    positions, lengths = (data[2 + 8 * n * count : 2 + 8 * (n + 1) * count] for n in (0, 1))
    area = data[2 + _PAIR * count :]
    ends, valid = bytearray(8 * (count + 1)), bytearray((count + 7) // 8)
    places = list(zip(struct.unpack(f"<{count}q", positions), struct.unpack(f"<{count}q", lengths), strict=True))
    try:
        total, nulls = gather.measure_parts(lengths, ends, valid)
    except ValueError:
        if sum(max(size, 0) for _, size in places) <= 1 << 62:
            raise
        return
    if (total, nulls) != (sum(max(size, 0) for _, size in places), sum(size < 0 for _, size in places)):
        raise AssertionError(f"{total} bytes, {nulls} nulls in {places}")
    inside = all(size <= 0 or 0 <= start <= len(area) - size for start, size in places)
    out = _OTHER.place(bytes(min(total, SIZE_MAX) if data[1] % 4 else data[1]))
    try:
        end = gather.copy_parts(area, positions, lengths, out)
    except (IndexError, ValueError):
        if inside and total <= len(out):
            raise
        return
    expected = b"".join(bytes(area[start : start + size]) for start, size in places if size > 0)
    if end != total or out[:end] != expected:
        raise AssertionError(f"{bytes(out[:end])!r}, not {expected!r}")


_FOLLOW_PLACES = places_behind(_PLACE_CODE, HEADER_PLACES)

TARGETS = (
    Target("rows", run_rows, batch_seeds, 5, seal_batches, HEADER_PLACES, factor=2 * RECORD_FACTOR),
    Target("changing-rows", run_changing_rows, batch_seeds, 8, seal_batches, HEADER_PLACES, factor=RECORD_FACTOR),
    Target("source", run_source, source_seeds, 2),
    Target(
        "follower",
        run_follower,
        follow_seeds,
        10,
        fix_behind(_PLACE.size, seal_batches),
        _FOLLOW_PLACES,
        factor=2 * RECORD_FACTOR,
    ),
    Target("columns", run_columns, batch_seeds, 8, seal_batches, HEADER_PLACES, factor=2 * RECORD_FACTOR),
    Target("gather", run_gather, gather_seeds, 6, None, tuple((2 + 8 * n, "q") for n in range(8)), factor=32),
)

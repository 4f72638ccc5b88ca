"""The kernels: batches, records, indexes; and the native ones against their pure twins."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import numpy as np

from eventcore import _kernels as kernels
from eventcore._pure import batch as pure_batch
from eventcore._pure import decode as pure_decode
from eventcore._pure import index as pure_index
from eventcore.errors import StorageError
from tests.fuzz.mutate import put_crc
from tests.fuzz.target import MALFORMED, Target
from tests.golden.vectors import BATCHES, OFFSET_INDEX_ENTRY, TIME_INDEX_ENTRIES
from tests.parity import twins
from tests.parity.twins import EVERY, INT64_MAX

batch, decode, index = kernels.batch, kernels.decode, kernels.index

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_AT, _CODEC_AT, _LAST_DELTA_AT, _COUNT_AT = 8, 22, 23, 57
_CODES = "qiibIhiqqqhii"
HEADER_PLACES = tuple(
    (offset, code.lower()) for offset, code in zip(batch.offsets().values(), _CODES, strict=True) if code != "I"
)
ROWS = 24
"""Rows of the tables that the kernels fill; a batch of more records does not fit."""
_ROW_TABLE = np.zeros((4, batch.ROW_SIZE), np.int64).data.cast("B")
_ARRAYS = tuple(np.zeros(ROWS, np.int64) for _ in range(6))
_COLUMNS = tuple(array.data.cast("B") for array in _ARRAYS)


def batch_seeds() -> list[bytes]:
    """Kafka's batches, and the least and the most that a record may be."""
    area = b"".join(twins.RECORDS)
    long = twins.record(9, -700, b"k" * 130, b"v" * 300, tuple((b"h%d" % n, b"x" * n) for n in range(5)))
    return [
        *(golden.data for golden in BATCHES),
        BATCHES[0].data + twins.batch(area, 3, base_offset=102),
        twins.SMALL,
        twins.batch(twins.record(0, key=None, value=None), 1, attributes=8),
        twins.batch(area + long, 4, last_offset_delta=9, producer=(7, 1, 5)),
        twins.batch(b"".join(twins.record(n) for n in range(20)), 20, last_offset_delta=19),
        twins.batch(twins.record(100, 900, None, None) + twins.record(200, 900, b"", None), 2, last_offset_delta=200),
        twins.batch(b"?" * 40, 3, attributes=4),
    ]


def frame_records(data: bytearray, rng: Random) -> None:
    """Make the records of a batch that is all of the input end where it ends, mostly, and be as many as it says."""
    position, count = batch.HEADER_SIZE, 0
    while position < len(data):
        size, body = _short_varint(data, position)
        left = len(data) - body
        if not 0 < size <= left:
            framed = twins.varint(left)
            data[position:body] = framed
            size, body = left, position + len(framed)
        position, count = body + size, count + 1
    if count and rng.random() < 0.8:
        last = int.from_bytes(data[_LAST_DELTA_AT : _LAST_DELTA_AT + 4], "big", signed=True)
        struct.pack_into(">i", data, _LAST_DELTA_AT, max(last, count - 1))
        struct.pack_into(">i", data, _COUNT_AT, count)


def _short_varint(data: bytearray, position: int) -> tuple[int, int]:
    """A length of one or two bytes, and where it ends; -1 for a longer one."""
    first = data[position]
    if first < 0x80 or position + 1 == len(data):
        return (first >> 1 if first < 0x80 else -1), position + 1
    second = data[position + 1]
    return ((first & 0x7F | second << 7) >> 1 if second < 0x80 else -1), position + 2


def fix_records(data: bytearray, rng: Random) -> None:
    """For who reads records without their batch."""
    if len(data) > batch.HEADER_SIZE and rng.random() < 0.6:
        frame_records(data, rng)


def seal_batches(data: bytearray, rng: Random) -> None:
    """Make the lengths fit what is there, mostly, and the CRC of each batch that has a length right."""
    is_compressed = len(data) > _CODEC_AT and data[_CODEC_AT] & 7
    if not is_compressed and rng.random() < 0.3:
        data[_LENGTH_AT : _LENGTH_AT + 4] = max(len(data) - batch.PREFIX_SIZE, 0).to_bytes(4, "big")
        fix_records(data, rng)
    position = 0
    while len(data) - position >= batch.HEADER_SIZE:
        left = len(data) - position - 12
        length = int.from_bytes(data[position + 8 : position + 12], "big")
        if not 49 <= length <= left:
            if rng.random() < 0.3:
                return
            data[position + 8 : position + 12] = left.to_bytes(4, "big")
            length = left
        if rng.random() < 0.97:
            data[position + 16] = 2
            put_crc(data, position + 17, position + 21, position + 12 + length)
        position += 12 + length


def check_place(error: StorageError, data: memoryview) -> None:
    """An error says where, and that is inside of what was read."""
    if error.position is None or not 0 <= error.position <= len(data):
        raise AssertionError(f"position {error.position} of {len(data)}") from error


def run_batches(data: memoryview) -> None:
    """Everything that finds batches, and reads whole ones."""
    end = len(data)
    count, position, status = batch.scan(data, 0, end, _ROW_TABLE, True)
    if not 0 <= position <= end or not 0 <= count <= 4 or not 0 <= status <= batch.UNSUPPORTED:
        raise AssertionError(f"scan says {count} {position} {status}")
    unverified, _, _ = batch.scan(data, 0, end, _ROW_TABLE, False)
    if unverified < count:
        raise AssertionError(f"{count} batches with a CRC, {unverified} without")
    stop, _, _ = batch.digest_headers(data, 0, end)
    if not 0 <= stop <= end:
        raise AssertionError(f"digest_headers says {stop}")
    base = 0
    try:
        fields = batch.read_header(data, 0)
        base = fields[0]
        batch.crc_holds(data, 0)
        batch.find_offset(data, 0, end, base + fields[6])
        batch.find_timestamp(data, 0, end, fields[8], base)
    except MALFORMED as error:
        check_place(error, data)
    _read(data, EVERY, 0, False)
    _read(data, EVERY, 7, True)
    _read(data, (base, min(base + 2, INT64_MAX)), 0x27, True)


def _read(data: memoryview, offsets: tuple[int, int], mask: int, verify: bool) -> None:
    end = len(data)
    try:
        _, position = decode.read_records(data, 0, end, *offsets, 1000, mask, verify)
        if not 0 <= position <= end:
            raise AssertionError(f"read_records says {position}")
    except MALFORMED as error:
        check_place(error, data)
    try:
        row, position = decode.read_columns(data, 0, end, *offsets, _COLUMNS, 1, mask, verify)
        if not 1 <= row <= ROWS or not 0 <= position <= end:
            raise AssertionError(f"read_columns says {row} {position}")
        _check_rows(row, end)
    except MALFORMED as error:
        check_place(error, data)


def _check_rows(end_row: int, end: int) -> None:
    """Keys and values lie inside of what was read."""
    for row in range(1, end_row):
        for position, length in ((_ARRAYS[2], _ARRAYS[3]), (_ARRAYS[4], _ARRAYS[5])):
            start, size = int(position[row]), int(length[row])
            if not -1 <= size <= end or not 0 <= start <= end - max(size, 0):
                raise AssertionError(f"row {row}: {size} bytes at {start} of {end}")


def run_records(data: memoryview) -> None:
    """Everything that reads a records area. The first 61 bytes say what its header said, plausible or not."""
    if len(data) < _HEADER.size:
        return
    fields, area = _HEADER.unpack_from(data), data[_HEADER.size :]
    checked = True
    try:
        low, high, null_keys = decode.check_records(area, fields)
        if low > high or null_keys < 0:
            raise AssertionError(f"check_records says {low} {high} {null_keys}")
    except MALFORMED as error:
        check_place(error, area)
        checked = False
    try:
        found = decode.decode_records(area, fields, *EVERY)
    except MALFORMED as error:
        check_place(error, area)
        # Append time: the records' own timestamps, which may leave the 64 bits, are not looked at.
    else:
        if checked and len(found) > max(fields[12], 0):
            raise AssertionError(f"{len(found)} records of {fields[12]}")
    try:
        row = decode.decode_columns(area, fields, fields[0], INT64_MAX, _COLUMNS, 1, 0)
        _check_rows(row, len(area))
    except MALFORMED as error:
        check_place(error, area)
    except ValueError:
        if fields[12] <= ROWS - 1:
            raise


def index_seeds() -> list[bytes]:
    """Entries of both sizes, with and without zeros behind them."""
    offsets = b"".join(struct.pack(">ii", 3 * n, 900 * n) for n in range(1, 40))
    times = b"".join(struct.pack(">qi", twins.NOW + n, 3 * n) for n in range(1, 40))
    return [
        OFFSET_INDEX_ENTRY,
        TIME_INDEX_ENTRIES,
        OFFSET_INDEX_ENTRY + bytes(64),
        offsets,
        times,
        offsets + bytes(100),
    ]


_TARGETS = np.array([-(1 << 63), -1, 0, 42, 60, 1 << 31, (1 << 63) - 1, *range(30)], np.int64)
_FOUND = np.zeros(len(_TARGETS), np.int64)


def run_index(data: memoryview) -> None:
    """Every search in the entries of an index."""
    for entry_size in (index.OFFSET_ENTRY_SIZE, index.TIME_ENTRY_SIZE):
        count = index.count_entries(data, entry_size)
        if not 0 <= count <= len(data) // entry_size:
            raise AssertionError(f"{count} entries of {entry_size} bytes in {len(data)}")
    count = len(data) // index.OFFSET_ENTRY_SIZE
    targets = (-(1 << 63), -1, 0, 42, (1 << 63) - 1, int.from_bytes(data[:4], "big"))
    for target in targets:
        found = index.find_offset(data, count, target)
        if found is not None and found[0] > target:
            raise AssertionError(f"{found} for {target}")
        found = index.find_timestamp(data, len(data) // index.TIME_ENTRY_SIZE, target)
        if found is not None and found[0] > target:
            raise AssertionError(f"{found} for {target}")
    index.find_offsets(data, count, _TARGETS.data.cast("B"), _FOUND.data.cast("B"))


def _sorted(data: bytes, entry_size: int) -> bytes:
    """The entries of an index in order. In one that is not, the twins find different ones of many wrong places."""
    code = ">ii" if entry_size == 8 else ">qi"
    entries = struct.iter_unpack(code, data[: len(data) // entry_size * entry_size])
    return b"".join(struct.pack(code, *entry) for entry in sorted(entries))


def _outcomes(module_batch: Any, module_decode: Any, module_index: Any, data: bytes) -> list[Any]:
    end, outcome = len(data), twins.outcome
    rows = np.zeros((4, batch.ROW_SIZE), np.int64)
    arrays = [np.zeros(ROWS, np.int64) for _ in range(6)]
    columns = tuple(array.data.cast("B") for array in arrays)
    found: list[Any] = [
        outcome(module_batch.read_header, data),
        outcome(module_batch.crc_holds, data),
        outcome(module_batch.scan, data, 0, end, rows.data.cast("B"), True),
        rows.tolist(),
        outcome(module_batch.digest_headers, data, 0, end),
        outcome(module_batch.find_offset, data, 0, end, 101),
        outcome(module_decode.read_records, data, 0, end, *EVERY, 99, 0, False),
        outcome(module_index.count_entries, data, 8),
        outcome(module_index.find_offset, _sorted(data, 8), end // 8, 42),
        outcome(module_index.find_timestamp, _sorted(data, 12), end // 12, 42),
    ]
    columns_found = outcome(module_decode.read_columns, data, 0, end, 100, 103, columns, 0, 0, False)
    found.append(columns_found)
    if columns_found[0] == "result":
        found += [array.tolist() for array in arrays]
    if end >= _HEADER.size:
        fields = _HEADER.unpack_from(data)
        found.append(outcome(module_decode.check_records, data[_HEADER.size :], fields))
    return found


def run_twins(data: memoryview) -> None:
    """Native and pure kernels say the same, class and position of an error included."""
    native = _outcomes(batch, decode, index, bytes(data))
    pure = _outcomes(pure_batch, pure_decode, pure_index, bytes(data))
    if native != pure:
        different = [at for at, (a, b) in enumerate(zip(native, pure, strict=True)) if a != b]
        raise AssertionError(f"native and pure differ in outcomes {different}")


RECORD_FACTOR = 64
"""A record of 7 bytes becomes a tuple of five objects."""

TARGETS = (
    Target("batches", run_batches, batch_seeds, 28, seal_batches, HEADER_PLACES, factor=RECORD_FACTOR),
    Target("records", run_records, batch_seeds, 28, fix_records, HEADER_PLACES, factor=RECORD_FACTOR),
    Target("index", run_index, index_seeds, 10),
    Target("twins", run_twins, batch_seeds, 1, seal_batches, HEADER_PLACES, factor=4 * RECORD_FACTOR),
)

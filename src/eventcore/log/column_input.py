"""Columns that somebody wants to append: checked, and brought into the shape that the kernel takes.

A column is bytes back to back and the rows + 1 offsets into them, as Arrow has it. Its buffers are used in place and
pinned while they are read; each offset is loaded once, and compared with the bytes there are before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eventcore.errors import UsageError

_BINARY = ("binary", "string", "large_binary", "large_string")
_FORMS = "give (data, offsets), (data, offsets, nulls), a 2-D uint8 array, or an Arrow array of binary or string"

_INT64 = np.dtype(np.int64)

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """`offsets` are int64; `nulls` a byte a row, 1 for null, or None if there is no null."""

    data: Any = None
    offsets: Array | None = None
    nulls: Array | None = None

    def part(self, start: int, stop: int) -> Column:
        """The rows [start, stop)."""
        if self.offsets is None:
            return self
        return Column(self.data, self.offsets[start : stop + 1], None if self.nulls is None else self.nulls[start:stop])


NOTHING = Column()


class Columns(NamedTuple):
    """Records as columns; `largest` is how many of them a batch may have, 0: as many as fit."""

    rows: int
    keys: Column = NOTHING
    values: Column = NOTHING
    timestamps: Array | None = None
    largest: int = 0

    def arguments(self) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
        """What the kernel takes, in its order; see `encode.encode_columns`."""
        return (*self.keys, *self.values, self.timestamps)

    def parts(self) -> Iterator[Columns]:
        """The same rows, a batch each."""
        for start in range(0, self.rows, self.largest):
            stop = min(start + self.largest, self.rows)
            times = None if self.timestamps is None else self.timestamps[start:stop]
            yield Columns(stop - start, self.keys.part(start, stop), self.values.part(start, stop), times)


def taken(values: Any, keys: Any, timestamps: Any, largest: int = 0) -> Columns:
    """The columns of one append. Raises UsageError for what cannot be columns of equal length."""
    value, key = _column("values", values), _column("keys", keys)
    times = None if timestamps is None else _timestamps(timestamps)
    counts = [
        len(array) - extra for array, extra in ((value.offsets, 1), (key.offsets, 1), (times, 0)) if array is not None
    ]
    if not counts:
        raise UsageError("no column at all", hint="give at least values, keys or timestamps")
    if counts.count(counts[0]) < len(counts):
        raise UsageError(f"columns of unequal length: {', '.join(map(str, counts))} rows")
    return Columns(counts[0], key, value, times, largest)


def _column(name: str, column: Any) -> Column:
    if column is None:
        return NOTHING
    if type(column) is tuple and len(column) in (2, 3):
        return _from_buffers(name, *column)
    if isinstance(column, np.ndarray):
        return _from_fixed(name, column)
    if hasattr(column, "__arrow_c_array__") or hasattr(column, "__arrow_c_stream__"):
        return _from_arrow(name, column)
    raise UsageError(f"{name} of type {type(column).__name__} are no column", hint=_FORMS)


def _from_buffers(name: str, data: Any, offsets: Any, nulls: Any = None) -> Column:
    starts = _integers(f"the offsets of {name}", offsets)
    if not len(starts):
        raise UsageError(f"the offsets of {name} are empty", hint="there is one more offset than there are rows")
    return Column(_bytes(name, data), starts, None if nulls is None else _flags(name, nulls, len(starts) - 1))


def _bytes(name: str, data: Any) -> Any:
    if type(data) is not bytes and not memoryview(data).c_contiguous:
        raise UsageError(f"the bytes of {name} are not contiguous", hint="copy them, e.g. numpy.ascontiguousarray")
    return data


def _integers(what: str, numbers: Any) -> Array:
    if type(numbers) is np.ndarray and numbers.dtype is _INT64 and numbers.ndim == 1 and numbers.flags.c_contiguous:
        return numbers
    found = np.asarray(numbers)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not found.flags.c_contiguous:
        shape = f"{found.dtype} of {found.ndim} dimensions"
        raise UsageError(f"{what} are {shape}", hint="give a contiguous one-dimensional array of int32 or int64")
    if found.dtype == np.uint64 and len(found) and found.max() > np.iinfo(np.int64).max:
        raise UsageError(f"{what} leave the 64 bits")
    return found.astype(np.int64, copy=False)


def _flags(name: str, nulls: Any, rows: int) -> Array:
    found = np.asarray(nulls)
    if found.shape != (rows,) or found.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        hint = "give an array of bool, True where a row is null"
        raise UsageError(f"the nulls of {name} are {found.dtype} of shape {found.shape} for {rows} rows", hint=hint)
    return np.ascontiguousarray(found).view(np.uint8)


def _from_fixed(name: str, array: Array) -> Column:
    if array.ndim != 2 or array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise UsageError(f"{name} are an array of {array.dtype} and shape {array.shape}", hint=_FORMS)
    rows, width = array.shape
    return Column(array.reshape(-1), np.arange(rows + 1, dtype=np.int64) * width)


def _from_arrow(name: str, column: Any) -> Column:
    try:
        import nanoarrow as na
    except ImportError:
        raise UsageError("Arrow columns need nanoarrow", hint="pip install 'eventcore[arrow]'") from None
    array = na.Array(column)
    kind = array.schema.type.name.lower()
    if kind not in _BINARY:
        raise UsageError(f"{name} are an Arrow array of {kind}", hint=f"cast it to one of {', '.join(_BINARY)}")
    if array.n_chunks == 0:
        return Column(b"", np.zeros(1, np.int64))
    if array.n_chunks != 1:
        raise UsageError(f"{name} have {array.n_chunks} chunks", hint="append chunk by chunk, or combine them first")
    chunk = array.chunk(0) if hasattr(array, "chunk") else next(iter(array.iter_chunks()))
    valid, offsets, data = chunk.buffers
    start, rows = chunk.offset, len(chunk)
    nulls = None
    if len(valid):
        bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
        nulls = 1 - bits[start : start + rows]
    numbers = np.asarray(offsets)[start : start + rows + 1]
    return Column(data, numbers.astype(np.int64, copy=False) if rows else np.zeros(1, np.int64), nulls)


def _timestamps(timestamps: Any) -> Array:
    found = np.asarray(timestamps)
    if found.ndim == 1 and found.dtype.kind == "M":
        if np.isnat(found).any():
            raise UsageError("a timestamp is NaT", hint="leave the column out for now, or fill it")
        found = found.astype("datetime64[ms]").astype(np.int64)
    times = _integers("timestamps", found)
    if len(times) and times.min() < 0:
        raise UsageError(f"the timestamp of row {int(np.argmin(times))} is negative", hint="give ms since the epoch")
    return times

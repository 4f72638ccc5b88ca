"""Records as columns: int64 numpy arrays, and one buffer that the key and value positions point into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eventcore import _kernels as kernels
from eventcore.errors import UsageError
from eventcore.log import arrow_arrays
from eventcore.types import Header

Int64Array = npt.NDArray[np.int64]
NAMES = ("offset", "timestamp", "key", "value")
"""What is read if nothing is asked for; "headers", as a list, are read only if they are."""
ALL_NAMES = (*NAMES, "headers")
_ARRAYS = ("offset", "timestamp", "key_position", "key_length", "value_position", "value_length")
_OWNERS = ("offset", "timestamp", "key", "key", "value", "value")


def checked_names(names: Sequence[str] | None, allowed: Sequence[str]) -> tuple[str, ...]:
    """Column or field names, in the order asked for. Raises UsageError, which names what there is."""
    hint = f"there are {', '.join(allowed)}"
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UsageError(f"columns must be a sequence of names, not {type(names).__name__}", hint=hint)
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        raise UsageError(f"there is no column {unknown[0]!r}" if unknown else "no column was asked for", hint=hint)
    if len(set(names)) < len(names):
        raise UsageError("a column was asked for twice", hint=hint)
    return tuple(names)


class ColumnBatch:
    """Columns of equal length. A length of -1 means null; positions count bytes in `buffer`.

    Where the records lie uncompressed in one segment, `buffer` is that mapped segment and nothing was copied. It and
    the arrays stay valid as long as they are referenced, whatever happens to the log, with one exception: a truncation
    changes bytes of the buffer in place. `key`, `value` and `to_arrow` raise LogTruncated then; who takes bytes from
    the buffer calls `check` afterwards. Columns that were not asked for are not there.
    """

    offset: Int64Array
    timestamp: Int64Array
    key_position: Int64Array
    key_length: Int64Array
    value_position: Int64Array
    value_length: Int64Array
    headers: list[tuple[Header, ...]]
    partition: int = 0
    """In a scan of several, the number of the one it comes from."""

    def __init__(
        self,
        arrays: Sequence[Int64Array | None],
        buffer: memoryview,
        source: kernels.source.Source | None = None,
        headers: list[tuple[Header, ...]] | None = None,
    ) -> None:
        found = {name: array for name, array in zip(_ARRAYS, arrays, strict=True) if array is not None}
        for name, array in found.items():
            setattr(self, name, array)
        if headers is not None:
            self.headers = headers
        self.buffer = buffer
        self.source = source
        self._rows = len(next(iter(found.values()))) if found else len(headers or ())

    def __len__(self) -> int:
        return self._rows

    def __getattr__(self, name: str) -> Any:
        wanted = dict(zip(_ARRAYS, _OWNERS, strict=True)).get(name, name)
        if wanted in ALL_NAMES:
            raise AttributeError(f"{name} was not read; ask for it: columns=[{wanted!r}, ...]")
        raise AttributeError(f"a ColumnBatch has no {name}")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that were read."""
        return tuple(name for name in ALL_NAMES if {name, f"{name}_length"} & vars(self).keys())

    def check(self) -> None:
        """Raise LogTruncated if the buffer may not hold any more what it held, MappingFault if it never did."""
        if self.source is not None:
            self.source.check()

    def key(self, row: int) -> bytes | None:
        """The key of one row."""
        return self._bytes(self.key_position[row], self.key_length[row])

    def value(self, row: int) -> bytes | None:
        """The value of one row."""
        return self._bytes(self.value_position[row], self.value_length[row])

    def _bytes(self, position: int, length: int) -> bytes | None:
        found = None if length < 0 else bytes(self.buffer[position : position + length])
        self.check()
        return found

    def as_list(self) -> list[Int64Array | None]:
        """The six arrays, None where one was not asked for."""
        return [vars(self).get(name) for name in _ARRAYS]

    def where(self, chosen: npt.NDArray[np.bool_], columns: Sequence[str] | None = None) -> ColumnBatch:
        """The rows that are true in `chosen`, or some of their columns, over the same buffer."""
        names = self.names if columns is None else checked_names(columns, self.names)
        headers = [self.headers[row] for row in np.flatnonzero(chosen)] if "headers" in names else None
        arrays = [
            array[chosen] if array is not None and owner in names else None
            for array, owner in zip(self.as_list(), _OWNERS, strict=True)
        ]
        return ColumnBatch(arrays, self.buffer, self.source, headers)

    def to_arrow(self) -> Any:
        """The columns as a nanoarrow array of structs (extra `arrow`): offset int64, timestamp in ms, UTC, key and
        value large binary. Keys and values are copied, out of the buffer into buffers of their own.
        """
        return arrow_arrays.load().Array(arrow_arrays.struct_array(self, self.names))


class Table:
    """Arrays of some columns to be filled, `rows` long."""

    def __init__(self, names: Sequence[str], rows: int) -> None:
        wanted = [owner in names for owner in _OWNERS]
        block = np.empty((sum(wanted), rows), dtype=np.int64)  # in one piece: far fewer faults with huge pages
        columns = iter(block)
        self.arrays = [next(columns) if is_wanted else None for is_wanted in wanted]

    def buffers(self, low: int = 0, high: int | None = None) -> Any:
        """Rows [low, high) as a kernel takes them."""
        return tuple(None if array is None else array[low:high].data.cast("B") for array in self.arrays)

    def move(self, low: int, high: int, to: int) -> None:
        """Move rows [low, high) down, so that the first of them becomes row `to`."""
        for array in self.arrays:
            if array is not None and to < low:
                array[to : to + high - low] = array[low:high]

    def slices(self, rows: int) -> list[Int64Array | None]:
        """The first rows."""
        return [None if array is None else array[:rows] for array in self.arrays]

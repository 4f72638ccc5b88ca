"""Columns as Arrow arrays, made by nanoarrow (extra `arrow`) of buffers that a kernel fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eventcore import _kernels as kernels
from eventcore.errors import UsageError


def load() -> Any:
    """The nanoarrow package."""
    try:
        import nanoarrow
    except ImportError:
        raise UsageError("Arrow arrays need nanoarrow", hint="pip install 'eventcore[arrow]'") from None
    return nanoarrow


def column_type(name: str) -> Any:
    """The Arrow type of a column."""
    na = load()
    if name == "timestamp":
        return na.timestamp("ms", timezone="UTC")
    if name in ("key", "value"):
        return na.large_binary()
    if name == "headers":
        return na.list_(na.struct({"key": na.string(), "value": na.binary()}))
    return na.int32() if name == "partition" else na.int64()


def schema(names: Sequence[str]) -> Any:
    """The schema of some columns."""
    return load().struct({name: column_type(name) for name in names})


def struct_array(batch: Any, names: Sequence[str], partition: int = -1) -> Any:
    """The columns of a ColumnBatch as one nanoarrow struct array; `partition` is the same for all rows."""
    na = load()
    made = {
        "offset": lambda: _numbers(na, "offset", batch.offset),
        "timestamp": lambda: _numbers(na, "timestamp", batch.timestamp),
        "key": lambda: _binary(na, batch.buffer, batch.key_position, batch.key_length),
        "value": lambda: _binary(na, batch.buffer, batch.value_position, batch.value_length),
        "headers": lambda: _headers(na, batch.headers),
        "partition": lambda: _numbers(na, "partition", np.full(len(batch), partition, dtype=np.int32)),
    }
    children = [made[name]() for name in names]
    batch.check()  # the bytes are copied now
    return na.c_array_from_buffers(schema(names), len(batch), [None], null_count=0, children=children)


def _numbers(na: Any, name: str, array: Any) -> Any:
    return na.c_array_from_buffers(column_type(name), len(array), [None, array], null_count=0)


def _binary(na: Any, buffer: memoryview, positions: Any, lengths: Any) -> Any:
    rows = len(lengths)
    ends, valid = np.empty(rows + 1, dtype=np.int64), np.empty((rows + 7) // 8, dtype=np.uint8)
    total, nulls = kernels.gather.measure_parts(lengths.data, ends.data, valid.data)
    data = np.empty(total, dtype=np.uint8)
    kernels.gather.copy_parts(buffer, positions.data, lengths.data, data.data)
    return na.c_array_from_buffers(na.large_binary(), rows, [valid if nulls else None, ends, data], null_count=nulls)


def _headers(na: Any, rows: Sequence[Any]) -> Any:
    ends = np.cumsum([0, *(len(headers) for headers in rows)], dtype=np.int32)
    flat = [header for headers in rows for header in headers]
    keys = na.c_array([key for key, _ in flat], na.string())
    values = na.c_array([value for _, value in flat], na.binary())
    item = na.struct({"key": na.string(), "value": na.binary()})
    items = na.c_array_from_buffers(item, len(flat), [None], null_count=0, children=[keys, values])
    return na.c_array_from_buffers(column_type("headers"), len(rows), [None, ends], null_count=0, children=[items])

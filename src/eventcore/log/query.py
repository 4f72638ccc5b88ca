"""Scan: partitions as one table, for whoever reads Arrow streams. One batch of it is in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from eventcore import _kernels as kernels
from eventcore.clock import Time, to_ms
from eventcore.errors import UsageError
from eventcore.log import arrow_arrays
from eventcore.log.columns import ALL_NAMES, NAMES, ColumnBatch, checked_names
from eventcore.log.ranges import Isolation, is_committed
from eventcore.log.reads import Reads

_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Scan:
    """A lazy table over partitions: iterate over it for ColumnBatches, or hand it to what reads Arrow streams (DuckDB,
    Polars, pyarrow; extra `arrow`). Each time it is read it goes to the end known then.

    The columns are offset int64, timestamp in ms, UTC, key and value large binary; headers, a list of structs of key
    and value, only if asked for; partition int32 in a scan of several: the number at the end of the folder's name, else
    the place in the sequence. Rows come partition by partition, by offset.
    """

    def __init__(
        self,
        source: Reads | Sequence[Reads],
        *,
        columns: Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
        isolation: Isolation = "read_uncommitted",
        batch_rows: int = 65_536,
    ) -> None:
        many = not isinstance(source, Reads)
        self._partitions = _checked_partitions(source)
        self.schema = _checked_columns(columns, many)
        """The names of the columns."""
        if not isinstance(batch_rows, int) or batch_rows < 1:
            raise UsageError(f"batch_rows is {batch_rows!r}", hint="use how many rows there may be in memory at a time")
        is_committed(isolation)
        self._since, self._until = (None if time is None else _first_ms(time) for time in (since, until))
        if self._since is not None and self._until is not None and self._since > self._until:
            raise UsageError("since lies behind until", hint="records with since ≤ timestamp < until are read")
        self._range, self._isolation, self._rows = (start, stop), isolation, batch_rows
        for partition in self._partitions.values():
            partition.column_batches(start, stop, isolation=isolation)  # what cannot be is refused now

    def __iter__(self) -> Iterator[ColumnBatch]:
        for number, partition in self._partitions.items():
            for batch in self._batches(partition):
                batch.partition = number
                yield batch

    def _batches(self, partition: Reads) -> Iterator[ColumnBatch]:
        names = tuple(name for name in self.schema if name != "partition") or ("offset",)
        start, stop = self._range
        if self._since is None and self._until is None:
            yield from self._read(partition, start, stop, names)
            return
        if self._since is not None:
            first = partition.offset_for_time(self._since)
            if first is None or (stop is not None and first >= stop):
                return
            start = first if start is None else max(first, start)
        for batch in self._read(partition, start, stop, dict.fromkeys((*names, "timestamp"))):
            found = self._in_time(batch, names)
            if len(found):
                yield found

    def _read(self, partition: Reads, start: int | None, stop: int | None, names: Any) -> Iterator[ColumnBatch]:
        return partition.column_batches(
            start, stop, columns=tuple(names), isolation=self._isolation, batch_rows=self._rows
        )

    def _in_time(self, batch: ColumnBatch, names: Sequence[str]) -> ColumnBatch:
        chosen = batch.timestamp >= (-(1 << 63) if self._since is None else self._since)
        if self._until is not None:
            chosen &= batch.timestamp < self._until
        return batch.where(chosen, names)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The Arrow PyCapsule protocol: a stream of struct arrays. A requested schema is not taken up."""
        schema = arrow_arrays.schema(self.schema)
        arrays = (arrow_arrays.struct_array(batch, self.schema, batch.partition) for batch in self)
        return kernels.arrow.export_stream(schema, arrays, _collected)


def _first_ms(time: Time) -> int:
    """The first millisecond that does not lie before a time: as a bound it is exact."""
    rounded = to_ms(time)
    if isinstance(time, datetime):
        return -((_EPOCH - time) // timedelta(milliseconds=1))
    return rounded


def _collected(arrays: list[Any], schema: Any) -> Any:
    return arrow_arrays.load().Array.from_chunks(arrays, None if arrays else schema).__arrow_c_stream__()


def _checked_partitions(source: Any) -> dict[int, Reads]:
    """The partitions by number."""
    partitions = [source] if isinstance(source, Reads) else source
    is_list = isinstance(partitions, Sequence) and not isinstance(partitions, (str, bytes, bytearray))
    if not is_list or not all(isinstance(partition, Reads) for partition in partitions):
        raise UsageError(f"a {type(source).__name__} cannot be scanned", hint="give a partition, or a list of them")
    endings = [re.search(r"-(\d{1,9})$", partition.path.name) for partition in partitions]
    numbers = [int(found[1]) for found in endings if found]
    if len(set(numbers)) < len(partitions):
        numbers = list(range(len(partitions)))
    return dict(zip(numbers, partitions, strict=True))


def _checked_columns(columns: Sequence[str] | None, many: bool) -> tuple[str, ...]:
    first = ("partition",) if many else ()
    return (*first, *NAMES) if columns is None else checked_names(columns, (*first, *ALL_NAMES))

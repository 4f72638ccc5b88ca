"""`eventcore read`: the records of a range, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import typer

import eventcore as ec
from eventcore.cli.options import (
    AnyFolder,
    Json,
    PartitionNumber,
    TopicName,
    open_folder,
    open_store,
    time_option,
)
from eventcore.cli.output import Formatter, flush, formatter, write_records

Isolation = Literal["read_uncommitted", "read_committed"]


def read(
    path: AnyFolder,
    topic: TopicName = None,
    partition: PartitionNumber = None,
    start: Annotated[int | None, typer.Option("--from", min=0, metavar="OFFSET", help="Where to begin.")] = None,
    stop: Annotated[int | None, typer.Option("--to", min=0, metavar="OFFSET", help="Stop before this one.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, metavar="N", help="At most so many records.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin with the first record of this time: ms or ISO-8601.")
    ] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="Leave out what open and aborted transactions wrote.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print records; also while another process appends. Without options: all there are now."""
    if start is not None and stop is not None and stop < start:
        raise typer.BadParameter(f"{stop} lies below --from {start}", param_hint="--to")
    moment = time_option(since, "--since")
    if topic is None and partition is not None:
        raise typer.BadParameter("only with --topic", param_hint="--partition")
    with ExitStack() as opened:
        if topic is None:
            partitions: Sequence[ec.Partition] = [opened.enter_context(open_folder(path))]
        else:
            found = opened.enter_context(open_store(path)).topic(topic)
            partitions = found.partitions if partition is None else [found[partition]]
        if len(partitions) > 1 and (start is not None or stop is not None):
            raise typer.BadParameter("offsets are those of one partition: give --partition", param_hint="--from, --to")
        left = limit
        for one in partitions:
            left = _print(one, bounds(one, start, stop, moment, committed), committed, left, formatter(as_json))
        flush()


def _print(
    partition: ec.Partition, found: tuple[int, int], committed: bool, left: int | None, form: Formatter
) -> int | None:
    """Write the records of a range, at most `left`; how many may still follow."""
    first, end = found
    for records in partition.chunks(first, end, committed) if first < end and left != 0 else ():
        if left is not None:
            records, left = records[:left], max(left - len(records), 0)
        write_records(records, form)
        if left == 0:
            break
    return left


def bounds(
    partition: ec.Partition, start: int | None, stop: int | None, since: int | None, committed: bool
) -> tuple[int, int]:
    """The range of offsets to read. Raises OffsetOutOfRange for a start outside the log; the stop may lie beyond."""
    end, low = partition.end(committed), partition.log_start_offset
    if start is not None and not low <= start <= max(end, partition.high_watermark):
        held = f"it holds offsets {low} to {end - 1}" if low < end else f"it is empty, the next offset is {end}"
        raise ec.OffsetOutOfRange(f"offset {start} is outside {partition.path}", hint=held)
    first = low if start is None else start
    if since is not None:
        found = partition.offset_for_time(since)
        first = end if found is None else max(first, found)
    return first, end if stop is None else min(stop, end)

"""`eventcore tail`: follow a partition as it grows."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.options import Folder, Json, open_folder
from eventcore.cli.output import Formatter, flush, formatter, write_records
from eventcore.cli.read import bounds

_SLICE_S = 1.0
"""How long one sleep may last: Ctrl-C is seen between two."""


def tail(
    path: Folder,
    start: Annotated[str, typer.Option("--from", metavar="OFFSET|end", help="Where to begin.")] = "end",
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="End when nothing came for so many seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print records as they are appended, by any process. Ctrl-C ends it."""
    if start != "end" and not (start.isascii() and start.isdigit() and len(start) < 20):
        raise typer.BadParameter(f"{start!r} is neither an offset nor 'end'", param_hint="--from")
    with open_folder(path) as partition:
        offset = partition.end() if start == "end" else bounds(partition, int(start), None, None, False)[0]
        _follow(partition, offset, timeout, formatter(as_json))


def _follow(partition: ec.Partition, offset: int, timeout: float | None, form: Formatter) -> None:
    """Print [offset, end) again and again, sleeping while they are equal."""
    came = time.monotonic()
    while True:
        seen, end = partition.signal(), partition.end()
        if end < offset:
            raise ec.OffsetOutOfRange(f"the log was cut back to offset {end} while it was read at {offset}")
        if end > offset:
            for records in partition.chunks(offset, end):
                write_records(records, form)
                flush()
            offset, came = end, time.monotonic()
            continue
        left = _SLICE_S if timeout is None else came + timeout - time.monotonic()
        if left <= 0:
            return
        partition.wait(seen, min(left, _SLICE_S))

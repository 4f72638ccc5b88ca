"""`eventcore demo`: a first look. A short story of orders, then a timed bulk append, then what to try next."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.failures import CommandFailed
from eventcore.cli.options import Json, open_folder
from eventcore.cli.output import plain_bytes, print_table, size_text, time_text, write, write_json

_STORY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("OrderPlaced", "order-1001", {"customer": "ada", "item": "lamp", "quantity": 2}),
    ("OrderPlaced", "order-1002", {"customer": "grace", "item": "desk", "quantity": 1}),
    ("StockReserved", "order-1001", {"item": "lamp", "quantity": 2, "left": 40}),
    ("StockMissing", "order-1002", {"item": "desk", "wanted": 1, "left": 0}),
    ("ShipmentSent", "order-1001", {"carrier": "post", "parcels": 1}),
    ("OrderCancelled", "order-1002", {"reason": "out of stock"}),
    ("ShipmentDelivered", "order-1001", {"signed_by": "ada"}),
)
_BATCH = 10_000
_COUNTS = {"native": 1_000_000, "pure": 50_000}


def demo(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A new folder; a temporary one if left out.", show_default=False),
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="How many records to write; by default what takes a second or less.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a few orders and then many records, and show what came of it. The folder is kept."""
    count = records or _COUNTS[ec.build_info()["kernels"]]
    folder = path or Path(tempfile.mkdtemp(prefix="eventcore-")) / "orders-0"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open_folder(folder, "rw") as partition:
        if partition.log_end_offset:
            raise CommandFailed(f"{folder} holds records already; give the demo a new folder")
        offsets = partition.extend(list(_story()))
        story = partition[offsets.start : offsets.stop]
        seconds, size = _bulk(partition, count)
    facts = {
        "path": str(folder),
        "story_records": len(story),
        "bulk_records": count,
        "seconds": round(seconds, 6),
        "records_per_second": round(count / seconds),
        "bytes_per_second": round(size / seconds),
        **ec.build_info(),
    }
    if as_json:
        write_json(facts)
    else:
        _print(folder, story, facts)


def _story() -> Iterator[ec.Record]:
    """The events of two orders; the correlation id in the headers is what ties an order's events together."""
    for name, order, data in _STORY:
        headers = (("event-type", name.encode()), ("correlation-id", f"c-{order[-4:]}".encode()))
        yield ec.Record(-1, -1, order.encode(), json.dumps(data).encode(), headers)


def _bulk(partition: ec.Partition, count: int) -> tuple[float, int]:
    """Append `count` small events, each call as durable as the default makes it: (seconds, bytes of values)."""
    value = b'{"type":"SensorRead","sensor":17,"celsius":21.5,"ok":true}'
    batch = [(b"sensor-%d" % (number % 100), value) for number in range(_BATCH)]
    started = time.perf_counter()
    for start in range(0, count, _BATCH):
        partition.extend(batch[: count - start])
    return max(time.perf_counter() - started, 1e-6), count * len(value)


def _print(folder: Path, story: list[ec.Record], facts: dict[str, Any]) -> None:
    rows = [
        (
            record.offset,
            time_text(record.timestamp)[11:],
            plain_bytes(record.key),
            *(plain_bytes(data) for _, data in record.headers),
            plain_bytes(record.value),
        )
        for record in story
    ]
    write("Two orders, as events. What happened is never changed, only added to:\n")
    print_table((">offset", "time", "key", "event-type", "correlation-id", "value"), rows)
    write(
        f"\nThen {facts['bulk_records']:,} records more, safe on disk after each batch of {_BATCH:,}:\n"
        f"  {facts['records_per_second']:,} records/s ({size_text(facts['bytes_per_second'])}/s of values) "
        f"in {facts['seconds']:.2f} s, with {facts['kernels']} kernels\n"
        f"\nThe log is a Kafka log directory: {folder}\nTry next:\n"
    )
    place = shlex.quote(str(folder))
    for command in ("read {} --limit 7", "stat {}", "dump {} --records | head", "verify {}"):
        write(f"  eventcore {command.format(place)}\n")
    write(f"  eventcore tail {place} &   echo hello | eventcore append {place}\n")

"""`eventcore stat`: what a partition holds and where it stands."""

from __future__ import annotations

from typing import Any

import eventcore as ec
from eventcore.cli.options import AnyFolder, Json, is_store, open_folder
from eventcore.cli.output import plain_text, print_table, size_text, time_text, write, write_json
from eventcore.cli.stat_store import stat_store


def stat(path: AnyFolder, as_json: Json = False) -> None:
    """Show segments, watermarks, producers, the state the log was left in, and what reads it; or all of a store."""
    if is_store(path):
        stat_store(path, as_json)
        return
    with open_folder(path) as partition:
        facts = _facts(partition)
    if as_json:
        write_json(facts)
    else:
        _print(facts)


def _facts(partition: ec.Partition) -> dict[str, Any]:
    segments = _segments(partition)
    unused = partition.segments.active.log.capacity - partition.segments.active.log.size
    return {
        "path": str(partition.path),
        "segments": segments,
        "bytes": sum(segment["bytes"] for segment in segments),
        "log_start_offset": partition.log_start_offset,
        "last_stable_offset": partition.last_stable_offset,
        "high_watermark": partition.high_watermark,
        "log_end_offset": partition.log_end_offset,
        "durable_offset": partition.durable_offset,
        "leader_epoch": partition.leader_epoch,
        "producers": len(partition.producers()),
        "closed": unused == 0,
        "bytes_behind_end": unused,
        "recovery": str(partition.recovery),
        "io": partition.io or None,
        "version": ec.__version__,
        **ec.build_info(),
    }


def _segments(partition: ec.Partition) -> list[dict[str, Any]]:
    segments, rows = partition.segments, []
    for segment in segments:
        end = segments.next_base(segment)
        first = segment.header_at(0) if segment.log.size else None
        rows.append(
            {
                "base_offset": segment.base_offset,
                "next_offset": end,
                "bytes": segment.log.size,
                "offset_index_entries": segment.offset_index.count,
                "time_index_entries": segment.time_index.count,
                "first_timestamp": first.base_timestamp if first and first.delete_horizon is None else None,
                "max_timestamp": _max_timestamp(partition, segment.max_timestamp, end),
            }
        )
    return rows


def _max_timestamp(partition: ec.Partition, indexed: int, end: int) -> int | None:
    """The index of a segment that still grows is a few records behind: look at the last one, too."""
    try:
        last = [record.timestamp for chunk in partition.chunks(max(end - 1, 0), end) for record in chunk]
    except ec.StorageError:  # damaged: `verify` is there to tell
        last = []
    known = max([indexed, *last])
    return known if known >= 0 else None


def _print(facts: dict[str, Any]) -> None:
    columns = (">base offset", ">next offset", ">offsets", "size", ">index entries", "first time", "last time")
    rows = [
        (
            segment["base_offset"],
            segment["next_offset"],
            segment["next_offset"] - segment["base_offset"],
            size_text(segment["bytes"]),
            segment["offset_index_entries"] + segment["time_index_entries"],
            _time(segment["first_timestamp"]),
            _time(segment["max_timestamp"]),
        )
        for segment in facts["segments"]
    ]
    write(f"{plain_text(facts['path'])}\n")
    print_table(columns, rows)
    for name in ("log_start_offset", "last_stable_offset", "high_watermark", "log_end_offset", "durable_offset"):
        write(f"{name.replace('_', ' '):<20} {facts[name]:,}\n")
    write(f"{'leader epoch':<20} {facts['leader_epoch']}\n")
    write(f"{'producers':<20} {facts['producers']}\n")
    write(f"{'size':<20} {size_text(facts['bytes'])}\n")
    write(f"{'state':<20} {_state(facts)}\n")
    if facts["io"]:
        write(f"{'written by':<20} {facts['io']}\n")
    write(f"{'kernels':<20} {facts['kernels']}, CRC-32C {facts['crc32c']}\n")


def _time(timestamp: int | None) -> str:
    return "-" if timestamp is None else time_text(timestamp)


def _state(facts: dict[str, Any]) -> str:
    if facts["closed"]:
        return f"closed; {facts['recovery']}"
    return "open: a writer is active, or the last one was stopped and opening it for writing will check the end"

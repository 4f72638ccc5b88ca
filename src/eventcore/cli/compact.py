"""`eventcore compact`: keep the latest record of each key."""

from __future__ import annotations

from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.options import Config, Folder, Json, check_folder, config_option, open_folder
from eventcore.cli.output import print_table, size_text, write, write_json
from eventcore.cli.progress import step_progress

_MEBIBYTE = 1 << 20


def compact(
    path: Folder,
    map_mib: Annotated[
        int, typer.Option("--map-mib", min=1, help="Memory for the offset map, MiB; a small one takes more passes.")
    ] = 128,
    keep_active: Annotated[
        bool, typer.Option("--keep-active", help="Leave the records since the last roll as they are.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Keep of each key only the latest record; offsets stay, and records without a key go.

    A record without a value (a tombstone) says that its key is gone: it goes, too, with the first run after
    delete.retention.ms (--config) have passed since the first that found it.
    """
    check_folder(path)
    settings = config_option(["cleanup.policy=compact", *(config or [])])
    with open_folder(path, mode="rw", config=settings) as partition:
        if not keep_active:
            partition.roll()
        total = 2 * sum(segment.log.size for segment in partition.segments)
        with step_progress(total, not as_json) as advance:
            report = partition.compact(map_bytes=map_mib * _MEBIBYTE, throttle=advance)
    if as_json:
        write_json(_as_dict(path, report))
    else:
        _print(report)


def _as_dict(path: object, report: ec.CompactionReport | None) -> dict[str, object]:
    found = {"path": str(path), "compacted": report is not None}
    if report is None:
        return found
    losses = [loss._asdict() for loss in report.losses]
    numbers = {name: value for name, value in vars(report).items() if name != "losses"}
    return {**found, **numbers, "saved_bytes": report.saved_bytes, "losses": losses}


def _print(report: ec.CompactionReport | None) -> None:
    if report is None:
        write("nothing to compact: no record was closed off since the last time\n")
        return
    rows = [
        ("records", f"{report.records_before:,}", f"{report.records_after:,}"),
        ("bytes", size_text(report.bytes_before), size_text(report.bytes_after)),
        ("segments", f"{report.segments_before:,}", f"{report.segments_after:,}"),
    ]
    print_table(("", ">before", ">after"), rows)
    share = 100 * report.saved_bytes / report.bytes_before if report.bytes_before else 0
    write(f"saved {size_text(report.saved_bytes)} ({share:.0f} %) in {report.passes} pass(es)\n")
    for loss in report.losses:
        where = f"kept in {loss.quarantined}" if loss.quarantined else "missing"
        write(f"offsets {loss.first_offset} to {loss.next_offset - 1} were damaged: {where}\n")

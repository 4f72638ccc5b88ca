"""`eventcore snapshot`, `snapshots` and `restore`: copies of a whole store, and a store of a copy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.failures import CommandFailed
from eventcore.cli.options import Json, StoreFolder, config_pairs, open_store, time_option
from eventcore.cli.output import print_table, size_text, time_text, write, write_json
from eventcore.cli.progress import work_progress

Place = Annotated[
    str,
    typer.Argument(
        metavar="PLACE", help="A folder, or a URL (s3://, gs://, az://, file://), for snapshots.", show_default=False
    ),
]
Number = Annotated[int | None, typer.Option("--number", min=1, metavar="N", help="This one, not the newest.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="For an object store: endpoint=…, region=…; repeatable."),
]

snapshots = typer.Typer(help="Snapshots at a place: list, verify, prune.", no_args_is_help=True)


def snapshot(path: StoreFolder, place: Place, option: Options = None, as_json: Json = False) -> None:
    """Keep a copy of a whole store; beside earlier ones only what is new is stored.

    The store must not be open for writing elsewhere: a program that writes it calls store.snapshot().
    """
    with open_store(path, "rw", may_be_missing=False) as store, work_progress(not as_json) as progress:
        begun = time.monotonic()
        found = store.snapshot(place, options=config_pairs(option or []), progress=progress)
        seconds = time.monotonic() - begun
    if as_json:
        write_json({**_facts(found), "seconds": round(seconds, 3)})
        return
    write(f"snapshot {found.number} of {size_text(found.size)} in {seconds:.1f} s; new: {size_text(found.new_bytes)}\n")


def restore(
    place: Place,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new folder for the store.", show_default=False)],
    number: Number = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="As it was then: ms since the epoch, or ISO-8601 with a zone.")
    ] = None,
    until_offset: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC-PARTITION=OFFSET", help="A partition as it ended there; repeatable."),
    ] = None,
    as_replica: Annotated[
        bool, typer.Option("--as-replica", help="Leave open transactions open, for a follower to go on.")
    ] = False,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Make a store of a snapshot, in a new folder. Everything is checked before the folder gets its name."""
    if until is not None and until_offset:
        raise typer.BadParameter("give a time or offsets, not both", param_hint="--until")
    moment = _offsets(until_offset) if until_offset else time_option(until, "--until")
    begun = time.monotonic()
    with work_progress(not as_json) as progress:
        found = ec.restore(
            place,
            path,
            moment,
            number=number,
            as_replica=as_replica,
            options=config_pairs(option or []),
            progress=progress,
        )
    seconds = time.monotonic() - begun
    if as_json:
        write_json({**_facts(found), "path": str(path), "seconds": round(seconds, 3)})
        return
    rate = size_text(found.size / max(seconds, 1e-3))
    write(f"{path}: snapshot {found.number}, {size_text(found.size)} in {seconds:.1f} s ({rate}/s), all checked\n")


def _offsets(pairs: list[str]) -> dict[tuple[str, int], int]:
    found = {}
    for name, offset in config_pairs(pairs).items():
        topic, _, partition = name.rpartition("-")
        if not (topic and partition.isdecimal() and offset.isdecimal()):
            raise typer.BadParameter(f"{name}={offset} is not TOPIC-PARTITION=OFFSET", param_hint="--until-offset")
        found[topic, int(partition)] = int(offset)
    return found


@snapshots.command("list")
def list_(place: Place, option: Options = None, as_json: Json = False) -> None:
    """What there is, the oldest first."""
    found = ec.snapshots(place, options=config_pairs(option or [])).all()
    if as_json:
        write_json([_facts(one) for one in found])
        return
    rows = [
        (one.number, time_text(one.created_ms), size_text(one.size), size_text(one.new_bytes), len(one.partitions))
        for one in found
    ]
    print_table((">number", "taken", ">size", ">new", ">partitions"), rows)


@snapshots.command()
def verify(place: Place, number: Number = None, option: Options = None, as_json: Json = False) -> None:
    """Read all of every snapshot, or of one, and check it. Ends with 1 if something is wrong."""
    archive = ec.snapshots(place, options=config_pairs(option or []))
    problems = {}
    for one in archive.numbers() if number is None else [number]:
        with work_progress(not as_json) as progress:
            problems[one] = archive.verify(one, progress=progress)
        if not as_json:
            write(f"snapshot {one}: {'whole' if not problems[one] else ''}\n")
            write("".join(f"  {problem}\n" for problem in problems[one]))
    if as_json:
        write_json({str(one): found for one, found in problems.items()})
    if any(problems.values()):
        raise typer.Exit(1)
    if not problems:
        raise CommandFailed(f"there are no snapshots at {archive.place.url}")


@snapshots.command()
def prune(
    place: Place,
    keep_last: Annotated[int, typer.Option(min=1, help="The last so many stay.")] = 1,
    keep_daily: Annotated[int, typer.Option(min=0, help="And the newest of each of the last so many days (UTC),")] = 0,
    keep_weekly: Annotated[int, typer.Option(min=0, help="weeks,")] = 0,
    keep_monthly: Annotated[int, typer.Option(min=0, help="months.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which would go.")] = False,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Remove old snapshots, and what no other needs."""
    archive = ec.snapshots(place, options=config_pairs(option or []))
    removed = archive.prune(
        keep_last=keep_last,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        dry_run=dry_run,
    )
    if as_json:
        write_json({"removed": removed, "dry_run": dry_run})
        return
    text = ", ".join(map(str, removed)) or "none"
    write(f"{'would remove' if dry_run else 'removed'}: {text}\n")


def _facts(found: ec.Manifest) -> dict[str, Any]:
    return {
        "number": found.number,
        "parent": found.parent,
        "created_ms": found.created_ms,
        "size": found.size,
        "new_bytes": found.new_bytes,
        "partitions": {f"{one.topic}-{one.partition}": [one.start, one.end] for one in found.partitions},
    }

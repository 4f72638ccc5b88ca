"""`eventcore repair`: put aside what cannot be read, so that the rest is a whole log again."""

from __future__ import annotations

from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.failures import FAILED
from eventcore.cli.options import Config, Folder, Json, check_folder, config_option
from eventcore.cli.output import print_table, size_text, write, write_json
from eventcore.cli.progress import spinner


def repair(
    path: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Read every batch; copy bad bytes to quarantine/ and write their segments anew without them.

    Records that can be read keep their offsets. Exit code 1 if a dry run found damage.
    """
    check_folder(path)
    with spinner(f"repairing {path}", not as_json):
        report = ec.repair_partition(path, config=config_option(config or []), dry_run=dry_run)
    if as_json:
        write_json(_as_dict(path, report, dry_run))
    else:
        _print(report, dry_run)
    return FAILED if dry_run and report.losses else 0


def _as_dict(path: object, report: ec.RepairReport, dry_run: bool) -> dict[str, object]:
    return {
        "path": str(path),
        "dry_run": dry_run,
        "segments": report.segments,
        "bytes": report.bytes,
        "lost_offsets": report.lost_offsets,
        "losses": [
            {"path": loss.path, **loss.damage._asdict(), "quarantined": loss.quarantined} for loss in report.losses
        ],
    }


def _print(report: ec.RepairReport, dry_run: bool) -> None:
    write(f"read {size_text(report.bytes)} in {report.segments:,} sealed segment(s)\n")
    if not report.losses:
        write("nothing to repair\n")
        return
    rows = [
        (
            loss.path,
            loss.damage.position,
            loss.damage.end_position - loss.damage.position,
            f"{loss.damage.first_offset} to {loss.damage.next_offset - 1}",
            loss.quarantined or "-",
        )
        for loss in report.losses
    ]
    print_table(("path", ">position", ">bytes", ">offsets lost", "bytes kept in"), rows)
    done = "would be put aside" if dry_run else "put aside; the rest is readable at its offsets"
    write(f"{report.lost_offsets:,} offset(s) {done}\n")

"""`eventcore verify`: read and check every byte of a partition."""

from __future__ import annotations

import time
from pathlib import Path

import eventcore as ec
from eventcore.cli.failures import FAILED
from eventcore.cli.options import Folder, Json, open_folder
from eventcore.cli.output import print_table, size_text, write, write_json
from eventcore.cli.progress import spinner


def verify(path: Folder, as_json: Json = False) -> int:
    """Check batches, CRCs, records, offsets, indexes and epochs. Exit code 0 if all is fine, 1 if not."""
    started = time.perf_counter()
    with open_folder(path) as partition, spinner(f"verifying {path}", not as_json):
        report = partition.verify()
    seconds = max(time.perf_counter() - started, 1e-6)
    if as_json:
        write_json(_as_dict(path, report, seconds))
    else:
        _print(path, report, seconds)
    return 0 if report.ok else FAILED


def _as_dict(path: Path, report: ec.VerifyReport, seconds: float) -> dict[str, object]:
    return {
        "path": str(path),
        "ok": report.ok,
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "bytes": report.bytes,
        "index_entries": report.index_entries,
        "seconds": round(seconds, 6),
        "problems": [problem._asdict() for problem in report.problems],
    }


def _print(path: Path, report: ec.VerifyReport, seconds: float) -> None:
    write(
        f"checked {report.records:,} records in {report.batches:,} batches, {report.segments:,} segment(s), "
        f"{report.index_entries:,} index entries: {size_text(report.bytes)} in {seconds:.2f} s "
        f"({size_text(report.bytes / seconds)}/s)\n"
    )
    if report.ok:
        write(f"{path} is fine\n")
        return
    count = len(report.problems)
    rows = [
        (problem.path, _known(problem.position), _known(problem.offset), problem.what) for problem in report.problems
    ]
    write(f"{count} problem{'s' if count > 1 else ''}:\n")
    print_table(("path", ">position", ">offset", "what"), rows)


def _known(number: int) -> int | str:
    return number if number >= 0 else "-"

"""`eventcore append`: the lines of a file or a pipe become records."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.failures import FAILED, INTERRUPTED, fail, say
from eventcore.cli.formats import PARSERS, Broken, Fields, Format, Parsed, guess_format
from eventcore.cli.inputs import LineSource, open_input
from eventcore.cli.options import Config, Folder, Fsync, Json, config_option, open_folder
from eventcore.cli.output import size_text, write, write_json
from eventcore.cli.progress import Advance, ingest_progress


class BrokenLine(Exception):
    """The run ends at a line that is no record."""


@dataclass
class Import:
    """One run: collects records into batches, counts, and says what it does with broken lines."""

    partition: ec.Partition
    batch: int
    skip_bad: bool
    first_offset: int = -1
    appended: int = 0
    skipped: int = 0
    _records: list[ec.Record | bytes] = field(default_factory=list)
    _numbers: list[int] = field(default_factory=list)

    def take(self, item: Parsed | Broken, idle: bool) -> None:
        """Append full batches; when the input pauses, what there is. Everything before a broken line is appended."""
        if isinstance(item, Broken):
            self._flush(1)
            self._broken(item.number, item.reason)
            return
        self._records += item.records
        self._numbers += item.numbers
        self._flush(1 if idle else self.batch)

    def finish(self) -> None:
        """Append what is left."""
        self._flush(1)

    def _flush(self, least: int) -> None:
        start = 0
        while len(self._records) - start >= least:
            end = min(start + self.batch, len(self._records))
            self._append(start, end)
            start = end
        del self._records[:start], self._numbers[:start]

    def _append(self, start: int, end: int) -> None:
        """Append records[start:end]; where the log refuses some, halve until each is found."""
        records, log_end = self._records[start:end], self.partition.log_end_offset
        if self.first_offset < 0:
            self.first_offset = log_end
        refusal: ec.UsageError | None = None
        try:
            self.partition.extend(records)
        except ec.UsageError as error:
            refusal = error
        done = self.partition.log_end_offset - log_end
        self.appended += done
        start += done
        if refusal is None:
            return
        if end - start == 1:
            self._broken(self._numbers[start], str(refusal))
            return
        middle = (start + end) // 2
        self._append(start, middle)
        self._append(middle, end)

    def _broken(self, number: int, reason: str) -> None:
        if not self.skip_bad:
            raise BrokenLine(f"line {number}: {reason}; everything before it is appended (--skip-bad goes on)")
        self.skipped += 1
        say(f"skipped line {number}: {reason}")


def append(
    path: Folder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE|-]", help="What to read; stdin if left out.", show_default=False)
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="By default the file's ending says it, else lines.", show_default=False)
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="FIELD", help="The field that is the key (ndjson, csv).")] = None,
    timestamp: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The field that is the time: ms, or ISO-8601 with a zone.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1_000_000, help="Records appended at once.")] = 1000,
    fsync: Fsync = "always",
    config: Config = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report broken lines and go on.")] = False,
    max_line: Annotated[
        int | None, typer.Option(min=1, metavar="BYTES", help="The longest line; by default max.message.bytes.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Append a record for every line of a file or of stdin. The folder is made if it is missing."""
    file = None if str(file) == "-" else file
    form = format or guess_format(file)
    if form == "lines" and (key or timestamp):
        raise typer.BadParameter(
            "plain lines have no fields; use --format ndjson or csv", param_hint="--key, --timestamp"
        )
    settings = config_option(config or [])
    with open_input(file) as stream, open_folder(path, "rw", fsync, settings) as partition:
        if partition.recovery.cut_bytes or partition.recovery.damage:
            say(f"recovered {path}: {partition.recovery}")
        run = Import(partition, batch, skip_bad)
        source = LineSource(stream, max_line or settings.max_message_bytes)
        started = time.perf_counter()
        with ingest_progress(file.stat().st_size if file else None, not as_json) as advance:
            code, problem = _run(run, source, form, Fields(key, timestamp), advance)
    _summary(run, path, source.bytes_read, time.perf_counter() - started, as_json)
    return fail(problem, code) if problem else code


def _run(run: Import, source: LineSource, form: Format, fields: Fields, advance: Advance) -> tuple[int, str]:
    """(exit code, the error to print or nothing). What was appended before an end of any kind stays."""
    try:
        for item in PARSERS[form](source, fields):
            run.take(item, source.would_wait())
            advance(source.bytes_read, run.appended)
        run.finish()
    except BrokenLine as error:
        return FAILED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED, "stopped"
    except ec.EventCoreError as error:
        return FAILED, str(error)
    return 0, ""


def _summary(run: Import, path: Path, bytes_read: int, seconds: float, as_json: bool) -> None:
    seconds = max(seconds, 1e-6)
    last = run.first_offset + run.appended - 1
    if as_json:
        write_json(
            {
                "path": str(path),
                "records": run.appended,
                "skipped": run.skipped,
                "first_offset": run.first_offset if run.appended else None,
                "last_offset": last if run.appended else None,
                "bytes_read": bytes_read,
                "seconds": round(seconds, 6),
                "records_per_second": round(run.appended / seconds),
            }
        )
        return
    where = f", offsets {run.first_offset} to {last}" if run.appended else ""
    rate = f"{run.appended / seconds:,.0f} records/s, {size_text(bytes_read / seconds)}/s"
    skipped = f"; skipped {run.skipped:,} broken lines" if run.skipped else ""
    write(f"appended {run.appended:,} records{where}, in {seconds:.2f} s ({rate}){skipped}\n")

"""`eventcore append`: the lines of a file or a pipe become records."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.exactly_once import Once, once_option
from eventcore.cli.failures import FAILED, INTERRUPTED, fail, say
from eventcore.cli.formats import PARSERS, Broken, Fields, Format, Parsed, guess_format
from eventcore.cli.inputs import LineSource, open_input
from eventcore.cli.options import (
    AnyFolder,
    Config,
    Fsync,
    Json,
    TopicName,
    config_option,
    open_folder,
    open_store,
)
from eventcore.cli.output import size_text, write, write_json
from eventcore.cli.progress import Advance, ingest_progress


class BrokenLine(Exception):
    """The run ends at a line that is no record."""


@dataclass
class Import:
    """One run: collects records into batches, counts, and says what it does with broken lines."""

    target: ec.Partition | ec.Topic
    batch: int
    skip_bad: bool
    once: Once | None = None
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each partition that got some: its first and last offset."""
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
            for number, (records, lines) in self._routed(start, end).items():
                partition = self.target[number] if isinstance(self.target, ec.Topic) else self.target
                self._append(number, partition, records, lines)
            start = end
        del self._records[:start], self._numbers[:start]

    def _routed(self, start: int, end: int) -> dict[int, tuple[list[Any], list[int]]]:
        """What goes to which partition, and the numbers of its lines."""
        if not isinstance(self.target, ec.Topic):
            return {0: (self._records[start:end], self._numbers[start:end])}
        found: dict[int, tuple[list[Any], list[int]]] = {}
        keyless = self.once.keyless(len(self.target)) if self.once else self.target.partition_for(None)
        for record, line in zip(self._records[start:end], self._numbers[start:end], strict=True):
            key = record.key if isinstance(record, ec.Record) else None
            records, lines = found.setdefault(keyless if key is None else self.target.partition_for(key), ([], []))
            records.append(record)
            lines.append(line)
        return found

    def _append(self, number: int, partition: ec.Partition, records: list[Any], lines: list[int]) -> None:
        """Append records; where the log refuses some, halve until each is found."""
        log_end = partition.log_end_offset
        refusal: ec.UsageError | None = None
        try:
            if self.once:
                self.once.extend(number, partition, records)
            else:
                partition.extend(records)
        except ec.UsageError as error:
            refusal = error
        done = partition.log_end_offset - log_end
        self.appended += done
        if done:
            self.offsets[number] = (self.offsets.get(number, (log_end,))[0], log_end + done - 1)
        records, lines = records[done:], lines[done:]
        if refusal is None:
            return
        if len(records) == 1:
            self._broken(lines[0], str(refusal))
            return
        middle = len(records) // 2
        self._append(number, partition, records[:middle], lines[:middle])
        self._append(number, partition, records[middle:], lines[middle:])

    def _broken(self, number: int, reason: str) -> None:
        if not self.skip_bad:
            raise BrokenLine(f"line {number}: {reason}; everything before it is appended (--skip-bad goes on)")
        self.skipped += 1
        say(f"skipped line {number}: {reason}")


def append(
    path: AnyFolder,
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
    topic: TopicName = None,
    batch: Annotated[int, typer.Option(min=1, max=1_000_000, help="Records appended at once.")] = 1000,
    fsync: Fsync = "always",
    config: Config = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report broken lines and go on.")] = False,
    exactly_once: Annotated[
        bool, typer.Option("--exactly-once", help="Leave out what an earlier run has appended; see --name.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the earlier runs were called; by default the file's path.")
    ] = None,
    max_line: Annotated[
        int | None, typer.Option(min=1, metavar="BYTES", help="The longest line; by default max.message.bytes.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Append a record for every line of a file or of stdin. The folder is made if it is missing, a topic is not."""
    file = None if str(file) == "-" else file
    form = format or guess_format(file)
    if form == "lines" and (key or timestamp):
        raise typer.BadParameter(
            "plain lines have no fields; use --format ndjson or csv", param_hint="--key, --timestamp"
        )
    if topic is not None and config:
        raise typer.BadParameter("a topic has its own; see `eventcore topics alter`", param_hint="--config")
    settings, once = config_option(config or []), once_option(exactly_once, name, file, skip_bad)
    with open_input(file) as stream, ExitStack() as opened:
        target = _target(path, topic, fsync, settings, opened)
        settings = target.config
        run = Import(target, batch, skip_bad, once)
        source = LineSource(stream, max_line or settings.max_message_bytes)
        started = time.perf_counter()
        with ingest_progress(file.stat().st_size if file else None, not as_json) as advance:
            code, problem = _run(run, source, form, Fields(key, timestamp), advance)
    _summary(run, path, source.bytes_read, time.perf_counter() - started, as_json)
    return fail(problem, code) if problem else code


def _target(
    path: Path, topic: str | None, fsync: str, settings: ec.LogConfig, opened: ExitStack
) -> ec.Partition | ec.Topic:
    if topic is not None:
        return opened.enter_context(open_store(path, "rw", fsync, may_be_missing=False)).topic(topic)
    partition = opened.enter_context(open_folder(path, "rw", fsync, settings))
    if partition.recovery.cut_bytes or partition.recovery.damage:
        say(f"recovered {path}: {partition.recovery}")
    return partition


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
    if as_json:
        write_json(
            {
                "path": str(path),
                "records": run.appended,
                "skipped": run.skipped,
                **({"repeated": run.once.repeated} if run.once else {}),
                **_places(run),
                "bytes_read": bytes_read,
                "seconds": round(seconds, 6),
                "records_per_second": round(run.appended / seconds),
            }
        )
        return
    if isinstance(run.target, ec.Topic):
        where = f" to {len(run.offsets)} partitions of {run.target.name}"
    else:
        where = f", offsets {run.offsets[0][0]} to {run.offsets[0][1]}" if run.appended else ""
    rate = f"{run.appended / seconds:,.0f} records/s, {size_text(bytes_read / seconds)}/s"
    skipped = f"; skipped {run.skipped:,} broken lines" if run.skipped else ""
    if run.once and run.once.repeated:
        skipped += f"; {run.once.repeated:,} were there already"
    write(f"appended {run.appended:,} records{where}, in {seconds:.2f} s ({rate}){skipped}\n")


def _places(run: Import) -> dict[str, Any]:
    if isinstance(run.target, ec.Topic):
        offsets = {str(number): list(found) for number, found in sorted(run.offsets.items())}
        return {"topic": run.target.name, "offsets": offsets}
    first, last = run.offsets.get(0, (None, None))
    return {"first_offset": first, "last_offset": last}

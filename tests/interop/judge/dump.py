"""Run Kafka's DumpLogSegments over many files in one JVM and turn what it prints into values.

The parser is suspicious: a line it does not know is a complaint, and so is a file the tool never came to. The tool
stops at the first exception; it is then run again on the files after the one it choked on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .jars import java

DATA_FLAGS = ("--deep-iteration", "--print-data-log")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class DumpedBatch:
    """A batch header as Kafka reads it; `is_valid` is Kafka's own CRC check."""

    base_offset: int
    last_offset: int
    count: int
    base_sequence: int
    last_sequence: int
    producer_id: int
    producer_epoch: int
    leader_epoch: int
    is_transactional: bool
    is_control: bool
    delete_horizon: int | None
    position: int
    timestamp_type: str
    timestamp: int
    size: int
    magic: int
    codec: str
    crc: int
    is_valid: bool


@dataclass(frozen=True)
class DumpedRecord:
    """A record as Kafka reads it. The tool prints keys and values as UTF-8 text and only the keys of headers."""

    offset: int
    timestamp: int
    key_size: int
    value_size: int
    sequence: int
    header_keys: tuple[str, ...]
    key: str | None
    value: str | None


@dataclass
class FileDump:
    """What the tool said about one file. `entries` are the rows of an index, snapshot or txn index, as named ints."""

    path: Path
    batches: list[DumpedBatch] = field(default_factory=list)
    records: list[DumpedRecord] = field(default_factory=list)
    entries: list[dict[str, int]] = field(default_factory=list)
    control: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    was_dumped: bool = False
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Neighbouring records whose offsets are not consecutive: normal after compaction and between control records,
    a complaint everywhere else."""


@dataclass
class DumpResult:
    """What the tool said about all files. An empty `complaints` means: Kafka finds nothing wrong."""

    files: dict[Path, FileDump]
    stray: list[str] = field(default_factory=list)

    @property
    def complaints(self) -> list[str]:
        """Every complaint, with the name of its file where the tool gave one."""
        gaps = [f"{path.name}: offset gap {gap}" for path, dump in self.files.items() for gap in dump.gaps]
        return self.complaints_beside_gaps + gaps

    @property
    def complaints_beside_gaps(self) -> list[str]:
        """The complaints about a compacted log, which has gaps between its offsets."""
        named = [f"{path.name}: {text}" for path, dump in self.files.items() for text in dump.complaints]
        return named + self.stray

    def __getitem__(self, path: Path) -> FileDump:
        return self.files[path]


# fmt: off
_BATCH = re.compile(
    r"baseOffset: (-?\d+) lastOffset: (-?\d+) count: (-?\d+) baseSequence: (-?\d+) lastSequence: (-?\d+)"
    r" producerId: (-?\d+) producerEpoch: (-?\d+) partitionLeaderEpoch: (-?\d+) isTransactional: (true|false)"
    r" isControl: (true|false) deleteHorizonMs: OptionalLong(?:\.empty|\[(-?\d+)\]) position: (\d+)"
    r" (CreateTime|LogAppendTime): (-?\d+) size: (\d+) magic: (\d+) compresscodec: (\w+) crc: (\d+)"
    r" isvalid: (true|false)"
)
_RECORD = re.compile(
    r"\| offset: (-?\d+) \w+: (-?\d+) keySize: (-?\d+) valueSize: (-?\d+) sequence: (-?\d+)"
    r" headerKeys: \[(.*?)\]"
)
# fmt: on
_START = re.compile(r"Dumping (.+)")
_IGNORED = re.compile(r"Log starting offset: \d+|.*\.(time)?index is empty\.|SLF4J.*|\[main\] (INFO|WARN) .*")
_ROW = re.compile(r"(?:version: \d+ )?(?:\w+: (?:-?\d+|Optional\w+(?:\.empty|\[-?\d+\]))\s*)+")
_FIELD = re.compile(r"(\w+): (?:Optional\w+)?(?:\.empty|\[?(-?\d+)\]?)")
_GAP = re.compile(r"\s*(-?\d+) is followed by (-?\d+)")
_HEADING = re.compile(
    r"(Mismatches in |Found timestamp mismatch in |Found out of order timestamp in "
    r"|The following indexed offsets are not found in |Non-consecutive offsets in ):?(.+)"
)
_GAPS_HEADING = "Non-consecutive offsets in "


def dump_log(files: Iterable[Path], *flags: str) -> DumpResult:
    """Dump `.log .index .timeindex .txnindex .snapshot` files; without flags: all records, decompressed and printed."""
    paths = [path.resolve() for path in files]
    result = DumpResult({path: FileDump(path) for path in paths})
    waiting = paths
    while waiting:
        done = _run(waiting, flags or DATA_FLAGS)
        last = _read_stdout(done.stdout, result)
        _read_stderr(done.stderr, result, last)
        waiting = _after(waiting, last) if done.returncode != 0 else []
        if last and done.returncode != 0:
            result.files[last].complaints.append(f"the tool stopped with status {done.returncode}")
    result.stray += [f"{path.name} was not dumped" for path, dump in result.files.items() if not dump.was_dumped]
    return result


def dump_folder(folder: Path, *flags: str) -> DumpResult:
    """Dump every file of a partition folder that the tool understands."""
    return dump_log(log_files(folder), *flags)


def log_files(folder: Path) -> list[Path]:
    """The files of a partition folder that DumpLogSegments understands."""
    suffixes = {".log", ".index", ".timeindex", ".txnindex", ".snapshot"}
    return sorted(path for path in folder.iterdir() if path.suffix in suffixes)


def _run(paths: Sequence[Path], flags: Sequence[str]) -> subprocess.CompletedProcess[str]:
    if any("," in str(path) for path in paths):
        raise ValueError("DumpLogSegments separates file names by commas: dump from a folder without one")
    command = java(
        "org.apache.kafka.tools.DumpLogSegments",
        "--files",
        ",".join(map(str, paths)),
        *flags,
        options=("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",),
    )
    # Undecodable bytes must not end the parse; newlines other than \n belong to the payload.
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    streams = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(command, done.returncode, *streams)


def _after(paths: Sequence[Path], last: Path | None) -> list[Path]:
    return [] if last is None else list(paths[paths.index(last) + 1 :])


def _read_stdout(text: str, result: DumpResult) -> Path | None:
    """Parse the dump into `result`; the file that the tool was at when it ended."""
    current: FileDump | None = None
    for line in text.split("\n"):
        start = _START.fullmatch(line)
        if start and Path(start[1]) in result.files:
            current = result.files[Path(start[1])]
            current.was_dumped = True
        elif line and current is None:
            result.stray.append(line)
        elif line and current is not None:
            _read_line(line, current)
    return current.path if current else None


def _read_line(line: str, dump: FileDump) -> None:
    if batch := _BATCH.fullmatch(line):
        dump.batches.append(_batch(batch))
        if not dump.batches[-1].is_valid:
            dump.complaints.append(f"invalid batch at position {dump.batches[-1].position}")
    elif record := _RECORD.match(line):
        _read_record(record, line[record.end() :], dump)
    elif _ROW.fullmatch(line):
        dump.entries.append({name: int(value or -1) for name, value in _FIELD.findall(line)})
    elif not _IGNORED.fullmatch(line):
        dump.complaints.append(line[:200])


def _batch(match: re.Match[str]) -> DumpedBatch:
    return DumpedBatch(*map(_field, match.groups()))


def _field(text: str | None) -> Any:
    if text is None or text in ("true", "false"):
        return None if text is None else text == "true"
    return int(text) if text.lstrip("-").isdigit() else text


def _read_record(match: re.Match[str], rest: str, dump: FileDump) -> None:
    offset, timestamp, key_size, value_size, sequence = map(int, match.groups()[:5])
    key = value = None
    if rest.startswith((" endTxnMarker: ", " LeaderChange: ", " controlType: ")):
        dump.control.append(rest.strip())
    else:
        key, rest = _text(" key: ", key_size, rest)
        value, rest = _text(" payload: ", value_size, rest)
        if rest:
            dump.complaints.append(f"record {offset} has more text than its sizes say")
    names = tuple(match[6].split(",")) if match[6] else ()
    dump.records.append(DumpedRecord(offset, timestamp, key_size, value_size, sequence, names, key, value))


def _text(label: str, size: int, rest: str) -> tuple[str | None, str]:
    """Cut a printed key or value of `size` UTF-8 bytes off the line: it may itself contain the next label."""
    if not rest.startswith(label):
        return None, rest
    body = rest[len(label) :].encode("utf-8")
    return body[:size].decode("utf-8", "replace"), body[size:].decode("utf-8", "replace")


def _read_stderr(text: str, result: DumpResult, last: Path | None) -> None:
    """Attach each complaint to its file: headings name it, exceptions mean the file the tool was at, others none."""
    current: FileDump | None = None
    for line in text.split("\n"):
        if heading := _HEADING.fullmatch(line):
            current = result.files.get(Path(heading[2]), current)
            if heading[1] == _GAPS_HEADING:
                continue
        elif last and line.startswith("Exception in thread"):
            current = result.files[last]
        if (gap := _GAP.fullmatch(line)) and current:
            _read_gap(int(gap[1]), int(gap[2]), current)
        elif line and not _IGNORED.fullmatch(line) and not line.startswith("\tat "):
            (current.complaints if current else result.stray).append(line[:300])


def _read_gap(before: int, after: int, dump: FileDump) -> None:
    # 4.3 reports every segment that does not begin at offset 0, from the -1 it starts counting with.
    if before != -1 or after < int(dump.path.stem):
        dump.gaps.append((before, after))

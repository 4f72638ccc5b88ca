"""Text formats to records: plain lines, NDJSON, CSV.

A parser yields what it understood and what it did not, in the order of the input: `Parsed` or `Broken`. Nothing but
the key and the time is taken out of a line: NDJSON lines are stored as they are, a CSV row as the compact JSON object
`{column: text}`, so that reading gives back what came in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, cast

import eventcore as ec
from eventcore.cli.failures import CommandFailed
from eventcore.cli.inputs import Burst, LineSource
from eventcore.cli.options import parse_time

Format = Literal["lines", "ndjson", "csv"]
_ENDINGS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_BOM = b"\xef\xbb\xbf"
_ROWS = 1000
TOO_LONG = "longer than {} bytes"


class Parsed(NamedTuple):
    """What to append, and the line number each began at. A value without key and time goes as it is."""

    records: list[ec.Record | bytes]
    numbers: list[int]


class Broken(NamedTuple):
    """A line that is no record."""

    number: int
    reason: str


class Fields(NamedTuple):
    """Which fields give a record its key and its time; None: none does."""

    key: str | None
    timestamp: str | None


Parser = Callable[[LineSource, Fields], "Iterator[Parsed | Broken]"]


def guess_format(path: Path | None) -> Format:
    """The format that a file's ending names."""
    return "lines" if path is None else _ENDINGS.get(path.suffix.lower(), "lines")


def parse_lines(source: LineSource, _: Fields) -> Iterator[Parsed | Broken]:
    """Every line is a value; an empty one, too."""
    for number, lines in source.bursts():
        if lines is None:
            yield Broken(number, TOO_LONG.format(source.limit))
        else:
            values = [line[:-1] if line[-1:] == b"\r" else line for line in lines]
            yield Parsed(cast("list[ec.Record | bytes]", values), list(range(number, number + len(lines))))


def parse_ndjson(source: LineSource, fields: Fields) -> Iterator[Parsed | Broken]:
    """Every line is a JSON object; blank ones are passed over."""
    for number, lines in source.bursts():
        if lines is None:
            yield Broken(number, TOO_LONG.format(source.limit))
            continue
        parsed = Parsed([], [])
        for at, line in enumerate(lines, number):
            line = _without_bom(line[:-1] if line[-1:] == b"\r" else line, at)
            try:
                if not line or line.isspace():
                    continue
                parsed.records.append(_json_record(line, fields))
                parsed.numbers.append(at)
            except (ValueError, RecursionError) as error:
                yield parsed
                yield Broken(at, _reason(error))
                parsed = Parsed([], [])
        yield parsed


def _without_bom(line: bytes, number: int) -> bytes:
    return line[len(_BOM) :] if number == 1 and line.startswith(_BOM) else line


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no number")


_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant).decode
"""Numbers stay text: they are only looked at to be keys and times, and 1.10 must not become 1.1."""


def _json_record(line: bytes, fields: Fields) -> ec.Record:
    item = _decode(line.decode())
    if type(item) is not dict:
        raise ValueError("not a JSON object")
    key = None if fields.key is None else _key(item, fields.key)
    return ec.Record(-1, _time(item, fields.timestamp), key, line)


def _field(item: dict[str, Any], name: str) -> Any:
    if name not in item:
        raise ValueError(f"there is no field {name!r}")
    return item[name]


def _key(item: dict[str, Any], name: str) -> bytes | None:
    value = _field(item, name)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (dict, list)):
        raise ValueError(f"the field {name!r} is an object or an array, which cannot be a key")
    return None if value is None else str(value).encode()


def _time(item: dict[str, Any], name: str | None) -> int:
    if name is None:
        return -1
    value = _field(item, name)
    if not isinstance(value, str):
        raise ValueError(f"the field {name!r} holds no time")
    return parse_time(value)


class _CsvLines:
    """What csv.reader reads: lines as text. Bytes that are no UTF-8 travel as surrogates, to be refused with their row.

    A quote that never ends would swallow the file: one record may take `limit` bytes, then it is broken.
    """

    def __init__(self, source: LineSource) -> None:
        self._bursts = source.bursts()
        self._limit = source.limit
        self._burst = Burst(1, [])
        self._next = 0
        self._taken = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        while self.at_burst_end:
            self._burst, self._next = next(self._bursts), 0
        if self._burst.lines is None:
            self._burst = Burst(self._burst.number + 1, [])
            raise ValueError(TOO_LONG.format(self._limit))
        line = _without_bom(self._burst.lines[self._next], self.number)
        self._next += 1
        self._taken += len(line) + 1
        if self._taken > self._limit + 2:
            raise ValueError(f"a row {TOO_LONG.format(self._limit)}: is a quote missing?")
        return line.decode("utf-8", "surrogateescape") + "\n"

    @property
    def number(self) -> int:
        """The number of the line that comes next."""
        return self._burst.number + self._next

    @property
    def at_burst_end(self) -> bool:
        """Whether what comes next has to be read first."""
        return self._burst.lines is not None and self._next == len(self._burst.lines)

    def begin_row(self) -> int:
        """Forget the size of the row before; returns the line number of the new one."""
        self._taken = 0
        return self.number


def _rows(lines: _CsvLines) -> Iterator[tuple[int, list[str]] | Broken]:
    """The rows with the number of their first line; blank lines are passed over."""
    reader = csv.reader(lines, strict=True)
    while True:
        number = lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            yield Broken(number, f"not CSV: {error}" if isinstance(error, csv.Error) else str(error))
            continue
        if row:
            yield number, row


def parse_csv(source: LineSource, fields: Fields) -> Iterator[Parsed | Broken]:
    """The first row names the columns; every other row is an object of texts."""
    csv.field_size_limit(source.limit)
    lines = _CsvLines(source)
    rows = _rows(lines)
    first = next(rows, None)
    if first is None:
        return
    columns = _columns(first, fields)
    parsed = Parsed([], [])
    for row in rows:
        problem = row if isinstance(row, Broken) else _add_row(parsed, columns, *row)
        if problem is not None:
            yield parsed
            yield problem
            parsed = Parsed([], [])
        elif len(parsed.records) >= _ROWS or lines.at_burst_end:
            yield parsed
            parsed = Parsed([], [])
    yield parsed


class _Columns(NamedTuple):
    """How a row becomes a record: `template` is the JSON object with a `%s` for each quoted cell."""

    width: int
    template: str
    key: int | None
    timestamp: int | None


def _columns(row: tuple[int, list[str]] | Broken, fields: Fields) -> _Columns:
    """What the first row says. Without it no row can be understood."""
    if isinstance(row, Broken):
        raise CommandFailed(f"line {row.number} does not name the columns: {row.reason}")
    number, names = row
    if any("\ud800" <= char <= "\udfff" for name in names for char in name):
        raise CommandFailed(f"line {number} does not name the columns: not UTF-8")
    if len(set(names)) < len(names):
        raise CommandFailed(f"line {number} names a column twice; give every column its own name")
    for name in filter(None, fields):
        if name not in names:
            raise CommandFailed(f"line {number} names no column {name!r}; the columns are {', '.join(names)}")
    template = "{" + ",".join(f"{quoted(name)}:".replace("%", "%%") + "%s" for name in names) + "}"
    key, timestamp = (None if name is None else names.index(name) for name in fields)
    return _Columns(len(names), template, key, timestamp)


def _add_row(parsed: Parsed, columns: _Columns, number: int, cells: list[str]) -> Broken | None:
    width, template, key, timestamp = columns
    if len(cells) != width:
        return Broken(number, f"{len(cells)} columns where the header has {width}")
    try:
        value = (template % tuple(map(quoted, cells))).encode()
        time = -1 if timestamp is None else parse_time(cells[timestamp])
    except ValueError as error:
        return Broken(number, _reason(error))
    parsed.records.append(ec.Record(-1, time, None if key is None else cells[key].encode(), value))
    parsed.numbers.append(number)
    return None


PARSERS: dict[Format, Parser] = {"lines": parse_lines, "ndjson": parse_ndjson, "csv": parse_csv}

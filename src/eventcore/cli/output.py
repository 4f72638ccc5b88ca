"""How records and tables leave the program.

Records are formatted a chunk at a time and written as UTF-8 bytes, whatever the terminal's encoding: a log may hold
millions of them. Text that could move a terminal's cursor is escaped in the plain form.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any

from rich.console import Console
from rich.table import Table

import eventcore as ec

Formatter = Callable[[ec.Record], str]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_HEX_BYTES = 64
_WIDE = 200


def write(text: str) -> None:
    """Text to stdout, as UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))


def write_records(records: Iterable[ec.Record], form: Formatter) -> None:
    """A chunk of records, a line each."""
    sys.stdout.buffer.write("".join(map(form, records)).encode())


def flush() -> None:
    """Hand everything written so far to the reader of our output."""
    sys.stdout.buffer.flush()


def write_json(value: object) -> None:
    """One JSON object on one line."""
    write(json.dumps(value, separators=(",", ":")) + "\n")


def json_bytes(data: bytes | None) -> str:
    """Bytes in JSON: a string if they are UTF-8, else `{"base64": ...}`; null stays null."""
    if data is None:
        return "null"
    try:
        return quoted(data.decode())
    except UnicodeDecodeError:
        return '{"base64":"' + base64.b64encode(data).decode() + '"}'


def json_record(record: ec.Record) -> str:
    """A record as one line of JSON. Written by hand: three times as quick as json.dumps of a dict."""
    offset, timestamp, key, value, headers = record
    pairs = ",".join(f"[{quoted(name)},{json_bytes(data)}]" for name, data in headers) if headers else ""
    return (
        f'{{"offset":{offset},"timestamp":{timestamp},"key":{json_bytes(key)},'
        f'"value":{json_bytes(value)},"headers":[{pairs}]}}\n'
    )


def plain_bytes(data: bytes | None) -> str:
    """Bytes for people: text with control characters escaped, hex if they are no text, `null`."""
    if data is None:
        return "null"
    try:
        return plain_text(data.decode())
    except UnicodeDecodeError:
        shown = data[:_HEX_BYTES].hex()
        return f"0x{shown}" if len(data) <= _HEX_BYTES else f"0x{shown}... ({len(data)} bytes)"


def plain_text(text: str) -> str:
    """Text that cannot move a cursor or forge a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_record(record: ec.Record) -> str:
    """A record as one readable line: offset, time, key, value, headers."""
    offset, timestamp, key, value, headers = record
    line = f"{offset:>8}  {time_text(timestamp)}  {plain_bytes(key)}  {plain_bytes(value)}"
    if headers:
        line += "  {" + ", ".join(f"{plain_text(name)}={plain_bytes(data)}" for name, data in headers) + "}"
    return line + "\n"


def formatter(as_json: bool) -> Formatter:
    """How records are written."""
    return json_record if as_json else plain_record


@lru_cache(maxsize=4096)
def _second_text(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")


def time_text(timestamp: int) -> str:
    """A time in UTC; `-` for none, the plain number for what no calendar holds."""
    if timestamp < 0:
        return "-"
    try:
        return f"{_second_text(timestamp // 1000)}.{timestamp % 1000:03}Z"
    except OverflowError:
        return str(timestamp)


def size_text(size: float) -> str:
    """Bytes in a unit people read."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def console(*, stderr: bool = False) -> Console:
    """A rich console that takes text as it is; wide where nobody watches, so that nothing is cut."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else _WIDE)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; columns named with a leading `>` hold numbers."""
    table = Table()
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else plain_text(str(cell)) for cell in row))
    flush()
    console().print(table)

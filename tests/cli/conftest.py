"""Running the command line: in this process for the many cases, in its own for pipes and signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import eventcore as ec
from eventcore.cli.app import app

SOURCE = str(Path(ec.__file__).parents[1])


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def objects(self) -> list[Any]:
        """Stdout as JSON, an object a line."""
        return [json.loads(line) for line in self.out.split(b"\n") if line]

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


Run = Callable[..., Ended]


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""

    def runner(*arguments: object, stdin: bytes = b"") -> Ended:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ended(result.exit_code, result.stdout_bytes, result.stderr)

    return runner


@pytest.fixture
def start() -> Iterable[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command in a process of its own; it does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "eventcore", *map(str, arguments)],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": SOURCE, **options.pop("env", {})},
            **options,
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A partition of five records: text, binary, null, control characters, headers."""
    path = tmp_path / "orders-0"
    with ec.open_partition(path) as partition:
        partition.extend([ec.Record(-1, 1000, b"k0", b"one"), ec.Record(-1, 2000, b"\xff\x00", b"\xfe\xed")])
        partition.extend([ec.Record(-1, 3000, None, None), ec.Record(-1, 4000, b"", "grün\x1b[2J\n".encode())])
        partition.append(b"last", b"k4", [("id", b"7"), ("id", None)], 5000)
    return path

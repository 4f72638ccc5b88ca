"""tail: follows what this and other processes append, and ends when told to."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run

Start = Callable[..., "subprocess.Popen[bytes]"]


def test_it_ends_at_the_timeout(run: Run, folder: Path) -> None:
    assert run("tail", folder, "--timeout", "0.05").out == b""
    assert [item["offset"] for item in run("tail", folder, "--from", 3, "--timeout", "0.05", "--json").objects] == [
        3,
        4,
    ]
    assert run("tail", folder, "--from", 0, "--timeout", "0").text == run("read", folder).text


@pytest.mark.parametrize(("start_at", "code"), [("6", 1), ("-1", 2), ("begin", 2), ("٣", 2)])
def test_wrong_starts(run: Run, folder: Path, start_at: str, code: int) -> None:
    ended = run("tail", folder, "--timeout", "0", f"--from={start_at}")
    assert ended.code == code
    assert ended.error


@pytest.mark.sampled
@pytest.mark.parametrize("interrupt", [False, True])
def test_it_sees_what_another_process_appends(start: Start, folder: Path, interrupt: bool) -> None:
    process = start("tail", folder, "--from", 4, "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["value"] == "last"
    with ec.open_partition(folder) as partition:
        for value in (b"first", b"second"):
            partition.append(value)
            assert json.loads(process.stdout.readline())["value"] == value.decode()
    if interrupt:
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
        assert (process.returncode, out, error) == (130, b"", b"")


def test_it_notices_that_the_log_was_cut_back(start: Start, folder: Path) -> None:
    process = start("tail", folder, "--from", 4)
    assert process.stdout is not None
    assert process.stdout.readline()
    with ec.open_partition(folder) as partition:
        partition.truncate(2)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert error.startswith((b"error: the log was cut back to offset 2", b"error: the log was truncated while it was"))

"""How commands end: one line on stderr, the right code, no traceback; for every command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import SOURCE, Run

PATIENCE_S = 120.0
READERS = ("read", "tail", "stat", "dump", "verify")
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_missing_folder(run: Run, tmp_path: Path, command: str, form: tuple[str, ...]) -> None:
    ended = run(command, tmp_path / "none", *form)
    assert (ended.code, ended.out) == (1, b"")
    assert "there is no folder" in ended.error
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", READERS)
def test_a_folder_without_a_log(run: Run, tmp_path: Path, command: str) -> None:
    assert run(command, tmp_path).code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [*READERS, "append", "demo"])
def test_a_file_where_a_folder_belongs(run: Run, tmp_path: Path, command: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    ended = run(command, file)
    assert ended.code == 1
    assert "is a file" in ended.error
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", [*READERS, "append"])
def test_a_missing_path_is_a_usage_error(run: Run, command: str) -> None:
    ended = run(command)
    assert ended.code == 2
    assert "PATH" in ended.error


def test_an_unknown_command(run: Run) -> None:
    ended = run("explode")
    assert ended.code == 2
    assert "explode" in ended.error


def test_help_and_version(run: Run) -> None:
    for ended in (run(), run("--help")):
        assert ended.code == 0
        assert all(name in ended.text for name in (*READERS, "append", "demo"))
    assert run("--version").text.startswith(f"eventcore {ec.__version__} (")


def test_a_locked_folder(run: Run, folder: Path) -> None:
    with ec.open_partition(folder):
        ended = run("append", folder, stdin=b"x\n")
    assert ended.code == 1
    assert "end the other writer" in ended.error
    assert run("stat", folder, "--json").objects[0]["log_end_offset"] == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        ended = run("append", tmp_path / "p", stdin=b"x\n")
    finally:
        tmp_path.chmod(0o700)
    assert ended.code == 1
    assert "ermission" in ended.error


def test_dump_of_a_file_that_is_no_segment(run: Run, folder: Path) -> None:
    (folder / "mine.log").write_bytes(b"x")
    assert "20 digits" in run("dump", folder / "mine.log").error
    assert "there is no file" in run("dump", folder / "none.log").error


@pytest.mark.parametrize("command", ["read", "dump"])
def test_a_pipe_closed_early_is_quiet(start: Start, run: Run, tmp_path: Path, command: str) -> None:
    run("append", tmp_path / "p", "--batch", 10, "--fsync", "never", stdin=b"a line of some length\n" * 30_000)
    process = start(command, tmp_path / "p")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_an_interrupted_append_keeps_what_it_appended(start: Start, run: Run, tmp_path: Path) -> None:
    process = start("append", tmp_path / "p", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"a\nb\n")
    process.stdin.flush()
    _wait_for(lambda: _records_by_now(tmp_path / "p") == 2)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b"appended 2 records" in out
    assert error == b"error: stopped\n"
    assert _records(tmp_path / "p") == 2


def _records(path: Path) -> int:
    with ec.open_partition(path, "r") as partition:
        return len(partition)


def _records_by_now(path: Path) -> int:
    """While it is being made."""
    with suppress(ec.EventCoreError):
        return _records(path)
    return 0


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.sampled
@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_packages_it_says_how_to_get_them(tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).mkdir()
    (tmp_path / missing / "__init__.py").write_text(f"raise ModuleNotFoundError('no', name={missing!r})")
    path = os.pathsep.join([str(tmp_path), SOURCE])
    command = [sys.executable, "-m", "eventcore", "stat", "x"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"error: the command line needs {missing}; run: pip install 'eventcore[cli]'\n"


def test_no_reader_changes_the_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for command in ("read", "stat", "dump", "verify"):
        assert run(command, copy).code == 0
    assert run("tail", copy, "--timeout", "0").code == 0
    assert {f.name: f.read_bytes() for f in copy.iterdir()} == {f.name: f.read_bytes() for f in folder.iterdir()}

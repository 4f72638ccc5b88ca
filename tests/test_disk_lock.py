"""disk: the writer lock, between descriptors and between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventcore import file_lock
from eventcore.disk import Disk
from eventcore.errors import LogLocked, StorageError


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_the_lock_is_held_until_its_descriptor_is_closed(disk: Disk, path: Path) -> None:
    assert not disk.locked(path)
    assert not path.exists()
    fd = disk.lock(path, "process 17")
    assert disk.locked(path)
    for _ in range(2):
        with pytest.raises(LogLocked, match="written by process 17") as caught:
            disk.lock(path, "process 18")
    assert caught.value.retriable
    assert caught.value.path == str(path.parent)
    disk.close(fd)
    assert not disk.locked(path)
    disk.close(disk.lock(path, "process 18"))
    assert path.read_bytes().rstrip() == b"process 18", "a name is padded over the one before it"


def test_the_lock_outlives_other_descriptors_of_its_file(disk: Disk, path: Path) -> None:
    """A POSIX lock would be lost here."""
    fd = disk.lock(path, "us")
    disk.close(disk.open(path, write=True))
    path.read_bytes()
    assert disk.locked(path)
    with pytest.raises(LogLocked):
        disk.lock(path, "them")
    disk.close(fd)


def test_the_lock_excludes_another_process_and_dies_with_it(disk: Disk, path: Path) -> None:
    program = "import sys; from pathlib import Path; from eventcore.disk import Disk; d = Disk(); "
    program += "held = d.lock(Path(sys.argv[1]), 'the other process'); print('locked', flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert disk.locked(path)
        with pytest.raises(LogLocked, match="the other process"):
            disk.lock(path, "us")
        other.kill()
    disk.close(disk.lock(path, "us"))


LOCKF = "import sys, fcntl; f = open(sys.argv[1], 'r+b'); "


def run(program: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=False)


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="a system without locks of open file descriptions")
def test_a_process_that_knows_posix_locks_alone_sees_the_lock(disk: Disk, path: Path) -> None:
    """A Kafka broker is one: Java's locks are POSIX locks."""
    attempt = LOCKF + "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    fd = disk.lock(path, "us")
    assert b"BlockingIOError" in run(attempt, path).stderr
    disk.close(fd)
    assert run(attempt, path).returncode == 0


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="a system without locks of open file descriptions")
def test_a_posix_lock_excludes_us(disk: Disk, path: Path, count_descriptors: Callable[[], int]) -> None:
    path.touch()
    program = LOCKF + "fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"
    before = count_descriptors()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(LogLocked, match="another process"):
            disk.lock(path, "us")
        other.kill()
        other.wait()
    assert path.read_bytes() == b""
    disk.close(disk.lock(path, "us"))
    assert count_descriptors() == before


def test_a_file_system_without_such_locks_can_be_locked(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", failing(errno.EINVAL))
        fd = disk.lock(path, "us")
    with pytest.raises(LogLocked, match="written by us"):
        disk.lock(path, "them")
    disk.close(fd)


def test_a_reader_that_just_looks_does_not_refuse_the_writer(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone by the writer's second look."""
    path.touch()
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", lambda pause: (pauses.append(pause), reader.close()))
        disk.close(disk.lock(path, "us"))
    assert len(pauses) == 1


def test_readers_that_look_at_the_same_time_do_not_see_each_other(disk: Disk, path: Path) -> None:
    path.touch()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not disk.locked(path)


def test_the_holders_text_is_cut_and_never_trusted(disk: Disk, path: Path) -> None:
    fd = disk.lock(path, "x" * 10_000)
    with pytest.raises(LogLocked) as caught:
        disk.lock(path, "us")
    assert 200 <= len(str(caught.value)) < 600
    path.write_bytes(b"\xff\xfe\0\n")
    with pytest.raises(LogLocked, match="written by"):
        disk.lock(path, "us")
    path.write_bytes(b"")
    with pytest.raises(LogLocked, match="another process"):
        disk.lock(path, "us")
    disk.close(fd)


def test_a_full_disk_can_be_locked(disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        fd = disk.lock(path, "us")
    assert disk.locked(path)
    disk.close(fd)


def test_a_lock_that_cannot_be_tried_is_not_said_to_be_held(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch, count_descriptors: Callable[[], int]
) -> None:
    path.touch()
    before = count_descriptors()
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    monkeypatch.setattr(file_lock, "is_described", lambda fd: None)  # as where only flocks are known
    for call in (lambda: disk.lock(path, "us"), lambda: disk.locked(path)):
        with pytest.raises(StorageError, match="cannot lock") as caught:
            call()
        assert not isinstance(caught.value, LogLocked)
    assert count_descriptors() == before


def test_a_lock_is_given_back_once(disk: Disk, path: Path, tmp_path: Path) -> None:
    """By its own end or by its owner, in any order: the number may be another file's the second time."""
    fd = disk.lock(path, "us")
    fd.__del__()  # type: ignore[attr-defined]
    other = disk.open(tmp_path / "other", write=True, create=True)
    assert other == fd
    disk.unlock(fd)
    assert disk.size(other) == 0, "it is still open"
    disk.close(other)
    disk.close(disk.lock(path, "them"))


def test_asking_takes_no_lock(disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may keep the descriptor from being closed: a lock of its would keep writers out for good."""
    path.touch()
    kept = []
    monkeypatch.setattr(os, "close", kept.append)
    assert not disk.locked(path)
    monkeypatch.undo()
    fd = disk.lock(path, "us")
    assert disk.locked(path)
    disk.unlock(fd)
    assert not disk.locked(path)
    for left in kept:
        os.close(left)

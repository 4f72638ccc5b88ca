"""Real file systems of a known size for the tests: a tmpfs, an ext4 in an image file. Both need root.

    with tmpfs(8 << 20) as folder: ...
    with ext4_loop(64 << 20) as folder: ...

Each is mounted on a fresh folder and taken off lazily at the end, so that a process that still has a file open there
fails no test. Where mounting is impossible the test is skipped, and the reason says what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PATIENCE_S = 60.0
_BUSY = re.compile(r"is busy|resource busy|temporarily unavailable|(free|unused) loop", re.IGNORECASE)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need_root(what: str) -> None:
    """Skip unless this process may mount."""
    if sys.platform != "linux":
        pytest.skip(f"{what} is a Linux thing, this is {sys.platform}")
    if os.geteuid() != 0:
        pytest.skip(f"mounting {what} needs root")


def run(*command: str | Path) -> None:
    """Run a tool; skip the test if it is missing or refuses: a container may have root and still no mounts."""
    program = shutil.which(str(command[0]), path=_PATH)
    if program is None:
        pytest.skip(f"there is no `{command[0]}` here")
    done = patiently(program, *command[1:])
    if done.returncode:
        line = " ".join(map(str, command))
        pytest.skip(f"`{line}` failed with {done.returncode}: {done.stderr.strip()}")


def patiently(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool, again and again while a loop device or a mount is busy: another process may be at it."""
    latest = time.monotonic() + _PATIENCE_S
    while True:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if not (done.returncode and _BUSY.search(done.stderr)) or time.monotonic() > latest:
            return done
        time.sleep(0.1)


@contextmanager
def _mounted(*mount: str | Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="eventcore-mount-"))
    try:
        run("mount", *mount, folder)
        try:
            yield folder
        finally:
            run("umount", "-l", folder)
    finally:
        folder.rmdir()


@contextmanager
def tmpfs(size: int) -> Iterator[Path]:
    """A file system in memory with `size` bytes of blocks."""
    need_root("a tmpfs")
    with _mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs") as folder:
        yield folder


@contextmanager
def ext4_loop(size: int) -> Iterator[Path]:
    """See `loop`."""
    with loop("ext4", size) as folder:
        yield folder


@contextmanager
def loop(kind: str, size: int) -> Iterator[Path]:
    """An ext4 or ext2 on a loop device whose image file has `size` bytes; some of them are the file system's own."""
    need_root(f"an {kind} image")
    handle, name = tempfile.mkstemp(prefix=f"eventcore-{kind}-", suffix=".img")
    try:
        os.truncate(handle, size)
        os.close(handle)
        run(f"mkfs.{kind}", "-q", "-F", "-m", "0", name)
        with _mounted("-o", "loop", name) as folder:
            yield folder
    finally:
        os.unlink(name)


def fill(folder: Path, leave: int = 0) -> Path:
    """Use up every free byte of the folder's file system but about `leave`; returns the file that holds them."""
    ballast = folder / "ballast"
    fd = os.open(ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        at = 0
        for step in (1 << 20, 1 << 16, 1 << 12):
            while True:
                try:
                    at += os.pwrite(fd, bytes(step), at)
                except OSError:  # ENOSPC: go on in smaller steps
                    break
        os.ftruncate(fd, max(at - leave, 0))
        os.fsync(fd)
    finally:
        os.close(fd)
    return ballast

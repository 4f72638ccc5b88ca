"""ext4 is shut down under load: what was acknowledged as durable is there after the next mount.

`FS_IOC_SHUTDOWN` with the flag "no log flush" is the simplest honest power cut short of hardware: what was not synced
is gone, unsynced names included.
"""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from tests.crash.killing import value_of
from tests.crash.mounts import need_root, patiently
from tests.scale import DEPTH, seeded

_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
_IMAGE_BYTES = 48 << 20
CYCLES = [pytest.param(6, marks=pytest.mark.sampled), pytest.param(200 * DEPTH, marks=pytest.mark.nightly)]


def command(*arguments: str | Path) -> None:
    done = patiently(*arguments)
    if done.returncode:
        raise OSError(f"{arguments[0]}: {done.stderr.strip()}")


@pytest.fixture
def image() -> Iterator[tuple[Path, Path]]:
    """An ext4 image and the folder to mount it at."""
    need_root("mounts: mounting an image")
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    ground = Path(tempfile.mkdtemp(dir=memory))
    file, folder = ground / "image", ground / "mount"
    folder.mkdir()
    try:
        with file.open("wb") as handle:
            handle.truncate(_IMAGE_BYTES)
        command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
        command("mount", "-o", "loop", file, folder)
        command("umount", folder)
    except OSError as error:
        shutil.rmtree(ground)
        pytest.skip(f"mounts: no ext4 on a loop device here: {error}")
    yield file, folder
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
    shutil.rmtree(ground, ignore_errors=True)


def write(folder: Path, shared: mmap.mmap, seed: int) -> None:
    """The child: append until the disk is gone; the durable end goes into shared memory."""
    pick = random.Random(seed)
    fsync = pick.choice(["always", "always", "interval", "never"])
    config = {"segment.bytes": pick.choice([4096, 16384, 1 << 20]), "segment.index.bytes": 4096, "flush.ms": 5}
    with ec.open_partition(folder, "rw", fsync, config) as p:  # type: ignore[arg-type]
        shared[:8] = p.durable_offset.to_bytes(8, "big")
        while True:
            end = p.log_end_offset
            p.extend([value_of(offset, 0) for offset in range(end, end + pick.choice([1, 3, 20]))])
            if fsync == "never" and pick.random() < 0.05:
                p.sync()
            shared[:8] = p.durable_offset.to_bytes(8, "big")
            shared[8] = 1


def cycle(file: Path, mount: Path, shared: mmap.mmap, pick: random.Random) -> tuple[int, int]:
    """One life and death of a writer; returns (durable end that was acknowledged, log end found)."""
    folder = mount / "events-0"
    command("mount", "-o", "loop", file, mount)
    child = os.fork()
    if child == 0:
        try:
            write(folder, shared, pick.randrange(1 << 30))
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while not shared[8] and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(pick.random() * 0.04)
    fd = os.open(mount, os.O_RDONLY)
    durable = int.from_bytes(shared[:8], "big")  # ext4 says it is shut down first and aborts its journal after: a sync
    # between the two returns 0 although the pages, whose extents it could not convert any more, are lost
    fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
    os.close(fd)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    gc.collect()  # what is mapped keeps the file system busy
    command("umount", mount)
    command("mount", "-o", "loop", file, mount)
    try:
        return durable, look(folder, durable)
    finally:
        gc.collect()
        command("umount", mount)


def look(folder: Path, durable: int) -> int:
    """Everything below `durable` is there, and nothing that was never sent."""
    with ec.open_partition(folder, "rw", "always") as p:
        for _, damage in p.recovery.damage:
            assert damage.first_offset >= durable, f"damage {damage} below the durable end {durable}"
        bad = {offset for _, d in p.recovery.damage for offset in range(d.first_offset, d.next_offset)}
        found = {}
        for offset in sorted(set(range(p.log_start_offset, p.log_end_offset)) - bad):
            found[offset] = p[offset].value
        assert p.log_end_offset >= durable, f"the log ends at {p.log_end_offset}, durable was {durable}"
        assert all(value == value_of(offset, 0) for offset, value in found.items())
        end = p.log_end_offset
        assert p.append(value_of(end, 0)) == end
        if bad:
            p.close()
            shutil.rmtree(folder)
            return 0
        return end + 1


@pytest.mark.mounts
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cycles", CYCLES)
def test_nothing_durable_is_lost_when_the_file_system_is_shut_down(image: tuple[Path, Path], cycles: int) -> None:
    file, mount = image
    pick, shared, kept = seeded(5), mmap.mmap(-1, 4096), 0
    for number in range(cycles):
        if number % 40 == 0:
            command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
        shared[:9] = bytes(9)
        durable, _ = cycle(file, mount, shared, pick)
        kept += durable
    assert kept, "no writer had anything durable when it was shut down"

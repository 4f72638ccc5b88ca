"""A real file system is full: a typed error, nothing lost, and on it goes as soon as there is space, without a restart.

`test_sigbus_engine.py` does so under many processes; here one writer meets every way in which a disk may be full.
"""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from tests.crash.mounts import ext4_loop, fill, tmpfs

pytestmark = pytest.mark.mounts

KINDS = {"tmpfs": (tmpfs, 8 << 20), "ext4": (ext4_loop, 32 << 20)}
CONFIG = {"segment.bytes": 1 << 20, "segment.index.bytes": 65_536}
VALUE = b"x" * 500


@pytest.fixture(params=list(KINDS), scope="module")
def mounted(request: pytest.FixtureRequest) -> Iterator[Path]:
    mount, size = KINDS[request.param]
    with mount(size) as root:
        yield root


@pytest.fixture
def root(mounted: Path) -> Iterator[Path]:
    """Each test has a disk with 4 MiB of space; what fills the rest is at `ballast`, each test deletes what it made."""
    fill(mounted, leave=4 << 20)
    yield mounted
    subprocess.run(["find", str(mounted), "-mindepth", "1", "-delete"], check=False)


def fill_up(p: ec.Partition) -> int:
    """Append until there is no more space; how many records were acknowledged."""
    for number in range(100_000):
        try:
            p.append(b"%d " % number + VALUE)
        except ec.DiskFull:
            return number
    raise AssertionError("the disk never became full")


def values(p: ec.Partition) -> list[int]:
    return [int((record.value or b"").split()[0]) for record in p]


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_everything_acknowledged_is_there_and_it_goes_on(root: Path, fsync: ec.FsyncPolicy) -> None:
    with ec.open_partition(root / "events-0", "rw", fsync, CONFIG) as p:
        count = fill_up(p)
        assert count > 1000
        assert p.log_end_offset == count
        assert values(p) == list(range(count))
        with pytest.raises(ec.DiskFull):
            p.extend([VALUE] * 100)
        assert p.log_end_offset == count
        (root / "ballast").unlink()
        assert p.append(b"%d after" % count) == count
        assert fill_more(p, 2000) == count + 2001
    with ec.open_partition(root / "events-0", "r", config=CONFIG) as p:
        assert p.recovery.clean
        assert p.log_end_offset == count + 2001
        assert p.verify().ok


def fill_more(p: ec.Partition, count: int) -> int:
    p.extend([VALUE] * count)
    return p.log_end_offset


def test_deleting_records_makes_space_for_more(root: Path) -> None:
    with ec.open_partition(root / "events-0", "rw", "always", CONFIG) as p:
        count = fill_up(p)
        for _ in range(3):
            p.delete_records(p.log_end_offset - 600)
            assert p.append(b"%d again" % count) == count
            count += 1 + fill_up(p)
        assert p.log_end_offset == count


def test_a_full_disk_is_closed_opened_and_read(root: Path) -> None:
    with ec.open_partition(root / "events-0", "rw", "never", CONFIG) as p:
        count = fill_up(p)
        fill(root, leave=0).rename(root / "more")
    for mode in ("r", "rw", "r"):
        with ec.open_partition(root / "events-0", mode, "always", CONFIG) as p:  # type: ignore[arg-type]
            assert values(p) == list(range(count))
            if mode == "rw":
                with pytest.raises(ec.DiskFull):
                    fill_more(p, 1000)
    (root / "more").unlink()
    with ec.open_partition(root / "events-0", "rw", "always", CONFIG) as p:
        assert p.append(b"%d" % count) == count


def test_there_is_no_space_for_a_new_log(root: Path) -> None:
    fill(root, leave=0).rename(root / "more")
    with pytest.raises(ec.DiskFull):
        ec.open_partition(root / "events-0", "rw", "always", {"segment.bytes": 1 << 20})
    (root / "more").unlink()
    with ec.open_partition(root / "events-0", "rw", "always", CONFIG) as p:
        assert p.append(b"first") == 0


def until_nobody_writes(mounted: Path) -> None:
    """The thread that makes pages may be at a file that was closed just now; what failed to open is part of cycles."""
    deadline = time.monotonic() + 60
    gc.collect()
    while str(mounted) in Path("/proc/self/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_disk_that_became_read_only_is_read(mounted: Path) -> None:
    with ec.open_partition(mounted / "events-0", "rw", "always", CONFIG) as p:
        p.extend([b"%d" % number for number in range(100)])
    until_nobody_writes(mounted)
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    try:
        with ec.open_partition(mounted / "events-0", "r", config=CONFIG) as p:
            assert values(p) == list(range(100))
            assert p.verify().ok
        with pytest.raises(ec.StorageError, match=r"[Rr]ead-only"):
            ec.open_partition(mounted / "events-0", "rw", "always", CONFIG)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    with ec.open_partition(mounted / "events-0", "rw", "always", CONFIG) as p:
        assert p.append(b"goes on") == 100
    subprocess.run(["find", str(mounted), "-mindepth", "1", "-delete"], check=False)


def test_a_log_larger_than_what_is_free_is_opened_and_goes_on(root: Path) -> None:
    config = {"segment.bytes": 16 << 20}
    with ec.open_partition(root / "events-0", "rw", "always", config) as p:
        count = fill_more(p, 5000)
        fill(root, leave=1 << 20).rename(root / "more")
    with ec.open_partition(root / "events-0", "rw", "always", config) as p:
        assert p.append(b"goes on") == count

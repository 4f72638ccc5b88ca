"""Where blocks cannot be reserved, the log is written by pwrite, and everything else is as before.

An ext2 has no fallocate: the real thing. `Disk.allocates` that says so on any disk is enough for the rest.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.disk import Disk
from tests.crash.mounts import fill, loop
from tests.crash.test_full_disk import CONFIG, fill_up, values


@pytest.fixture(scope="module")
def ext2() -> Iterator[Path]:
    with loop("ext2", 32 << 20) as root:
        yield root


@pytest.fixture
def root(ext2: Path) -> Iterator[Path]:
    fill(ext2, leave=4 << 20)
    yield ext2
    subprocess.run(["find", str(ext2), "-mindepth", "1", "-delete"], check=False)


@pytest.mark.mounts
@pytest.mark.parametrize("fsync", ["always", "never"])
def test_a_full_ext2_is_an_error_and_it_goes_on(root: Path, fsync: ec.FsyncPolicy) -> None:
    with ec.open_partition(root / "events-0", "rw", fsync, CONFIG) as p:
        if ec.build_info()["kernels"] == "native":  # Python's posix_fallocate writes zeros where there is no real one
            assert p.io == "pwrite"
        count = fill_up(p)
        assert count > 1000
        assert values(p) == list(range(count))
        with ec.open_partition(root / "events-0", "r", config=CONFIG) as r:
            assert values(r) == list(range(count))
        (root / "ballast").unlink()
        assert p.append(b"%d" % count) == count
    with ec.open_partition(root / "events-0", "r", config=CONFIG) as r:
        assert values(r) == list(range(count + 1))
        assert r.verify().ok


def test_readers_in_the_same_process_see_what_was_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "allocates", lambda disk, fd: False)
    config = {"segment.bytes": 8192, "segment.index.bytes": 4096}
    with ec.open_partition(tmp_path / "events-0", "rw", "never", config) as p:
        with ec.open_partition(tmp_path / "events-0", "r", config=config) as r:
            for number in range(300):
                assert p.append(b"%d " % number + b"x" * 100) == number
                assert r[number].value == p[number].value
            p.truncate(150)
            assert p.append(b"150 again") == 150
            assert values(r) == values(p) == list(range(151))
        assert p.io == "pwrite"
        assert len(p.segments) > 3
    with ec.open_partition(tmp_path / "events-0", "rw", "always", config) as p:
        assert p.recovery.clean
        assert values(p) == list(range(151))

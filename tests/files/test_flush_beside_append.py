"""Where the file system cannot reserve blocks, one thread writes out what was stored while another one stores more.

The thread that syncs is held inside its `pwrite`; what the other one notes meanwhile must get to the file, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.clock import SystemClock
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.errors import DiskFull, StorageError
from eventcore.files.mapped_file import MappedFile
from eventcore.files.segment_file import SegmentFile
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog

PATIENCE_S = 60
CONFIG = LogConfig.of({"index.interval.bytes": 100, "segment.index.bytes": 8192})


class PwriteDisk(Disk):
    """No blocks can be reserved. The one write that `holds` names waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: tuple[str, str] = ("", "")
        """Suffix of the file, name of the thread."""
        self.held, self.go = threading.Event(), threading.Event()
        self.fails: type[StorageError] | None = None
        self.fails_after = 0

    def allocates(self, fd: int) -> bool:
        return False

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        path = self._path(fd)
        if (path.suffix, threading.current_thread().name) == self.holds:
            self.holds = ("", "")
            self.held.set()
            assert self.go.wait(PATIENCE_S)
        if self.fails is not None and path.suffix == ".log":
            super().pwrite_all(fd, memoryview(data)[: self.fails_after], at)
            raise self.fails("no space is left", path=path)
        super().pwrite_all(fd, data, at)


@pytest.fixture
def disk() -> PwriteDisk:
    return PwriteDisk()


def in_thread(name: str, act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, name=name)
    thread.start()
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_note_made_while_another_is_written_out_is_not_lost(tmp_path: Path, disk: PwriteDisk) -> None:
    path = tmp_path / "00000000000000000000.index"
    file = MappedFile(disk, path, write=True, capacity=8192)
    assert file.private
    file.reserve(8192)
    file.view[:8] = b"a" * 8
    file.stored(0, 8)
    disk.holds = (".index", "syncing")
    syncing = in_thread("syncing", file.sync)
    assert disk.held.wait(PATIENCE_S)
    file.view[8:16] = b"b" * 8
    file.stored(8, 16)
    disk.go.set()
    joined(syncing)
    file.flush()
    assert path.read_bytes()[:16] == b"a" * 8 + b"b" * 8


def test_a_flush_waits_for_what_another_thread_is_writing(tmp_path: Path, disk: PwriteDisk) -> None:
    path = tmp_path / "00000000000000000000.index"
    file = MappedFile(disk, path, write=True, capacity=8192)
    file.reserve(8192)
    file.view[:8] = b"a" * 8
    file.stored(0, 8)
    disk.holds = (".index", "syncing")
    syncing = in_thread("syncing", file.sync)
    assert disk.held.wait(PATIENCE_S)
    found: list[bytes] = []
    flushing = in_thread("flushing", lambda: (file.flush(), found.append(path.read_bytes()[:8])))
    disk.go.set()
    joined(syncing, flushing)
    assert found == [b"a" * 8]


def test_what_could_not_be_written_is_written_by_the_next_flush(tmp_path: Path, disk: PwriteDisk) -> None:
    path = tmp_path / "a.log"
    file = MappedFile(disk, path, write=True, capacity=8192)
    file.reserve(8192)
    file.view[:8] = b"a" * 8
    file.stored(0, 8)
    disk.fails = DiskFull
    with pytest.raises(DiskFull):
        file.flush()
    disk.fails = None
    file.view[8:16] = b"b" * 8
    file.stored(8, 16)
    file.flush()
    assert path.read_bytes()[:16] == b"a" * 8 + b"b" * 8


def test_a_batch_is_in_the_file_before_it_counts(tmp_path: Path, disk: PwriteDisk) -> None:
    """Whoever syncs takes nothing of the log out of the appender's hands."""
    path = tmp_path / "00000000000000000000.log"
    log = SegmentFile(disk, path, write=True, capacity=8192)
    log.reserve(8192)
    log.view[:8] = b"a" * 8
    disk.holds = (".log", "syncing")
    log.stored(0, 8)
    syncing = in_thread("syncing", log.sync)  # has nothing to write, so nothing of it is held
    joined(syncing)
    log.flush()
    assert not disk.held.is_set()
    assert path.read_bytes()[:8] == b"a" * 8


def test_index_entries_beside_a_checkpoint(tmp_path: Path, disk: PwriteDisk) -> None:
    folder = tmp_path / "events-0"
    folder.mkdir()
    log = PartitionLog(disk, folder, CONFIG, SystemClock(), "never")
    for number in range(20):
        log.append([b"%d" % number * 40])
    disk.holds = (".index", "checkpoint")
    checkpoint = in_thread("checkpoint", lambda: log.segments.active.sync_indexes())
    assert disk.held.wait(PATIENCE_S)
    for number in range(20, 40):
        log.append([b"%d" % number * 40])
    disk.go.set()
    joined(checkpoint)
    log.close()
    with ec.open_partition(folder, "r", config={"index.interval.bytes": 100, "segment.index.bytes": 8192}) as p:
        report = p.verify()
        assert report.problems == []
        index = next(iter(p.segments)).offset_index
        assert [index.entry(slot)[0] for slot in range(index.count)] == sorted(
            {index.entry(slot)[0] for slot in range(index.count)}
        )
        assert index.count > 30
        assert p.recovery.clean


@pytest.mark.parametrize("written", [0, 30, 4096])
def test_a_batch_the_full_disk_refused_never_gets_to_the_file(tmp_path: Path, disk: PwriteDisk, written: int) -> None:
    folder = tmp_path / "events-0"
    folder.mkdir()
    partition = Partition(PartitionLog(disk, folder, CONFIG, SystemClock(), "never"))
    partition.append(b"there")
    path = folder / f"{0:020d}.log"
    before = path.read_bytes()
    disk.fails, disk.fails_after = DiskFull, written
    with pytest.raises(DiskFull):
        partition.append(b"refused")
    disk.fails = None
    partition.sync()
    assert path.read_bytes()[: len(before)] == before
    assert partition.append(b"x") == 1
    assert [record.value for record in partition] == [b"there", b"x"]
    partition.close()
    with ec.open_partition(folder, "r") as reader:
        assert [record.value for record in reader] == [b"there", b"x"]

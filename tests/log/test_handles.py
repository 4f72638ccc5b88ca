"""What becomes of handles that nobody closes, of paths when the process moves, and of descriptors 0, 1 and 2."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore.log import flusher

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")


def forgotten(message: str) -> pytest.WarningsRecorder:
    """A block in which somebody is told of a handle that was not closed."""
    return pytest.warns(ResourceWarning, match=message)


def files_below(folder: Path) -> list[str]:
    """What this process has open below a folder, the locks among it."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except OSError:
            continue
    return [path for path in found if path.startswith(str(folder))]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What another test has left is no matter of these."""
    gc.collect()
    yield
    gc.collect()


# -- nobody has it any more --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_a_forgotten_writer_frees_its_lock_and_its_files(tmp_path: Path, fsync: Any) -> None:
    folder = tmp_path / "events-0"
    p = ec.open_partition(folder, fsync=fsync, config={"segment.bytes": 4096, "flush.ms": 1})
    p.extend([b"x" * 100] * 100)
    record, view = p[99], p.columns()
    with pytest.warns(ResourceWarning, match="unclosed <Partition .*events-0' mode='rw'>"):
        del p
    gc.collect()
    assert files_below(tmp_path) == []
    assert record.value == view.value(99) == b"x" * 100
    with ec.open_partition(folder) as again:
        assert not again.recovery.damage
        assert [r.value for r in again] == [b"x" * 100] * 100
        assert again.append(b"goes on") == 100


def test_a_forgotten_reader_frees_its_files_and_its_thread(tmp_path: Path) -> None:
    with ec.open_partition(tmp_path / "events-0") as writer:
        writer.append(b"x")
        before = files_below(tmp_path)
        reader = ec.open_partition(tmp_path / "events-0", "r")
        leave = reader.subscribe(lambda: None)
        assert reader[0].value == b"x"
        del reader
        gc.collect()
        with forgotten("unclosed <Partition"):
            del leave  # who can leave keeps the handle
            gc.collect()
        deadline = time.monotonic() + 60
        while files_below(tmp_path) != before:  # the thread has the page until it looks whether somebody is there
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_forgotten_store_frees_its_locks_and_its_files(tmp_path: Path, mode: Any) -> None:
    with ec.open(tmp_path / "store") as store:
        store.create_topic("events", 2)[0].append(b"x")
    opened = ec.open(tmp_path / "store", mode)
    events = opened.topic("events")[0]
    assert events[0].value == b"x"
    if mode == "rw":
        with opened.transaction("t") as transaction:
            transaction.append("events", b"y", partition=1)
        del transaction
    _ = opened.groups.list()
    del opened
    gc.collect()
    assert events[0].value == b"x", "a partition keeps its store"
    with forgotten("unclosed <Store"):
        del events
        gc.collect()
    assert files_below(tmp_path) == []
    with ec.open(tmp_path / "store") as again:
        assert [r.value for r in again.topic("events")[0]] == [b"x"]


LAZY: dict[str, Callable[[ec.Partition], Iterator[Any]]] = {
    "for": iter,
    "read": lambda p: p.read(),
    "read committed": lambda p: p.read(isolation="read_committed"),
    "tail": lambda p: p.tail(0, timeout=0),
    "columns": lambda p: (int(at) for batch in p.column_batches(batch_rows=7) for at in batch.offset),
    "batches": lambda p: p.batches(),
}


@pytest.mark.parametrize("what", list(LAZY))
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_who_reads_keeps_the_handle(tmp_path: Path, what: str, mode: Any) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder, config={"segment.bytes": 4096}) as p:
        p.extend([b"x" * 100] * 100)
        wanted = len(list(LAZY[what](p)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        lazy = LAZY[what](ec.open_partition(folder, mode, config={"segment.bytes": 4096}))
        gc.collect()
        count = 0
        for _ in lazy:
            gc.collect(0)
            count += 1
        assert count == wanted > 1
        del lazy
        gc.collect()


def test_a_chain_of_calls_appends(tmp_path: Path) -> None:
    with forgotten("unclosed <Partition"):
        assert ec.open_partition(tmp_path / "events-0").append(b"x") == 0
        gc.collect()
    with forgotten("unclosed <Partition"):
        assert ec.open_partition(tmp_path / "events-0").extend([b"y", b"z"]) == range(1, 3)
        gc.collect()
    with ec.open_partition(tmp_path / "events-0") as p:
        assert [r.value for r in p] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("how", ["closed", "refused", "fenced"])
def test_no_warning_of_a_handle_that_was_closed(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = ec.open_partition(tmp_path / "events-0")
        p.append(b"x")
        if how == "refused":
            with pytest.raises(ec.LogLocked):
                ec.open_partition(tmp_path / "events-0")
        if how == "fenced":
            with monkeypatch.context() as patch:
                patch.setattr("eventcore.disk.Disk.sync", lambda *_: (_ for _ in ()).throw(ec.StorageError("no disk")))
                with pytest.raises(ec.StorageFenced):
                    p.append(b"y")
        p.close()
        del p
        gc.collect()
    assert files_below(tmp_path) == []


def test_the_end_of_the_interpreter_is_silent(tmp_path: Path) -> None:
    program = (
        "import sys, eventcore as ec; p = ec.open_partition(sys.argv[1] + '/events-0', fsync='interval');"
        "p.append(b'x'); s = ec.open(sys.argv[1] + '/store'); s.create_topic('t')[0].append(b'x')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with ec.open_partition(tmp_path / "events-0") as p:
        assert len(p) == 1


def test_the_flusher_keeps_nobody_and_takes_any_interval(tmp_path: Path) -> None:
    """2^63-1 ms is Kafka's default, and more than a thread can wait."""
    config = {"flush.ms": 2**63 - 1}
    with ec.open_partition(tmp_path / "events-0", fsync="interval", config=config) as p:
        p.append(b"x")
        inner: Any = p._log
        assert inner._flusher._thread.is_alive()
    assert not inner._flusher._thread.is_alive()

    class Log:
        log_end_offset = 0

        def sync_to(self, end: int) -> None:
            """Nothing."""

    log = Log()
    told = flusher.Flusher(log, 1)
    del log
    told._thread.join(60)
    assert not told._thread.is_alive()


# -- the process moves -------------------------------------------------------------------------------------------------


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons change their folder; another one may have a log of the same name there."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (there / "events-0").mkdir()
    monkeypatch.chdir(here)
    config = {"segment.bytes": 4096, "segment.index.bytes": 4096}
    with ec.open_partition("events-0", config=config) as p, ec.open("store") as store:
        topic = store.create_topic("t", config=config)
        reader, store_reader = ec.open_partition("events-0", "r", config=config), ec.open("store", "r")
        monkeypatch.chdir(there)
        assert p.path == here / "events-0"
        for at in range(200):
            assert p.append(b"x" * 100) == topic[0].append(b"x" * 100) == at
        p.truncate(150)
        store.create_topic("made-there")
        store.snapshot("../snapshots")
        assert len(list(reader)) == 150
        assert len(list(store_reader.topic("t")[0])) == 200
        reader.close()
        store_reader.close()
    assert list(there.iterdir()) == [there / "events-0"]
    assert list((there / "events-0").iterdir()) == []
    monkeypatch.chdir(here)
    with ec.open_partition("events-0", "r", config=config) as p:
        assert p.recovery.clean
        assert len(list(p)) == 150
    assert ec.repair_partition("events-0", dry_run=True).losses == []
    ec.restore("../snapshots", "restored")
    with ec.open(here / "restored", "r") as store:
        assert store.topics == ["made-there", "t"]


def test_the_folder_we_are_in_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for act in (lambda: ec.open_partition("events-0"), lambda: ec.open("store", "r"), lambda: ec.restore("a", "b")):
        with pytest.raises(ec.EventCoreError):
            act()
    monkeypatch.chdir(tmp_path)


# -- descriptors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_no_file_of_a_log_becomes_stderr(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Whoever has closed it may still write a message there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            p = ec.open_partition(tmp_path / "events-0")
            p.append(b"before")
            for fd in closed:
                os.close(fd)
            p.roll()
            reader = ec.open_partition(tmp_path / "events-0", "r")
            assert len(list(reader)) == 1
            for fd in closed:
                try:
                    os.fstat(fd)
                except OSError:
                    continue
                os._exit(2)
            p.close()
            reader.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_columns_keep_nothing_open(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        values = np.frombuffer(b"abcd" * 10, np.uint8).reshape(10, 4)
        ec.open_partition(tmp_path / "events-0").extend_columns(values)
        gc.collect()
    assert files_below(tmp_path) == []

"""One writer a folder, whoever it is and by whatever path he comes; and what a fork may do with an open partition."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import eventcore as ec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and forks are tested as Linux has them")

PATIENCE_S = 120.0
HOLD = "import sys, eventcore as ec; p = ec.open_partition(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
BROKER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def another(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened the path, until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
    finally:
        child.communicate("", timeout=PATIENCE_S)


def forked(act: Callable[[], None], leave: Callable[[], None] = lambda: os._exit(0)) -> None:
    """Let a child do it; fails if it does."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            os.write(2, f"in the child: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
        leave()
    assert os.waitpid(pid, 0)[1] == 0


def test_another_process_is_named_and_its_death_frees_the_folder(folder: Path) -> None:
    with another(HOLD, folder) as child:
        with pytest.raises(ec.LogLocked, match=f"process {child.pid}") as caught:
            ec.open_partition(folder)
        assert "mode='r'" in str(caught.value)
        assert caught.value.retriable
        with ec.open_partition(folder, "r") as p:
            assert p.high_watermark == 0
        child.send_signal(signal.SIGKILL)
        child.wait()
        ec.open_partition(folder).close()


def test_a_link_is_no_other_folder(folder: Path, tmp_path: Path) -> None:
    with ec.open_partition(folder):
        os.symlink(folder, tmp_path / "link-0")
        with pytest.raises(ec.LogLocked):
            ec.open_partition(tmp_path / "link-0")


def test_two_folders_of_one_parent_are_written_at_once(folder: Path) -> None:
    (folder.parent / ".lock").touch()
    with another(HOLD, folder), ec.open_partition(folder.with_name("events-1")) as p:
        assert p.append(b"x") == 0


def test_a_broker_keeps_writers_out_and_not_readers(folder: Path) -> None:
    with ec.open_partition(folder) as p:
        p.append(b"x")
    with another(BROKER, folder.parent / ".lock") as broker:
        with pytest.raises(ec.LogLocked, match=f"process {broker.pid}"):
            ec.open_partition(folder)
        with ec.open_partition(folder, "r") as p:
            assert p[0].value == b"x"
    ec.open_partition(folder).close()


def test_a_writer_keeps_a_broker_out(folder: Path) -> None:
    (folder.parent / "meta.properties").touch()
    with ec.open_partition(folder):
        tried = subprocess.run(
            [sys.executable, "-c", BROKER, str(folder.parent / ".lock")], capture_output=True, text=True, check=False
        )
        assert "BlockingIOError" in tried.stderr
    with another(BROKER, folder.parent / ".lock"):
        pass


def test_a_child_may_neither_write_nor_read_nor_keep_the_lock(folder: Path) -> None:
    p = ec.open_partition(folder)
    p.append(b"parent")

    def use() -> None:
        for act in (lambda: p.append(b"child"), p.sync, p.roll, lambda: p[0], lambda: p.truncate(0)):
            with pytest.raises(ec.ClosedError, match="parent of this process"):
                act()

    forked(use)
    assert p.append(b"parent") == 1
    go, wait = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wait)
        os.read(go, 1)
        os._exit(0)
    p.close()
    try:
        with ec.open_partition(folder) as again:  # the child, which still lives, does not hold it
            assert [record.value for record in again] == [b"parent", b"parent"]
    finally:
        os.close(wait)
        os.close(go)
        os.waitpid(child, 0)


@pytest.mark.parametrize("close", [False, True])
def test_the_end_of_a_child_is_not_the_end_of_the_log(folder: Path, close: bool) -> None:
    p = ec.open_partition(folder, fsync="interval", config={"segment.bytes": 4096, "segment.index.bytes": 4096})
    p.extend([b"x" * 100] * 10)

    def end() -> None:
        if close:
            p.close()
        del p._log
        gc.collect()

    forked(end)
    for at in range(10, 200):
        assert p.append(b"x" * 100) == at
    with pytest.raises(ec.LogLocked):
        _take_lock(folder)
    p.close()
    with ec.open_partition(folder) as again:
        assert again.recovery.clean
        assert len(again) == 200


def _take_lock(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(folder)],
        input="",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if "LogLocked" in done.stderr:
        raise ec.LogLocked("by another process")
    assert done.stdout == "open\n", done.stderr


def test_a_reader_in_a_child_says_what_to_do(folder: Path) -> None:
    with ec.open_partition(folder) as writer:
        writer.append(b"x")
        reader = ec.open_partition(folder, "r")

        def use() -> None:
            with pytest.raises(ec.ClosedError, match="parent of this process"):
                reader[0]
            with ec.open_partition(folder, "r") as own:
                assert own[0].value == b"x"

        forked(use)
        assert reader[0].value == b"x"
        reader.close()


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_forks_amid_appends_of_another_thread(folder: Path) -> None:
    stop, p = threading.Event(), ec.open_partition(folder, fsync="always")
    sent = []

    def write() -> None:
        while not stop.is_set():
            sent.append(p.append(b"x" * 50))

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        forked(lambda: None)
        more = len(sent) + 1
        wait_until(lambda more=more: len(sent) >= more or not thread.is_alive())  # type: ignore[misc]
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    p.close()
    assert sent == list(range(len(sent)))
    assert len(sent) >= 20
    with ec.open_partition(folder) as again:
        assert again.recovery.clean
        assert len(again) == len(sent)


def test_a_new_writer_need_not_wait_for_a_killed_one(folder: Path) -> None:
    for at in range(5):
        child = os.fork()
        if child == 0:
            with ec.open_partition(folder, fsync="never") as p:
                p.append(b"x")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        with ec.open_partition(folder) as p:
            assert len(p) == at + 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc here")
def test_close_lets_go_of_every_file_but_what_was_read_stays(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p, ec.open_partition(folder, "r") as r:
        p.extend([b"value"] * 100)
        for _ in range(3):
            p.roll()
            p.append(b"more")
            records = list(r)
        assert used(folder)
    assert not used(folder)
    assert (len(records), records[-1].value) == (103, b"more")


def used(folder: Path) -> list[str]:
    """What this process has open or mapped."""
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    opened = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    return mapped + [path for path in opened if str(folder) in path]


@pytest.mark.sampled
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_closing_while_others_read_is_an_error_for_them_and_nothing_else(tmp_path: Path, mode: str) -> None:
    for number in range(20):
        folder = tmp_path / f"events-{number}"
        with ec.open_partition(folder, fsync="never") as writer:
            writer.extend([b"value"] * 500)
            p = writer if mode == "rw" else ec.open_partition(folder, "r")
            ended: list[type[Exception]] = []

            def read(p: ec.Partition = p, ended: list[type[Exception]] = ended) -> None:
                try:
                    while True:
                        assert p[499].value == b"value"
                        assert len(list(p)) == 500
                        assert p.log_start_offset == 0
                        assert len(p.columns(100, 200)) == 100
                except Exception as error:
                    ended.append(type(error))

            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.005)
            p.close()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert ended == [ec.ClosedError] * 3

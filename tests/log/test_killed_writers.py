"""A writer that is killed, and what lies about then: a child of it, a page with a changed bit, a damaged last batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventcore as ec

MARK_AT = range(192, 208)
"""Of `eventcore.state`: the durable mark and its complement."""
WRITE = """
import os, signal, sys
import eventcore as ec
p = ec.open_partition(sys.argv[1], fsync="always", config={"segment.bytes": 65536})
for i in range(10):
    p.append(b"value %d" % i)
os.kill(os.getpid(), signal.SIGKILL)
"""
FORK = """
import os, signal, sys
import eventcore as ec
p = ec.open_partition(sys.argv[1])
p.append(b"x")
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()  # until the test ends
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(program: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "events-0"


def test_a_child_of_a_killed_writer_keeps_no_lock(folder: Path) -> None:
    command = [sys.executable, "-c", FORK, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        child = int(writer.stdout.readline())
        assert writer.wait(60) == -signal.SIGKILL
        os.kill(child, 0)  # it lives
        with ec.open_partition(folder) as p:
            assert [record.value for record in p] == [b"x"]


@pytest.mark.sampled
def test_each_bit_of_the_mark(memory_path: Path) -> None:
    """A changed one makes it nothing: the log is read as if there were none, and is what it was."""
    folder = memory_path / "events-0"
    run(WRITE, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for bit in range(8 * MARK_AT.start, 8 * MARK_AT.stop):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        page = bytearray(files["eventcore.state"])
        page[bit // 8] ^= 1 << bit % 8
        (folder / "eventcore.state").write_bytes(page)
        with ec.open_partition(folder, "rw", "never") as p:
            assert (len(p), p.recovery.damage) == (10, []), bit


def test_damage_below_the_mark_is_reported_and_not_cut(folder: Path) -> None:
    """The last durable batch, above the recovery point: without the mark it would look like a torn tail."""
    run(WRITE, folder)
    log = folder / f"{0:020d}.log"
    data = bytearray(log.read_bytes())
    data[data.rindex(b"value 9")] ^= 1
    log.write_bytes(data)
    with ec.open_partition(folder) as p:
        assert len(p) == 10
        ((_, damage),) = p.recovery.damage
        assert (damage.first_offset, damage.next_offset) == (9, 10)
        assert [p[offset].value for offset in range(9)] == [b"value %d" % i for i in range(9)]
        with pytest.raises(ec.CorruptRecord):
            p[9]

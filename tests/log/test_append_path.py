"""The ways a record takes into the log: one call of the appender, or step by step. What comes out is the same."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.errors import ClosedError, UsageError
from eventcore.files import names
from eventcore.files.populator import Populator
from tests.log.conftest import NOW, FakeClock, Open

THREADS = 6


def test_headers_and_buffers_go_the_other_way(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        sent: list[dict[str, Any]] = [
            {"value": b"plain", "key": b"k", "timestamp": 5},
            {"value": bytearray(b"buffer"), "key": memoryview(b"view")},
            {"value": b"headers", "headers": [("a", b"b")]},
            {"value": None, "key": b"tombstone"},
            {"value": b"big" * 100_000},
        ]
        assert [p.append(**record) for record in sent] == list(range(5))
        assert [(r.key, r.value, tuple(r.headers)) for r in p] == [
            (b"k", b"plain", ()),
            (b"view", b"buffer", ()),
            (None, b"headers", (("a", b"b"),)),
            (b"tombstone", None, ()),
            (None, b"big" * 100_000, ()),
        ]
        assert p[0].timestamp == 5
        assert p.verify().ok


@pytest.mark.parametrize("fsync", ["never", "always"])
def test_threads_get_an_offset_each(folder: Path, fsync: Any) -> None:
    """Single records without the lock, beside batches, rolls and syncs with it."""
    count = 300 if fsync == "never" else 40
    offsets: list[int] = []

    def append(p: ec.Partition, number: int) -> None:
        for turn in range(count):
            if number == 0 and turn % 10 == 0:
                p.roll()
            if number == 1:
                offsets.extend(p.extend([b"1-%d" % turn, b"1-%d" % turn]))
            else:
                offsets.append(p.append(b"%d-%d" % (number, turn)))
            if number == 2 and turn % 7 == 0:
                p.sync()

    with ec.open_partition(folder, fsync=fsync, config={"segment.bytes": 1 << 16}) as p:
        threads = [threading.Thread(target=append, args=(p, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(offsets) == list(range(p.log_end_offset)) == list(range(len(p)))
        for number in range(THREADS):
            mine = [r.value for r in p if (r.value or b"").startswith(b"%d-" % number)]
            assert mine == [b"%d-%d" % (number, turn) for turn in range(count) for _ in range(1 + (number == 1))]
        assert p.verify().ok


def test_the_way_makes_no_difference_to_the_files(tmp_path: Path, clock: FakeClock) -> None:
    """In the second log the appender is never asked."""
    config = {"segment.bytes": 1 << 15, "index.interval.bytes": 300}
    folders = [tmp_path / "fast-0", tmp_path / "slow-0"]
    for folder in folders:
        with ec.open_partition(folder, fsync="never", config=config, clock=clock) as p:
            if folder.name.startswith("slow"):
                p._log._writer._append = lambda *arguments: 0  # type: ignore[union-attr,method-assign]
            clock.now = NOW
            for n in range(400):
                clock.now += n % 3
                p.extend([(b"k%d" % n, b"v" * (n % 90))] * (n % 4 + 1))
    for name in sorted(path.name for path in folders[0].iterdir()):
        if name.endswith((".log", ".index", ".timeindex", ".seal")):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert len(list(folders[0].glob("*.log"))) > 2


def test_after_the_end_of_it_every_way_is_closed(folder: Path) -> None:
    p = ec.open_partition(folder, fsync="never")
    append = p.append
    append(b"v")
    p.close()
    for call in (lambda: append(b"v"), lambda: p.extend([b"v"]), lambda: p.extend_columns(np.zeros((1, 1), np.uint8))):
        with pytest.raises(ClosedError):
            call()


def test_a_child_of_a_fork_may_not(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        p.append(b"v")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                p.append(b"child")
            except ClosedError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert p.append(b"parent") == 1


class Headers(list[Any]):
    """Headers whose iteration appends to the same partition."""

    def __init__(self, p: ec.Partition) -> None:
        super().__init__([("a", None)])
        self.p = p

    def __iter__(self) -> Any:
        self.p.append(b"inside")
        return super().__iter__()


@pytest.mark.parametrize("codec", ["uncompressed", "zstd"])
def test_an_append_from_within_an_append(open_log: Open, codec: str) -> None:
    p = open_log(compression_type=codec)
    p.append(b"first")
    with pytest.raises(UsageError, match="from within"):
        p.append(b"outside", headers=Headers(p))
    assert p.append(b"second") == 1
    assert [r.value for r in p] == [b"first", b"second"]


def test_a_subscriber_hears_of_every_append(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        p.append(b"before")
        heard: list[int] = []
        unsubscribe = p.subscribe(lambda: heard.append(p.high_watermark))
        p.append(b"one")
        p.extend([b"two", b"three"])
        unsubscribe()
        p.append(b"after")
        assert heard == [2, 4]


def test_flush_messages_count_single_records_too(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never", config={"flush.messages": 3}) as p:
        durable = []
        for _ in range(7):
            p.append(b"v")
            durable.append(p.durable_offset)
        assert durable == [0, 0, 3, 3, 3, 6, 6]


def test_preallocated_pages_are_there_at_the_opening(folder: Path) -> None:
    config = {"segment.bytes": 1 << 22, "preallocate": True}
    with ec.open_partition(folder, fsync="never", config=config) as p:
        log = p.segments.active.log
        assert log.ready == log.capacity == 1 << 22
        assert os.stat(log.path).st_blocks * 512 >= 1 << 22
        for _ in range(5):
            p.extend([b"v" * 1000] * 1000)
        assert len(p.segments) == 2
        assert p.verify().ok
    assert sum(path.stat().st_size for path in folder.glob("*.log")) < 6 << 20, "what is not used is cut at the close"


class File:
    """What the populator is asked to do."""

    def __init__(self, failing: bool = False) -> None:
        self.failing, self.done = failing, threading.Event()

    def populate(self, end: int) -> None:
        self.done.set()
        if self.failing:
            raise ec.MappingFault("no page")


def test_the_populator_goes_on_whatever_happens() -> None:
    populator, files = Populator(), [File(failing=True), File()]
    for file in files:
        populator.ask(file, 5)
    assert all(file.done.wait(120) for file in files)


def test_what_is_reopened_is_not_made_anew(folder: Path) -> None:
    """Pages of the log that is there already are neither read nor dirtied by the first append."""
    with ec.open_partition(folder, fsync="never") as p:
        p.extend([b"v" * 1000] * 3000)
    with ec.open_partition(folder, fsync="never") as p:
        log = p.segments.active.log
        asked: list[int] = []
        populate = log.disk.populate
        log.disk.populate = lambda fd, mapping, start, end: asked.append(start) or populate(fd, mapping, start, end)  # type: ignore[func-returns-value,method-assign]
        size = log.size
        p.append(b"more")
        assert size > 3_000_000
        made = [start for start in asked if start > 100_000]
        assert min(made) == made[0] == size // 4096 * 4096  # and perhaps more ahead of it by now, by the populator
        assert min(start for start in asked if start) > 3_000_000 or asked.count(0) <= 2, "the indexes begin at 0"


# -- columns ---------------------------------------------------------------------------------------------------------

VALUES = (b"abbccc", np.array([0, 1, 3, 6]))


def columns_of(p: ec.Partition, start: int = 0) -> list[tuple[bytes | None, bytes | None, int]]:
    return [(r.key, r.value, r.timestamp) for r in p.read(start)]


def test_columns_of_every_shape(open_log: Open) -> None:
    p = open_log()
    assert p.extend_columns(VALUES) == range(3)
    assert p.extend_columns(VALUES, VALUES, np.array([7, 8, 9])) == range(3, 6)
    nulls = np.array([True, False, True])
    assert p.extend_columns((*VALUES, nulls), (VALUES[0], VALUES[1].astype(np.int32), nulls.view(np.uint8))).stop == 9
    assert p.extend_columns(keys=np.array([[65, 66], [67, 68]], np.uint8)) == range(9, 11)
    assert p.extend_columns(timestamps=np.array([1, 2], "datetime64[s]")) == range(11, 13)
    assert p.extend_columns((b"", [0])) == range(13, 13)
    assert columns_of(p) == [
        (None, b"a", NOW), (None, b"bb", NOW), (None, b"ccc", NOW),
        (b"a", b"a", 7), (b"bb", b"bb", 8), (b"ccc", b"ccc", 9),
        (None, None, NOW), (b"bb", b"bb", NOW), (None, None, NOW),
        (b"AB", None, NOW), (b"CD", None, NOW),
        (None, None, 1000), (None, None, 2000),
    ]  # fmt: skip


def test_columns_are_cut_into_batches(open_log: Open) -> None:
    p = open_log(max_message_bytes=1000)
    offsets = np.arange(101) * 10
    assert p.extend_columns((b"v" * 1000, offsets), batch_records=40) == range(100)
    assert [batch.record_count for batch in p.batches()] == [40, 40, 20]
    assert p.extend_columns((b"v" * 1000, offsets)) == range(100, 200)
    assert [batch.record_count for batch in p.batches()][3:] == [55, 45]
    assert all(r.value == b"v" * 10 for r in p)


@pytest.mark.parametrize("codec", ["zstd", "uncompressed"])
def test_more_columns_than_a_segment_holds(open_log: Open, codec: str) -> None:
    p = open_log(segment_bytes=1 << 14, max_message_bytes=1 << 12, compression_type=codec)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, 100_000, np.uint8)
    assert p.extend_columns((data, np.arange(1001) * 100)) == range(1000)
    assert b"".join(r.value or b"" for r in p) == data.tobytes()
    assert p.verify().ok


def test_arrow_columns(open_log: Open) -> None:
    na = pytest.importorskip("nanoarrow")
    p = open_log()
    array = na.c_array([b"a", None, b"ccc"], na.binary())
    assert p.extend_columns(array, na.c_array(["x", "y", "é"], na.large_string())) == range(3)
    assert [(r.key, r.value) for r in p] == [(b"x", b"a"), (b"y", None), ("é".encode(), b"ccc")]
    with pytest.raises(UsageError, match="int64"):
        p.extend_columns(na.c_array([1, 2], na.int64()))


def test_slices_of_arrow_columns(open_log: Open) -> None:
    pa = pytest.importorskip("pyarrow")
    p = open_log()
    p.extend_columns(pa.array([b"a", None, b"ccc", b"d", None], pa.binary())[1:4])
    p.extend_columns(pa.array([], pa.string()))
    p.extend_columns(pa.chunked_array([[b"x", b"y"]], pa.large_binary()))
    assert [r.value for r in p] == [None, b"ccc", b"d", b"x", b"y"]
    with pytest.raises(UsageError, match="2 chunks"):
        p.extend_columns(pa.chunked_array([[b"x"], [b"y"]], pa.binary()))


BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "nothing": ({}, UsageError),
    "unequal": ({"values": VALUES, "keys": (b"", np.array([0, 0]))}, UsageError),
    "unequal times": ({"values": VALUES, "timestamps": np.array([1])}, UsageError),
    "a list": ({"values": [b"a"]}, UsageError),
    "bytes": ({"values": b"abc"}, UsageError),
    "floats": ({"values": (b"abc", np.array([0.0, 1.0]))}, UsageError),
    "two dimensions": ({"values": (b"abc", np.zeros((2, 2), np.int64))}, UsageError),
    "no offset": ({"values": (b"abc", np.array([], np.int64))}, UsageError),
    "huge": ({"values": (b"abc", np.array([0, 1 << 63], np.uint64))}, UsageError),
    "strided offsets": ({"values": (b"abc", np.arange(8)[::2])}, UsageError),
    "strided bytes": ({"values": (np.zeros(8, np.uint8)[::2], np.array([0, 1]))}, UsageError),
    "strided rows": ({"values": np.zeros((4, 4), np.uint8)[:, ::2]}, UsageError),
    "wide rows": ({"values": np.zeros((4, 4), np.uint16)}, UsageError),
    "negative time": ({"timestamps": np.array([5, -1])}, UsageError),
    "no time": ({"timestamps": np.array(["NaT"], "datetime64[ms]")}, UsageError),
    "too few nulls": ({"values": (*VALUES, np.array([True]))}, UsageError),
    "nulls of numbers": ({"values": (*VALUES, np.array([1, 2, 3]))}, UsageError),
    "backwards": ({"values": (b"abc", np.array([0, 2, 1]))}, ValueError),
    "out of its bytes": ({"values": (b"abc", np.array([0, 2, 4]))}, ValueError),
    "below its bytes": ({"keys": (b"abc", np.array([-1, 2]))}, ValueError),
    "batches of nothing": ({"values": VALUES, "batch_records": 0}, UsageError),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_columns_append_nothing(open_log: Open, name: str) -> None:
    p, (arguments, error) = open_log(), BAD[name]
    with pytest.raises(error):
        p.extend_columns(**arguments)
    assert p.log_end_offset == 0
    assert p.append(b"goes on") == 0


def test_columns_that_change_meanwhile(folder: Path) -> None:
    """Offsets that another thread scrambles: whole records or a ValueError, never bytes from elsewhere."""
    data, offsets = bytearray(b"v" * 100_000), np.arange(1001, dtype=np.int64) * 100
    good, stop = offsets.copy(), threading.Event()
    rng = np.random.default_rng(2)

    def scramble() -> None:
        while not stop.is_set():
            offsets[rng.integers(0, 1001, 50)] = rng.integers(-(1 << 62), 1 << 62, 50)
            offsets[:] = good

    thread = threading.Thread(target=scramble)
    thread.start()
    try:
        with ec.open_partition(folder, fsync="never") as p:
            for _ in range(200):
                try:
                    p.extend_columns((data, offsets))
                except ValueError:
                    continue
            assert all(set(r.value or b"") <= {ord("v")} for r in p)
            assert p.verify().ok
    finally:
        stop.set()
        thread.join()


def test_a_column_cannot_go_while_it_is_read(open_log: Open) -> None:
    """A buffer is pinned for as long as the kernel looks at it, and let go of afterwards."""
    p, data = open_log(), bytearray(b"abc")
    p.extend_columns((data, np.array([0, 1, 3])))
    data.extend(b"free again")
    assert [r.value for r in p] == [b"a", b"bc"]


@pytest.mark.parametrize("suffix", [".log", ".index", ".timeindex"])
def test_a_file_that_is_being_synced_stays_open(
    folder: Path, suffix: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll by another thread seals its segment meanwhile. Its number would be another file's soon."""
    real, name = Disk.sync, names.file_name(0, suffix)
    syncs, go, failures = threading.Event(), threading.Event(), []

    def sync(disk: Disk, fd: int) -> None:
        if threading.current_thread().name == "syncs" and disk._path(fd).name == name:
            syncs.set()
            assert go.wait(60)
        real(disk, fd)

    def work(act: Any) -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    monkeypatch.setattr(Disk, "sync", sync)
    with ec.open_partition(folder, fsync="never", clock=clock) as p:
        p.extend([b"v"])
        clock.now += 2000  # a checkpoint is due, which syncs the indexes
        threads = [threading.Thread(target=work, args=(p.sync,), name="syncs")]
        threads[0].start()
        assert syncs.wait(60)
        threads.append(threading.Thread(target=work, args=(p.roll,)))
        threads[1].start()
        deadline = time.monotonic() + 60
        while len(p.segments) == 1 and threads[1].is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        go.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert p.durable_offset == 1
        assert p.append(b"goes on") == 1
        first = p.segments.first
        assert [first.log.fd, first.offset_index.file.fd, first.time_index.file.fd] == [-1] * 3


@pytest.mark.sampled
@pytest.mark.parametrize("turn", range(3))
def test_a_roll_beside_a_checkpoint(folder: Path, turn: int, clock: FakeClock) -> None:
    """Both write a producer snapshot, perhaps of the same offset, and remove old ones."""
    with ec.open_partition(folder, fsync="never", config={"segment.bytes": 1 << 14}, clock=clock) as p:
        failures: list[BaseException] = []

        def work(act: Any) -> None:
            try:
                for _ in range(60):
                    p.extend([b"v"])
                    clock.now += 2000  # a checkpoint is due at each sync
                    act()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(act,)) for act in (p.roll, p.sync, p.roll)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

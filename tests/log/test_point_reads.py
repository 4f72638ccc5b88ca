"""p[i]: what a reader of ranges finds at that offset, or its error, whatever happened to the log before and between."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.log import reads
from tests.log.conftest import Open
from tests.log.test_append_batches import batch, transactions
from tests.scale import seeded

SMALL = {"segment.bytes": 32768, "segment.index.bytes": 4096, "index.interval.bytes": 512}
NATIVE = kernels.KERNELS == "native"
COUNT = 3003 if NATIVE else 1005


def value_of(offset: int, life: int = 0) -> bytes:
    return b"%d:%d|" % (offset, life) + b"x" * (offset * 7919 % 150)


def by_range(p: ec.Partition, offset: int) -> Any:
    """What `p[offset]` has to come to: by the reader of ranges, which does not ask the table."""
    try:
        found = p[offset : offset + 1]
    except ec.CorruptRecord as error:
        return error.offset, error.position
    return found[0] if found else "none"


def by_point(p: ec.Partition, offset: int) -> Any:
    try:
        return p[offset]
    except ec.CorruptRecord as error:
        return error.offset, error.position
    except ec.OffsetOutOfRange:
        return "none"


def agree(p: ec.Partition, low: int = 0, end: int | None = None) -> None:
    """Ask each offset twice: the first look fills the table."""
    offsets = list(range(low, (p.high_watermark if end is None else end) + 3))
    random.Random(len(offsets)).shuffle(offsets)
    expected = {offset: by_range(p, offset) for offset in offsets}
    for _ in range(2):
        assert {offset: by_point(p, offset) for offset in offsets} == expected


@pytest.fixture
def misses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets that the table did not know."""
    found: list[int] = []
    slow = reads.read_point

    def noted(points: Any, token: int, segments: Any, offset: int, stop: int) -> Any:
        found.append(offset)
        return slow(points, token, segments, offset, stop)

    monkeypatch.setattr(reads, "read_point", noted)
    return found


def filled(p: ec.Partition, count: int, size: int) -> None:
    for at in range(0, count, size):
        p.extend([(b"k%d" % offset, value_of(offset)) for offset in range(at, min(at + size, count))])


@pytest.mark.parametrize("size", [1, 7, 100, 1001])
@pytest.mark.parametrize("mode", ["rw", "r", "r, nobody writes"])
@pytest.mark.parametrize("codec", ["uncompressed", "gzip"])
def test_what_was_asked_for_once_is_known(
    open_log: Open, misses: list[int], size: int, mode: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = open_log(compression_type=codec, segment_bytes=1 << 20)
    filled(p, COUNT, size)
    if mode != "rw":
        if mode != "r":
            p.close()
        monkeypatch.setattr("eventcore.log.shared_log._PATIENCE_NS", 1 << 40)
        p = open_log(mode="r")
    order = list(range(COUNT))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        del misses[:]
        for offset in order:
            assert p[offset].value == value_of(offset)
    assert len(misses) <= 6, "batches that share a stride cost each other their place"
    assert p[-1].offset == COUNT - 1
    assert p._log.points.nbytes <= (512 * 24 if codec == "uncompressed" else 2 << 20)


def test_what_is_appended_is_there(open_log: Open) -> None:
    p = open_log(segment_bytes=1 << 16)
    reader = open_log(mode="r")
    for offset in range(COUNT // 2):
        assert p.append(value_of(offset)) == offset
        assert p[offset].value == p[-1].value == reader[offset].value == reader[-1].value == value_of(offset)
        with pytest.raises(ec.OffsetOutOfRange):
            p[offset + 1]
        with pytest.raises(ec.OffsetOutOfRange):
            reader[offset + 1]


class History:
    """A log, what must be in it, and everything that may happen to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.pick = folder, random.Random(seed)
        self.values: list[bytes] = []
        self.start = self.life = 0
        self.p = self._open()
        self.reader = ec.open_partition(folder, "r")

    def _open(self) -> ec.Partition:
        codec = self.pick.choice(["uncompressed", "uncompressed", "gzip", "zstd"])
        return ec.open_partition(self.folder, "rw", "never", {**SMALL, "compression.type": codec})

    def append(self) -> None:
        count = self.pick.choice([1, 1, 2, 9, 40, 300])
        end = len(self.values)
        fresh = [value_of(offset, self.life) for offset in range(end, end + count)]
        self.p.extend(fresh)
        self.values += fresh

    def truncate(self) -> None:
        to = self.pick.randrange(max(self.start, len(self.values) - 200), len(self.values) + 1)
        self.p.truncate(to)
        if to < len(self.values):  # whole batches go
            kept = self.p[-1].offset + 1 if self.p.log_start_offset < to and self.p[to - 1 : to] else None
            found = {record.offset for record in self.p}
            self.values = [value if at in found else b"" for at, value in enumerate(self.values[:to])]
            assert kept in (None, to)
        self.life += 1

    def delete(self) -> None:
        if self.start < len(self.values):
            self.start = self.pick.randrange(self.start, min(self.start + 300, len(self.values)) + 1)
            self.p.delete_records(self.start)

    def roll(self) -> None:
        self.p.roll()

    def reopen(self) -> None:
        self.p.close()
        self.look(self.reader)
        self.p = self._open()
        self.values = self.values[: self.p.high_watermark]

    def new_reader(self) -> None:
        self.reader.close()
        self.reader = ec.open_partition(self.folder, "r")

    def look(self, p: ec.Partition) -> None:
        end = p.high_watermark
        assert not any(self.values[end:]), "where a truncation fell inside of a batch an opening ends the log before"
        offsets = [self.pick.randrange(-3, end + 3) for _ in range(40)]
        near = self.pick.randrange(end + 1)
        for offset in [*offsets, *range(near, near + 12), self.start - 1, self.start, end - 1, end]:
            at = offset + end if offset < 0 else offset
            if self.start <= at < end and self.values[at]:
                assert (p[offset].offset, p[offset].value) == (at, self.values[at])
            else:
                with pytest.raises(ec.OffsetOutOfRange):
                    p[offset]

    def close(self) -> None:
        self.p.close()
        self.reader.close()


@pytest.mark.parametrize("seed", range(12))
def test_any_history(folder: Path, seed: int) -> None:
    history = History(folder, seed)
    acts: list[Callable[[], None]] = [history.append] * 8 + [
        history.truncate, history.truncate, history.delete, history.roll, history.reopen, history.new_reader
    ]  # fmt: skip
    history.append()
    for _ in range(60 if NATIVE else 20):
        history.pick.choice(acts)()
        for p in (history.p, history.reader):
            history.look(p)
    history.close()
    for p in (history.p, history.reader):
        with pytest.raises(ec.ClosedError):
            p[0]


def test_an_opening_that_begins_a_new_log_ends_its_change(folder: Path) -> None:
    """What was left lay below the log start: a change inside of the opening, which readers wait for."""
    with ec.open_partition(folder, "rw", "never") as p:
        filled(p, 20, 10)
        p.delete_records(15)
        p.truncate(16)
    with ec.open_partition(folder, "rw", "never") as p:
        assert (p.log_start_offset, p.log_end_offset) == (15, 15)
        assert p._log.state.load(kernels.tail.GENERATION) % 2 == 0  # type: ignore[union-attr]
        with ec.open_partition(folder, "r") as reader:
            assert len(reader) == 0
            assert p.append(b"x") == 15
            assert reader[15] == p[15]


@pytest.mark.parametrize("again", ["same", "reader"])
def test_markers_transactions_and_gaps(open_log: Open, again: str) -> None:
    p = open_log()
    transactions(p)
    for base, count in ((11, 1), (12, 5), (20, 1), (41, 2)):
        p.append_batches(batch([b"%d" % at for at in range(count)], base=base, epoch=0), "replica")
    p.append_batches(batch([b"c", b"d"], base=50, epoch=0, codec=4), "replica")
    agree(p if again == "same" else open_log(mode="r"))
    assert p[41].value == b"0"
    for offset in (4, 5, 8, 10, 30, 49):
        with pytest.raises(ec.OffsetOutOfRange, match="marker"):
            p[offset]


@pytest.mark.sampled
@pytest.mark.parametrize("codec", ["uncompressed", "zstd"])
@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.99])
def test_damage(open_log: Open, codec: str, at: float) -> None:
    """The batch that is damaged raises; those around it are read as before."""
    p = open_log(compression_type=codec, **{name.replace(".", "_"): value for name, value in SMALL.items()})
    filled(p, COUNT // 2, 37)
    path = [segment.log.path for segment in p.segments][:2][-1]
    p.close()
    good = path.read_bytes()
    where = min(int(len(good) * at) + 90, len(good) - 1)
    path.write_bytes(good[:where] + bytes([good[where] ^ 0x40]) + good[where + 1 :])
    reader = open_log(mode="r")
    wrong = [offset for offset in range(COUNT // 2) if not isinstance(by_range(reader, offset), ec.Record)]
    assert 0 < len(wrong) < 200
    with pytest.raises(ec.CorruptRecord):
        reader[wrong[0]]
    for again in (open_log(mode="r"), reader):
        agree(again)
        again.close()
    path.write_bytes(good)  # the fixture looks for damage


@pytest.mark.skipif(not NATIVE, reason="only the native twin guards maps")
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_map_that_breaks(folder: Path, mode: str) -> None:
    p = ec.open_partition(folder, "rw", "never")
    filled(p, 3000, 100)
    reader = ec.open_partition(folder, "r") if mode == "r" else p
    assert reader[2500].offset == 2500
    os.truncate(p.segments.active.log.path, 4096)
    for _ in range(2):
        with pytest.raises((ec.MappingFault, ec.CorruptRecord)):
            reader[2500]
    with suppress(ec.EventCoreError):
        p.close()
    reader.close()


def test_a_table_lets_go_of_what_is_deleted(folder: Path) -> None:
    """Maps of deleted segments keep their blocks: they go at once, not at the next read."""
    p = ec.open_partition(folder, "rw", "never", SMALL)
    filled(p, 3000, 10)
    for offset in range(3000):
        assert p[offset].offset == offset
    p.sync()
    first = weakref.ref(p.segments.first.log)
    mapping = p.segments.first.log.mapping
    assert mapping is not None
    count = sys.getrefcount(mapping)
    p.delete_records(2500)
    gc.collect()
    assert sys.getrefcount(mapping) < count
    assert first() is None
    assert p[2600].offset == 2600
    p.close()
    assert p._log.points.nbytes == 0


def test_copies_of_compressed_batches_have_a_bound(open_log: Open) -> None:
    p = open_log(compression_type="zstd", segment_bytes=1 << 20)
    for _ in range(40):
        p.extend([bytes(10_000)] * 60)
    points = p._log.points
    for offset in range(0, 2400, 7):
        assert p[offset].offset == offset
    assert 4 << 20 < points.nbytes <= kernels.points.MOST_UNPACKED + 24 * 1024


def test_a_writer_that_comes_is_seen(folder: Path) -> None:
    """By a reader that found nobody: at once what it deletes or truncates, before anything else was looked at."""
    with ec.open_partition(folder, "rw", "never") as p:
        filled(p, 1000, 100)
    with ec.open_partition(folder, "r") as reader:
        assert reader[10].offset == 10
        with ec.open_partition(folder, "rw", "never") as p:
            p.delete_records(100)
            with pytest.raises(ec.OffsetOutOfRange):
                reader[10]
            assert reader[500].value == value_of(500)
            p.truncate(400)
            with pytest.raises(ec.OffsetOutOfRange):
                reader[500]
            p.extend([b"new"] * 200)
            assert reader[500].value == b"new"
        assert reader[500].value == b"new"


def test_a_folder_without_a_state_page(folder: Path, misses: list[int]) -> None:
    with ec.open_partition(folder, "rw", "never") as p:
        filled(p, 1000, 100)
    (folder / "eventcore.state").unlink()
    with ec.open_partition(folder, "r") as reader:
        agree(reader)
        with ec.open_partition(folder, "rw", "never") as p:
            p.truncate(400)
            with pytest.raises(ec.OffsetOutOfRange):
                reader[500]
            assert reader[300].value == value_of(300)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_the_child_of_a_fork_reads_nothing(open_log: Open, mode: str) -> None:
    p = open_log()
    filled(p, 100, 10)
    p = p if mode == "rw" else open_log(mode="r")
    assert p[50].offset == 50
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(ec.ClosedError):
            p[50]
            status = 2
            os._exit(status)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert p[50].offset == 50


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """The cyclic collector runs whenever it can."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


class Cycle:
    """Refers to itself, so that only the collector ends it; then it closes what it has, or only drops it."""

    def __init__(self, p: ec.Partition, closes: bool) -> None:
        self.me, self.p, self.closes, self.get = self, p, closes, p.__getitem__

    def __del__(self) -> None:
        with suppress(ec.EventCoreError):
            self.p[1]
        if self.closes:
            self.p.close()


@pytest.mark.sampled
@pytest.mark.usefixtures("eager_collector")
def test_the_collector_at_any_moment(tmp_path: Path) -> None:
    """Readers are dropped in cycles while others read, the log is truncated, closed and opened."""
    pick, folder = seeded(5), tmp_path / "events-0"
    p = ec.open_partition(folder, "rw", "never", {**SMALL, "compression.type": "uncompressed"})
    headers = [ec.Record(value=b"h", headers=[("name", b"x"), ("other", None)])] * 3
    filled(p, 400, 50)
    for turn in range(60 if NATIVE else 15):
        reader = ec.open_partition(folder, "r")
        Cycle(reader, turn % 2 == 0)
        for offset in [pick.randrange(400) for _ in range(60)]:
            with suppress(ec.ClosedError):
                assert reader[offset].offset == offset
            assert p[offset].offset == offset
        p.extend(headers)
        assert p[-1].headers == (("name", b"x"), ("other", None))
        if turn % 5 == 0:
            p.truncate(400)
            p.extend([value_of(offset) for offset in range(400, 450)])
            p.roll()
        if turn % 7 == 0:
            p.close()
            Cycle(p, True)
            p = ec.open_partition(folder, "rw", "never", SMALL)
        del reader
        gc.collect()
    p.close()


@pytest.mark.sampled
@pytest.mark.usefixtures("eager_collector")
def test_several_threads_and_the_collector(tmp_path: Path) -> None:
    """Threads share one handle of a log that is truncated and rolled, and open and drop handles of their own."""
    folder, trouble, stop = tmp_path / "events-0", [], threading.Event()
    p = ec.open_partition(folder, "rw", "never", {**SMALL, "compression.type": "uncompressed"})
    filled(p, 1000, 100)
    shared = ec.open_partition(folder, "r")

    def read(seed: int) -> None:
        pick = random.Random(seed)
        try:
            while not stop.is_set():
                own = ec.open_partition(folder, "r")
                Cycle(own, seed % 2 == 0)
                for _ in range(30):
                    for one in (p, shared, own):
                        offset = pick.randrange(1200)
                        with suppress(ec.OffsetOutOfRange, ec.LogTruncated, ec.ClosedError):
                            record = one[offset]
                            assert record.offset == offset
                            assert (record.value or b"").startswith(b"%d:" % offset)
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    pick = seeded(9)
    for turn in range(25 if NATIVE else 6):
        p.truncate(pick.randrange(9, 12) * 100)
        end = p.log_end_offset
        p.extend([value_of(offset, turn) for offset in range(end, end + 100)])
        if turn % 4 == 0:
            p.roll()
        gc.collect()
    shared.close()
    stop.set()
    for thread in threads:
        thread.join()
    p.close()
    assert trouble == []


def test_the_end_of_the_process(folder: Path) -> None:
    """Handles that are still open, in cycles too, when the interpreter goes."""
    code = """
        import sys, eventcore as ec
        p = ec.open_partition(sys.argv[1], "rw", "never")
        p.extend([b"x"] * 1000)
        r = ec.open_partition(sys.argv[1], "r")
        assert p[500] == r[500]
        cycle = [p.__getitem__, r]
        cycle.append(cycle)
        sys.modules["kept"] = cycle
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")

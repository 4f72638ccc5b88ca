"""Writers and readers, all of them processes, while the ground under their maps goes away: none is killed by SIGBUS.

A cohort is a number of writers, each with a partition of its own, and four readers for each. The disk fills up under
them, space returns and goes again; or a stranger truncates their files: logs, indexes, the state page. A writer goes
on after DiskFull and ends with any other typed error; a reader opens the partition again after a typed error and goes
on reading. Every record that is read is compared with what was written at its offset.

The small cohorts are for every run. 50 writers and 200 readers of each kind, with the marker `slow`, take less than
a minute in all; `EVENTCORE_DEPTH=10 pytest -m nightly tests/crash/test_sigbus_engine.py` takes an hour.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count, islice
from pathlib import Path

import pytest

import eventcore as ec
from eventcore import _kernels
from tests.crash.mounts import ext4_loop, fill, tmpfs
from tests.parity import twins
from tests.parity.conftest import NOT_BUILT
from tests.scale import DEPTH, seeded

pytestmark = [
    pytest.mark.skipif(twins.load("native") is None or _kernels.KERNELS != "native", reason=NOT_BUILT),
    pytest.mark.skipif(sys.platform != "linux", reason="what faults where is written for Linux"),
    pytest.mark.timeout(900),
]

DEEP = DEPTH >= 10
READERS_EACH = 4
CONFIG = {"segment.bytes": 65536, "segment.index.bytes": 4096, "index.interval.bytes": 1024, "flush.ms": 50}
FSYNC = ("never", "interval", "always")
PATIENCE_S = 120.0
"""A process that is not done by then hangs."""


def value_at(offset: int) -> bytes:
    """What is written at an offset: anybody can tell whether a record is right."""
    return random.Random(offset).randbytes(1 + offset * 37 % 3000)


@dataclass
class Report:
    """What became of one process."""

    kind: str
    folder: Path
    status: int = 0
    records: int = 0
    faults: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    trouble: str = ""

    @property
    def killed(self) -> int:
        """The signal that ended it, or 0."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0


class Board:
    """A page that the processes of a cohort share: whether to stop, and how many of a kind met what they should."""

    def __init__(self, full_disks: bool) -> None:
        self._words = memoryview(mmap.mmap(-1, 1 << 14)).cast("q")
        self._full_disks = full_disks
        self.index = 0

    def stop(self) -> None:
        """Tell all to come to an end."""
        self._words[0] = 1

    @property
    def stopped(self) -> bool:
        """Whether to come to an end."""
        return bool(self._words[0])

    def hit(self, *, full_disk: bool = False) -> None:
        """This process met a fault, or a full disk: what it should, if the cohort is to meet such."""
        if full_disk == self._full_disks:
            self._words[self.index] = 1

    def hits(self) -> int:
        """How many did."""
        return sum(self._words[1:])


def write_until_stopped(folder: Path, board: Board, report: Report) -> None:
    """Append until told to stop or something else than the space is amiss."""
    partition = None
    while not board.stopped:
        try:
            if partition is None:  # not `or`: an empty one is false
                partition = ec.open_partition(folder, fsync=FSYNC[int(folder.name[7:]) % 3], config=CONFIG)
            offset = partition.log_end_offset
            assert partition.append(value_at(offset)) == offset
            report.records = offset + 1
        except ec.DiskFull as error:
            report.errors[type(error).__name__] += 1
            board.hit(full_disk=True)
            time.sleep(0.02)
        except ec.EventCoreError as error:
            report.errors[type(error).__name__] += 1
            break
        if _kernels.guard.faults():
            board.hit()
    try:
        if partition is not None:
            partition.close()
    except ec.EventCoreError as error:
        report.errors[f"close: {type(error).__name__}"] += 1


def read_until_stopped(folder: Path, board: Board, report: Report) -> None:
    """Read here and there, open the partition anew after an error."""
    rng = random.Random(board.index)
    partition = None
    while not board.stopped:
        try:
            if partition is None:
                partition = ec.open_partition(folder, mode="r", config=CONFIG)
            first, last = partition.log_start_offset, partition.high_watermark
            start = rng.randint(first, last) if rng.random() < 0.5 else max(first, last - 20)
            for record in islice(partition.read(start), 30):
                if record.value != value_at(record.offset):
                    assert is_cut(record), f"wrong bytes at offset {record.offset}"
                    report.errors["cut within a page"] += 1
                report.records += 1
            time.sleep(0.005)
        except ec.EventCoreError as error:
            report.errors[type(error).__name__] += 1
            time.sleep(0.02)
            if rng.random() < 0.5:
                partition = None
        if _kernels.guard.faults():
            board.hit()


def is_cut(record: ec.Record) -> bool:
    """Whether a value is right up to where a stranger's cut zeroed the rest of a page.

    That is no fault, and no read of the same map tells it from what it has verified before.
    """
    value, wanted = record.value or b"", value_at(record.offset)
    start = next((at for at, (one, other) in enumerate(zip(value, wanted, strict=False)) if one != other), 0)
    return len(value) == len(wanted) and not any(value[start:])


WRITERS, READERS = write_until_stopped.__name__, read_until_stopped.__name__
Task = Callable[[Path, Board, Report], None]


class Cohort:
    """Processes forked from this one; each leaves its report in a file of its own."""

    def __init__(self, reports: Path, *, full_disks: bool = False) -> None:
        self._reports = reports
        self._running: dict[int, Report] = {}
        self.board = Board(full_disks)

    def start(self, task: Task, folder: Path) -> None:
        """Fork a process that does `task`; this one returns."""
        report = Report(task.__name__, folder)
        self.board.index += 1
        pid = os.fork()
        if pid:
            self._running[pid] = report
            return
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.nice(19)  # who meddles must get his turn
            faulthandler.disable()  # its text about those that are meant to die
            try:
                task(folder, self.board, report)
            except BaseException:
                report.trouble = traceback.format_exc()
            found = [report.records, _kernels.guard.faults(), report.errors, report.trouble]
            (self._reports / str(os.getpid())).write_text(json.dumps(found))
        finally:
            os._exit(0)

    def finish(self) -> list[Report]:
        """Tell all to stop and wait for them. Whoever hangs is killed, and in trouble."""
        self.board.stop()
        done, latest = [], time.monotonic() + PATIENCE_S
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self._running:
                done.append(self._take(pid, status))
            elif not pid and time.monotonic() > latest:
                for hanging, report in self._running.items():
                    report.trouble = "it hangs"
                    os.kill(hanging, signal.SIGKILL)
                latest = float("inf")
            elif not pid:
                time.sleep(0.01)
        return done

    def _take(self, pid: int, status: int) -> Report:
        report, path = self._running.pop(pid), self._reports / str(pid)
        report.status = status
        if path.exists():
            report.records, report.faults, errors, report.trouble = json.loads(path.read_text())
            report.errors = Counter(errors)
        return report


@dataclass
class Scale:
    """How many writers, for how long at least, and when to stop at the latest: in between once enough were hit."""

    writers: int
    seconds: float
    latest: float
    enough: int

    def over(self, since: float, board: Board) -> bool:
        """Whether it is time to stop."""
        passed = time.monotonic() - since
        return passed > self.latest or (passed > self.seconds and board.hits() >= self.enough)


SMALL = Scale(2, 0.3, 10, 1)
MANY = Scale(50, 600, 600, 0) if DEEP else Scale(50, 1.0, 3.0, 60)


def run(
    reports: Path, root: Path, scale: Scale, meddle: Callable[[Path], None], *, full_disks: bool = False
) -> list[Report]:
    """A cohort in `root`, and somebody who meddles with its files."""
    cohort = Cohort(reports, full_disks=full_disks)
    folders = [root / f"events-{number}" for number in range(scale.writers)]
    for folder in folders:
        cohort.start(write_until_stopped, folder)
    for folder in folders * READERS_EACH:
        cohort.start(read_until_stopped, folder)
    since = time.monotonic()
    try:
        while not scale.over(since, cohort.board):
            meddle(root)
    finally:
        done = cohort.finish()
    return done


def summary(reports: list[Report]) -> str:
    """For the test's output: how many of each kind, what they met."""
    lines = []
    for kind in (WRITERS, READERS):
        mine = [report for report in reports if report.kind == kind]
        errors = sum((report.errors for report in mine), Counter())
        killed = sum(report.killed == signal.SIGBUS for report in mine)
        records, faults = sum(report.records for report in mine), sum(report.faults for report in mine)
        hit = sum(report.faults > 0 for report in mine)
        lines.append(f"{kind}: {killed} of {len(mine)} killed, {faults} faults in {hit}, {records} records, {errors}")
    return "\n".join(lines)


def judge(reports: list[Report], scale: Scale) -> None:
    """Nobody was killed, nobody saw an untyped error or wrong bytes; of many, some got somewhere: of a few on a busy
    machine perhaps nobody does.
    """
    print(summary(reports))
    assert not [report for report in reports if report.killed], summary(reports)
    trouble = {report.trouble for report in reports if report.trouble}
    assert not trouble, f"{summary(reports)}\n" + "\n".join(trouble)
    for kind in (WRITERS, READERS) if scale is not SMALL else ():
        assert any(report.records for report in reports if report.kind == kind), summary(reports)


def shorten(path: Path, rng: random.Random) -> None:
    """Cut a file anywhere, and sometimes let it be as long as before."""
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        os.truncate(path, rng.choice((0, 1, size // 2, max(size - 4096, 0))))
        if rng.random() < 0.3:
            os.truncate(path, size)


def truncates(*suffixes: str) -> Callable[[Path], None]:
    """A stranger who cuts a file whose name ends so in every fifth partition; mostly the newest there."""
    rng = seeded(4)

    def meddle(root: Path) -> None:
        time.sleep(0.05)
        folders = list(root.glob("*"))
        for folder in rng.sample(folders, -(-len(folders) // 5)):
            suffix = rng.choice(suffixes)
            files = sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
            if files:
                shorten(rng.choice((files[-1], rng.choice(files))), rng)

    return meddle


def fills_and_drains(root: Path) -> None:
    """Uses up every byte, and after a while gives them back."""
    ballast = fill(root)
    time.sleep(0.3)
    ballast.unlink()
    time.sleep(0.1)


STRANGERS = {
    "logs": truncates(".log"),
    "indexes": truncates(".index", ".timeindex"),
    "state": truncates("eventcore.state"),
    "everything": truncates(".log", ".index", ".timeindex", "eventcore.state", ""),
}
DISKS = {"tmpfs": (tmpfs, 8 << 20), "ext4": (ext4_loop, 64 << 20)}


def nothing_acknowledged_is_lost(reports: list[Report]) -> None:
    """With space again, each partition opens and has every record that its writer was told was appended."""
    for report in reports:
        if report.kind == WRITERS and report.records:
            with ec.open_partition(report.folder, config=CONFIG) as partition:
                read = [record.value for record in islice(partition.read(0), report.records)]
                assert read == [value_at(offset) for offset in range(report.records)], report.folder.name


def stranger(what: str, logs: Path, reports: Path, scale: Scale) -> None:
    """One cohort after the other, until somebody met a fault: in a small one all may see the new size in time."""
    latest = time.monotonic() + 2 * PATIENCE_S
    for number in count():
        root = logs / f"{number}"
        root.mkdir(parents=True)
        done = run(reports, root, scale, STRANGERS[what])
        judge(done, scale)
        if any(report.faults for report in done):
            return
        assert time.monotonic() < latest, f"nobody met a fault\n{summary(done)}"


def full_disk(kind: str, reports: Path, scale: Scale) -> None:
    mount, size = DISKS[kind]
    with mount(size) as root:
        # Some is kept for opening everything at the end; an ext4 is made as small as the tmpfs, to be full soon.
        fill(root, leave=7 << 20).rename(root / "reserved")
        done = run(reports, root, scale, fills_and_drains, full_disks=True)
        judge(done, scale)
        assert any(report.errors["DiskFull"] for report in done), f"the disk was never full\n{summary(done)}"
        (root / "reserved").unlink()
        nothing_acknowledged_is_lost(done)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    return folder


@pytest.mark.sampled
@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_truncates(what: str, tmp_path: Path, reports: Path) -> None:
    stranger(what, tmp_path / "logs", reports, SMALL)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk(kind: str, reports: Path) -> None:
    full_disk(kind, reports, SMALL)


@pytest.mark.nightly
@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_truncates_under_many(what: str, tmp_path: Path, reports: Path) -> None:
    stranger(what, tmp_path / "logs", reports, MANY)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_under_many(kind: str, reports: Path) -> None:
    full_disk(kind, reports, MANY)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_kernels, "guard", import_module("eventcore._pure.guard"))
    before = signal.signal(signal.SIGBUS, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGBUS, before if before is not None else signal.SIG_DFL)


def touch_what_was_cut(folder: Path, board: Board, report: Report) -> None:
    """Look at a batch that was fetched when the file still had it."""
    with ec.open_partition(folder, mode="r", config=CONFIG) as partition:
        fetched = partition.fetch(0).data
        os.truncate(next(folder.glob("*.log")), 0)
        report.records = sum(bytes(fetched)[:1])


def one_that_touches(tmp_path: Path, reports: Path) -> Report:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder, config=CONFIG) as partition:
        partition.append(value_at(0))
    cohort = Cohort(reports)
    cohort.start(touch_what_was_cut, folder)
    (report,) = cohort.finish()
    assert not report.trouble
    return report


def test_one_that_touches_what_was_cut_lives(tmp_path: Path, reports: Path) -> None:
    report = one_that_touches(tmp_path, reports)
    assert (report.killed, report.faults) == (0, 1)


@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_it_dies(tmp_path: Path, reports: Path) -> None:
    """The judge: what the others survive does kill, and is noticed."""
    assert one_that_touches(tmp_path, reports).killed == signal.SIGBUS


@pytest.mark.nightly
@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_the_same_stranger_kills(tmp_path: Path, reports: Path) -> None:
    """Sometimes all see the new size in time."""
    rounds = (run(reports, tmp_path / f"{n}", Scale(2, 1.5, 1.5, 0), STRANGERS["logs"]) for n in range(20))
    assert any(report.killed == signal.SIGBUS for done in rounds for report in done)

"""What every test may use: the real input files, random examples that are the same each time, and the rules of CI.

Two rules: no judge is skipped (`EVENTCORE_REQUIRE_JUDGES=1`), and each run says how many of each kind judged
(`EVENTCORE_JUDGES=FILE`, see `judges.py`).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.judges import kinds_of
from tests.scale import DEPTH, SEED

ROOT = Path(__file__).resolve().parents[1]
JUDGES = ("interop", "mounts", "nightly", "realdata", "s3", "sampled")
NIGHTLY = os.environ.get("EVENTCORE_NIGHTLY") == "1"

# A verdict must not depend on luck: new examples are looked for at night, and what they find becomes a named one.
# Neither on how long it takes to think examples up.
UNTIMED: Any = {"database": None, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("the same each time", derandomize=True, **UNTIMED)
settings.register_profile("new each time", print_blob=True, **UNTIMED)
settings.load_profile("new each time" if NIGHTLY else "the same each time")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works() -> None:
    """A shell's background job starts with SIGINT ignored, and so would every process the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real input files: `EVENTCORE_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("EVENTCORE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"realdata: no input files at {folder}; set EVENTCORE_DATA to their folder")
    return folder


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A temporary folder in memory, if the machine has such: for what syncs thousands of times, and need not wait."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def count_descriptors() -> Callable[[], int]:
    """How many files this process has open, once what nobody refers to any more has let go of its own."""

    def count() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    return count


def judges_required() -> bool:
    return os.environ.get("EVENTCORE_REQUIRE_JUDGES") == "1"


def refuse(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    """Turn a report of something skipped into one of a failure that names the reason."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"EVENTCORE_REQUIRE_JUDGES=1, but {what} did not run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under `EVENTCORE_REQUIRE_JUDGES=1` a judge that skips has failed: a green run means that it judged."""
    report = yield
    if judges_required() and report.skipped and not hasattr(report, "wasxfail"):
        markers = [name for name in JUDGES if item.get_closest_marker(name)]
        if markers:
            refuse(report, f"this {markers[0]} test")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself as a whole has no tests left whose markers could be asked: it fails, too."""
    report = yield
    if judges_required() and report.skipped:
        refuse(report, f"the module {collector.name}")
    return report


class Judged:
    """How many tests of each kind of judge have passed, in a file at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.update(kinds_of(report.nodeid.partition("::")[0]))

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._passed), "utf-8")


def pytest_configure(config: pytest.Config) -> None:
    file = os.environ.get("EVENTCORE_JUDGES")
    if file and not hasattr(config, "workerinput"):  # of pytest-xdist only the process that hears all of them counts
        config.pluginmanager.register(Judged(Path(file)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"EVENTCORE_SEED={SEED} EVENTCORE_DEPTH={DEPTH}")

"""What every test may use: the real input files, and the rule that CI skips no judge."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUDGES = ("interop", "realdata", "slow")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real input files: `EVENTCORE_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("EVENTCORE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"realdata: no input files at {folder}; set EVENTCORE_DATA to their folder")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under `EVENTCORE_REQUIRE_JUDGES=1` a judge that skips has failed: a green run means that it judged."""
    report = yield
    required = os.environ.get("EVENTCORE_REQUIRE_JUDGES") == "1"
    if required and report.skipped and not hasattr(report, "wasxfail"):
        markers = [name for name in JUDGES if item.get_closest_marker(name)]
        if markers:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"EVENTCORE_REQUIRE_JUDGES=1, but this {markers[0]} test did not run: {reason}"
    return report

"""Every target with a few hundred inputs, and the inputs that once were findings; `run.py` feeds the millions.

python -m pytest -m nightly tests/fuzz        # 5,000,000 inputs under the sanitizers
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eventcore import _kernels as kernels
from tests.fuzz.arena import Arena
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Fuzzer, regressions
from tests.scale import DEPTH

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(__file__).with_name("run.py")
SMALL = {"folder": 100, "leader": 300, "twins": 60}
"""Targets that take longer than the others."""
COUNT = 600
FEW, WHOLE_RUN = 20_000, 5_000_000 * DEPTH
needs_gcc = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file() or shutil.which("gcc") is None, reason="needs gcc and a checkout"
)

names = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena()


@names
def test_mutated_inputs_are_refused_or_read(arena: Arena, name: str) -> None:
    count = SMALL.get(name, COUNT) // (5 if kernels.KERNELS == "pure" else 1)
    fuzzer = Fuzzer(TARGETS[name], "suite", arena)
    fuzzer.run(count)
    assert fuzzer.done == count
    assert [finding.what for finding in fuzzer.findings.values()] == []


@names
def test_what_was_a_finding_is_none_any_more(arena: Arena, name: str) -> None:
    fuzzer = Fuzzer(TARGETS[name], "suite", arena)
    for data in regressions(name):
        fuzzer.feed(data, measured=True)
    assert [finding.what for finding in fuzzer.findings.values()] == []


def test_every_folder_of_seeds_is_one_of_a_target() -> None:
    folders = {path.name for path in Path(__file__).with_name("seeds").iterdir() if path.is_dir()}
    assert folders <= set(TARGETS)


def _fail_on_a(data: memoryview) -> None:
    if b"A" in bytes(data):
        raise KeyError("undocumented")


def _take_too_much(data: memoryview) -> None:
    bytearray(100_000)


def test_errors_and_memory_are_findings(arena: Arena) -> None:
    for run, what in ((_fail_on_a, "KeyError"), (_take_too_much, "bytes of memory")):
        fuzzer = Fuzzer(Target("planted", run, lambda: [b"seed"], 1), "suite", arena)
        fuzzer.run(3000)
        (finding,) = fuzzer.findings.values()
        assert what in finding.what
        assert finding.data


def test_inputs_are_placed_at_the_end_of_the_arena() -> None:
    arena = Arena()
    for size in (0, 1, 7, 8, 4096, 1):
        data = bytes(range(256)) * 16
        assert arena.place(data[:size]) == data[:size]


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--jobs", "2", "--save", str(tmp_path / "found"))
    return subprocess.run([sys.executable, str(RUN), *options, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sanitized kernels are kept for all tests; the first run builds them."""
    return tmp_path_factory.mktemp("sanitized")


@pytest.mark.nightly
@pytest.mark.timeout(900)
@needs_gcc
def test_a_planted_bug_is_found(tmp_path: Path, build: Path) -> None:
    """One byte read too many, behind comparisons that only an input can pass which was led there."""
    done = run(tmp_path, "--target", "planted", "--inputs", "600000", "--build", str(build))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "use-after-poison" in done.stdout
    (found,) = {path.read_bytes()[:3] for path in (tmp_path / "found" / "planted").iterdir()}
    assert found == b"bug"


@pytest.mark.timeout(7200 * DEPTH)
@needs_gcc
@pytest.mark.parametrize(
    "inputs", [pytest.param(FEW, marks=pytest.mark.sampled), pytest.param(WHOLE_RUN, marks=pytest.mark.nightly)]
)
def test_no_finding_under_the_sanitizers(tmp_path: Path, build: Path, inputs: int) -> None:
    """How long an input takes is judged at night only."""
    patience = ("--patience", "0") if inputs == FEW else ()
    done = run(tmp_path, "--inputs", str(inputs), "--build", str(build), *patience)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^all +([0-9,]+)", done.stdout, re.MULTILINE)
    assert total
    assert int(total[1].replace(",", "")) >= inputs - len(TARGETS)

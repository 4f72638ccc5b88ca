"""The guard of instruction counts: the workloads do what they say, the verdict can be red, the baseline is found."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import instructions
from bench.instructions import CannotCompare, Counted, accepted, count, expected, per_call, reference, verdict
from bench.workloads import WORKLOADS, Workload, run

HERE = {"python": "3", "compiler": "gcc"}
needs_checkout = pytest.mark.skipif(not (instructions.ROOT / "setup.py").is_file(), reason="this is a test of a wheel")


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one.name)
def test_a_workload_does_what_it_says(one: Workload) -> None:
    marks: list[int] = []
    assert run(one._replace(calls=1), lambda: marks.append(len(marks)))
    assert len(marks) == 4


def test_names_are_not_taken_twice() -> None:
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS)


@pytest.mark.parametrize(
    ("now", "status", "word"),
    [
        (1029.0, 0, "0 of 1 above"),
        (1031.0, 1, "SLOWER"),
        (969.0, 0, "run --update"),
    ],
)
def test_three_percent_are_tolerated(now: float, status: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"append": 1000.0}, {"append": now}) == status
    assert word in capsys.readouterr().out


def test_one_slow_operation_among_better_ones_is_red() -> None:
    assert verdict({"a": 100.0, "b": 100.0}, {"a": 50.0, "b": 104.0}) == 1


def test_comparing_nothing_is_red() -> None:
    assert verdict({}, {"append": 1.0}) == 1
    assert verdict({"extend": 1.0}, {"append": 1.0}) == 1


def test_counts_of_callgrind_are_read(tmp_path: Path) -> None:
    for part, total in ((3, 1007), (4, 2007)):
        (tmp_path / f"12.{part}").write_text(f"events: Ir\nsummary: 5\n\ntotals: {total}\n")
    assert per_call(tmp_path, 12, 10) == 100.0
    with pytest.raises(CannotCompare, match="nothing at the marks"):
        per_call(tmp_path, 13, 10)
    (tmp_path / "12.4").write_text("totals: 1007\n")
    with pytest.raises(CannotCompare, match="nothing was counted"):
        per_call(tmp_path, 12, 10)


def test_what_was_accepted_since() -> None:
    old = Counted(HERE, {"slower": 100.0, "better": 100.0, "gone": 100.0})
    new = Counted(HERE, {"slower": 110.0, "better": 50.0, "added": 1.0})
    assert accepted(old, new) == {"slower": 1.1, "better": 1.0}
    assert accepted(old, new._replace(machine={})) == {"slower": 1.0, "better": 1.0}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a baseline file in its first commit."""
    folder = tmp_path / "project"
    (folder / "bench").mkdir(parents=True)
    monkeypatch.setattr(instructions, "ROOT", folder)
    subprocess.run(["git", "init", "-q", folder], check=True)
    write(folder, {"append": 100.0})
    return folder


def write(folder: Path, counts: dict[str, float]) -> str:
    """Commit a baseline; the commit."""
    (folder / instructions.BASELINE).write_text(json.dumps({"machine": HERE, "instructions": counts}))
    return commit(folder)


def commit(folder: Path) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "-C", folder, "add", "."], check=True)
    subprocess.run(["git", "-C", folder, *who, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    return instructions.git("rev-parse", "HEAD")


def test_the_reference_is_the_last_commit_that_changed_the_baseline(project: Path) -> None:
    first = instructions.git("rev-parse", "HEAD")
    assert reference() == first, "there is no other"
    commit(project)
    assert reference() == first
    second = write(project, {"append": 200.0})
    assert reference() == first, "a commit is not compared with itself"
    commit(project)
    assert reference() == second


def test_a_clone_without_history_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    shallow = project.with_name("shallow")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{project}", shallow], check=True)
    monkeypatch.setattr(instructions, "ROOT", shallow)
    with pytest.raises(CannotCompare, match="no history"):
        reference()


def test_the_file_is_the_baseline_of_its_own_machine(project: Path) -> None:
    assert expected(Counted(HERE, {"append": 1.0})) == {"append": 100.0}


@pytest.mark.parametrize("names", [(), ("append", "extend"), ("extend",)])
def test_an_operation_without_a_baseline_is_refused(project: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(CannotCompare, match="run --update"):
        expected(Counted(HERE, dict.fromkeys(names, 1.0)))


def test_another_machine_counts_the_reference_commit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = instructions.git("rev-parse", "HEAD"), {"python": "4", "compiler": "clang"}
    write(project, {"append": 110.0})
    built: list[str] = []

    def count_commit(commit: str) -> Counted:
        built.append(commit)
        return Counted(other, {"append": 7000.0})

    monkeypatch.setattr(instructions, "count_commit", count_commit)
    assert expected(Counted(other, {"append": 1.0})) == {"append": pytest.approx(7700.0)}, "10 % have been accepted"
    assert built == [first]
    with pytest.raises(CannotCompare, match="not built alike"):
        expected(Counted({**other, "cython": "3"}, {"append": 1.0}))


@needs_checkout
@pytest.mark.nightly
def test_a_planted_slowdown_is_found(tmp_path: Path) -> None:
    """Under callgrind, in a copy of the package in which one method does more than it has to."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    package = tmp_path / "package"
    shutil.copytree(instructions.ROOT / "src" / "eventcore", package / "eventcore")
    path = package / "eventcore" / "__init__.py"
    slow = "lambda *given, **named: sum(range(2000)) and kept(*given, **named)"
    planted = f"kept = Partition.append\nPartition.append = {slow}\n"
    path.write_text(path.read_text() + planted)
    before, now = count(instructions.ROOT / "src").instructions, count(package).instructions
    assert verdict(before, now) == 1
    slower = [name for name in now if now[name] > before[name] * instructions.TOLERANCE]
    assert slower == ["p.append, one record", "p.append, one record with a header"]

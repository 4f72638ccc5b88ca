"""`docs/testing.md` says of each promise in which tier it is checked and with what; here is whether that is so."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from tests.judges import KINDS, add_up, kinds_of
from tests.planted import FAULTS, misplaced

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "testing.md"
NIGHTLY = ROOT / ".ci" / "nightly"
NIGHT = "## The last whole night"
TIERS = ("quick", "CI", "nightly")
needs_checkout = pytest.mark.skipif(not NIGHTLY.is_file(), reason="this is a test of a wheel")


def rows() -> list[list[str]]:
    """The cells of each promise: what, tiers, command, last figure."""
    return [
        row for row in _cells(PAGE.read_text("utf-8").partition(NIGHT)[0]) if row[0] not in ("promise", "tier", *TIERS)
    ]


def _cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def nightly() -> ModuleType:
    loader = SourceFileLoader("nightly", str(NIGHTLY))
    spec = importlib.util.spec_from_loader("nightly", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def commands_of(cell: str) -> list[list[str]]:
    return [shlex.split(code) for code in re.findall(r"`([^`]+)`", cell)]


def targets(words: list[str]) -> list[Path]:
    """The files and modules a command runs."""
    found = [ROOT / word for word in words if re.match(r"(tests|bench|docs|\.ci)(/|$)", word)]
    for before, after in pairwise(words):
        if before == "-m" and after.startswith(("tests.", "bench")):
            path = ROOT / after.replace(".", "/")
            found.append(path / "__main__.py" if path.is_dir() else path.with_suffix(".py"))
    return [Path(str(path).partition("::")[0]) for path in found]


@needs_checkout
def test_each_promise_names_its_tiers_and_a_command_that_there_is() -> None:
    parts = nightly().PARTS
    for row in rows():
        assert len(row) == 4, row
        promise, tiers, command, _ = row
        assert tiers, promise
        for tier in tiers.split(", "):
            name, _, part = tier.partition(": ")
            assert name in TIERS, (promise, tier)
            assert (name == "nightly") == bool(part), (promise, "of the night a part is named")
            assert not part or part in parts, (promise, part)
        assert commands_of(command), promise
        for words in commands_of(command):
            for path in targets(words):
                assert path.exists(), (promise, path)


@needs_checkout
def test_each_command_of_the_night_is_there() -> None:
    for name, part in nightly().PARTS.items():
        paths = targets(part.command(1))
        assert paths, name
        assert all(path.exists() for path in paths), (name, paths)


def marked(path: Path, mark: str) -> bool:
    """Whether a module has a test with this mark, by its text: nothing is imported."""
    names = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    return mark in names


def modules() -> list[Path]:
    return sorted([*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "bench").glob("bench_*.py")])


@needs_checkout
def test_what_is_left_for_the_night_is_a_part_of_it() -> None:
    at_night = [path for part in nightly().PARTS.values() for path in targets(part.command(1))]
    for test in modules():
        if marked(test, "nightly"):
            assert any(path == test or path in test.parents for path in at_night), test


def test_each_kind_of_judge_has_tests() -> None:
    paths = [str(path.relative_to(ROOT)) for path in modules()]
    found = {kind for path in paths for kind in kinds_of(path)}
    assert found == set(KINDS)


def test_a_kind_that_did_not_run_is_missed(tmp_path: Path) -> None:
    for name, text in (("one", '{"kills": 2}'), ("two", '{"kills": 1, "twins": 7}')):
        (tmp_path / name).write_text(text)
    assert add_up([tmp_path / "one", tmp_path / "two"]) == {"kills": 3, "twins": 7}


@needs_checkout
def test_planted_faults_have_their_places() -> None:
    assert len(FAULTS) >= 10
    assert misplaced(FAULTS, ROOT) == []


@needs_checkout
def test_the_last_nights_parts_are_still_there() -> None:
    found = [row[0] for row in _cells(PAGE.read_text("utf-8").partition(NIGHT)[2]) if row[0] != "part"]
    assert len(found) > 30
    assert set(found) <= set(nightly().PARTS)

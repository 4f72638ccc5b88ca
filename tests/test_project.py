"""The project as a place to live: its versions, commands and promises agree with each other."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest

import eventcore as ec

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = ROOT / "tests" / "conftest.py"
needs_checkout = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="this is a test of a wheel")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_one() -> None:
    stated = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)
    assert stated
    assert stated[1] == ec.__version__
    try:
        assert version("eventcore") == ec.__version__
    except PackageNotFoundError:
        pytest.skip("eventcore is not installed, but imported from its sources")


@needs_checkout
def test_the_changelog_knows_the_version() -> None:
    assert re.search(rf"^##+ .*{re.escape(ec.__version__)}\b", read("CHANGELOG.md"), re.MULTILINE)


def test_the_license_and_the_type_marker_are_installed() -> None:
    assert (Path(ec.__file__).parent / "py.typed").is_file()
    try:
        assert metadata("eventcore")["License-Expression"] == "Apache-2.0"
    except PackageNotFoundError:
        pytest.skip("eventcore is not installed, but imported from its sources")


@needs_checkout
def test_the_readme_says_how_to_test() -> None:
    """`.ci/run` runs the block behind this marker as it is written."""
    block = re.search(r"<!-- test-command -->\s*```\w*\n(.+?)\n```", read("README.md"), re.DOTALL)
    assert block, "README.md has no fenced block behind <!-- test-command -->"
    assert "pytest" in block[1]
    assert ".venv-test" in block[1], ".ci/run goes on with the environment that the README makes"


@needs_checkout
@pytest.mark.parametrize("script", [".ci/run", ".ci/wheel"])
def test_the_ci_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    done = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_sorted_and_documented() -> None:
    assert ec.__all__ == sorted(ec.__all__)
    things = [getattr(ec, name) for name in ec.__all__]
    explained = [thing for thing in things if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert [thing.__name__ for thing in explained if not (thing.__doc__ or "").strip()] == []


def undocumented(thing: type) -> list[str]:
    """The public methods and properties of a class that say nothing about themselves."""
    own = [(name, member) for name, member in vars(thing).items() if not name.startswith("_")]
    members = [(name, member) for name, member in own if inspect.isfunction(member) or isinstance(member, property)]
    return [f"{thing.__name__}.{name}" for name, member in members if not (member.__doc__ or "").strip()]


def test_public_methods_are_documented() -> None:
    classes = [getattr(ec, name) for name in ec.__all__ if inspect.isclass(getattr(ec, name))]
    assert [missing for thing in classes for missing in undocumented(thing)] == []


A_TEST_SKIPS = """
import pytest

@pytest.mark.{marker}
def test_judge():
    pytest.skip("no judge here")
"""
A_MODULE_SKIPS = """
import pytest

pytest.skip("no judge here", allow_module_level=True)
"""


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", {"3 failed", "1 error", "1 passed"}), ("0", {"4 skipped", "1 passed"})]
)
def test_a_required_judge_must_not_skip(tmp_path: Path, required: str, outcome: set[str]) -> None:
    """Under EVENTCORE_REQUIRE_JUDGES=1 a green run means that the judges judged."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text("utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    interop\n    realdata\n    nightly\n")
    for marker in ("interop", "realdata", "nightly"):
        (tmp_path / f"test_{marker}.py").write_text(A_TEST_SKIPS.format(marker=marker))
    (tmp_path / "test_module.py").write_text(A_MODULE_SKIPS)
    (tmp_path / "test_other.py").write_text("def test_judge(): pass")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "EVENTCORE_JUDGES"}
        | {"EVENTCORE_REQUIRE_JUDGES": required, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert set(done.stdout.splitlines()[-1].split(" in ")[0].split(", ")) == outcome, done.stdout
    assert ("did not run: Skipped: no judge here" in done.stdout) == (required == "1"), done.stdout

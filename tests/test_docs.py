"""The documents say what the code does: the API page is current, the examples run, the format tables are the layout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from eventcore.format import layout

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
EXAMPLES = [path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if "```python" in path.read_text("utf-8")]
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_api_page_is_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "build_api.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def script(path: Path) -> str:
    """The Python blocks of a document as one program, on the lines where they stand there."""
    text = path.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for block in PYTHON_BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


@pytest.mark.sampled
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run(path: Path, tmp_path: Path) -> None:
    """Each document's blocks, in order, in one namespace and an empty folder, as a reader would paste them."""
    program = script(path)
    if not program.strip():
        pytest.skip(f"{path.name} has no Python examples")
    file = tmp_path / f"{path.stem}.py"
    file.write_text(program, encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    paths = [path for path in sys.path if path and Path(path) != ROOT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_blocks_keep_their_lines_and_order(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("# T\n```python\na = 1\n```\ntext\n```bash\nls\n```\n```python\nassert a == 2\n```\n")
    program = script(path)
    assert program.splitlines()[2] == "a = 1"
    assert program.splitlines()[9] == "assert a == 2"
    assert "ls" not in program


@pytest.mark.parametrize("structure", layout.LAYOUTS, ids=lambda structure: structure.title)
def test_the_format_page_holds_the_tables_of_the_layout(structure: layout.Layout) -> None:
    page = DOCS / "format.md"
    assert page.is_file(), "docs/format.md is missing"
    assert structure.table() in page.read_text(encoding="utf-8"), f"put this in docs/format.md:\n{structure.table()}"


@pytest.mark.parametrize("kind", ["native", "pure"])
def test_the_kernels_know_the_layout(kind: str) -> None:
    """The drawings, the data and the constants of the hot loops are one truth."""
    try:
        batch, index = (import_module(f"eventcore._{kind}.{name}") for name in ("batch", "index"))
    except ImportError:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")
    header = layout.BATCH_HEADER
    assert batch.offsets() == header.offsets
    assert header.size == batch.HEADER_SIZE
    assert header.offsets["leader_epoch"] == batch.PREFIX_SIZE
    assert layout.OFFSET_INDEX_ENTRY.size == index.OFFSET_ENTRY_SIZE
    assert layout.TIME_INDEX_ENTRY.size == index.TIME_ENTRY_SIZE

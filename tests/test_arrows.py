"""Every arrow points down: each `import` and `cimport` of the package is allowed by a row of this file.

The rows are the layers of docs/design.md. A module belongs to the longest row that is a prefix of its name; one that
belongs to none is refused, so a new module has to be given its place here. Names are without the leading `eventcore.`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PUBLIC = "public"
"""How the rows call `eventcore` itself: its public names, and nothing below them."""

LEAVES = "errors types config clock fork_safe"
FEATURES = "groups transactions tables snapshot replication"
LOG_ORDER = """
    query
    partition
    reads
    ranges
    shared_log repair
    partition_log
    compaction sequenced
    freezing
    log_start
    durability
    unattended
    opening watermarks
    retention
    column_reader fetched tailing verify flusher ingest recovery cleaner
    latest
    clean_offset cleaned_segment good_runs
    validator writer
    column_input
    checkpoints epoch_check
    swaps
    producer_store
    point_reads
    reader
    batches
    local
    pending_deletes watcher
    segments scan
    segment
    quarantine folder_lock group_commit subscribers sealed
    columns
    arrow_arrays
    producers epochs verified cleaned_transactions overlay_disk
""".strip().splitlines()
"""Inside log/ a module may import those of lower lines; those of one line do not know each other."""


class Row(NamedTuple):
    """A layer: the modules it may import, and the packages from outside the standard library."""

    modules: str
    packages: str = ""


def log_rows() -> dict[str, Row]:
    """A row for each module of log/."""
    ground = f"files format _kernels disk metrics {LEAVES}"
    rows = {}
    below: list[str] = []
    for line in reversed(LOG_ORDER):
        for name in line.split():
            rows[f"log.{name}"] = Row(" ".join([*below, ground]), "numpy")
        below += [f"log.{name}" for name in line.split()]
    rows["log"] = Row(ground)
    rows["log.arrow_arrays"] = rows["log.arrow_arrays"]._replace(packages="numpy nanoarrow")
    rows["log.column_input"] = rows["log.column_input"]._replace(packages="numpy nanoarrow")
    return rows


ROWS = {
    PUBLIC: Row(f"api store log {FEATURES} {LEAVES}"),
    "__main__": Row("cli"),
    "cli": Row(f"cli {PUBLIC}", "typer rich"),
    "api": Row(f"{FEATURES} store log files format _kernels disk metrics paths {LEAVES}"),
    **{
        name: Row(f"{name} store log files format _kernels disk metrics {LEAVES}", "numpy") for name in FEATURES.split()
    },
    "snapshot.object_place": Row(f"snapshot.object_lease snapshot.object_client snapshot.place {LEAVES}"),
    "snapshot.object_lease": Row(f"snapshot.object_client snapshot.place {LEAVES}"),
    "snapshot.object_client": Row(f"snapshot.object_errors {LEAVES}", "obstore"),
    "snapshot.object_errors": Row(LEAVES),
    "snapshot.folder_place": Row(f"snapshot.place files disk {LEAVES}"),
    "snapshot.place": Row(LEAVES),
    "snapshot.places": Row(f"snapshot files disk paths {LEAVES}"),
    "store": Row(f"store log files format _kernels disk metrics {LEAVES}"),
    **log_rows(),
    "files": Row(f"files format _kernels disk {LEAVES}"),
    "files.damage": Row(f"format _kernels disk {LEAVES}", "numpy"),
    "files.seal": Row(f"files format _kernels disk {LEAVES}", "numpy"),
    "format": Row(f"format _kernels {LEAVES}"),
    "format.compression": Row(f"format _kernels {LEAVES}", "zstandard cramjam"),
    "_kernels": Row("_native _pure errors"),
    "_native": Row("_native errors types", "libc cpython cython"),
    "_pure": Row("_pure errors types"),
    "disk": Row("descriptors disk_errors disk_locks file_lock _kernels errors types"),
    "disk_locks": Row("disk_errors file_lock errors types"),
    "disk_errors": Row("errors types"),
    "file_lock": Row(""),
    "fork_safe": Row(""),
    "descriptors": Row(""),
    "paths": Row("disk_errors"),
    "metrics": Row("errors types"),
    "config": Row("errors types"),
    "clock": Row("errors types"),
    "types": Row("errors"),
    "errors": Row(""),
}

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<source>[\w.]+)[ \t]+)?c?import[ \t]+(?:\((?P<many>[^)]*)\)|(?P<names>[^\n#]+))",
    re.MULTILINE,
)


def modules(source: Path) -> dict[str, Path]:
    """The modules under `source` by dotted name: .py, .pyi, .pyx and .pxd."""
    found = {}
    for path in sorted(source.rglob("*.p*")):
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd"):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) + f" ({path.suffix})"] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(what is imported from, names) of every import statement, wherever it stands; `("x", ())` for `import x`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):
        for match in CYTHON_IMPORT.finditer(text):
            names = tuple(name.split()[0] for name in (match["many"] or match["names"]).split(",") if name.strip())
            yield from [(match["source"], names)] if match["source"] else [(name, ()) for name in names]
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def targets(path: Path, source: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports."""
    for origin, names in imports(path):
        if origin.startswith("."):
            yield f"{origin} (write absolute imports)"
            continue
        folder = source.joinpath(*origin.split("."))
        inner = [name for name in names if (folder / name).is_dir() or list(folder.glob(f"{name}.p*"))]
        yield from (f"{origin}.{name}" for name in inner)
        if len(inner) < len(names) or not names:
            yield origin


def short(module: str) -> str:
    """A module of ours as the rows name it."""
    return PUBLIC if module == "eventcore" else module.removeprefix("eventcore.")


def belongs(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def row_of(module: str) -> Row | None:
    rows = [prefix for prefix in ROWS if belongs(module, prefix)]
    return ROWS[max(rows, key=len)] if rows else None


def allows(row: Row, target: str) -> bool:
    """Whether a row lets its modules import `target`."""
    if not belongs(target, "eventcore"):
        top = target.split(".")[0]
        return top in sys.stdlib_module_names or top in row.packages.split()
    name = short(target)
    return any(belongs(name, prefix) for prefix in row.modules.split())


def violations(source: Path) -> list[str]:
    """A sentence for each arrow that points up or sideways, and for each module without a place."""
    found = []
    for label, path in modules(source).items():
        module = short(label.split()[0])
        row = row_of(module)
        # A module of log/ without a line of its own has no place, though it has the row of the package.
        if row is None or (module.startswith("log.") and module not in ROWS):
            found.append(f"{label} has no row in {Path(__file__).name}")
            continue
        found += [f"{label} must not import {target}" for target in targets(path, source) if not allows(row, target)]
    return found


def test_every_arrow_points_down() -> None:
    if not SOURCE.is_dir():
        pytest.skip("the sources are not here: this is a test of a wheel")
    assert violations(SOURCE) == []


def test_modules_are_loaded_by_name_in_one_place() -> None:
    """`import_module` hides arrows: only the chooser of the kernels may use it."""
    if not SOURCE.is_dir():
        pytest.skip("the sources are not here: this is a test of a wheel")
    users = {
        path.name for path in SOURCE.rglob("*.py") if re.search(r"import_module|__import__", path.read_text("utf-8"))
    }
    assert users == {"_kernels.py"}


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("files/names.py", "from eventcore.log.segment import Segment", "eventcore.log.segment"),
        ("files/names.py", "from eventcore.log import segment", "eventcore.log.segment"),
        ("files/names.py", "import eventcore.api as public", "eventcore.api"),
        ("files/names.py", "import eventcore", "eventcore"),
        ("log/segment.py", "def f():\n    from eventcore.log.segments import SegmentList", "eventcore.log.segments"),
        ("log/epochs.py", "if TYPE_CHECKING:\n    import eventcore.log.producers", "eventcore.log.producers"),
        ("log/local.py", "from .segment import Segment", ".segment (write absolute imports)"),
        ("format/batch.py", "import numpy as np", "numpy"),
        ("cli/read.py", "from eventcore.disk import Disk", "eventcore.disk"),
        ("_pure/batch.py", "from eventcore._native import batch", "eventcore._native.batch"),
        ("_native/batch.pyx", "from eventcore.disk cimport Disk", "eventcore.disk"),
        ("_native/batch.pxd", "from eventcore._pure cimport (\n    batch,\n)", "eventcore._pure"),
        ("_native/batch.pyx", "cdef f():\n    import numpy, os", "numpy"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, module: str, line: str, target: str) -> None:
    package = tmp_path / "eventcore"
    for name in (module, "log/segment.py", "_native/batch.pyx"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / module).write_text(line + "\n")
    label = ".".join(("eventcore", *Path(module).with_suffix("").parts)) + f" ({Path(module).suffix})"
    assert violations(tmp_path) == [f"{label} must not import {target}"]


@pytest.mark.parametrize("module", ["helpers.py", "log/helpers.py"])
def test_a_module_without_a_place_is_found(tmp_path: Path, module: str) -> None:
    path = tmp_path / "eventcore" / module
    path.parent.mkdir(parents=True)
    path.touch()
    assert [problem for problem in violations(tmp_path) if "has no row" in problem]

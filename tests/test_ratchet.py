"""Style that a machine can hold: short functions and modules, no dangerous modules, no private paths, equal twins.

A limit of an exception can only come down: once the code is shorter than its exception, the exception has to follow.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "eventcore"
FUNCTION_LINES = 60
MODULE_LINES = 400
TEST_MODULE_LINES = 600
"""A test module may list many cases; it is read case by case."""
LONGER: dict[str, int] = {}
"""What is longer than its limit, by `path` or `path:function`, with the lines it has."""

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "ctypes",
    "tarfile",
    "zipfile",
    "yaml",
    "dill",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="the sources are not here: this is a test of a wheel")


def tracked() -> list[Path]:
    """The files of the project: git's, and new ones that it does not ignore; all of a source archive."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        folders = (ROOT / name for name in ("src", "tests", "bench", "docs", ".ci", ".github"))
        return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def sources(*suffixes: str) -> list[Path]:
    return [path for path in tracked() if path.suffix in suffixes]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


CYTHON_FUNCTION = re.compile(
    r"^(?P<indent> *)(?:c?p?def|async def)\b[^\n=(]*?(?P<name>\w+)\((?:[^()]|\([^()]*\))*\)[^\n]*:[ ]*(?:#.*)?$",
    re.MULTILINE,
)


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of def, cdef and cpdef functions: the signature and every line indented deeper than it."""
    for match in CYTHON_FUNCTION.finditer(text):
        lines = match[0].count("\n") + 1
        depth = len(match["indent"])
        body = 0
        for count, line in enumerate(text[match.end() + 1 :].split("\n"), 1):
            if line.strip() and len(line) - len(line.lstrip()) <= depth:
                break
            body = count if line.strip() else body
        yield match["name"], lines + body


def functions(path: Path) -> Iterator[tuple[str, int]]:
    text = path.read_text(encoding="utf-8")
    yield from python_functions(text) if path.suffix == ".py" else cython_functions(text)


def too_long() -> dict[str, int]:
    """Everything above its limit, with its lines."""
    found = {}
    for path in sources(".py", ".pyx", ".pxd"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (TEST_MODULE_LINES if path.is_relative_to(ROOT / "tests") else MODULE_LINES):
            found[name_of(path)] = lines
        found |= {f"{name_of(path)}:{name}": count for name, count in functions(path) if count > FUNCTION_LINES}
    return found


@pytest.mark.sampled
def test_functions_and_modules_are_short() -> None:
    assert too_long() == LONGER, "split what is too long; lower or remove an exception that is longer than its code"


def test_long_functions_are_found() -> None:
    body = "    x = 1\n" * 60
    assert dict(python_functions(f"def f(a,\n      b):\n{body}")) == {"f": 62}
    cython = (
        f"cdef inline int g(\n    int a,  # (why)\n) except -1 nogil:\n\n{body}\n\ndef h(x):\n{body}cdef int y = f(3)\n"
    )
    assert dict(cython_functions(cython)) == {"g": 64, "h": 61}
    assert dict(cython_functions("cdef class A:\n    cpdef object m(self, (int, int) t):\n        pass\n")) == {"m": 2}


def dangers(text: str) -> list[str]:
    """The forbidden modules and calls of a Python source."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= {node.func.id} & FORBIDDEN_CALLS
        elif isinstance(node, ast.keyword):
            found |= {node.arg or ""} & {"allow_pickle"}
    return sorted(found)


def test_the_package_uses_nothing_that_runs_its_input() -> None:
    python = {name_of(path): dangers(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {name: found for name, found in python.items() if found} == {}
    words = "|".join(FORBIDDEN_MODULES | {"eval", "exec"})
    cython = re.compile(rf"^\s*(?:from|import|cimport)\s+(?:{words})\b|\b(?:eval|exec)\(", re.MULTILINE)
    assert [name_of(path) for path in PACKAGE.rglob("*.p[yx][xd]") if cython.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os, pickle", ["pickle"]),
        ("def f():\n    from zipfile import ZipFile", ["zipfile"]),
        ("import ctypes.util as c", ["ctypes"]),
        ("x = eval('1')", ["eval"]),
        ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
        ("re.compile('x'); obj.exec('y')", []),
    ],
)
def test_dangers_are_found(text: str, found: list[str]) -> None:
    assert dangers(text) == found


# Put together here, so that this file does not contain what it looks for.
PRIVATE_PATH = re.compile(
    r"(?<![\w.$})/-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "tmp/bash" + "_jobs"]) + r")(?![\w-])"
)


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [
            f"{name_of(path)}:{text.count(chr(10), 0, match.start()) + 1}" for match in PRIVATE_PATH.finditer(text)
        ]
    assert found == []


def test_private_paths_are_found() -> None:
    folder, home = "/" + "work", "/" + "root"
    for text in (f"cd {folder}/main", f'"{home}"', f"={home}/.cache", f"file:{folder}"):
        assert PRIVATE_PATH.search(text), text
    for text in ("frame" + folder, "/workers", "a/" + "work/b", '"$root/docs"'):
        assert not PRIVATE_PATH.search(text), text


KERNELS = sorted(path.stem for path in (PACKAGE / "_native").glob("*.pyx"))
Signature = list[tuple[str, str | None]]


def public_functions(path: Path) -> tuple[set[str], dict[str, Signature]]:
    """(`__all__` or else the functions, {function: arguments}) of a module or a stub, without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, Signature] = {}
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = arguments(node.args)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
    return names or set(found), found


def arguments(node: ast.arguments) -> Signature:
    positional = [argument.arg for argument in (*node.posonlyargs, *node.args)]
    defaults = [None] * (len(positional) - len(node.defaults)) + [ast.unparse(default) for default in node.defaults]
    named = [ast.unparse(default) if default else None for default in node.kw_defaults]
    return [*zip(positional, defaults, strict=True), *zip([a.arg for a in node.kwonlyargs], named, strict=True)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_has_a_stub_and_a_twin_with_the_same_names_and_signatures(kernel: str) -> None:
    stub_names, stub = public_functions(PACKAGE / "_native" / f"{kernel}.pyi")
    names, twin = public_functions(PACKAGE / "_pure" / f"{kernel}.py")
    assert stub_names == names
    assert {name: stub.get(name) for name in names} == {name: twin.get(name) for name in names}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_compiled_kernel_is_its_twin_from_outside(kernel: str) -> None:
    """Names, values of constants, argument names and defaults. What they do is compared by tests/parity."""
    try:
        native = import_module(f"eventcore._native.{kernel}")
    except ImportError:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")
    pure = import_module(f"eventcore._pure.{kernel}")
    for name in public_functions(PACKAGE / "_pure" / f"{kernel}.py")[0]:
        one, other = getattr(native, name), getattr(pure, name)
        if isinstance(other, type):
            for method in (method for method in vars(other) if not method.startswith("_")):
                assert hasattr(one, method), f"{name}.{method}"
        elif callable(other):
            assert outline(one) == outline(other), name
        else:
            assert one == other, name


def outline(function: object) -> list[tuple[str, object]]:
    return [(parameter.name, parameter.default) for parameter in signature(function).parameters.values()]  # type: ignore[arg-type]

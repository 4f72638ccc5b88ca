"""Builds the kernels with AddressSanitizer, UndefinedBehaviorSanitizer and block tracing, in a folder of their own.

The tree is copied first, so that its own kernels and generated C stay as they are. gcc has all that is needed; the
interpreter is the stock one, which gets the sanitizer's runtime by LD_PRELOAD.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
TRACER = "trace_pc.so"
PLANTED = "planted.so"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
TRACE = "-fsanitize-coverage=trace-pc"

ALLOCATION_MAX_MB = 160
"""One allocation: above zstd's largest window (128 MiB), below what a declared size could ask for.

More is a MemoryError, which nobody documents.
"""
ASAN_OPTIONS = (
    "detect_leaks=0:allocator_may_return_null=1:malloc_context_size=4:quarantine_size_mb=16:allow_addr2line=0:"
    f"max_allocation_size_mb={ALLOCATION_MAX_MB}:hard_rss_limit_mb=2048"
)


def build(folder: Path) -> None:
    """Put the sanitized package into `folder`/lib and the tracer beside it."""
    copy = folder / "tree"
    copy.mkdir()
    for name in COPIED:
        shutil.copy2(ROOT / name, copy / name)
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "lib"), str(copy)]
    if all(importlib.util.find_spec(name) for name in ("Cython", "setuptools")):
        command += ["--no-build-isolation"]
    cflags = f"{os.environ.get('CFLAGS', '')} {TRACE}"
    _run(command, os.environ | {"EVENTCORE_SANITIZE": "1", "EVENTCORE_PURE": "0", "CFLAGS": cflags, "CC": "gcc"})
    _compile("planted.c", folder / PLANTED, "-O1", "-g", *SANITIZERS, TRACE)
    _compile("trace_pc.c", folder / TRACER, "-O2")


def _compile(source: str, target: Path, *options: str) -> None:
    _run(["gcc", *options, "-fPIC", "-shared", str(Path(__file__).with_name(source)), "-o", str(target)])


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def environment(folder: Path, *, objects: bool = True) -> dict[str, str]:
    """What a process needs to import the sanitized package of `folder`.

    With `objects` the interpreter's objects are watched, too: a use after the last reference, a store behind the end
    of a bytes object. That takes twice the time.
    """
    runtimes = [_library("libasan.so"), _library("libubsan.so"), str(folder / TRACER)]
    return os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "PYTHONPATH": os.pathsep.join((str(folder / "lib"), str(ROOT))),
        "PYTHONMALLOC": "malloc" if objects else "pymalloc",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EVENTCORE_KERNELS": "native",
        "EVENTCORE_TRACER": str(folder / TRACER),
        "EVENTCORE_PLANTED": str(folder / PLANTED),
        "ASAN_OPTIONS": ASAN_OPTIONS,
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _library(name: str) -> str:
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()

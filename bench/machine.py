"""What figures were measured on and with."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import eventcore as ec

PACKAGES = (
    "numpy",
    "zstandard",
    "lmdb",
    "rocksdict",
    "plyvel",
    "aiokafka",
    "kafka-python",
    "pyarrow",
    "google-crc32c",
)


def machine(folder: Path | None = None) -> dict[str, str]:
    """Processor, system, versions; of what is installed only."""
    found = {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gc": "off",
        **ec.build_info(),
        "commit": _commit(),
        "sqlite": sqlite3.sqlite_version,
    }
    if folder is not None:
        found["files on"] = _file_system(folder)
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {name: value for name, value in found.items() if value}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def _file_system(folder: Path) -> str:
    """Its kind; empty where the system does not list what is mounted."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    inside = [(where, kind) for where, kind in found if folder.resolve().is_relative_to(where)]
    return max(inside, key=lambda pair: len(pair[0]), default=("", ""))[1]

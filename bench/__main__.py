"""Every benchmark in one command: `python -m bench`. Tables on standard output; `--json FILE` keeps the figures.

Kernels are compared in one process, in interleaved rounds. Partition operations run once under each kind of kernels
in a process of its own, because a process has one kind. Garbage collection is off; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import eventcore as ec

BENCHES = ("crc32c", "batch", "encode", "decode", "index", "tail", "wakeup", "durable", "reopen")
PEERS = ("numpy", "zstandard", "aiokafka", "kafka-python", "google-crc32c")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    versions = {name: metadata.version(name) for name in PEERS}
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gc": "off",
        **ec.build_info(),
        **versions,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def partition_operations() -> dict[str, dict[str, float]]:
    """{operation: {native: seconds a record, pure: seconds a record, ratio}}."""
    found = {}
    for kernels in ("native", "pure"):
        run = subprocess.run(
            [sys.executable, "-m", "bench.bench_partition"],
            env={**os.environ, "EVENTCORE_KERNELS": kernels},
            stdout=subprocess.PIPE,
            check=True,
        )
        found[kernels] = json.loads(run.stdout)
    return {
        name: {"native": native, "pure": found["pure"][name], "ratio": found["pure"][name] / native}
        for name, native in found["native"].items()
    }


def print_operations(operations: dict[str, dict[str, float]]) -> None:
    """A table of the partition operations."""
    print(f"\nPartition operations, per record\n  {'':<36}{'native':>12}{'pure':>14}{'pure ÷ native':>15}")
    for name, row in operations.items():
        print(f"  {name:<36}{row['native'] * 1e9:>9,.0f} ns{row['pure'] * 1e9:>11,.0f} ns{row['ratio']:>14,.0f}x")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, object] = {"machine": machine()}
    for name, value in machine().items():
        print(f"{name:<14}{value}")
    for name in BENCHES:
        compare = getattr(import_module(f"bench.bench_{name}"), "main", None)
        if compare is not None:
            figures[name] = compare()
    operations = partition_operations()
    print_operations(operations)
    figures["partition"] = operations
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, default=str))


if __name__ == "__main__":
    main()

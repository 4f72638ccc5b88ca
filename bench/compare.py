"""Costs of two commits, in interleaved rounds: `python -m bench.compare BEFORE [AFTER] [--what read] [--at-most R]`.

Appends, scans, columns and point reads, by `bench/append_cost.py` and `bench/read_cost.py`; what only one of the
commits can do is left out. Each commit is checked out and built in a folder of its own; AFTER is the checkout as it is
if not given. The logs are in /dev/shm where there is one, so that no disk has a say. Prints the median of each and
their ratio; exits with 1 if a ratio is above `--at-most`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

SCRIPTS = ("append", "read")
ROOT = Path(__file__).resolve().parents[1]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()


def built(commit: str, folder: Path, stack: ExitStack) -> Path:
    """The `src` of a commit with its kernels compiled."""
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "-q", "--detach", folder, commit], check=True)
    stack.callback(subprocess.run, ["git", "-C", ROOT, "worktree", "remove", "--force", folder], check=True)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, check=True)
    return folder / "src"


def measured(source: Path, scripts: Sequence[str]) -> dict[str, float]:
    """Seconds by operation: one round, each script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source), "EVENTCORE_KERNELS": "native"}
    found: dict[str, float] = {}
    for script in scripts:
        command = [sys.executable, str(ROOT / "bench" / f"{script}_cost.py"), MEMORY]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found |= json.loads(done.stdout)
    return found


def compare(before: Path, after: Path, rounds: int, scripts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Medians of both, by operation."""
    times: dict[Path, list[dict[str, float]]] = {before: [], after: []}
    for _ in range(rounds):
        for source, found in times.items():
            found.append(measured(source, scripts))
    return {
        name: (median(one[name] for one in times[before]), median(one[name] for one in times[after]))
        for name in times[before][0]
        if name in times[after][0]
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--what", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-most", type=float, default=float("inf"))
    options = parser.parse_args()
    with ExitStack() as stack:
        ground = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        before = built(options.before, ground / "before", stack)
        after = built(options.after, ground / "after", stack) if options.after else ROOT / "src"
        found = compare(before, after, options.rounds, options.what)
    print(f"{'operation':<22}{'before':>12}{'after':>12}{'after ÷ before':>18}")
    for name, (old, new) in found.items():
        print(f"{name:<22}{old * 1e6:>9.3f} us{new * 1e6:>9.3f} us{new / old:>18.2f}")
    return int(max(new / old for old, new in found.values()) > options.at_most)


if __name__ == "__main__":
    sys.exit(main())

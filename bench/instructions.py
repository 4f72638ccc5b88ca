"""Instructions a call of the hot operations, counted by callgrind, against a baseline: `python -m bench.instructions`.

Instructions are the same from run to run, where seconds are not; what they depend on besides our code (the compiler,
Cython, Python, libc, what callgrind shows of the processor) is kept beside the counts in `bench/instructions.json`. On
a machine that equals it, that file is the baseline. On any other the commit that last changed it is built there and
counted there, with its own workloads: compilers may then differ as they like. `--against COMMIT` does that for any
commit; `--update` accepts the counts of now.

Exits with 1 if an operation takes more than 3 % more instructions than its baseline, if one has none, or if there is
nothing to compare with. Fewer instructions are no failure, but the baseline should follow: `--update`. callgrind shows
programs a processor without AVX-512, so the CRC counted here is not the one that runs on a large machine: see `crc32c`
in the output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "bench/instructions.json"
TOLERANCE = 1.03
KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
"""Of the environment; its size moves the stack, and nothing else of it is wanted."""


class Counted(NamedTuple):
    """What was counted where: instructions a call, by the name of the workload."""

    machine: dict[str, str]
    instructions: dict[str, float]


class CannotCompare(Exception):
    """There is no baseline that means anything; the message says what to do."""


def count(package: Path, checkout: Path = ROOT) -> Counted:
    """Run the workloads of a checkout under callgrind, with the package that lies in a folder."""
    with tempfile.TemporaryDirectory(prefix="eventcore-instructions-") as folder:
        command = ["valgrind", "--tool=callgrind", "--dump-before=getsid", f"--callgrind-out-file={folder}/%p"]
        done = subprocess.run(
            [*command, sys.executable, "-m", "bench.workloads"],
            cwd=checkout,
            env={name: os.environ[name] for name in KEPT if name in os.environ}
            | {"PYTHONPATH": str(package), "PYTHONHASHSEED": "0", "EVENTCORE_KERNELS": "native"}
            | {"OPENBLAS_NUM_THREADS": "1"},  # threads before a fork, and of no use here
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CannotCompare(f"the workloads did not run under callgrind:\n{done.stderr[-3000:]}")
        ran = json.loads(done.stdout)
        assert ran["source"] == str(package), f"measured {ran['source']} instead of {package}"
        found = {name: per_call(Path(folder), **row) for name, row in ran["workloads"].items()}
        return Counted({**ran["machine"], "valgrind": version()}, found)


def version() -> str:
    return subprocess.run(["valgrind", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def per_call(folder: Path, pid: int, calls: int) -> float:
    """Instructions of `calls` calls and of twice as many differ by those of `calls`: the rest is the same in both."""
    once, twice = (total(folder / f"{pid}.{part}") for part in (3, 4))
    if not 0 < once < twice:
        raise CannotCompare(f"{calls} calls took {once} instructions and twice as many {twice}: nothing was counted")
    return round((twice - once) / calls, 1)


def total(path: Path) -> int:
    """The sum at the end of a file of callgrind's."""
    if not path.exists():
        raise CannotCompare("callgrind wrote nothing at the marks: does this libc have no getsid?")
    line = next(line for line in reversed(path.read_text().splitlines()) if line.startswith("totals:"))
    return int(line.split()[1])


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def count_commit(commit: str) -> Counted:
    """Build a commit here and count it, by its own workloads if it has some: kernels change their arguments."""
    with tempfile.TemporaryDirectory(prefix="eventcore-commit-") as ground:
        folder, package = Path(ground) / "checkout", Path(ground) / "package"
        git("worktree", "add", "-q", "--detach", str(folder), commit)
        try:
            build = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(package), str(folder)]
            subprocess.run(build, check=True)
            return count(package, folder if (folder / "bench" / "workloads.py").exists() else ROOT)
        finally:
            git("worktree", "remove", "--force", str(folder))


def committed(commit: str | None = None) -> Counted:
    """The baseline as it lies here, or as it was in a commit."""
    text = git("show", f"{commit}:{BASELINE}") if commit else (ROOT / BASELINE).read_text()
    return Counted(**json.loads(text))


def reference() -> str:
    """The commit whose engine is the baseline: the last one that changed the file. Not HEAD, if another is there.

    HEAD would be compared with itself; see `accepted` for what a change of the baseline in HEAD allows.
    """
    if git("rev-parse", "--is-shallow-repository") == "true":
        raise CannotCompare(
            "this clone has no history to find the baseline's commit in: fetch it (git fetch --unshallow)"
        )
    changes = git("log", "-2", "--format=%H", "--", BASELINE).split()
    if not changes:
        raise CannotCompare(f"no commit has {BASELINE} yet: commit what --update writes")
    return changes[-1] if changes[0] == git("rev-parse", "HEAD") else changes[0]


def accepted(old: Counted, new: Counted) -> dict[str, float]:
    """By how much the baseline was raised since `old`, by name: what somebody measured on one machine and accepted."""
    same = old.machine == new.machine
    return {
        name: max(1.0, new.instructions[name] / known) if same else 1.0
        for name, known in old.instructions.items()
        if name in new.instructions
    }


def count_alike(commit: str, now: Counted) -> Counted:
    """Build and count a commit; refused if other tools built it than what it is compared with."""
    then = count_commit(commit)
    if then.machine != now.machine:
        raise CannotCompare(f"the two were not built alike, install again: {difference(then.machine, now.machine)}")
    return then


def by_commit(now: Counted, baseline: Counted) -> dict[str, float]:
    """Counts of the reference commit on this machine, times what has been accepted since."""
    commit = reference()
    print(f"comparing with {git('log', '-1', '--format=%h %s', commit)}, built and counted here")
    then, allowed = count_alike(commit, now), accepted(committed(commit), baseline)
    missing = allowed.keys() - then.instructions.keys()
    if missing:
        raise CannotCompare(f"{commit} has no {', '.join(sorted(missing))}")
    return {name: then.instructions[name] * raised for name, raised in allowed.items()}


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In which facts two machines differ."""
    names = sorted(one.keys() | other.keys())
    return "; ".join(
        f"{name}: {one.get(name)} → {other.get(name)}" for name in names if one.get(name) != other.get(name)
    )


def expected(now: Counted) -> dict[str, float]:
    """The baseline of each operation, as it would be counted on this machine."""
    baseline = committed()
    if baseline.instructions.keys() != now.instructions.keys():
        names = ", ".join(sorted(baseline.instructions.keys() ^ now.instructions.keys()))
        raise CannotCompare(f"{BASELINE} and the workloads do not have the same operations ({names}): run --update")
    if baseline.machine == now.machine:
        print(f"comparing with {BASELINE}")
        return baseline.instructions
    print(f"{BASELINE} is of another machine ({difference(baseline.machine, now.machine)})")
    return by_commit(now, baseline)


def verdict(before: Mapping[str, float], now: Mapping[str, float], tolerance: float = TOLERANCE) -> int:
    """Print every operation with its ratio; 1 if one is above its baseline, or if none has one."""
    slower = 0
    better = False
    print(f"\n{'instructions a call':<36}{'baseline':>14}{'now':>14}{'ratio':>9}")
    for name, found in now.items():
        if name not in before:
            print(f"{name:<36}{'':>14}{found:>14,.0f}      new")
            continue
        ratio = found / before[name]
        slower += ratio > tolerance
        better |= ratio < 2 - tolerance
        word = "  SLOWER" if ratio > tolerance else "  better" if ratio < 2 - tolerance else ""
        print(f"{name:<36}{before[name]:>14,.0f}{found:>14,.0f}{ratio:>9.4f}{word}")
    if better and not slower:
        print("some are better than the baseline by more than the tolerance: run --update")
    if not before.keys() & now.keys():
        print("nothing was compared")
        return 1
    print(f"{slower} of {len(now)} above {tolerance:g} times the baseline")
    return int(slower > 0)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit, built and counted here")
    parser.add_argument("--update", action="store_true", help=f"write the counts to {BASELINE}")
    options = parser.parse_args()
    try:
        now = count(ROOT / "src")
        for name, value in now.machine.items():
            print(f"{name:<12}{value}")
        if options.update:
            (ROOT / BASELINE).write_text(json.dumps(now._asdict(), indent=1) + "\n")
            print(f"wrote {BASELINE}")
            return 0
        before = count_alike(options.against, now).instructions if options.against else expected(now)
    except CannotCompare as error:
        print(error)
        return 1
    return verdict(before, now.instructions)


if __name__ == "__main__":
    sys.exit(main())

"""Feed mutated bytes to everything that reads untrusted ones, under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/run.py --inputs 1000000 --jobs 2                 # under 4 minutes on one core
    python tests/fuzz/run.py --inputs 50000000 --jobs 2                # a night
    python tests/fuzz/run.py --inputs 100000 --target seal --seed 7    # one target, another sequence

Builds the kernels with gcc in a temporary folder, runs every target in processes of their own, prints a table and
exits 1 if there was any finding: a crash, undefined behaviour, an error that is not documented, too much memory, or an
input that takes too long (unless `--patience 0`, as in CI, where the clock must not judge). Each such input is saved as
`<target>/<hash>.bin` in the folder of `--save`; put it into `tests/fuzz/seeds/`, from where `test_fuzz.py` feeds it in
every run, and mend what it shows.

The inputs are mutations of known good bytes with lengths and checksums put right, and of those inputs that ran
something new in the C code. What is new depends on where code is loaded, so a seed gives similar sequences, not equal
ones. Rates are inputs per second of processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import building
from tests.fuzz.arena import last_input

ATTEMPTS = 3
"""A target that kills its process more often is left alone."""
PIECE = 300_000
"""Inputs of one process at most: the next one begins with another seed and a corpus of its own."""
OBJECTS_EVERY = 4
"""One process in so many of a target watches the interpreter's objects, too; the first one does."""


@dataclass
class Outcome:
    """What came of one target."""

    inputs: int = 0
    seconds: float = 0
    edges: int = 0
    slowest_ms: float = 0
    findings: dict[str, bytes] = field(default_factory=dict)

    def add(self, report: dict[str, Any]) -> None:
        """What one process said."""
        self.inputs += report["inputs"]
        self.seconds += report["seconds"]
        self.edges = max(self.edges, report["edges"])
        self.slowest_ms = max(self.slowest_ms, report["slowest_ms"])
        for what, data in report["findings"]:
            self.findings.setdefault(what, bytes.fromhex(data))


class Run:
    """Feeds targets in processes that use the build in `folder`."""

    def __init__(self, folder: Path, seed: int, patience_s: int) -> None:
        self._folder = folder
        self._seed = seed
        self._patience_s = patience_s
        self._environments = [building.environment(folder, objects=objects) for objects in (False, True)]
        self.outcomes: dict[str, Outcome] = {}

    def shares(self) -> dict[str, float]:
        """Every target, and its part of the inputs."""
        code, out, err = self._worker(False, "--list")
        if code:
            raise SystemExit(f"the sanitized build cannot be used:\n{err}")
        shares: dict[str, float] = json.loads(out)
        return shares

    def _worker(self, objects: bool, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "tests.fuzz.worker", *arguments]
        environment = self._environments[objects]
        done = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def feed(self, target: str, piece: int, inputs: int) -> None:
        """One process over a number of inputs; if it dies, another one with other inputs."""
        outcome = self.outcomes.setdefault(target, Outcome())
        for attempt in range(ATTEMPTS):
            arena = self._folder / f"{target}-{piece}.input"
            seed = f"{self._seed}.{piece}.{attempt}"
            arguments = ("--target", target, "--inputs", str(inputs), "--seed", seed, "--arena", str(arena))
            patience = ("--patience", str(self._patience_s))
            code, out, err = self._worker(piece % OBJECTS_EVERY == 0, *arguments, *patience)
            if code == 0:
                outcome.add(json.loads(out.splitlines()[-1]))
                return
            outcome.findings.setdefault(f"the process ended with {code}\n{err[-6000:]}", last_input(arena))


def pieces(shares: dict[str, float], inputs: int) -> list[tuple[str, int, int]]:
    """(target, number, inputs) for each process."""
    total, found = sum(shares.values()), []
    for target, share in shares.items():
        left = round(inputs * share / total)
        number = 0
        while left > 0:
            found.append((target, number, min(left, PIECE)))
            left, number = left - PIECE, number + 1
    return found


def show(outcomes: dict[str, Outcome], save: Path) -> int:
    """Print the table and the findings; returns how many there are."""
    print(f"{'target':<16}{'inputs':>12}{'inputs/s':>10}{'edges':>8}{'slowest ms':>12}{'findings':>10}")
    for target, outcome in outcomes.items():
        rate = outcome.inputs / max(outcome.seconds, 1e-9)
        row = f"{target:<16}{outcome.inputs:>12,}{rate:>10,.0f}{outcome.edges:>8,}{outcome.slowest_ms:>12,.1f}"
        print(f"{row}{len(outcome.findings):>10}")
    inputs = sum(outcome.inputs for outcome in outcomes.values())
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    count = sum(len(outcome.findings) for outcome in outcomes.values())
    print(f"{'all':<16}{inputs:>12,}{inputs / max(seconds, 1e-9):>10,.0f}{'':>20}{count:>10}")
    for target, outcome in outcomes.items():
        for what, data in outcome.findings.items():
            path = save / target / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            print(f"\n{target}: {what}\n  input: {path}")
    return count


def main() -> int:
    """Build, feed, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all targets")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", type=Path, help="keep the build in this folder, or use what is there")
    parser.add_argument("--patience", type=int, default=60, help="seconds that 64 inputs may take; 0: any number")
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"), help="folder for the inputs of findings")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eventcore-fuzz.") as temporary:
        folder = (options.build or Path(temporary)).resolve()
        if not (folder / building.TRACER).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            building.build(folder)
        built = time.monotonic()
        run = Run(folder, options.seed, options.patience)
        shares = run.shares()
        wanted = {name: shares.get(name) or 1 for name in options.target} if options.target else shares
        if not wanted.keys() <= shares.keys():
            raise SystemExit(f"no such target; there are {', '.join(shares)}")
        with ThreadPoolExecutor(options.jobs) as pool:
            for _ in pool.map(lambda piece: run.feed(*piece), pieces(wanted, options.inputs)):
                pass
        findings = show(run.outcomes, options.save)
        print(f"built in {built - started:.0f} s, fed in {time.monotonic() - built:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

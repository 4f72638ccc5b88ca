"""Kill the writer at random moments and look at what it left.

A kill loses nothing that was acknowledged, whatever `fsync` says: the page cache survives the process. A child forked
from a warm process writes with random options; before a call it notes what it is about to do, and after the call
returned that it is done, in memory it shares with its parent. The parent kills it, opens the folder and compares.

    python -m tests.crash.killing --kills 10000

prints totals and exits with 1 if anything acknowledged was lost, anything came back that was never sent, or offsets are
missing. A folder goes through many kills with changing options.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import eventcore as ec

_SLOT = struct.Struct("=qqqq")
"""Number of the call, 1 once it returned; the log end before it; the log end it wants; generation of its values."""
_KILLS_PER_FOLDER = 25


def value_of(offset: int, generation: int) -> bytes:
    """What was sent for an offset; a truncation begins a new generation."""
    return b"%d:%d|" % (offset, generation) + b"x" * (offset * 7919 % 300)


@dataclass
class Totals:
    """What was done and found."""

    kills: int = 0
    checked: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Model:
    """What the folder must hold: a generation an offset, and the end that is acknowledged."""

    generations: list[int] = field(default_factory=list)
    generation: int = 0


class Shared:
    """The child's notes: one slot for the call under way, a log of what was acknowledged."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 1 << 20)
        self.reset()

    def reset(self) -> None:
        """Before a child starts."""
        self._map[:16] = bytes(16)

    def add(self, kind: int, end: int, generation: int) -> None:
        """Note one step: 1 about to append, 2 appended, 3 about to truncate, 4 truncated."""
        count = int.from_bytes(self._map[:8], sys.byteorder)
        _SLOT.pack_into(self._map, 16 + count * _SLOT.size, count, kind, end, generation)
        self._map[:8] = (count + 1).to_bytes(8, sys.byteorder)

    def steps(self) -> list[tuple[int, int, int]]:
        """(kind, end, generation) of every step."""
        count = int.from_bytes(self._map[:8], sys.byteorder)
        return [_SLOT.unpack_from(self._map, 16 + n * _SLOT.size)[1:] for n in range(count)]


def write(folder: Path, shared: Shared, seed: int, generation: int) -> None:
    """The child: random calls until it is killed."""
    pick = random.Random(seed)
    config = {
        "segment.bytes": pick.choice([4096, 16384, 1 << 20]),
        "segment.index.bytes": 4096,
        "compression.type": pick.choice(["producer", "producer", "zstd", "lz4"]),
    }
    fsync = pick.choice(["always", "interval", "never"])
    with ec.open_partition(folder, "rw", fsync, config) as p:  # type: ignore[arg-type]
        for _ in range(20_000):
            end = p.log_end_offset
            dice = pick.random()
            if dice < 0.93:
                count = pick.choice([1, 1, 2, 7, 40])
                values = [value_of(offset, generation) for offset in range(end, end + count)]
                shared.add(1, end + count, generation)
                p.extend(values) if count > 1 else p.append(values[0])
                shared.add(2, end + count, generation)
            elif dice < 0.95:
                p.roll()
            elif dice < 0.97:
                p.sync()
            elif dice < 0.985 and end:
                cut = max(0, end - pick.choice([1, 5, 60]))
                generation += 1
                shared.add(3, cut, generation)
                p.truncate(cut)
                last = batches_end(p)
                shared.add(4, last, generation)
                if last != cut:
                    return  # the end of a log that was cut inside a batch is, after reopening, that of the batch before


def batches_end(p: ec.Partition) -> int:
    """One beyond the last record that is there."""
    return max((entry.last_offset + 1 for entry in p.batches()), default=p.log_start_offset)


def outcomes(model: Model, steps: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
    """(what must be there, what may be there beyond it), as generations by offset."""
    sure, possible = list(model.generations), list(model.generations)
    for kind, end, generation in steps:
        if kind in (1, 2):
            possible = sure + [generation] * (end - len(sure))
            sure = list(possible) if kind == 2 else sure
        else:
            possible = list(sure) if kind == 3 else sure[:end]
            sure = sure[:end]
        model.generation = max(model.generation, generation)
    return sure, possible


def check(folder: Path, model: Model, steps: list[tuple[int, int, int]], totals: Totals) -> None:
    """Open what the child left, twice, and compare."""
    sure, possible = outcomes(model, steps)
    truncating = bool(steps) and steps[-1][0] == 3
    with ec.open_partition(folder, "rw", "never") as p:
        found = [(record.offset, record.value) for record in p]
        wrong = [] if not p.recovery.damage and p.verify().ok else [f"damage {p.recovery.damage} {p.verify().problems}"]
        end = p.log_end_offset
    if [offset for offset, _ in found] != list(range(len(found))) or end != len(found):
        wrong.append(f"offsets are missing: {len(found)} records, end {end}")
    if len(found) < len(sure) and not truncating:
        wrong.append(f"lost: {len(found)} records of {len(sure)} acknowledged ones")
    sent = [value_of(offset, generation) for offset, generation in enumerate(possible)]
    if len(found) > len(sent) or [value for _, value in found] != sent[: len(found)]:
        wrong.append("a record that was never sent there")
    with ec.open_partition(folder, "r") as p:
        if [(record.offset, record.value) for record in p] != found:
            wrong.append("the second opening shows something else")
    totals.checked += len(sure)
    totals.wrong += [f"{folder}: {what}" for what in wrong]
    model.generations = possible[: len(found)]


def run(kills: int, seed: int, ground: Path, totals: Totals, *, least: int = 0) -> Totals:
    """Kill and check so many times, nobody before it has noted `least` steps or come to its end."""
    pick, shared = random.Random(seed), Shared()
    model, folder = Model(), ground / "events-0"
    for number in range(kills):
        if number % _KILLS_PER_FOLDER == 0:
            shutil.rmtree(folder, ignore_errors=True)
            model = Model()
        shared.reset()
        child = os.fork()
        if child == 0:
            try:
                write(folder, shared, pick.randrange(1 << 30), model.generation + 1)
            finally:
                os._exit(0)
        child_seed = pick.randrange(1 << 30)  # keeps the parent's sequence apart from the child's
        while len(shared.steps()) < least and not _has_ended(child):
            time.sleep(0.001)
        time.sleep(random.Random(child_seed).choice([0.0005, 0.002, 0.008, 0.02]) * (0.5 + pick.random()))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        totals.kills += 1
        if folder.exists() and any(folder.glob("*.log")):
            check(folder, model, shared.steps(), totals)
        if totals.wrong:
            break
    return totals


def _has_ended(child: int) -> bool:
    """Without taking notice of it: it stays there to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as ground:
        totals = run(arguments.kills, arguments.seed, Path(ground), Totals())
    print(f"{totals.kills} kills, {totals.checked} acknowledged records checked, {len(totals.wrong)} violations")
    print(*totals.wrong, sep="\n")
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

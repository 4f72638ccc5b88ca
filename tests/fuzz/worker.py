"""One process that feeds one target and says on stdout, as JSON, what came of it. Started by `run.py`.

With `--patience` a signal ends the process if an input takes too long. Without it, the time an input takes is nobody's
verdict: on a busy machine any may take long.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import time
import traceback
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.fuzz.arena import Arena
from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).with_name("seeds")
CORPUS_MAX = 2048
MEASURED_EVERY = 64
"""One in so many inputs has its memory measured; the seeds all have."""
FINDINGS_MAX = 10


class Tracer:
    """Says whether an input ran anything new; without a traced build it never does."""

    def __init__(self) -> None:
        path = os.environ.get("EVENTCORE_TRACER")
        library = ctypes.CDLL(path) if path else None
        self.news = library.trace_news if library else lambda: 0
        self.edges = library.trace_edges if library else lambda: 0


class Finding(NamedTuple):
    """An input that broke a promise."""

    what: str
    data: bytes


def regressions(name: str) -> list[bytes]:
    """The inputs that once were findings."""
    return [path.read_bytes() for path in sorted((SEEDS / name).glob("*.bin"))]


def _describe(error: BaseException) -> tuple[str, str]:
    """The error in a line; and where it came from, which tells findings apart."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    name = type(error).__name__
    return f"{name}: {str(error)[:300]} ({place})", f"{name} {place.partition(' < ')[0]}"


class Fuzzer:
    """Feeds one target, and collects what is wrong with it."""

    def __init__(
        self, target: Target, seed: str, arena: Arena, extra: Sequence[bytes] = (), patience_s: int = 0
    ) -> None:
        self.target = target
        self._patience_s = patience_s
        self.findings: dict[str, Finding] = {}
        self.done = 0
        self.slowest_ns = 0
        self.tracer = Tracer()
        self.corpus = [*target.seeds(), *extra]
        self._arena = arena
        self._rng = Random(f"{seed} {target.name}")
        self._mutator = Mutator(self._rng, target.places)

    def run(self, count: int) -> None:
        """Feed what is known (up to half of `count`), then mutations of it, `count` inputs in all."""
        for known in self._rng.sample(self.corpus, min(len(self.corpus), count // 2)):
            self.feed(known, measured=self.done % MEASURED_EVERY == 0)
        target, corpus, rng, news = self.target, self.corpus, self._rng, self.tracer.news
        while self.done < count and len(self.findings) < FINDINGS_MAX:
            data = self._mutator(corpus)
            if target.fix and rng.random() < 0.9:
                target.fix(data, rng)
            self.feed(data, measured=self.done % MEASURED_EVERY == 0)
            if news():
                corpus.append(bytes(data))
                if len(corpus) > CORPUS_MAX:
                    del corpus[int(rng.random() * CORPUS_MAX)]

    def feed(self, data: bytes | bytearray, *, measured: bool) -> None:
        """One input. An error that comes out of the target is a finding."""
        self.done += 1
        view = self._arena.place(data)
        started = time.perf_counter_ns()
        try:
            if measured:
                if self._patience_s:
                    signal.alarm(self._patience_s)
                self._measure(view)
            else:
                self.target.run(view)
        except Exception as error:
            what, kind = _describe(error)
            self.findings.setdefault(kind, Finding(what, bytes(data)))
        self.slowest_ns = max(self.slowest_ns, time.perf_counter_ns() - started)

    def _measure(self, view: memoryview) -> None:
        tracemalloc.start()
        try:
            self.target.run(view)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        limit = self.target.memory + self.target.factor * len(view)
        if peak > limit:
            raise AssertionError(f"{peak} bytes of memory for an input of {len(view)}, not {limit}")


def main() -> None:
    """Feed one target and print what came of it; or list the targets with their shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--target", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--arena", type=Path)
    parser.add_argument("--patience", type=int, default=0, help=f"seconds for {MEASURED_EVERY} inputs; 0: any number")
    options = parser.parse_args()
    if options.list:
        print(json.dumps({target.name: target.share for target in TARGETS.values()}))
        return
    known, arena = regressions(options.target), Arena(options.arena)
    fuzzer = Fuzzer(TARGETS[options.target], options.seed, arena, known, options.patience)
    cpu = time.process_time()
    fuzzer.run(options.inputs)
    if "EVENTCORE_TRACER" in os.environ and not fuzzer.tracer.edges():
        raise SystemExit("these are not the traced kernels")
    report = {
        "inputs": fuzzer.done,
        "seconds": time.process_time() - cpu,
        "edges": fuzzer.tracer.edges(),
        "slowest_ms": fuzzer.slowest_ns / 1e6,
        "findings": [[finding.what, finding.data.hex()] for finding in fuzzer.findings.values()],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

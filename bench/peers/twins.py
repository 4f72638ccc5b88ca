"""The native kernels beside their pure twins: whole operations, each kind of kernels in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.peers.answers import Answer, Goal
from bench.peers.goals import TWINS
from bench.peers.rounds import Ground

GOALS = tuple(Goal(f"twins: {operation}", limit, ("pure",), "native") for operation, limit in TWINS.items())


def measured(kernels: str, batches: int) -> dict[str, float]:
    """Seconds a record, by operation, over a log of so many batches of 1,000."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.bench_partition", str(batches)],
        env={**os.environ, "EVENTCORE_KERNELS": kernels},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(run.stdout)
    return found


def twins(ground: Ground) -> Iterator[Answer]:
    """Pure takes long, so it has less to do and fewer rounds; the ratios are far from where that could matter."""
    batches = max(ground.scale.records // 10_000, 1)
    times: dict[str, list[dict[str, float]]] = {"native": [], "pure": []}
    for _ in range(3 if ground.scale.rounds >= 7 else 1):
        for kernels, found in times.items():
            found.append(measured(kernels, batches))
    for name in times["native"][0]:
        costs = {kernels: [one[name] for one in found] for kernels, found in times.items()}
        yield Answer(f"twins: {name}", name, "time", costs)

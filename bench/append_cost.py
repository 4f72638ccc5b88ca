"""What an append costs in memory: one JSON object of seconds a call, by operation. Run by `bench.compare`.

Uses nothing of eventcore but `open_partition`, `append` and `extend`, so that it runs on old commits, too; what came
later (`extend_columns`) only where it is there.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventcore as ec

CALLS = {"append one": 4000, "extend 100": 1500, "extend 1000": 400}
if hasattr(ec.Partition, "extend_columns"):
    CALLS["extend_columns 1000"] = 400
VALUE = b"x" * 100


def operation(name: str, partition: Any) -> tuple[Callable[[], object], int]:
    """(one call, the records it appends)"""
    how, _, size = name.partition(" ")
    if how == "append":
        return lambda: partition.append(VALUE), 1
    count = int(size)
    if how == "extend":
        records = [VALUE] * count
        return lambda: partition.extend(records), count
    values = VALUE * count, array("q", range(0, len(VALUE) * (count + 1), len(VALUE)))
    return lambda: partition.extend_columns(values), count


def cost(name: str, calls: int, ground: str | None) -> float:
    """Seconds a call, index and roll checks included, into a fresh log."""
    folder = Path(tempfile.mkdtemp(dir=ground))
    try:
        with ec.open_partition(folder / "events-0", fsync="never", config={"segment.bytes": 1 << 28}) as p:
            call, count = operation(name, p)
            for _ in range(calls // 10):
                call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            taken = time.perf_counter() - start
            assert len(p) == count * (calls + calls // 10)
    finally:
        shutil.rmtree(folder)
    return taken / calls


def main(ground: str | None = None) -> None:
    """Print one measurement of each."""
    gc.disable()
    print(json.dumps({name: cost(name, calls, ground) for name, calls in CALLS.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

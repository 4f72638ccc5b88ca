"""What an append costs in memory: one JSON object of seconds a call, by records a batch. Run by `bench.compare`.

Uses nothing of eventcore but `open_partition`, `append` and `extend`, so that it runs on old commits, too.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import eventcore as ec

CALLS = {1: 4000, 100: 1500, 1000: 400}
VALUE = b"x" * 100


def cost(count: int, calls: int, ground: str | None) -> float:
    """Seconds a call for batches of `count` records, index and roll checks included, into a fresh log."""
    folder = Path(tempfile.mkdtemp(dir=ground))
    records = [VALUE] * count
    try:
        with ec.open_partition(folder / "events-0", fsync="never", config={"segment.bytes": 1 << 28}) as p:
            call: Callable[[], object] = (lambda: p.append(VALUE)) if count == 1 else (lambda: p.extend(records))
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
    print(json.dumps({count: cost(count, calls, ground) for count, calls in CALLS.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

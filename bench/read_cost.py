"""What reading costs in memory: one JSON object of seconds by operation. Run by `bench.compare`.

A scan is given by the record, a point read by the call. Uses nothing of eventcore but `open_partition`, `extend`,
`read`, `columns` and `p[i]`, so that it runs on old commits, too; what came later only where it is there.
"""

from __future__ import annotations

import gc
import json
import random
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventcore as ec

RECORDS = 100_000
READS = 2000
SIZES = (1000, 100)
"""Records of a batch, for point reads; scans read the first."""
SCANS: dict[str, Callable[[Any], object]] = {
    "read": lambda p: deque(p.read(0), maxlen=0),
    "read_tuples": lambda p: deque(p.read_tuples(0), maxlen=0),
    "read_lazy": lambda p: deque(p.read_lazy(0), maxlen=0),
    "columns": lambda p: len(p.columns()),
}


def written(folder: Path, size: int, records: int) -> ec.Partition:
    """A log of batches of `size`, opened."""
    p = ec.open_partition(folder / f"events-{size}", fsync="never", config={"segment.bytes": 1 << 28})
    batch = [(b"key-%06d" % number, b"%0100d" % number) for number in range(size)]
    for _ in range(records // size):
        p.extend(batch)
    return p


def scan_cost(p: Any, scan: Callable[[Any], object]) -> float:
    """Seconds a record of the second scan: the first has made the pages of the map present."""
    scan(p)
    start = time.perf_counter()
    scan(p)
    return (time.perf_counter() - start) / len(p)


def read_cost(p: Any, reads: int) -> float:
    """Seconds of `p[i]` for random i."""
    offsets = random.Random(1).choices(range(len(p)), k=reads)
    for offset in offsets:
        p[offset]
    start = time.perf_counter()
    for offset in offsets:
        p[offset]
    return (time.perf_counter() - start) / reads


def costs(ground: str | None, records: int = RECORDS, reads: int = READS) -> dict[str, float]:
    """One measurement of each operation that this version has."""
    found: dict[str, float] = {}
    folder = Path(tempfile.mkdtemp(dir=ground))
    try:
        for size in SIZES:
            with written(folder, size, records) as p:
                if size == SIZES[0]:
                    found |= {name: scan_cost(p, scan) for name, scan in SCANS.items() if hasattr(p, name)}
                found[f"p[i] {size}"] = read_cost(p, reads)
    finally:
        shutil.rmtree(folder)
    return found


def main(ground: str | None = None) -> None:
    """Print one measurement of each."""
    gc.disable()
    print(json.dumps(costs(ground)))


if __name__ == "__main__":
    main(*sys.argv[1:])

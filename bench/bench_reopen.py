"""Opening a log after an unclean stop: what lies below the recovery point is not read.

`python -m bench.bench_reopen` writes 1 GiB of which the last 16 MiB were never synced, lets the writer die, and opens
it again: as it is, and without the recovery point, which means to read everything. Goal: at most 1/20 of the time.
Before each opening the log is dropped from the page cache, as after a power cut. `pytest bench/bench_reopen.py` does
the same with little, as a check of the results alone.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import pytest

import eventcore as ec
from eventcore.files import recovery_point

GOAL = 20.0
CONFIG = {"segment.bytes": 64 << 20}
_RECORDS = [b"x" * 1000] * 1000


def write_and_die(folder: Path, size: int, dirty: int) -> None:
    """A log of `size` bytes whose writer synced all but the last `dirty` ones."""
    pid = os.fork()
    if pid == 0:
        try:
            p = ec.open_partition(folder, "rw", "never", CONFIG)
            for _ in range((size - dirty) // (1000 * 1000)):
                p.extend(_RECORDS)
            time.sleep(1.1)  # a sync writes the recovery point if the last one is a second old
            p.sync()
            for _ in range(dirty // (1000 * 1000)):
                p.extend(_RECORDS)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def copy(source: Path, target: Path) -> None:
    """A copy with the holes of the original: reserved index files are almost nothing else."""
    data = source.read_bytes()
    with target.open("wb") as file:
        for at in range(0, len(data), 4096):
            page = data[at : at + 4096]
            if page.strip(b"\0"):
                file.seek(at)
                file.write(page)
        file.truncate(len(data))


def opened(folder: Path, kept: Path, *, trusting: bool) -> tuple[float, ec.RecoveryReport, int]:
    """Seconds of one opening, what it did, and where the log ended. Everything but the logs is put back first."""
    for path in folder.iterdir():
        if path.suffix != ".log" and path.is_file():
            path.unlink()
    for path in kept.iterdir():
        copy(path, folder / path.name)
    if not trusting:
        (folder / recovery_point.NAME).unlink()
        (folder / "eventcore.state").unlink()
    forget(folder)
    start = time.perf_counter()
    p = ec.open_partition(folder, "rw", "never", CONFIG)
    taken = time.perf_counter() - start
    found = taken, p.recovery, p.log_end_offset
    p.close()
    return found


def forget(folder: Path) -> None:
    """Have every file on the disk and none of it in the page cache."""
    for path in folder.iterdir():
        if path.is_file():
            fd = os.open(path, os.O_RDWR)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def measure(size: int, dirty: int, rounds: int) -> dict[bool, tuple[float, int]]:
    """Seconds and bytes read, with the recovery point and without."""
    with tempfile.TemporaryDirectory() as ground:
        folder, kept = Path(ground) / "events-0", Path(ground) / "kept"
        write_and_die(folder, size, dirty)
        kept.mkdir()
        for path in folder.iterdir():
            if path.suffix != ".log":
                copy(path, kept / path.name)
        times: dict[bool, list[float]] = {True: [], False: []}
        read: dict[bool, int] = {}
        ends = set()
        gc.disable()
        for _ in range(rounds):
            for trusting, found in times.items():
                taken, report, end = opened(folder, kept, trusting=trusting)
                assert not report.clean or not trusting
                assert not report.damage
                found.append(taken)
                read[trusting] = report.scanned_bytes
                ends.add(end)
        gc.enable()
        assert len(ends) == 1
        return {trusting: (median(found), read[trusting]) for trusting, found in times.items()}


@pytest.mark.sampled
def test_only_the_tail_is_read() -> None:
    found = measure(12_000_000, 2_000_000, 1)
    assert 2_000_000 <= found[True][1] < 6_000_000
    assert found[False][1] >= 12_000_000


def main() -> dict[str, float]:
    """Both times, and the goal."""
    found = measure(1 << 30, 16 << 20, 7)
    ratio = found[False][0] / found[True][0]
    print("\nOpening 1 GiB after an unclean stop, the last 16 MiB not synced")
    for trusting, name in ((True, "from the recovery point"), (False, "everything")):
        taken, read = found[trusting]
        print(f"  {name:<28}{taken * 1000:>9.1f} ms{read / (1 << 20):>9.0f} MiB read")
    print(f"  everything ÷ from the recovery point: {ratio:.1f}  goal {GOAL:g}: {'met' if ratio >= GOAL else 'MISSED'}")
    return {"recovery point": found[True][0], "everything": found[False][0], "ratio": ratio}


if __name__ == "__main__":
    main()

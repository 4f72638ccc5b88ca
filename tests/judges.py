"""What judges the engine, by kind: each test that is one belongs to a kind, and a run says how many of each it had.

A kind without any test that ran is a promise that nobody checked: `python -m tests.judges COUNTS...` adds up the counts
that `pytest --judges COUNTS` has left, prints them, and fails if a kind has none. `.ci/run` ends with it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

KINDS: dict[str, tuple[str, ...]] = {
    "golden vectors": ("tests/golden/*",),
    "twins": ("tests/parity/*",),
    "Kafka's tools": ("tests/interop/test_dump_log_segments.py", "tests/interop/test_judge.py"),
    "Kafka's cleaner": ("tests/interop/test_compaction.py", "tests/interop/test_bench_kafka.py"),
    "a Kafka broker": (
        "tests/interop/test_broker_logs.py",
        "tests/interop/test_groups.py",
        "tests/interop/test_handover.py",
        "tests/interop/test_snapshots.py",
        "tests/interop/test_store_handover.py",
        "tests/interop/test_transactions.py",
    ),
    "kafka-python and aiokafka": ("tests/interop/test_python_clients.py", "tests/interop/test_generated_batches.py"),
    "crash states": (
        "tests/crash/test_crash_*.py",
        "tests/crash/test_store_crash.py",
        "tests/crash/test_snapshot_crash.py",
        "tests/crash/test_view_checkpoint.py",
    ),
    "dropped syncs": ("tests/crash/test_dropped_syncs.py",),
    "interrupts": (
        "tests/crash/test_interrupts.py",
        "tests/log/test_interrupted_changes.py",
        "tests/log/test_tail_faults.py",
    ),
    "two threads": ("tests/crash/test_two_threads.py", "tests/log/test_reader_threads.py"),
    "failing calls": ("tests/*/test_failing_calls.py", "tests/crash/test_fence.py"),
    "kills": (
        "tests/crash/test_kill.py",
        "tests/crash/test_exactly_once.py",
        "tests/crash/test_choreography.py",
        "tests/cli/test_exactly_once.py",
    ),
    "full disks": ("tests/crash/test_full_disk.py", "tests/crash/test_pwrite_mode.py"),
    "file systems shut down": ("tests/crash/test_shutdown.py",),
    "SIGBUS": ("tests/crash/test_sigbus*.py",),
    "bit flips": ("tests/crash/test_every_bit*.py", "tests/crash/test_bad_batch.py"),
    "fuzzing": ("tests/fuzz/*",),
    "many processes": ("tests/log/test_many_processes.py", "tests/store/test_readers_in_processes.py"),
    "models": (
        "tests/log/test_compaction.py",
        "tests/log/test_retention.py",
        "tests/log/test_segments.py",
        "tests/log/test_sequenced.py",
        "tests/log/test_transactions.py",
    ),
    "snapshots under load": ("tests/snapshot/test_under_load.py",),
    "object stores": ("tests/snapshot/test_object_*.py",),
    "real input": ("tests/cli/test_real_data.py",),
    "examples in the documents": ("tests/test_docs.py",),
}


def kinds_of(path: str) -> list[str]:
    """The kinds a test belongs to, by the path of its file from the root of the checkout."""
    return [kind for kind, patterns in KINDS.items() if any(fnmatch(path, pattern) for pattern in patterns)]


def add_up(files: Iterable[Path]) -> Counter[str]:
    """Tests that ran, by kind, over several runs of pytest."""
    total: Counter[str] = Counter()
    for file in files:
        total.update(json.loads(file.read_text("utf-8")))
    return total


def main(files: list[str]) -> int:
    ran = add_up(map(Path, files))
    for kind in KINDS:
        print(f"{ran[kind]:7d}  {kind}")
    missing = [kind for kind in KINDS if not ran[kind]]
    if missing:
        print(f"no test ran of: {', '.join(missing)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Consume, transform, produce, and be killed: every input comes out once.

A child forked from a warm process reads one topic as a member of a group, writes what it makes of the records to
another, and commits its offsets in the same transaction; some transactions are aborted on purpose. It is killed at a
random moment, also while it recovers, and the next one goes on, until one gets to the end: then input and output are
compared, and another store is made.

    python -m tests.crash.exactly_once --kills 20000

prints totals and exits with 1 if a record came out twice or not at all, or something hangs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import eventcore as ec
from eventcore.format import group_log, transaction_log

INPUT = 2000
_MOST_KILLS = 100
"""In one store: who has not come to the end by then waits for something."""
_WAITS_S = (0.01, 0.05, 0.15, 0.4)
_SETTINGS = {"store.housekeeping.enable": False, "segment.bytes": 1 << 20}


@dataclass
class Totals:
    """What was done and found."""

    kills: int = 0
    records: int = 0
    wrong: list[str] = field(default_factory=list)


def make(folder: Path) -> None:
    """The input. The coordinators' logs have one partition each: fifty would be much of the same, and take longer."""
    with ec.open(folder, fsync="never", config=_SETTINGS) as store:
        store.create_topic("out", 2)
        store.create_topic("in", 3).extend([(b"%d" % number, b"%d" % number) for number in range(INPUT)])
        for name in (group_log.TOPIC, transaction_log.TOPIC):
            store.internal_topic(name, 1, {"cleanup.policy": "compact"})


def work(folder: Path, seed: int, *, group: str = "work") -> None:
    """Go on where the last one was killed, to the end."""
    pick = random.Random(seed)
    fsync = pick.choice(["always", "never", "never"])
    with (
        ec.open(folder, fsync=fsync, config=_SETTINGS) as store,  # type: ignore[arg-type]
        store.consumer(group, ["in"], isolation="read_committed") as consumer,
    ):
        ends = {("in", partition.number): partition.high_watermark for partition in store.topic("in")}
        while consumer.committed() != ends:
            _one(store, consumer, consumer.poll(0.05, max_records=pick.randrange(1, 40)), pick)


def _one(store: ec.Store, consumer: ec.Consumer, records: list[ec.ConsumerRecord], pick: random.Random) -> None:
    tx = store.transaction("worker")
    for record in records:
        tx.append("out", b"made of " + (record.value or b""), key=record.key)
        if pick.random() < 0.05:
            tx.flush()
    tx.commit_offsets(consumer)
    if pick.random() < 0.8:
        tx.commit()
    else:
        tx.abort()
        consumer.seek("committed")


def check(folder: Path, totals: Totals) -> None:
    """Each input came out once."""
    with ec.open(folder, fsync="never", config=_SETTINGS) as store:
        out = Counter(
            record.value for partition in store.topic("out") for record in partition.read(isolation="read_committed")
        )
        if store.transactions.hanging() or store.groups.pending("work"):
            totals.wrong.append(f"{folder}: a transaction hangs: {store.transactions.hanging()}")
    wanted = Counter(b"made of %d" % number for number in range(INPUT))
    totals.records += INPUT
    if out != wanted:
        twice, never = list(out - wanted), list(wanted - out)
        totals.wrong.append(f"{folder}: {len(twice)} too many, {len(never)} missing: {twice[:5]}, {never[:5]}")


def run(kills: int, seed: int, ground: Path, totals: Totals) -> Totals:
    """Kill so many times."""
    pick, number = random.Random(seed), 0
    while totals.kills < kills and not totals.wrong:
        number += 1
        folder = ground / f"store{number}"
        make(folder)
        before = totals.kills
        while _killed(_child(folder, pick.randrange(1 << 30)), pick, totals):
            totals.kills += 1
            if totals.kills >= before + _MOST_KILLS:  # on a slow machine nobody would get through
                _note_end(os.waitpid(_child(folder, pick.randrange(1 << 30)), 0)[1], totals)
                break
        check(folder, totals)
    return totals


def _killed(child: int, pick: random.Random, totals: Totals) -> bool:
    """Whether the child was killed; if not, it has come to its end."""
    time.sleep(pick.choice(_WAITS_S) * (0.5 + pick.random()))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _note_end(status, totals)
    return os.WIFSIGNALED(status)


def _note_end(status: int, totals: Totals) -> None:
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        totals.wrong.append(f"a child ended with {status}")


def _child(folder: Path, seed: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(folder, seed)
        except BaseException as error:  # whatever it is, the parent must not go on in the child
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return child


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as ground:
        totals = run(arguments.kills, arguments.seed, Path(ground), Totals())
    print(f"{totals.kills} kills, {totals.records} records, {len(totals.wrong)} violations")
    print(*totals.wrong, sep="\n")
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Snapshots of a store that four threads are at: appending, deleting, compacting, in transactions. Each is restored and
compared with what the threads have noted. More of them:

python -m tests.snapshot.under_load --snapshots 3000
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import eventcore as ec
from eventcore.format import group_log, transaction_log
from tests.snapshot.worlds import records

SETTINGS = {"store.housekeeping.enable": False, "file.delete.delay.ms": 0}
SMALL = {"segment.bytes": 1 << 14, "index.interval.bytes": 512}
COMPACT = {**SMALL, "cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0.1}
TOPICS: dict[str, tuple[int, dict[str, Any]]] = {
    transaction_log.TOPIC: (1, SMALL),  # fifty partitions would be much of the same
    group_log.TOPIC: (1, SMALL),
    "plain": (2, SMALL),
    "keyed": (2, COMPACT),
    "a": (1, SMALL),
    "b": (1, SMALL),
}
KEYS = 40
A_STORE = 25
"""Snapshots of one store; then there is a new one."""


class Load:
    """One store, its threads, and what they have done: `plain` and `keyed` by partition, one value an offset."""

    def __init__(self, folder: Path, seed: int, fsync: str, *, of_broker: bool = False) -> None:
        self.store = ec.open(folder, fsync=fsync, config=SETTINGS)  # type: ignore[arg-type]
        self._topics_come_and_go = not of_broker  # a broker would take ours for stray ones
        self.plain: list[list[bytes]] = [[], []]
        self.keyed: list[list[tuple[bytes, bytes | None]]] = [[], []]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self.first: dict[str, list[int]] = {}
        """Where each topic's partitions end before anything is done."""
        for name, (count, config) in TOPICS.items():
            topic = self._configured(name, config) if of_broker else self._made(name, count, config)
            self.first[name] = [partition.log_end_offset for partition in topic]
        self._threads = [
            threading.Thread(target=self._run, args=(step, seed + at))
            for at, step in enumerate((self._append, self._key, self._transact, self._care))
        ]

    def _made(self, name: str, partitions: int, config: dict[str, Any]) -> ec.Topic:
        make = self.store.internal_topic if name.startswith("__") else self.store.create_topic
        return make(name, partitions, config)

    def _configured(self, name: str, config: dict[str, Any]) -> ec.Topic:
        if not name.startswith("__"):
            self.store.configure_topic(name, config)
        return self.store.topic(name)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.store.close()

    def _run(self, step: Callable[[random.Random], None], seed: int) -> None:
        pick = random.Random(seed)
        try:
            while not self._stop.is_set():
                step(pick)
                time.sleep(pick.random() * 0.02)
        except BaseException as error:
            self.failures.append(error)

    def _append(self, pick: random.Random) -> None:
        number = pick.randrange(2)
        known = self.plain[number]
        values = [b"%d" % (len(known) + at) * pick.randrange(1, 30) for at in range(pick.randrange(1, 40))]
        known += values  # noted first: a snapshot may see them before the call returns
        self.store.topic("plain")[number].extend(values, atomic=True)

    def _key(self, pick: random.Random) -> None:
        number = pick.randrange(2)
        items = [
            (b"%d" % pick.randrange(KEYS), None if pick.random() < 0.1 else b"%d" % pick.randrange(1 << 30))
            for _ in range(pick.randrange(1, 30))
        ]
        self.keyed[number] += items
        self.store.topic("keyed")[number].extend(items, atomic=True)

    def _transact(self, pick: random.Random) -> None:
        """Each commits one number more, to both topics and as the group's offset."""
        tx = self.store.transaction("worker")
        done = getattr(self, "done", 0)
        for topic in ("a", "b"):
            tx.append(topic, b"%d" % done)
            if pick.random() < 0.3:
                tx.flush()
        tx.commit_offsets("g", {("a", 0): done})
        if pick.random() < 0.7:
            tx.commit()
            self.done = done + 1
        else:
            tx.abort()

    def _care(self, pick: random.Random) -> None:
        choice, number = pick.random(), pick.randrange(2)
        plain, keyed = self.store.topic("plain")[number], self.store.topic("keyed")[number]
        if choice < 0.3:
            keyed.roll()
            keyed.compact()
        elif choice < 0.5:
            plain.roll()
        elif choice < 0.7:
            plain.delete_records(pick.randrange(plain.log_start_offset, plain.high_watermark + 1))
        elif choice < 0.8 or not self._topics_come_and_go:
            self.store.housekeep()
        elif choice < 0.9:
            with suppress(ec.TopicExists):
                self.store.create_topic(f"new{pick.randrange(4)}", 1)
        else:
            with suppress(ec.UnknownTopic):
                self.store.delete_topic(f"new{pick.randrange(4)}")

    # -- the judge ---------------------------------------------------------------------------------------------

    def check(self, manifest: ec.Manifest, path: Path) -> None:
        """A restored store is sound, and is what this one was at the cut."""
        with ec.open(path, fsync="never", config=SETTINGS) as found:
            assert found.was_clean
            assert not found.problems
            assert not found.transactions.hanging()
            assert not found.groups.pending("g")
            for name in found.topics:
                for partition in found.topic(name):
                    assert not partition.verify().problems
            for topic, number, start, end in manifest.partitions:
                partition = found.topic(topic)[number]
                assert partition.log_start_offset == start
                if topic == "plain":
                    self._check_plain(partition, self.plain[number], start, end)
                elif topic == "keyed":
                    self._check_keyed(partition, self.keyed[number], end)
            self._check_transactions(found)

    def _check_plain(self, partition: ec.Partition, known: list[bytes], start: int, end: int) -> None:
        assert partition.log_end_offset == end
        assert [one[3] for one in records(partition)] == known[start:end]

    def _check_keyed(self, partition: ec.Partition, known: list[tuple[bytes, bytes | None]], end: int) -> None:
        assert partition.log_end_offset == end
        found = records(partition)
        assert all(known[offset] == (key, value) for offset, _, key, value, _ in found)
        assert _latest((key, value) for _, _, key, value, _ in found) == _latest(known[:end])

    def _check_transactions(self, store: ec.Store) -> None:
        seen = [[int(one[3]) for one in records(store.topic(topic)[0])] for topic in ("a", "b")]
        assert seen[0] == seen[1] == list(range(len(seen[0])))
        if seen[0]:
            assert store.groups.offsets("g")["a", 0].offset == len(seen[0]) - 1


def _latest(items: object) -> dict[bytes, bytes]:
    return {key: value for key, value in dict(items).items() if value is not None}  # type: ignore[call-overload]


def run(count: int, seed: int, ground: Path, *, fsync: str = "never", tell: Callable[[str], None] | None = None) -> int:
    """Take, restore and check so many snapshots. Raises what is wrong with one."""
    pick, taken = random.Random(seed), 0
    while taken < count:
        place = ground / "kept"
        with Load(ground / "store", pick.randrange(1 << 30), fsync) as load:
            for _ in range(min(A_STORE, count - taken)):
                time.sleep(pick.random() * 0.05)
                manifest = load.store.snapshot(place)
                if pick.random() < 0.2:
                    ec.snapshots(place).prune(keep_last=pick.randrange(1, 4))
                new = ground / "new"
                assert ec.restore(place, new, number=manifest.number) == manifest
                load.check(manifest, new)
                shutil.rmtree(new)
                if load.failures:
                    raise load.failures[0]
                taken += 1
        if tell is not None:
            tell(f"{taken} snapshots, {sum(map(len, load.plain + load.keyed))} records")
        for folder in ("store", "kept"):
            shutil.rmtree(ground / folder)
    return taken


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsync", default="never", choices=("always", "interval", "never"))
    arguments = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as ground:
        print(run(arguments.snapshots, arguments.seed, Path(ground), fsync=arguments.fsync, tell=print), "are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())

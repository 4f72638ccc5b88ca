"""Transactions, and consumers: what they cost beside plain appends and plain reads.

`python -m bench.bench_transactions` prints the figures; `pytest bench/bench_transactions.py` is a check of the results
alone. Goals: a transaction of 100 records over 3 partitions with offsets, `fsync="never"`, 5,000 times a second; a poll
takes at most 1.2 times what a plain read of the same records takes; reading committed records runs at no less than 0.9
of the speed of reading them all.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import eventcore as ec
from bench.compare import MEMORY
from bench.interleaved import medians

LEAST_TRANSACTIONS = 5_000
MOST_POLL = 1.2
LEAST_COMMITTED = 0.9
_CONFIG = {"store.housekeeping.enable": False, "preallocate": True}
_RECORDS = 100
_PARTITIONS = 3


def opened(folder: Path) -> ec.Store:
    store = ec.open(folder, fsync="never", config=_CONFIG)
    store.create_topic("in", 1)
    store.create_topic("out", _PARTITIONS)
    return store


def records_of(number: int) -> list[tuple[bytes, bytes]]:
    """A partition's share of a transaction."""
    return [(b"key-%06d" % at, b"%0100d" % at) for at in range(number, _RECORDS, _PARTITIONS)]


def transact(store: ec.Store, shares: list[list[tuple[bytes, bytes]]], offset: int) -> None:
    """One transaction: the records, and where the group is."""
    with store.transaction("bench") as tx:
        for number, share in enumerate(shares):
            tx.extend("out", share, partition=number)
        tx.commit_offsets("bench", {("in", 0): offset})


def transactions_a_second(folder: Path, rounds: int = 9, least_s: float = 0.2) -> float:
    with opened(folder) as store:
        store.topic("in").append(b"v")
        shares = [records_of(number) for number in range(_PARTITIONS)]
        seconds = medians({"transaction": partial(transact, store, shares, 1)}, rounds, least_s)
        found = sum(1 for partition in store.topic("out") for _ in partition.read_values(isolation="read_committed"))
        assert found % _RECORDS == 0 < found
    return 1 / seconds["transaction"]


def filled(store: ec.Store, batches: int, transactional: bool) -> ec.StorePartition:
    """Batches of 100 records, each a transaction if wanted."""
    partition = store.topic("in")[0]
    share = [(b"key-%06d" % at, b"%0100d" % at) for at in range(_RECORDS)]
    for epoch in range(batches):
        if transactional:
            partition.append_sequenced(share, 7, epoch, 0, transactional=True)
            partition.end_transaction(7, epoch + 1, commit=True, raises_epoch=True)
        else:
            partition.extend(share)
    return partition


def through(rows: Callable[[], object]) -> None:
    """Read all of them, and keep none."""
    deque(rows(), maxlen=0)  # type: ignore[call-overload]


def poll_all(consumer: ec.Consumer) -> None:
    """As a program does it: a list of records at a time, each looked at."""
    consumer.seek("earliest")
    while records := consumer.poll():
        for _ in records:
            pass


def read_all(partition: ec.StorePartition) -> None:
    for _ in partition.read():
        pass


def poll_cost(folder: Path, batches: int = 2_000, rounds: int = 9, least_s: float = 0.0) -> float:
    """How many times a plain read of the records polling them takes."""
    with opened(folder) as store:
        partition = filled(store, batches, transactional=False)
        with store.consumer("bench", ["in"]) as consumer:
            calls = {"read": partial(read_all, partition), "poll": partial(poll_all, consumer)}
            seconds = medians(calls, rounds, least_s)
    return seconds["poll"] / seconds["read"]


def committed_speed(folder: Path, batches: int = 2_000, rounds: int = 9, least_s: float = 0.0) -> float:
    """Reading committed records of transactions of 100, beside reading everything, in records a second."""
    with opened(folder) as store:
        partition = filled(store, batches, transactional=True)
        calls: dict[str, Callable[[], object]] = {
            name: partial(through, partial(partition.read, isolation=name))
            for name in ("read_uncommitted", "read_committed")
        }
        seconds = medians(calls, rounds, least_s)
        assert len(list(partition.read(isolation="read_committed"))) == batches * _RECORDS
    return seconds["read_uncommitted"] / seconds["read_committed"]


@pytest.mark.sampled
def test_what_is_measured_is_there(tmp_path: Path) -> None:
    assert transactions_a_second(tmp_path / "a", 1, 0.001) > 0
    assert poll_cost(tmp_path / "b", 10, 1) > 0
    assert committed_speed(tmp_path / "c", 10, 1) > 0


def main() -> None:
    """The figures, and the goals."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        found = transactions_a_second(folder / "a")
        poll, committed = poll_cost(folder / "b"), committed_speed(folder / "c")
    print("\nTransactions and consumers")
    for text, figure, goal, met in (
        ("transactions of 100 records a second", found, LEAST_TRANSACTIONS, found >= LEAST_TRANSACTIONS),
        ("a poll ÷ a plain read", poll, MOST_POLL, poll <= MOST_POLL),
        ("reading committed ÷ all, speed", committed, LEAST_COMMITTED, committed >= LEAST_COMMITTED),
    ):
        print(f"  {text:<40}{figure:>10,.2f}  goal {goal:g}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()

"""A view of a topic that starts in milliseconds: account balances, folded from their movements, with a checkpoint.

    python examples/balances.py FOLDER [--events 100000] [--check]

appends so many movements, brings the balances up to date from what was saved the last time, and saves them. Run it
again and again: only what is new is read. With `--check` it folds the whole log, too, and compares.

The state is two numbers an account, its balance and how many movements it had, in arrays that are saved as they are. It
and the offsets it reflects are one file: killed at any moment, the next run finds a pair that belongs together.
"""

from __future__ import annotations

import argparse
import struct
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

import eventcore as ec

TOPIC = "movements"
ACCOUNTS = 50_000
PARTITIONS = 4
_ACCOUNT, _AMOUNT = struct.Struct(">I"), struct.Struct(">q")
_BATCH = 50_000


class Balances:
    """The view: an array of balances in cents and of counts, by account."""

    def __init__(self, state: npt.NDArray[np.int64] | None = None) -> None:
        self.state = np.zeros((2, ACCOUNTS), np.int64) if state is None else state

    def fold(self, partition: ec.Partition, start: int, stop: int) -> int:
        """Take in the movements of a range; how many there were."""
        count = 0
        for batch in partition.column_batches(start, stop, columns=("key", "value")):
            data = np.frombuffer(batch.buffer, np.uint8)
            account = sliding_window_view(data, 4)[batch.key_position].view(">u4").ravel()
            amount = sliding_window_view(data, 8)[batch.value_position].view(">i8").ravel()
            batch.check()  # what was taken from the buffer is what stood in the log
            np.add.at(self.state[0], account, amount)
            self.state[1] += np.bincount(account, minlength=ACCOUNTS)
            count += len(batch)
        return count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Balances) and np.array_equal(self.state, other.state)


def start(checkpoint: ec.ViewCheckpoint) -> tuple[Balances, int]:
    """The view as of now, and how many movements had to be read for it."""
    saved = checkpoint.load()
    state = np.frombuffer(saved.data, np.int64).reshape(2, ACCOUNTS).copy() if saved else None
    view = Balances(state)
    count = sum(view.fold(*unread) for unread in checkpoint.unread(TOPIC))
    return view, count


def replay(store: ec.Store) -> Balances:
    """The view without a checkpoint: all movements."""
    view = Balances()
    for partition in store.topic(TOPIC):
        view.fold(partition, partition.log_start_offset, partition.high_watermark)
    return view


def append_movements(store: ec.Store, count: int, seed: int = 0) -> None:
    """Movements of accounts at random; all of an account in one partition."""
    topic = store.create_topic(TOPIC, PARTITIONS, exist_ok=True)
    random = np.random.default_rng(seed + sum(map(len, topic)))
    while count > 0:
        size = min(count, _BATCH)
        accounts = random.integers(0, ACCOUNTS, size).tolist()
        amounts = random.integers(-100_000, 100_001, size).tolist()
        pairs = zip(accounts, amounts, strict=True)
        topic.extend([(_ACCOUNT.pack(account), _AMOUNT.pack(amount)) for account, amount in pairs])
        count -= size


def main() -> None:
    """Append, bring the view up to date, save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--check", action="store_true", help="compare with the fold of the whole log")
    arguments = parser.parse_args()
    with ec.open(arguments.folder) as store:
        append_movements(store, arguments.events)
        checkpoint = store.checkpoint("balances")
        began = time.perf_counter()
        view, count = start(checkpoint)
        took = time.perf_counter() - began
        checkpoint.save(view.state)
        events = sum(map(len, store.topic(TOPIC)))
        print(f"{events:,} movements, {count:,} of them read, in {took * 1e3:.1f} ms")
        if arguments.check:
            assert view == replay(store)
            print("equal to a full replay")


if __name__ == "__main__":
    main()

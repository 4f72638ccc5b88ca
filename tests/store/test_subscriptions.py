"""Who subscribes to a partition of a store: one subscription with the log behind it, however often they come and go."""

from __future__ import annotations

import pytest

import eventcore as ec

from .conftest import OpenStore


def known_to(partition: ec.Partition) -> int:
    log = partition._log
    subscribers = log._watcher.subscribers if partition.mode == "r" else log._subscribers  # type: ignore[union-attr]
    return len(subscribers.callbacks)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_the_log_knows_one_of_them(open_store: OpenStore, mode: str) -> None:
    writer = open_store()
    writer.create_topic("t", 1)
    store = writer if mode == "rw" else open_store(mode="r")
    partition, told = store.topic("t")[0], [0, 0]
    for _ in range(3):
        one, other = (
            partition.subscribe(lambda at=at: told.__setitem__(at, told[at] + 1))  # type: ignore[misc]
            for at in range(2)
        )
        assert known_to(partition) == 1
        one()
        one()
        assert known_to(partition) == 1
        other()
        assert known_to(partition) == 0
    if mode == "rw":
        partition.append(b"x")
        assert told == [0, 0]


def test_a_log_that_is_opened_again_has_one(open_store: OpenStore) -> None:
    store = open_store()
    partition, told = store.create_topic("t", 1)[0], []
    partition.append(b"x")
    leave = partition.subscribe(lambda: told.append(1))
    partition.close()
    partition.append(b"y")
    assert known_to(partition) == 1
    told.clear()
    partition.append(b"z")
    assert told == [1]
    leave()
    assert known_to(partition) == 0

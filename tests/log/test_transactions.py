"""Transactions in one partition: batches that wait for their marker, whatever happens to the log meanwhile."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec

CONFIG = {"segment.bytes": 4096, "segment.index.bytes": 256}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "events-0"


@pytest.fixture
def partition(folder: Path) -> Iterator[ec.Partition]:
    with ec.open_partition(folder, fsync="never", config=CONFIG) as opened:
        yield opened


def committed(partition: ec.Partition) -> list[bytes]:
    return [record.value for record in partition.read(partition.log_start_offset, isolation="read_committed")]


def everything(partition: ec.Partition) -> list[bytes]:
    return [record.value for record in partition.read(partition.log_start_offset)]


def test_nothing_is_seen_before_the_marker(partition: ec.Partition) -> None:
    partition.append(b"before")
    partition.append_sequenced([b"a", b"b"], 1, 0, 0, transactional=True)
    partition.append(b"between")
    partition.append_sequenced([b"c"], 1, 0, 2, transactional=True)
    assert (partition.last_stable_offset, partition.high_watermark) == (1, 5)
    assert committed(partition) == [b"before"]
    assert everything(partition) == [b"before", b"a", b"b", b"between", b"c"]
    assert partition.end_transaction(1, 0, commit=True) == 5
    assert partition.last_stable_offset == partition.log_end_offset == 6
    assert committed(partition) == everything(partition) == [b"before", b"a", b"b", b"between", b"c"]


def test_what_was_aborted_is_never_seen(partition: ec.Partition) -> None:
    partition.append_sequenced([b"a"], 1, 0, 0, transactional=True)
    partition.append_sequenced([b"b"], 2, 0, 0, transactional=True)
    partition.end_transaction(1, 0, commit=False)
    assert committed(partition) == []
    partition.end_transaction(2, 0, commit=True)
    assert committed(partition) == [b"b"]
    assert everything(partition) == [b"a", b"b"]
    assert partition.fetch(0, isolation="read_committed").aborted == ((1, 0),)


def test_the_next_transaction_of_the_same_producer(partition: ec.Partition) -> None:
    for number, commit in enumerate((True, False, True)):
        partition.append_sequenced([b"%d" % number], 1, number, 0, transactional=True)
        assert partition.append_sequenced([b"%d" % number], 1, number, 0, transactional=True).duplicate
        partition.end_transaction(1, number + 1, commit=commit, raises_epoch=True)
    assert committed(partition) == [b"0", b"2"]


def test_late_markers_end_nothing_they_must_not(partition: ec.Partition) -> None:
    """KIP-890: the marker of one transaction, sent again, shall not end the next one."""
    partition.append_sequenced([b"a"], 1, 0, 0, transactional=True)
    partition.end_transaction(1, 1, commit=True, raises_epoch=True)
    partition.end_transaction(1, 1, commit=True, raises_epoch=True)  # sent again, and no transaction is open
    partition.append_sequenced([b"b"], 1, 1, 0, transactional=True)
    end = partition.log_end_offset
    with pytest.raises(ec.InvalidProducerEpoch):
        partition.end_transaction(1, 1, commit=True, raises_epoch=True)
    with pytest.raises(ec.InvalidProducerEpoch):
        partition.end_transaction(1, 0, commit=True)
    assert (partition.log_end_offset, committed(partition)) == (end, [b"a"])


def test_a_batch_outside_of_the_open_transaction(partition: ec.Partition) -> None:
    partition.append_sequenced([b"a"], 1, 0, 0, transactional=True)
    with pytest.raises(ec.InvalidTxnState):
        partition.append_sequenced([b"b"], 1, 0, 1)
    partition.append_sequenced([b"b"], 2, 0, 0)
    partition.end_transaction(1, 0, commit=True)
    assert committed(partition) == [b"a", b"b"]


def test_a_coordinator_that_was_replaced(partition: ec.Partition) -> None:
    partition.append_sequenced([b"a"], 1, 0, 0, transactional=True)
    partition.end_transaction(1, 0, commit=True, coordinator_epoch=4)
    with pytest.raises(ec.CoordinatorFenced):
        partition.end_transaction(1, 0, commit=False, coordinator_epoch=3)


@pytest.mark.parametrize("codec", ["producer", "gzip", "zstd"])
def test_compressed(folder: Path, codec: str) -> None:
    with ec.open_partition(folder, fsync="never", config={"compression.type": codec}) as partition:
        partition.append_sequenced([b"value"] * 50, 1, 0, 0, transactional=True)
        assert committed(partition) == []
        partition.end_transaction(1, 0, commit=True)
        assert len(committed(partition)) == 50


def test_a_reader_in_the_same_moment(folder: Path, partition: ec.Partition) -> None:
    partition.append_sequenced([b"a"], 1, 0, 0, transactional=True)
    with ec.open_partition(folder, "r") as reader:
        assert (committed(reader), reader.last_stable_offset) == ([], 0)
        partition.end_transaction(1, 0, commit=True)
        assert (committed(reader), reader.last_stable_offset) == ([b"a"], 2)
        with pytest.raises(ec.ReadOnly):
            reader.end_transaction(1, 0, commit=True)


class Model:
    """What was sent, and to which transactions it belongs."""

    def __init__(self) -> None:
        self.log: list[tuple[int, int, bytes]] = []
        """Producer, epoch, value; the producer is 0 outside of transactions."""
        self.ended: dict[tuple[int, int], bool] = {}
        self.epochs = {1: 0, 2: 0, 3: 0}
        self.sequences = {1: 0, 2: 0, 3: 0}

    def committed(self) -> list[bytes]:
        undecided = [at for at, entry in enumerate(self.log) if entry[0] and entry[:2] not in self.ended]
        stable = self.log[: undecided[0]] if undecided else self.log
        return [value for who, epoch, value in stable if not who or self.ended[who, epoch]]


def step(partition: ec.Partition, model: Model, rng: random.Random) -> None:
    who, kind = rng.choice((1, 2, 3)), rng.choice(("plain", "send", "send", "commit", "abort", "roll"))
    epoch, value = model.epochs[who], b"%d" % len(model.log)
    if kind == "plain":
        partition.append(value)
        model.log.append((0, 0, value))
    elif kind == "send":
        partition.append_sequenced([value], who, epoch, model.sequences[who], transactional=True)
        model.sequences[who] += 1
        model.log.append((who, epoch, value))
    elif kind == "roll":
        partition.roll()
    else:
        partition.end_transaction(who, epoch + 1, commit=kind == "commit", raises_epoch=True)
        model.ended[who, epoch] = kind == "commit"
        model.epochs[who], model.sequences[who] = epoch + 1, 0


@pytest.mark.parametrize("seed", range(25))
def test_any_history_with_closes_and_kills(tmp_path: Path, seed: int) -> None:
    rng, model, lives = random.Random(seed), Model(), 0
    partition = ec.open_partition(tmp_path / "0-0", fsync="never", config=CONFIG)
    for _ in range(60):
        step(partition, model, rng)
        assert committed(partition) == model.committed()
        if rng.random() < 0.1:
            lives += 1
            here = tmp_path / f"{lives}-0"
            if rng.random() < 0.5:
                partition.close()
            shutil.copytree(tmp_path / f"{lives - 1}-0", here)
            partition.close()
            partition = ec.open_partition(here, fsync="never", config=CONFIG)
            assert committed(partition) == model.committed()
    assert everything(partition) == [value for *_, value in model.log]
    report = partition.verify()
    assert report.ok, report.problems
    partition.close()


def test_every_abort_is_in_the_index(partition: ec.Partition) -> None:
    rows: Any = ()
    for number in range(5):
        partition.append_sequenced([b"v"] * 3, 1, number, 0, transactional=True)
        partition.end_transaction(1, number, commit=False)
        rows = partition.fetch(0, isolation="read_committed").aborted
    assert list(rows) == [(1, 4 * number) for number in range(5)]

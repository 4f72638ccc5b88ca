"""A reader tells of producers what the writer knows, whether one lives or not."""

from __future__ import annotations

import eventcore as ec
from tests.log.conftest import Open


def told(log: ec.Partition) -> list[tuple[object, ...]]:
    """But for when they were heard of: a writer knows that by its clock, a reader by the batches."""
    return [(p.producer_id, p.epoch, p.batches, p.coordinator_epoch, p.txn_first_offset) for p in log.producers()]


def test_beside_a_writer(open_log: Open) -> None:
    p = open_log(segment_bytes=4096)
    r = open_log(mode="r")
    assert r.producers() == []

    def agree(count: int) -> None:
        assert told(r) == told(p)
        assert len(told(r)) == count
        assert r.producer(7) == next((found for found in r.producers() if found.producer_id == 7), None)

    p.append_sequenced([b"x"], 7, 0, 0)
    agree(1)
    p.append_sequenced([b"x", b"y"], 8, 0, 0, transactional=True)
    agree(2)
    p.append_sequenced([b"x"], 7, 0, 1)
    p.end_transaction(8, 0, commit=False)
    agree(2)
    p.append_sequenced([b"x"], 9, 3, 0, transactional=True)
    p.roll()
    agree(3)
    for at in range(100):
        p.append(b"%d" % at * 50)
    p.end_transaction(9, 3, commit=True)
    agree(3)
    p.append_sequenced([b"x"], 7, 1, 0)
    agree(3)
    p.truncate(4)
    agree(2)
    p.append_sequenced([b"x"], 10, 0, 0)
    agree(3)


def test_it_follows_from_writer_to_writer(open_log: Open) -> None:
    p = open_log()
    p.append_sequenced([b"x"], 7, 0, 0)
    r = open_log(mode="r")
    assert [found.producer_id for found in r.producers()] == [7]
    p.append_sequenced([b"x"], 8, 0, 0)
    p.close()
    assert [found.producer_id for found in r.producers()] == [7, 8]
    p = open_log()
    assert [found.producer_id for found in r.producers()] == [7, 8]
    p.append_sequenced([b"x"], 9, 0, 0)
    assert [found.producer_id for found in r.producers()] == [7, 8, 9]
    p.close()
    assert [found.producer_id for found in r.producers()] == [7, 8, 9]

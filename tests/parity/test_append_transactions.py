"""append: batches and commit markers of transactions, in one call each, and what readers of committed records see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eventcore.format import control
from eventcore.format.batch import BatchHeader
from tests.parity.test_append import PLAIN, SIZE, SLOTS, Segment
from tests.parity.twins import INT32_MAX, NOW

MARKER = control.marker_record(control.COMMIT, 4)


def segment_of(kernels: SimpleNamespace, **options: Any) -> Segment:
    """Producers 5 and 6 are known, both without a transaction."""
    segment = Segment(kernels, base_offset=7, **options)
    segment.appender.producers = kernels.producers.ProducerTable()
    segment.appender.opened = {}
    for who in (5, 6):
        segment.appender.producers.note(who, 3, 0, 0, 0, NOW, False, NOW)
    return segment


def stable(segment: Segment) -> int:
    tail = segment.kernels.tail
    return int(tail.load(segment.page, tail.LAST_STABLE))


def headers(segment: Segment) -> list[BatchHeader]:
    found, position = [], 0
    while position < segment.end.size:
        found.append(BatchHeader.read(segment.log, position, segment.end.size))
        position += found[-1].size
    return found


def test_a_transaction_from_its_first_batch_to_its_marker(kernels: SimpleNamespace) -> None:
    segment = segment_of(kernels)
    appender, table = segment.appender, segment.appender.producers
    assert appender.append_all([b"before"]) == 7
    assert appender.append_sequenced([b"a", b"b"], 5, 3, 1, True)[:2] == (8, 9)
    assert (appender.opened, stable(segment), table.find(5).txn_first_offset) == ({5: 8}, 8, 8)
    assert appender.append_sequenced([b"c"], 5, 3, -1, True)[:2] == (10, 10)
    assert appender.append_sequenced([b"x"], 6, 3, -1)[:2] == (11, 11)
    assert appender.append_sequenced([b"outside"], 5, 3, -1) is None
    assert (appender.opened, stable(segment)) == ({5: 8}, 8)
    assert appender.commit(MARKER, 5, 4, 4, True) == 12
    assert (appender.opened, stable(segment)) == ({}, 13)
    known = table.find(5)
    assert (known.epoch, known.batches, known.coordinator_epoch, known.txn_first_offset) == (4, (), 4, -1)
    assert known.timestamp > NOW
    assert [(one.attributes, one.producer_id, one.producer_epoch, one.base_sequence) for one in headers(segment)] == [
        (0, -1, -1, -1),
        (0x10, 5, 3, 1),
        (0x10, 5, 3, 3),
        (0, 6, 3, 1),
        (0x30, 5, 4, -1),
    ]
    records, _ = kernels.decode.read_records(segment.log, 0, segment.end.size, 12, 13, 9, 0, True)
    assert (records[0].key, records[0].value) == MARKER
    assert appender.append_sequenced([b"next"], 5, 4, 0, True)[:2] == (13, 13)
    assert (appender.opened, stable(segment)) == ({5: 13}, 13)


def test_an_older_epoch_may_end_it_only_where_epochs_stay(kernels: SimpleNamespace) -> None:
    segment = segment_of(kernels)
    appender, table = segment.appender, segment.appender.producers
    appender.append_sequenced([b"a"], 5, 3, -1, True)
    before = segment.told()
    for epoch, coordinator_epoch, raises_epoch in (
        (2, 4, False), (3, 4, True), (32767, 4, True), (1 << 40, 4, False), (4, 1 << 31, True), (4, -2, True),
    ):  # fmt: skip
        assert appender.commit(MARKER, 5, epoch, coordinator_epoch, raises_epoch) == -1
    for who in (6, 99):
        assert appender.commit(MARKER, who, 4, 4, True) == -1
    assert (segment.told(), appender.opened) == (before, {5: 7})
    assert appender.commit(MARKER, 5, 3, 4, False) == 8
    known = table.find(5)
    assert (known.epoch, len(known.batches)) == (3, 2), "its sequences go on"
    assert appender.append_sequenced([b"b"], 5, 3, 2, True)[:2] == (9, 9)


def test_what_is_left_to_the_owner(kernels: SimpleNamespace) -> None:
    segment = segment_of(kernels)
    appender = segment.appender
    appender.append_sequenced([b"a"], 5, 3, -1, True)
    appender.append_sequenced([b"b"], 6, 3, -1, True)
    assert (appender.opened, stable(segment)) == ({5: 7, 6: 8}, 7)
    before = segment.told()
    assert appender.commit(MARKER, 6, 4, 4, True) == -1, "another one is open"
    appender.opened.pop(5)
    appender.pause()
    assert appender.commit(MARKER, 6, 4, 4, True) == -1
    assert appender.append_sequenced([b"c"], 6, 3, -1, True) is None
    appender.resume()
    appender.stamp(3, False, 7, kernels.guard.faults())
    assert appender.commit(MARKER, 6, 4, 4, True) == -1, "readers are not shown it at once"
    appender.stamp(3, True, 7, kernels.guard.faults())
    appender.allow(segment.end.size, SLOTS, SLOTS)
    assert appender.commit(MARKER, 6, 4, 4, True) == -1, "there is no room"
    appender.allow(SIZE, SLOTS, SLOTS)
    appender.opened = None
    assert appender.commit(MARKER, 6, 4, 4, True) == -1
    assert segment.told() == before
    appender.opened = {6: 8}
    assert appender.commit(MARKER, 6, 4, 4, True) == 9
    assert stable(segment) == 10


def test_what_did_not_fit_has_opened_nothing(kernels: SimpleNamespace) -> None:
    segment = segment_of(kernels)
    appender = segment.appender
    before = segment.told()
    for items in ([], [bytearray(b"v")], (b"v" * 5000,), None, [PLAIN]):
        assert appender.append_sequenced(items, 5, 3, -1, True) is None
    appender.opened = None
    assert appender.append_sequenced([b"v"], 5, 3, -1, True) is None
    assert segment.told() == before
    assert appender.producers.find(5).txn_first_offset == -1
    appender.opened = {}
    assert appender.append_all([b"plain"]) == 7
    assert stable(segment) == 8, "nothing holds readers of committed records back"
    appender.producers.note(8, 0, INT32_MAX, 0, 0, NOW, False, NOW)
    assert appender.append_sequenced([b"wraps"], 8, 0, 0, True)[:2] == (8, 8)
    appender.detach()
    assert appender.commit(MARKER, 8, 1, 0, True) == -1
    assert appender.append_sequenced([b"v"], 8, 0, -1, True) is None


@pytest.mark.parametrize("attributes", [0, 8])
def test_a_marker_has_no_append_time(kernels: SimpleNamespace, attributes: int) -> None:
    segment = segment_of(kernels, attributes=attributes)
    segment.appender.append_sequenced([b"a"], 5, 3, -1, True)
    segment.appender.commit(MARKER, 5, 4, 0, True)
    assert [one.attributes for one in headers(segment)] == [0x10 | attributes, 0x30]

"""control: the markers that Kafka writes, those of its future, and damaged ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, UsageError
from eventcore.format import control
from eventcore.format.control import ABORT, COMMIT, UNKNOWN, Marker, marker_record, read_marker

from ..golden import vectors

GOLDEN = [(ABORT, vectors.ABORT_MARKER), (COMMIT, vectors.COMMIT_MARKER)]


@pytest.mark.parametrize(("kind", "golden"), GOLDEN)
def test_the_markers_are_kafkas(kind: int, golden: vectors.GoldenBatch) -> None:
    record = golden.records[0]
    assert marker_record(kind, 9) == (record.key, record.value)
    assert read_marker(record.key or b"", record.value or b"") == Marker(kind, 9)


def test_the_numbers_are_kafkas() -> None:
    names = "ABORT COMMIT LEADER_CHANGE SNAPSHOT_HEADER SNAPSHOT_FOOTER KRAFT_VERSION KRAFT_VOTERS".split()
    assert [getattr(control, name) for name in names] == list(range(7))


@given(st.sampled_from((ABORT, COMMIT)), st.integers(-(2**31), 2**31 - 1))
def test_markers_come_back(kind: int, coordinator_epoch: int) -> None:
    assert read_marker(*marker_record(kind, coordinator_epoch)) == Marker(kind, coordinator_epoch)


@pytest.mark.parametrize("kind", [-1, 2, 6, 7])
def test_only_transactions_are_ended_by_us(kind: int) -> None:
    with pytest.raises(UsageError, match=str(kind)):
        marker_record(kind, 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(2, control.LEADER_CHANGE), (6, control.KRAFT_VOTERS), (7, UNKNOWN), (-1, UNKNOWN), (32767, UNKNOWN)],
)
def test_other_kinds_have_no_epoch_and_any_value(kind: int, expected: int) -> None:
    key = b"\0\0" + kind.to_bytes(2, "big", signed=True)
    for value in (b"", b"\0", bytes(100)):
        assert read_marker(key, value) == Marker(expected, -1)


def test_newer_versions_are_read_as_the_first_and_their_extra_bytes_ignored() -> None:
    assert read_marker(b"\0\x05\0\x01\xff", b"\0\x07\0\0\0\x09 and more") == Marker(COMMIT, 9)


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"\0\0\0\1"[:size], bytes(6)) for size in range(4)]
    + [(b"\0\0\0\1", bytes(size)) for size in range(6)]
    + [(b"\xff\xff\0\1", bytes(6)), (b"\0\0\0\0", b"\xff\xff\0\0\0\0")],
)
def test_damaged_markers(key: bytes, value: bytes) -> None:
    with pytest.raises(CorruptRecord):
        read_marker(key, value)


@given(st.binary(max_size=8), st.binary(max_size=10))
def test_any_bytes_are_a_marker_or_a_typed_error(key: bytes, value: bytes) -> None:
    try:
        marker = read_marker(key, value)
    except CorruptRecord:
        return
    assert -1 <= marker.kind <= 6

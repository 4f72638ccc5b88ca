"""append: one batch after the other at the end of a segment, with both twins; the same bytes, marks and refusals."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.format.batch import BatchHeader
from eventcore.types import Record
from tests.parity import twins
from tests.parity.twins import INT32_MAX, INT64_MAX, NOW

SIZE = 1 << 14
SLOTS = 16
MARKS = ("next_offset", "batches_end", "max_timestamp", "max_timestamp_offset", "first_timestamp", "unindexed")


@dataclass
class Segment:
    """Everything an appender moves on, without files."""

    kernels: SimpleNamespace
    base_offset: int = 0
    max_bytes: int = 1 << 12
    interval: int = 200
    roll_ms: int = 1 << 40
    attributes: int = 0
    wall_clock: bool = True
    visible: bool = True
    log: bytearray = field(default_factory=lambda: bytearray(SIZE))
    index: bytearray = field(default_factory=lambda: bytearray(8 * SLOTS))
    times: bytearray = field(default_factory=lambda: bytearray(12 * SLOTS))
    page: bytearray = field(default_factory=lambda: bytearray(4096))

    def __post_init__(self) -> None:
        append, marks = self.kernels.append, self.kernels.marks
        self.marks, self.end = marks.Marks(), marks.End()
        self.entries, self.time_entries = marks.Entries(), marks.Entries()
        self.marks.next_offset = self.marks.batches_end = self.base_offset
        self.appender = append.Appender(self.max_bytes, self.interval, self.roll_ms, self.attributes, self.wall_clock)
        self.attach()
        self.appender.allow(SIZE, SLOTS, SLOTS)
        self.appender.stamp(3, self.visible, append.NEVER, self.kernels.guard.faults())

    def attach(self) -> None:
        self.appender.attach(
            self.page, self.marks, self.base_offset, NOW, self.end, self.log, self.entries, self.index,
            self.time_entries, self.times,
        )  # fmt: skip

    def told(self) -> tuple[Any, ...]:
        """What a caller can tell apart. The signal tells how often readers were woken."""
        marks = tuple(getattr(self.marks, name) for name in MARKS)
        counts = (self.end.size, self.entries.count, self.time_entries.count)
        return marks, counts, self.log[: self.end.size], bytes(self.index), bytes(self.times), bytes(self.page)


@pytest.fixture
def segment(kernels: SimpleNamespace) -> Segment:
    return Segment(kernels)


def scanned(segment: Segment) -> list[tuple[int, ...]]:
    rows = np.empty((64, segment.kernels.batch.ROW_SIZE), dtype=np.int64)
    count, position, _ = segment.kernels.batch.scan(segment.log, 0, segment.end.size, rows.data.cast("B"), True)
    assert position == segment.end.size
    return [tuple(row) for row in rows[:count].tolist()]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_one_record_a_call(segment: Segment) -> None:
    before = now_ms()
    assert [segment.appender.append(b"value", b"key", None) for _ in range(3)] == [0, 1, 2]
    assert segment.appender.append(None, None, 7) == 3
    after = now_ms()
    records, position = segment.kernels.decode.read_records(segment.log, 0, segment.end.size, 0, 10, 10, 0, True)
    assert position == segment.end.size
    assert [(r.offset, r.key, r.value) for r in records] == [(n, b"key", b"value") for n in range(3)] + [
        (3, None, None)
    ]
    assert records[3].timestamp == 7
    assert before <= records[0].timestamp <= after
    assert segment.kernels.tail.load(segment.page, segment.kernels.tail.HIGH_WATERMARK) == 4


def test_what_it_stamps_and_shows(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels, visible=False)
    tail = kernels.tail
    tail.publish(segment.page, 0, 0, 0, 0)
    signal = tail.signal(segment.page)
    assert segment.appender.append(b"v", None, None) == 0
    words = [tail.load(segment.page, word) for word in (tail.LAST_STABLE, tail.HIGH_WATERMARK, tail.LOG_END)]
    assert (words, tail.signal(segment.page)) == ([0, 0, 1], signal), "nobody is woken for what may not be read"
    segment.appender.stamp(9, True, 1, kernels.guard.faults())
    assert segment.appender.append(b"v", None, None) == 1
    words = [tail.load(segment.page, word) for word in (tail.LAST_STABLE, tail.HIGH_WATERMARK, tail.LOG_END)]
    assert words == [1, 2, 2]
    assert tail.signal(segment.page) != signal
    assert [row[5] for row in scanned(segment)] == [3, 9]


def test_entries_are_due_behind_more_than_the_interval(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels, base_offset=100, interval=200)
    for timestamp in (NOW + 5, NOW + 1, NOW + 2, NOW + 9, NOW + 3, NOW + 3, NOW + 3):
        assert segment.appender.extend([Record(-1, timestamp, None, b"v" * 40)], 0, NOW, True) == 1
    size = segment.end.size // 7
    assert 2 * size > 200 >= size
    entries = np.frombuffer(segment.index, ">i4").reshape(-1, 2)[: segment.entries.count].tolist()
    assert entries == [[2, 2 * size], [4, 4 * size], [6, 6 * size]]
    times = [(int.from_bytes(segment.times[at : at + 8], "big"), segment.times[at + 11]) for at in (0, 12)]
    assert times == [(NOW + 5, 0), (NOW + 9, 3)]
    assert segment.time_entries.count == 2, "an entry whose time is not larger is left out"
    assert (segment.marks.max_timestamp, segment.marks.max_timestamp_offset) == (NOW + 9, 103)


@pytest.mark.parametrize(
    ("value", "key", "timestamp"),
    [
        (bytearray(b"v"), None, None),
        (b"v", memoryview(b"k"), None),
        ("text", None, None),
        (b"v", None, -1),
        (b"v", None, True),
        (b"v", None, 1.0),
        (b"v", None, 1 << 63),
        (b"v" * 5000, None, None),
    ],
)
def test_what_one_record_declines(segment: Segment, value: Any, key: Any, timestamp: Any) -> None:
    before = segment.told()
    assert segment.appender.append(value, key, timestamp) == -1
    assert segment.told() == before


def test_who_holds_the_lock_has_it_for_himself(segment: Segment) -> None:
    segment.appender.pause()
    segment.appender.pause()
    assert segment.appender.append(b"v", None, None) == segment.appender.append_all([b"v"]) == -1
    segment.appender.resume()
    assert segment.appender.append(b"v", None, None) == -1
    assert segment.appender.extend([b"v"], 0, NOW, True) == 1, "the one who holds it may"
    segment.appender.resume()
    assert segment.appender.append(b"v", None, None) == 1


def test_all_at_once(kernels: SimpleNamespace) -> None:
    segment, before = Segment(kernels, base_offset=7), now_ms()
    assert segment.appender.append_all([b"a", None, (b"k", b"v"), (None, None)]) == 7
    assert segment.appender.append_all((b"b", (b"", b""))) == 11
    after = now_ms()
    records, _ = kernels.decode.read_records(segment.log, 0, segment.end.size, 0, 100, 100, 0, True)
    assert [(r.offset, r.key, r.value) for r in records] == [
        (7, None, b"a"), (8, None, None), (9, b"k", b"v"), (10, None, None), (11, None, b"b"), (12, b"", b""),
    ]  # fmt: skip
    assert before <= records[5].timestamp <= after
    assert len(scanned(segment)) == 2


def test_records_of_a_producer_that_is_known(kernels: SimpleNamespace) -> None:
    segment, table = Segment(kernels, base_offset=7), kernels.producers.ProducerTable()
    send = segment.appender.append_sequenced
    assert send([b"v"], 5, 0, 0) is None, "there is no table"
    segment.appender.producers = table
    assert send([b"v"], 5, 0, 0) is None, "nobody is known"
    table.note(5, 3, 9, 0, 6, NOW, False, NOW)
    for who in ((6, 3, -1), (5, 2, -1), (5, 4, -1), (5, 3, 9), (5, 3, 11), (5, 1 << 40, -1), (5, 3, 1 << 40)):
        assert send([b"v"], *who) is None
    for items in ([], [bytearray(b"v")], (b"v" * 5000,), None, [PLAIN]):
        assert send(items, 5, 3, 10) is None
    assert send([b"a", (b"k", None)], 5, 3, 10)[:2] == (7, 8)
    info = send((b"c",), 5, 3, -1)
    assert (info[:2], info.duplicate) == ((9, 9), False)
    known = table.find(5)
    assert [tuple(one)[:4] for one in known.batches] == [(9, 9, 6, 6), (10, 11, 7, 8), (12, 12, 9, 9)]
    assert known.batches[-1].timestamp == info.timestamp == known.timestamp > NOW
    records, _ = kernels.decode.read_records(segment.log, 0, segment.end.size, 0, 100, 100, 0, True)
    assert [(r.offset, r.key, r.value) for r in records] == [(7, None, b"a"), (8, b"k", None), (9, None, b"c")]
    first = BatchHeader.read(segment.log, 0, segment.end.size)
    second = BatchHeader.read(segment.log, first.size, segment.end.size)
    assert [(one.producer_id, one.producer_epoch, one.base_sequence) for one in (first, second)] == [
        (5, 3, 10), (5, 3, 12),
    ]  # fmt: skip


def test_a_sequence_wraps(kernels: SimpleNamespace) -> None:
    segment, table = Segment(kernels), kernels.producers.ProducerTable()
    segment.appender.producers = table
    table.note(5, 0, INT32_MAX - 1, 0, 0, NOW, False, NOW)
    assert segment.appender.append_sequenced([b"a", b"b", b"c"], 5, 0, INT32_MAX)[0] == 0
    assert table.next_sequence(5, 0) == 2
    assert table.find(5).batches[-1][:2] == (INT32_MAX, 1)


def test_who_has_a_transaction_open_or_the_lock_is_declined(segment: Segment) -> None:
    table = segment.kernels.producers.ProducerTable()
    segment.appender.producers = table
    table.note(5, 0, 0, 0, 0, NOW, True, NOW)
    assert segment.appender.append_sequenced([b"v"], 5, 0, 1) is None
    table.note_marker(5, 0, 0, NOW, NOW)
    segment.appender.pause()
    assert segment.appender.append_sequenced([b"v"], 5, 0, 1) is None
    segment.appender.resume()
    assert segment.appender.append_sequenced([b"v"], 5, 0, 1)[0] == 0


class Bytes(bytes):
    """Might have code of its own."""


PLAIN = Record(-1, 5, None, b"v")


@pytest.mark.parametrize(
    "items",
    [[], (), b"bytes", [bytearray(b"v")], [b"a", Bytes(b"b")], [(b"k",)], [(b"k", b"v", b"x")], [PLAIN], [(b"k", "v")],
     ["text"], [[b"k", b"v"]], iter([b"v"]), None, [b"v" * 4096], [b"v" * 500] * 8, [b""] * 600],
    ids=lambda items: repr(items)[:20],
)  # fmt: skip
def test_what_all_at_once_declines(segment: Segment, items: Any) -> None:
    """The last three are larger than a batch."""
    before = segment.told()
    assert segment.appender.append_all(items) == -1
    assert segment.told() == before


@pytest.mark.parametrize("sizes", [(4000,), (1000, 2500), (1000, 2500, *[10] * 10)], ids=len)
def test_what_just_fits_is_taken(segment: Segment, sizes: tuple[int, ...]) -> None:
    """A batch has 4,096 bytes here, its header 61; a record has 9 bytes beside a large value, 7 beside a small one."""
    overhead = sum(9 if size > 63 else 7 for size in sizes)
    values = [b"v" * size for size in sizes]
    values[0] += b"v" * (4096 - 61 - overhead - sum(sizes) + 1)
    assert segment.appender.append_all(values) == -1
    assert segment.appender.append_all([values[0][1:], *values[1:]]) == 0
    assert segment.end.size == 4096


def decline_all(segment: Segment) -> None:
    before = segment.told()
    assert segment.appender.append_all([b"v"]) == -1
    assert segment.appender.append(b"v", None, None) == -1
    assert segment.appender.extend([b"v"], 0, NOW, True) == 0
    one = np.array([0, 1], np.int64)
    assert segment.appender.extend_columns(1, 0, NOW, True, (None, None, None, b"v", one, None, None)) == 0
    assert segment.told() == before


@pytest.mark.parametrize("limits", [(0, 16, 16), (SIZE, 0, 16), (SIZE, 16, 1), (60, 16, 16), (62, 16, 16)])
def test_without_room_it_declines(segment: Segment, limits: tuple[int, int, int]) -> None:
    segment.appender.allow(*limits)
    decline_all(segment)


def test_nothing_is_allowed_that_is_not_there(segment: Segment) -> None:
    for limits in ((SIZE + 1, 1, 2), (1, SLOTS + 1, 2), (1, 1, SLOTS + 1), (-1, 1, 2)):
        with pytest.raises(ValueError, match="more than the maps have"):
            segment.appender.allow(*limits)
    segment.appender.detach()
    with pytest.raises(ValueError, match="not attached"):
        segment.appender.allow(0, 0, 0)


def test_without_an_epoch_after_a_fault_or_detached_it_declines(segment: Segment) -> None:
    segment.appender.stamp(-1, True, 1, segment.kernels.guard.faults())
    decline_all(segment)
    segment.appender.stamp(0, True, 1, segment.kernels.guard.faults() + 1)
    decline_all(segment)
    segment.appender.stamp(0, True, 1, segment.kernels.guard.faults())
    segment.appender.detach()
    decline_all(segment)
    segment.appender.detach()
    segment.log.extend(b"it pins nothing any more")


def test_it_pins_what_it_is_attached_to(segment: Segment) -> None:
    for buffer in (segment.log, segment.index, segment.times, segment.page):
        with pytest.raises(BufferError):
            buffer.extend(b"more")
    with pytest.raises(TypeError):
        segment.appender.attach(
            segment.page, segment.marks, 0, 0, segment.end, b"read-only", segment.entries, segment.index,
            segment.time_entries, segment.times,
        )  # fmt: skip


def test_it_does_not_look_at_the_clock_of_somebody_else(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels, wall_clock=False)
    assert segment.appender.append(b"v", None, NOW) == -1
    assert segment.appender.extend([b"v"], 0, NOW, True) == 1


def test_append_time(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels, attributes=8)
    assert segment.appender.append(b"v", None, 5) == 0
    assert segment.appender.extend([Record(-1, 6, None, b"v")], 0, NOW, True) == 1
    assert segment.marks.max_timestamp > NOW > 6


@pytest.mark.parametrize(("timestamp", "kept"), [(NOW + 1000, True), (NOW + 1001, False)])
def test_a_segment_that_is_too_old_rolls(kernels: SimpleNamespace, timestamp: int, kept: bool) -> None:
    segment = Segment(kernels, roll_ms=1000)
    assert segment.appender.extend([Record(-1, NOW, None, b"v")], 0, NOW, True) == 1
    before = segment.told()
    assert segment.appender.extend([Record(-1, timestamp, None, b"v")], 0, NOW, True) == kept
    assert segment.appender.append(b"v", None, timestamp) == (2 if kept else -1)
    if not kept:
        assert segment.told() == before
        assert segment.log[segment.end.size : segment.end.size + 16] == bytes(16), "what does not stay is unmade"


def test_records_older_than_the_first_wait_for_the_clock(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels, roll_ms=1000)
    assert segment.appender.extend([Record(-1, NOW, None, b"v")], 0, NOW, True) == 1
    assert segment.appender.extend([Record(-1, 5, None, b"v")], 0, NOW + 1000, True) == 1
    assert segment.appender.extend([Record(-1, 5, None, b"v")], 0, NOW + 1001, True) == 0


@pytest.mark.parametrize(("base_offset", "next_offset", "taken"), [(0, INT32_MAX, 1), (0, INT32_MAX + 1, 0)])
def test_offsets_in_a_segment_have_31_bits(
    kernels: SimpleNamespace, base_offset: int, next_offset: int, taken: int
) -> None:
    segment = Segment(kernels, base_offset=base_offset)
    segment.marks.next_offset = next_offset
    assert segment.appender.extend([b"v"], 0, NOW, True) == taken
    assert segment.marks.next_offset == next_offset + taken


def test_as_many_as_the_largest_batch_holds(kernels: SimpleNamespace) -> None:
    segment, items = Segment(kernels, max_bytes=300), [b"v" * 50] * 9
    before = segment.told()
    assert segment.appender.extend(items, 0, NOW, True) == 0
    assert segment.told() == before
    assert segment.appender.extend(items, 0, NOW, False) == 4
    assert segment.appender.extend(items, 4, NOW, False) == 4
    assert segment.appender.extend(items, 8, NOW, False) == 1
    segment.appender.allow(segment.end.size + 299, SLOTS, SLOTS)
    assert segment.appender.extend(items, 0, NOW, False) == 0, "another segment may have room for more"
    assert segment.appender.extend(items, 9, NOW, False) == 0


def test_bad_items_change_nothing(segment: Segment) -> None:
    before = segment.told()
    for items in ([b"good", "bad"], [(b"k",)], [Record(-1, -2, None, b"v")]):
        with pytest.raises((TypeError, ValueError)):
            segment.appender.extend(items, 0, NOW, True)
        assert segment.told() == before
    assert segment.appender.extend([b"v"], 0, NOW, True) == 1


class Evil:
    """Iterating its headers does something to the appender it is being given to."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        self.act()
        return iter(())


def test_what_happens_meanwhile_is_noticed(kernels: SimpleNamespace) -> None:
    segment = Segment(kernels)
    item = Record(-1, NOW, None, b"v", Evil(segment.appender.detach))  # type: ignore[arg-type]
    assert segment.appender.extend([item], 0, NOW, True) == 0
    segment = Segment(kernels)
    refused: list[int] = []

    def act() -> None:
        refused.append(segment.appender.extend([b"first"], 0, NOW, True))
        refused.append(segment.appender.append(b"first", None, None))

    item = Record(-1, NOW, None, b"v", Evil(act))  # type: ignore[arg-type]
    assert segment.appender.extend([item], 0, NOW, True) == 1
    assert refused == [0, -1]
    assert [row[2] for row in scanned(segment)] == [0]


@pytest.mark.parametrize("due", [False, True])
def test_another_segment_meanwhile_gets_nothing(kernels: SimpleNamespace, due: bool) -> None:
    """It stands at the same size, has less room, and may be one whose batch would have to be unmade."""
    segment = Segment(kernels)
    if due:
        segment.end.size, segment.marks.first_timestamp = 61, NOW - (1 << 41)

    def act() -> None:
        segment.log, segment.index, segment.times = bytearray(61 if due else 0), bytearray(), bytearray()
        segment.appender.detach()
        segment.attach()

    item = Record(-1, NOW, None, b"v", Evil(act))  # type: ignore[arg-type]
    before = segment.end.size
    assert segment.appender.extend([item], 0, NOW, True) == 0
    assert (segment.end.size, segment.marks.next_offset) == (before, 0)
    assert segment.log == bytes(len(segment.log))


@pytest.mark.parametrize("count", [-1, SLOTS, 1 << 40])
@pytest.mark.parametrize("which", ["entries", "time_entries"])
def test_entries_counted_anew_meanwhile_must_have_their_place(kernels: SimpleNamespace, which: str, count: int) -> None:
    segment = Segment(kernels, interval=0)
    assert segment.appender.extend([b"first"], 0, NOW, True) == 1
    item = Record(-1, NOW, None, b"v", Evil(lambda: setattr(getattr(segment, which), "count", count)))  # type: ignore[arg-type]
    size = segment.end.size
    assert segment.appender.extend([item], 0, NOW, True) == 0
    assert (segment.end.size, segment.marks.next_offset) == (size, 1)
    assert segment.log[size : size + 16] == bytes(16)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child of a fork is what this is about")
def test_a_child_declines(segment: Segment) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert segment.appender.append_all([b"v"]) == -1
            code = int(segment.appender.append(b"v", None, None) != -1 or segment.appender.extend([b"v"], 0, NOW, True))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert segment.appender.append(b"v", None, None) == 0


SIZES = st.sampled_from([0, 1, 63, 64, 200, 900])
STEP = st.tuples(
    st.sampled_from(["append", "extend", "columns"]),
    st.lists(st.tuples(SIZES, st.integers(-1, 3)), min_size=1, max_size=4),
    st.integers(0, 5000),
    st.booleans(),
)


def play(segment: Segment, kind: str, rows: list[tuple[int, int]], later: int, whole: bool) -> Any:
    now = NOW + later
    values = [b"v" * size for size, _ in rows]
    keys = [None if key < 0 else b"k" * key for _, key in rows]
    if kind == "append":
        return segment.appender.append(values[0], keys[0], now)
    if kind == "extend":
        return segment.appender.extend(list(zip(keys, values, strict=True)), 0, now, whole)
    offsets = np.concatenate(([0], np.cumsum([len(value) for value in values]))).astype(np.int64)
    times = np.full(len(rows), now, np.int64)
    columns = (None, None, None, b"".join(values), offsets, None, times)
    return segment.appender.extend_columns(len(rows), 0, now, whole, columns)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=40), roll_ms=st.sampled_from([1000, 1 << 40]), interval=st.sampled_from([0, 200]))
def test_twins_agree(steps: list[Any], roll_ms: int, interval: int) -> None:
    found = [twins.load("native"), twins.load("pure")]
    if None in found:
        pytest.skip("the native kernels are not built")
    native, pure = (Segment(one, roll_ms=roll_ms, interval=interval, max_bytes=1000) for one in found if one)
    for step in steps:
        assert play(native, *step) == play(pure, *step)
        assert native.told() == pure.told()
    assert native.kernels.append.NEVER == pure.kernels.append.NEVER == INT64_MAX

"""points: the record at an offset is the one that a reader finds, or none; what is kept has a bound and an end."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.types import Record
from tests.parity import twins
from tests.parity.test_decode import BROKEN
from tests.parity.twins import EVERY, INT64_MAX, NOW, batch, outcome, record

Pair = tuple[SimpleNamespace, SimpleNamespace]
CONTROL, APPEND_TIME, ZSTD = 0x20, 0x08, 4
PARTS: tuple[dict[str, Any], ...] = (
    {},
    {"key": None, "value": b"v" * 70},
    {"key": b"", "value": None, "headers": ((b"h", b"x"), ("é".encode(), None))},
    {"timestamp_delta": -3, "value": b"w" * 9000},
    {"timestamp_delta": 1 << 40, "key": b"k" * 300},
    {"key": None, "value": None},
)


def batch_of(deltas: list[int], **options: Any) -> bytes:
    area = b"".join(record(delta, **PARTS[delta % len(PARTS)]) for delta in deltas)
    return batch(area, len(deltas), last_offset_delta=deltas[-1] if deltas else 0, **options)


def log_of(*counts: int, base: int = 0, **options: Any) -> bytes:
    """Batches of so many records each, without gaps."""
    found = b""
    for count in counts:
        found += batch_of(list(range(count)), base_offset=base, **options)
        base += count
    return found


def page(kernels: SimpleNamespace, end: int, start: int = 0, generation: int = 2, truncations: int = 5) -> bytearray:
    """A state page that shows the offsets [start, end)."""
    state = bytearray(kernels.tail.STATE_SIZE)
    kernels.tail.publish(state, end, end, end, end)
    kernels.tail.store(state, kernels.tail.LOG_START, start)
    kernels.tail.store(state, kernels.tail.GENERATION, generation)
    kernels.tail.store(state, kernels.tail.TRUNCATIONS, truncations)
    return state


def watching(kernels: SimpleNamespace, state: Any, *sizes: int) -> tuple[Any, int]:
    points = kernels.points.Points(*sizes)
    return points, points.watch(state, 2, 5)


def filled(kernels: SimpleNamespace, data: Any, state: Any, *sizes: int) -> Any:
    points, token = watching(kernels, state, *sizes)
    assert points.add(token, data, 0, len(data), INT64_MAX, True) == len(data)
    return points


def truth(kernels: SimpleNamespace, data: bytes) -> dict[int, Record]:
    found = kernels.decode.read_records(data, 0, len(data), *EVERY, 1 << 20, CONTROL)[0] if data else []
    return {one.offset: one for one in found}


@pytest.mark.parametrize("counts", [(1,), (7, 1, 1, 30), (1,) * 40, (8, 8, 8), (9,) * 9, (100, 3, 300)])
@pytest.mark.parametrize("base", [0, 5, 8, (1 << 40) + 3])
@pytest.mark.parametrize("attributes", [0, APPEND_TIME])
def test_every_record(kernels: SimpleNamespace, counts: tuple[int, ...], base: int, attributes: int) -> None:
    data, end = log_of(*counts, base=base, attributes=attributes), base + sum(counts)
    points = filled(kernels, data, page(kernels, end, base))
    known = truth(kernels, data)
    assert len(known) == sum(counts)
    for offset in range(base, end):
        found = points.get(offset)
        assert found == known[offset] == points.find(offset)
        assert type(found) is Record
        assert found == points.get(offset - end)
    assert [points.get(offset) for offset in (end, end + 9, -end - 1, base - end - 1)] == [None] * 4
    assert base == 0 or points.get(base - 1) is None


def test_the_last_offsets_there_are(kernels: SimpleNamespace) -> None:
    data = batch_of([0, 1, 2], base_offset=INT64_MAX - 3)
    points = filled(kernels, data, page(kernels, INT64_MAX))
    assert points.get(INT64_MAX - 1).offset == INT64_MAX - 1
    assert points.get(INT64_MAX - 3).offset == INT64_MAX - 3
    assert points.get(INT64_MAX - 4) is None


def test_what_is_no_offset(kernels: SimpleNamespace) -> None:
    points = filled(kernels, log_of(3), page(kernels, 3))
    for index in ("a", None, True, 1.0, slice(0, 1), 1 << 63, 1 << 70, -(1 << 63) - 1, b"1"):
        assert points.get(index) is None
    assert points.get(-(1 << 63)) is None


Gaps = st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(1, 12), max_size=25), st.booleans()), max_size=12)


@pytest.mark.sampled
@settings(max_examples=100, deadline=None)
@given(gaps=Gaps, base=st.integers(0, 30), cuts=st.lists(st.integers(0, 12), max_size=12))
def test_windows_of_a_log_with_gaps(pair: Pair, gaps: Any, base: int, cuts: list[int]) -> None:
    """Batches may be empty, have gaps between and inside them, be markers; windows come in any order and overlap."""
    parts, end = [], base
    for gap, steps, marker in gaps:
        end += gap
        deltas = [sum(steps[: at + 1]) - steps[0] for at in range(len(steps))]
        parts.append(batch_of(deltas, base_offset=end, attributes=CONTROL if marker else 0))
        end += deltas[-1] + 1 if deltas else 1
    data = b"".join(parts)
    positions = [sum(map(len, parts[:at])) for at in range(len(parts) + 1)]
    seen = []
    for kernels in pair:
        points, token = watching(kernels, page(kernels, end), 64)
        given_out: list[list[Record | None]] = []
        known: dict[int, Record] = {}
        for part in parts:
            known |= truth(kernels, part)
        for cut in [*cuts, 0]:
            at = min(cut, len(parts))
            stop = positions[min(at + 4, len(parts)) if cut else len(parts)]
            assert points.add(token, data, positions[at], stop, INT64_MAX, True) == stop
            given_out.append([points.get(offset) for offset in range(end)])
        for answers in given_out:
            assert all(one in (None, known.get(offset)) for offset, one in enumerate(answers))
        if end < 64 * kernels.points.STRIDE:
            assert {one.offset for one in given_out[-1] if one} == known.keys()
        seen.append(given_out)
    assert seen[0] == seen[1]


def test_a_stride_of_batches_that_come_one_by_one(kernels: SimpleNamespace) -> None:
    """In whatever order they are taken in, in the end all of it is known."""
    sizes = [len(part) for part in (log_of(5), log_of(1, base=5), log_of(5, base=6))]
    data, ends = log_of(5, 1, 5), [sum(sizes[: at + 1]) for at in range(3)]
    starts = [0, *ends[:2]]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)):
        points, token = watching(kernels, page(kernels, 11))
        for at in (*order, *order):
            assert points.add(token, data, starts[at], ends[at], INT64_MAX, True) == ends[at]
        assert sum(points.get(offset) is not None for offset in range(11)) >= (11 if order != (0, 2, 1) else 10)


def test_what_is_not_taken_in(kernels: SimpleNamespace) -> None:
    good, end = log_of(3), len(log_of(3))
    wrong_crc = bytearray(log_of(3, base=3))
    wrong_crc[-1] ^= 1
    compressed = batch(b"whatever", 3, base_offset=3, attributes=ZSTD)
    for data, verify in ((good + wrong_crc, True), (good + compressed, False), (good + bytes(70), False)):
        points, token = watching(kernels, page(kernels, 6))
        assert points.add(token, bytes(data), 0, len(data), INT64_MAX, verify) == end
        assert points.get(2)
        assert points.get(3) is None
    points, token = watching(kernels, page(kernels, 6))
    data = log_of(3, 3)
    assert points.add(token, data, 0, len(data), 5, True) == end  # the second one ends at 6
    assert points.add(token, data, 0, len(data) - 1, 6, True) == end
    assert points.add(token, data, end, end, 6, True) == end
    for position, stop in ((-1, 5), (3, 2), (0, len(data) + 1)):
        with pytest.raises(IndexError):
            points.add(token, data, position, stop, 6, True)
    with pytest.raises(TypeError):
        points.add(token, 7, 0, 0, 6, True)


@pytest.mark.parametrize("name", BROKEN)
def test_batches_that_are_not_right(pair: Pair, name: str) -> None:
    good, broken = log_of(2, base=98), batch(BROKEN[name], 1)
    data, reached = good + broken, []
    for kernels in pair:
        points, token = watching(kernels, page(kernels, 1 << 40))
        reached.append(points.add(token, data, 0, len(data), INT64_MAX, False))
        known = outcome(kernels.decode.read_records, broken, 0, len(broken), *EVERY, 1 << 20, 0, False)
        assert reached[-1] == (len(data) if known[0] == "result" else len(good)) or "timestamp" in name
        assert points.get(98)
        assert points.get(99)
    assert reached[0] == reached[1]


@pytest.mark.sampled
@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_that_change_under_it(kernels: SimpleNamespace, changes: list[tuple[int, int]]) -> None:
    """Anything may come out, until somebody says that the log has changed; but nothing from outside, and no error."""
    data = bytearray(log_of(40, 1, 1, 1, 9, 2))
    points = filled(kernels, data, page(kernels, 54))
    for at, byte in changes:
        data[at % len(data)] = byte
    for offset in range(54):
        found = points.get(offset)
        assert found is None or found.offset == offset


def test_zeros_under_it(kernels: SimpleNamespace) -> None:
    data = bytearray(log_of(40, 1, 1, 1, 9, 2))
    points = filled(kernels, data, page(kernels, 54))
    data[:] = bytes(len(data))
    assert [points.get(offset) for offset in range(54)] == [None] * 54


@pytest.mark.parametrize("word", ["GENERATION", "TRUNCATIONS"])
def test_a_log_that_has_changed(kernels: SimpleNamespace, word: str) -> None:
    state, at = page(kernels, 9), getattr(kernels.tail, word)
    points = filled(kernels, log_of(9), state)
    before = kernels.tail.load(state, at)
    kernels.tail.store(state, at, before + 1)
    assert points.get(3) is None
    assert points.find(3) is None
    kernels.tail.store(state, at, before)
    assert points.get(3)
    assert points.watch(state, 2, 6) != points.watch(state, 2, 5)  # which forgot
    assert points.get(3) is None


def test_ends_that_move(kernels: SimpleNamespace) -> None:
    state = page(kernels, 9)
    points = filled(kernels, log_of(20), state)
    assert [points.get(offset) is None for offset in (0, 8, 9, 15)] == [False, False, True, True]
    kernels.tail.publish(state, 16, 16, 16, 16)
    kernels.tail.store(state, kernels.tail.LOG_START, 8)
    assert [points.get(offset) is None for offset in (0, 7, 8, 9, 15, 16)] == [True, True, False, False, False, True]
    assert points.get(-1).offset == 15
    assert points.get(-8).offset == 8
    assert points.get(-9) is None


def test_a_log_that_nobody_writes(kernels: SimpleNamespace) -> None:
    state, data = page(kernels, 0), log_of(20)
    points = kernels.points.Points()
    token = points.watch(state, 2, 5, 4, 18, 1 << 40)
    assert points.add(token, data, 0, len(data), 20, True) == len(data)
    assert [points.get(offset) is None for offset in (3, 4, 17, 18)] == [True, False, False, True]
    assert points.watch(state, 2, 5, 4, 18, 10_000_000) == token
    time.sleep(0.05)
    assert points.get(4) is None
    assert points.find(4)
    assert points.watch(state, 2, 5, 4, 18, 1 << 40) == token
    assert points.get(4)
    assert points.watch(state, 2, 5, 4, 19, 1 << 40) != token
    assert points.get(4) is None


def test_without_a_page(kernels: SimpleNamespace) -> None:
    data, points = log_of(20), kernels.points.Points()
    assert points.find(0) is None
    token = points.watch(None, 0, 0, 4, 18)
    points.add(token, data, 0, len(data), 20, True)
    assert points.get(4) is None
    assert [points.find(offset) is None for offset in (3, 4, 17, 18)] == [True, False, False, True]
    assert points.watch(None, 7, 7, 4, 18, 99) == token
    assert points.watch(None, 0, 0, 0, 18) != token


def test_no_state_page(kernels: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="bytes"):
        kernels.points.Points().watch(bytearray(100), 0, 0)
    with pytest.raises(TypeError):
        kernels.points.Points().watch(7, 0, 0)
    for most in (0, -8, 100):
        with pytest.raises(ValueError, match="power of two"):
            kernels.points.Points(most)


def test_tokens_and_closing(kernels: SimpleNamespace) -> None:
    state, data = page(kernels, 20), log_of(20)
    points, token = watching(kernels, state)
    points.forget()
    assert points.get(3) is None
    again = points.watch(state, 2, 5)
    assert points.add(token, data, 0, len(data), 20, True) == len(data)
    assert points.get(3) is None
    assert points.nbytes == 0
    points.add(again, data, 0, len(data), 20, True)
    assert points.get(3)
    assert points.nbytes > 0
    points.close()
    assert points.get(3) is None
    assert points.nbytes == 0
    assert points.watch(state, 2, 5) == points.watch(None, 0, 0, 0, 9) == -1
    for token in (again, -1):
        points.add(token, data, 0, len(data), 20, True)
    assert points.find(3) is None
    assert points.nbytes == 0


def test_buffers_are_pinned_until_they_are_forgotten(kernels: SimpleNamespace) -> None:
    state, data = page(kernels, 20), bytearray(log_of(20))
    points = filled(kernels, data, state)
    for pinned in (state, data):
        with pytest.raises(BufferError):
            pinned.append(1)
    points.forget()
    data.append(1)
    state.append(1)
    points = filled(kernels, data[:-1], state)
    del points
    state.append(1)


@pytest.mark.sampled
def test_no_more_entries_than_there_may_be(pair: Pair) -> None:
    """Where two strides want one entry the newer one has it; what is found is right all the same."""
    data, seen = log_of(*(100,) * 30), []
    for kernels in pair:
        points, token = watching(kernels, page(kernels, 3000), 16)
        known, found = truth(kernels, data), []
        for _ in range(2):
            points.add(token, data, 0, len(data), 3000, True)
            answers = [points.get(offset) for offset in range(3000)]
            assert all(one is None or one == known[offset] for offset, one in enumerate(answers))
            found.append([one is not None for one in answers])
        assert points.nbytes == 16 * 24
        assert sum(found[0]) == 16 * kernels.points.STRIDE
        seen.append(found)
    assert seen[0] == seen[1]


def test_the_table_grows_with_what_is_in_it(kernels: SimpleNamespace) -> None:
    data = log_of(*(100,) * 30)
    points = filled(kernels, data, page(kernels, 3000))
    assert points.nbytes == 512 * 24
    assert all(points.get(offset) for offset in range(3000))
    assert kernels.points.MOST_ENTRIES * 24 <= 24 << 20


def test_no_more_copies_than_there_may_be(kernels: SimpleNamespace) -> None:
    copies = [log_of(100, base=at * 100) for at in range(10)]
    most = max(map(len, copies)) * 3
    points, token = watching(kernels, page(kernels, 1000), 1 << 10, most)
    for copy in copies:
        points.add(token, copy, 0, len(copy), 1000, True, True)
        assert points.nbytes <= most + 1024 * 24
    assert [points.get(at * 100) is not None for at in range(10)] == [False] * 7 + [True] * 3
    large = log_of(*(100,) * 4)
    assert points.add(token, large, 0, len(large), 1000, True, True) == len(large)
    assert points.get(0) is None
    assert points.get(900)


def test_no_more_buffers_than_there_may_be(kernels: SimpleNamespace) -> None:
    buffers = [bytearray(log_of(8, base=at * 8)) for at in range(300)]
    points, token = watching(kernels, page(kernels, 2400))
    for data in [*buffers, *buffers[-9:]]:
        points.add(token, data, 0, len(data), 2400, True)
    assert [points.get(at * 8) is not None for at in range(300)] == [False] * 44 + [True] * 256
    buffers[0].append(1)
    with pytest.raises(BufferError):
        buffers[-1].append(1)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_the_child_of_a_fork_finds_nothing(kernels: SimpleNamespace) -> None:
    points = filled(kernels, log_of(9), page(kernels, 9))
    pid = os.fork()
    if pid == 0:
        os._exit(points.get(3) is not None or points.find(3) is not None)
    assert os.waitpid(pid, 0)[1] == 0
    assert points.get(3)


def test_a_map_that_is_broken(tmp_path: Any) -> None:
    """Only the native twin guards maps."""
    native = twins.load("native")
    if native is None:
        pytest.skip("not built")
    path = tmp_path / "map"
    data = log_of(8)
    path.write_bytes(data + bytes(20_000))
    with path.open("r+b") as file:
        mapping = native.guard.Mapping(file.fileno(), len(data) + 20_000, False)
        points = filled(native, memoryview(mapping)[: len(data)], page(native, 9))
        assert points.get(3)
        file.truncate(0)
        assert points.get(3) is None
        assert mapping.broken


def test_timestamps(kernels: SimpleNamespace) -> None:
    area = record(0, 5) + record(1, (1 << 62) + (1 << 61))
    data = batch(area, 2, base_offset=0, base_timestamp=NOW, max_timestamp=NOW + 5)
    points = filled(kernels, data, page(kernels, 2))
    assert points.get(0).timestamp == NOW + 5
    assert points.get(1).timestamp == NOW + (1 << 62) + (1 << 61)
    data = batch(area, 2, base_offset=0, base_timestamp=INT64_MAX - 5)
    points = filled(kernels, data, page(kernels, 2))
    assert points.get(0).timestamp == INT64_MAX
    assert points.get(1) is None  # a reader says what is wrong

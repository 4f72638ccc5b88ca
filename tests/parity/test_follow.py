"""follow: what is given out of a log behind a known position, and when a reader is told to look the slow way."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.parity import twins

CODEC, TRANSACTIONAL, CONTROL = 0x07, 0x10, 0x20
MASK = CODEC | CONTROL
LONG_NS = 30_000_000_000
SHORT_NS = 20_000_000
SIZES = (1, 3, 1, 2)
"""Records in each batch of the log."""


class Log(bytearray):
    """What stands in for a map: bytes, and whether they can be believed. Asked for that, it may do something."""

    def __init__(self, content: bytes = b"", then: Callable[[], bool] = lambda: False) -> None:
        super().__init__(content)
        self.then = then

    @property
    def broken(self) -> bool:
        return self.then()


def batch_of(first: int, count: int, **options: Any) -> bytes:
    area = b"".join(twins.record(delta, delta, b"k%d" % (first + delta)) for delta in range(count))
    return twins.batch(area, count, base_offset=first, **options)


def batches(first: int = 100, **options: Any) -> list[bytes]:
    """The batches of the log, all with the same options."""
    found = []
    for count in SIZES:
        found.append(batch_of(first, count, **options))
        first += count
    return found


def page(tail: Any, limit: int, generation: int = 2, truncations: int = 5) -> bytearray:
    """A state page in which everything below `limit` is published; committed readers see one offset less."""
    state = bytearray(4096)
    tail.publish(state, limit - 1, limit, limit, 0)
    tail.store(state, tail.GENERATION, generation)
    tail.store(state, tail.TRUNCATIONS, truncations)
    return state


def follower(
    kernels: SimpleNamespace, state: Any, log: Any, *, word: str = "HIGH_WATERMARK", position: int = 0,
    next_offset: int = 100, mask: int = MASK, truncations: int = 5,
) -> Any:  # fmt: skip
    at = getattr(kernels.tail, word)
    return kernels.follow.Follower(state, log, at, position, next_offset, 2, truncations, mask)


def steps(kernels: SimpleNamespace, data: bytes, limit: int, max_count: int = 4096, **options: Any) -> list[Any]:
    """What a follower gives, call by call, until it gives nothing more, and where it stands each time."""
    one = follower(kernels, page(kernels.tail, limit), Log(data), **options)
    found = []
    for _ in range(20):
        records = one.follow(max_count, 0, 0)
        found.append((records, one.position, one.next_offset))
        if not records:
            return found
    raise AssertionError("it goes on for ever")


def offsets(given: list[Any]) -> list[int]:
    return [record.offset for records, _, _ in given for record in records or []]


@pytest.mark.parametrize("limit", range(98, 110))
@pytest.mark.parametrize("max_count", [1, 2, 4096])
def test_every_limit(pair: tuple[SimpleNamespace, SimpleNamespace], limit: int, max_count: int) -> None:
    data = b"".join(batches()) + bytes(200)
    native, pure = (steps(kernels, data, limit, max_count) for kernels in pair)
    assert native == pure
    whole = max((end for end in (100, 101, 104, 105, 107) if end <= limit), default=100)
    assert offsets(native) == list(range(100, whole))
    assert (native[-1][0] is None) == (limit > whole), "more than whole batches is looked at the slow way"


@pytest.mark.parametrize("next_offset", range(99, 108))
def test_every_place_to_begin(pair: tuple[SimpleNamespace, SimpleNamespace], next_offset: int) -> None:
    data = b"".join(batches())
    native, pure = (steps(kernels, data, 107, next_offset=next_offset) for kernels in pair)
    assert native == pure
    in_first = next_offset <= 100
    assert offsets(native) == (list(range(100, 107)) if in_first else []), "another batch begins at this position"


def test_a_place_inside_of_a_batch(kernels: SimpleNamespace) -> None:
    data = b"".join(batches())
    position = len(batches()[0])
    assert offsets(steps(kernels, data, 107, position=position, next_offset=102)) == [102, 103, 104, 105, 106]


@pytest.mark.parametrize("slot", range(len(SIZES)))
@pytest.mark.parametrize("attributes", [1, 4, CONTROL, CONTROL | TRANSACTIONAL, TRANSACTIONAL, 0x40, 0x08, 0x07, 0x80])
@pytest.mark.parametrize("committed", [False, True])
def test_a_special_batch_is_for_the_slow_way(
    pair: tuple[SimpleNamespace, SimpleNamespace], slot: int, attributes: int, committed: bool
) -> None:
    parts = [batches()[at] if at != slot else batches(attributes=attributes)[at] for at in range(len(SIZES))]
    mask = MASK | (TRANSACTIONAL if committed else 0)
    native, pure = (steps(kernels, b"".join(parts), 107, mask=mask) for kernels in pair)
    assert native == pure
    for_us = attributes in (0x40, 0x08) or (attributes == TRANSACTIONAL and not committed)
    assert offsets(native) == list(range(100, 107 if for_us else (100, 101, 104, 105)[slot]))


def test_every_flipped_bit(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    first, second = batches()[:2]
    data = first + second
    for at in range(len(first), len(data)):
        for bit in (0x01, 0x80):
            bad = bytearray(data)
            bad[at] ^= bit
            native, pure = (steps(kernels, bytes(bad), 104) for kernels in pair)
            assert native == pure, at
            assert offsets(native)[:1] == [100], at
            if not 12 <= at - len(first) < 16 and at - len(first) >= 8:  # no CRC covers the leader epoch
                assert offsets(native) == [100], at


def test_every_bad_record_with_the_right_crc(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    """The good records before a bad one of its batch are not given out either."""
    first, second = batches()[:2]
    for at in range(61, len(second)):
        bad = bytearray(second)
        bad[at] ^= 0x3F
        native, pure = (steps(kernels, first + twins.resealed(bytes(bad)), 104) for kernels in pair)
        assert native == pure, at
        assert offsets(native) in ([100], [100, 101, 102, 103]), at


def test_every_cut(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    data = b"".join(batches())
    ends = [sum(map(len, batches()[:count])) for count in range(len(SIZES) + 1)]
    for size in range(len(data)):
        native, pure = (steps(kernels, data[:size], 107) for kernels in pair)
        assert native == pure, size
        assert native[-1][:2] == (None, max(end for end in ends if end <= size)), size


def test_nothing_behind_the_limit_is_looked_at(kernels: SimpleNamespace) -> None:
    """There may be a batch that is just being written."""
    data = batches()[0] + b"\xff" * 200
    given = steps(kernels, data, 101)
    assert offsets(given) == [100]
    assert given[-1] == ([], len(batches()[0]), 101)


def test_the_word_is_the_one_that_was_chosen(kernels: SimpleNamespace) -> None:
    data = b"".join(batches())
    assert offsets(steps(kernels, data, 105, word="LAST_STABLE")) == [100, 101, 102, 103]
    assert offsets(steps(kernels, data, 105, word="HIGH_WATERMARK")) == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("word", ["GENERATION", "TRUNCATIONS"])
@pytest.mark.parametrize("limit", [100, 107])
def test_another_shape_of_the_log_is_for_the_slow_way(kernels: SimpleNamespace, word: str, limit: int) -> None:
    state = page(kernels.tail, limit)
    one = follower(kernels, state, Log(b"".join(batches())))
    kernels.tail.store(state, getattr(kernels.tail, word), 7)
    assert one.follow(10, 0, 0) is None
    assert one.follow(10, SHORT_NS, LONG_NS) is None
    assert (one.position, one.next_offset) == (0, 100)


@pytest.mark.parametrize("word", ["GENERATION", "TRUNCATIONS"])
def test_what_changed_while_it_was_decoded_is_not_given_out(kernels: SimpleNamespace, word: str) -> None:
    state = page(kernels.tail, 107)

    def change() -> bool:
        kernels.tail.store(state, getattr(kernels.tail, word), 7)
        return False

    one = follower(kernels, state, Log(b"".join(batches()), change))
    assert one.follow(10, 0, 0) is None
    assert (one.position, one.next_offset) == (0, 100)


def test_a_broken_map_is_for_the_slow_way(kernels: SimpleNamespace) -> None:
    one = follower(kernels, page(kernels.tail, 107), Log(b"".join(batches()), lambda: True))
    assert one.follow(10, 0, 0) is None
    assert (one.position, one.next_offset) == (0, 100)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("spin_ns", "timeout_ns"),
    [
        (0, 0), (twins.INT64_MAX, 0), (twins.INT64_MAX, -1), (0, SHORT_NS), (twins.INT64_MAX, SHORT_NS),
        (SHORT_NS // 2, SHORT_NS),
    ],
)  # fmt: skip
def test_a_timeout_ends_its_wait(kernels: SimpleNamespace, read_only: bool, spin_ns: int, timeout_ns: int) -> None:
    """However long it may spin; if it did not, this test would not end."""
    state = page(kernels.tail, 100)
    one = follower(kernels, memoryview(state).toreadonly() if read_only else state, Log(bytes(100)))
    assert one.follow(10, spin_ns, timeout_ns) == []


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("spin_ns", "timeout_ns"),
    [(LONG_NS, 0), (LONG_NS, -1), (0, SHORT_NS), (LONG_NS, SHORT_NS), (SHORT_NS // 2, SHORT_NS)],
)
def test_it_waits_as_long_as_it_is_told(kernels: SimpleNamespace, spin_ns: int, timeout_ns: int) -> None:
    one = follower(kernels, page(kernels.tail, 100), Log(bytes(100)))
    start = time.monotonic_ns()
    assert one.follow(10, spin_ns, timeout_ns) == []
    assert timeout_ns <= time.monotonic_ns() - start < LONG_NS // 3


def test_the_longest_times(kernels: SimpleNamespace) -> None:
    one = follower(kernels, page(kernels.tail, 101), Log(batches()[0]))
    assert len(one.follow(10, twins.INT64_MAX, twins.INT64_MAX)) == 1
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        one.follow(10, twins.INT64_MAX, twins.INT64_MAX)
    timer.join()


@pytest.mark.parametrize("spin_ns", [0, twins.INT64_MAX, SHORT_NS])
@pytest.mark.parametrize("word", ["HIGH_WATERMARK", "GENERATION", "TRUNCATIONS"])
def test_it_wakes_up_for_each_word(kernels: SimpleNamespace, spin_ns: int, word: str) -> None:
    """The other thread gets its turn while this one spins. Who did not wake up would make this test never end."""
    tail, state = kernels.tail, page(kernels.tail, 100)
    one = follower(kernels, state, Log(b"".join(batches())))

    def change() -> None:
        tail.store(state, getattr(tail, word), 101)
        tail.wake(state)

    timer = threading.Timer(0.05, change)
    timer.start()
    found = one.follow(10, spin_ns, twins.INT64_MAX)
    assert found is None if word != "HIGH_WATERMARK" else [record.offset for record in found] == [100]
    timer.join()


@pytest.mark.parametrize("spin_ns", [0, twins.INT64_MAX])
def test_a_signal_without_a_record_does_not_end_the_wait(kernels: SimpleNamespace, spin_ns: int) -> None:
    """It goes on to wait for the one that comes later."""
    tail, state = kernels.tail, page(kernels.tail, 100)
    one = follower(kernels, state, Log(b"".join(batches())))

    def publish() -> None:
        tail.publish(state, 100, 100, 107, 107)
        time.sleep(0.05)
        tail.publish(state, 101, 101, 107, 107)

    timer = threading.Timer(0.02, publish)
    timer.start()
    assert [record.offset for record in one.follow(10, spin_ns, twins.INT64_MAX)] == [100]
    timer.join()


@pytest.mark.sampled
@pytest.mark.parametrize("spin_ns", [0, twins.INT64_MAX])
def test_ctrl_c_ends_the_wait(kernels: SimpleNamespace, spin_ns: int) -> None:
    """If it did not, this test would not end."""
    one = follower(kernels, page(kernels.tail, 100), Log(bytes(100)))
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        one.follow(10, spin_ns, twins.INT64_MAX)
    timer.join()


def test_what_cannot_be_followed(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    good = {"state": bytearray(4096), "log": Log(bytes(10)), "word": 80, "position": 0}
    for wrong in (
        {"state": bytearray(4095)}, {"state": "x"}, {"log": "x"}, {"word": 81}, {"word": 112}, {"word": 4096},
        {"position": -1}, {"position": 11},
    ):  # fmt: skip
        given = ({**good, **wrong}).values()
        native, pure = (twins.outcome(kernels.follow.Follower, *given, 100, 2, 5, MASK) for kernels in pair)
        assert native == pure, wrong
        assert issubclass(native[0], (ValueError, TypeError, IndexError)), wrong


def test_it_pins_the_page_and_the_map(kernels: SimpleNamespace) -> None:
    state, log = page(kernels.tail, 101), Log(batches()[0])
    one = follower(kernels, state, log)
    before = sys.getrefcount(log)
    for pinned in (state, log):
        with pytest.raises(BufferError):
            pinned.clear()
    del one
    assert sys.getrefcount(log) < before
    for free in (state, log):
        free.clear()

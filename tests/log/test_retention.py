"""Retention: the pure decision against Kafka's rules one by one and against a plain model, then on a real log."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventcore as ec
from eventcore.config import LogConfig
from eventcore.log.retention import SegmentFacts, count_expired, effective_time

from .conftest import NOW, FakeClock, Open

DAY = 86_400_000


def facts(*sizes: int, times: list[int] | None = None, step: int = 10) -> list[SegmentFacts]:
    times = times or [NOW] * len(sizes)
    return [
        SegmentFacts(at * step, (at + 1) * step, size, time)
        for at, (size, time) in enumerate(zip(sizes, times, strict=True))
    ]


def expired(segments: list[SegmentFacts], *, start: int = 0, watermark: int | None = None, **config: object) -> int:
    settings = LogConfig.of({name.replace("_", "."): value for name, value in config.items()})
    end = segments[-1].next_offset if watermark is None else watermark
    return count_expired(segments, settings, log_start=start, high_watermark=end, now=NOW)


def test_nothing_goes_without_a_reason() -> None:
    assert expired(facts(100, 100, 100)) == 0


@pytest.mark.parametrize(("start", "gone"), [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 2)])
def test_segments_below_the_log_start_go_but_never_the_last(start: int, gone: int) -> None:
    for policy in ("delete", "compact", "compact,delete", ""):
        assert expired(facts(100, 100, 100), start=start, cleanup_policy=policy) == gone


@pytest.mark.parametrize(("limit", "gone"), [(-1, 0), (300, 0), (299, 0), (200, 1), (199, 1), (100, 2), (1, 2), (0, 3)])
def test_by_size_the_log_keeps_at_least_what_was_asked(limit: int, gone: int) -> None:
    assert expired(facts(100, 100, 100), retention_bytes=limit) == gone


def test_what_the_log_start_takes_counts_for_the_size() -> None:
    assert expired(facts(100, 100, 100, 100), start=20, retention_bytes=200) == 2


def test_by_time_it_stops_at_the_first_that_stays() -> None:
    times = [NOW - 3 * DAY, NOW - DAY, NOW - 3 * DAY, NOW]
    assert expired(facts(1, 1, 1, 1, times=times), retention_ms=2 * DAY) == 1


def test_exactly_as_old_as_allowed_stays() -> None:
    times = [NOW - DAY, NOW - DAY]
    assert expired(facts(1, 1, times=times), retention_ms=DAY) == 0
    assert expired(facts(1, 1, times=times), retention_ms=DAY - 1) == 2


def test_an_empty_last_segment_stays() -> None:
    assert expired(facts(1, 0, times=[0, 0]), retention_ms=1) == 1
    assert expired(facts(0, times=[0]), retention_ms=1) == 0


def test_nothing_above_the_high_watermark_goes() -> None:
    assert expired(facts(1, 1, times=[0, 0]), watermark=15, retention_ms=1) == 1


def test_a_compacted_log_without_delete_keeps_old_segments() -> None:
    old = facts(100, 100, times=[0, 0])
    assert expired(old, retention_ms=1, retention_bytes=0, cleanup_policy="compact") == 0
    assert expired(old, retention_ms=1, cleanup_policy="compact,delete") == 2


@pytest.mark.parametrize(
    ("largest", "time"), [(NOW, NOW), (5, 5), (0, 0), (-1, 77), (NOW + 1, 77), ((1 << 63) - 1, 77)]
)
def test_a_segment_counts_from_its_last_write_where_its_timestamps_tell_nothing(largest: int, time: int) -> None:
    assert effective_time(largest, NOW, lambda: 77) == time


@given(
    segments=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=8),
    start=st.integers(0, 90),
    watermark=st.integers(0, 90),
    limit=st.integers(-1, 200),
    age=st.integers(-1, 20),
)
def test_against_a_model_that_removes_one_by_one(
    segments: list[tuple[int, int]], start: int, watermark: int, limit: int, age: int
) -> None:
    found = facts(*(size for size, _ in segments), times=[NOW - old for _, old in segments])
    config = LogConfig(retention_bytes=limit, retention_ms=age)
    left = list(found)

    def may_go(one: SegmentFacts) -> bool:
        return one.next_offset <= watermark and not (len(left) == 1 and one.size == 0)

    while len(left) > 1 and left[0].next_offset <= start and may_go(left[0]):
        left.pop(0)
    while limit >= 0 and left and sum(one.size for one in left) - limit >= left[0].size and may_go(left[0]):
        left.pop(0)
    while age >= 0 and left and NOW - left[0].time > age and may_go(left[0]):
        left.pop(0)
    gone = count_expired(found, config, log_start=start, high_watermark=watermark, now=NOW)
    assert gone == len(found) - len(left)


# -- on a log --------------------------------------------------------------------------------------------------


def fill(log: ec.Partition, segments: int, timestamp: int = NOW) -> None:
    for _ in range(segments):
        log.extend([ec.Record(-1, timestamp, None, b"x" * 100) for _ in range(10)])
        log.roll()


def on_disk(folder: Path, suffix: str) -> list[int]:
    return sorted(int(path.name[:20]) for path in folder.glob(f"*{suffix}"))


def test_old_segments_get_another_name_and_go_after_the_delay(open_log: Open, folder: Path, clock: FakeClock) -> None:
    log = open_log(retention_ms=DAY, file_delete_delay_ms=60_000)
    fill(log, 3)
    log.append(b"new", timestamp=NOW + 2 * DAY)
    clock.now = NOW + DAY + 1
    gone = log.retain(clock.now)
    assert gone.segments == 3
    assert gone.bytes == sum(path.stat().st_size for path in folder.glob("*.log.deleted"))
    assert log.log_start_offset == 30
    assert [record.value for record in log] == [b"new"]
    assert on_disk(folder, ".log.deleted") == [0, 10, 20]
    assert on_disk(folder, ".log") == [30]
    assert on_disk(folder, ".snapshot") in ([], [30])
    clock.now += 59_999
    log.retain(clock.now)
    assert on_disk(folder, ".log.deleted") == [0, 10, 20]
    clock.now += 1
    log.retain(clock.now)
    assert not list(folder.glob("*.deleted"))


def test_if_everything_is_old_an_empty_segment_stays(open_log: Open, folder: Path, clock: FakeClock) -> None:
    log = open_log(retention_ms=DAY)
    fill(log, 2)
    log.extend([b"tail"] * 3)
    clock.now = NOW + DAY + 1
    assert log.retain().segments == 3
    assert (log.log_start_offset, log.log_end_offset, list(log)) == (23, 23, [])
    assert log.retain().segments == 0
    assert log.append(b"next") == 23
    log.close()
    assert not list(folder.glob("*.deleted"))
    assert [record.value for record in open_log()] == [b"next"]


def test_a_timestamp_in_the_future_does_not_keep_a_segment_for_ever(
    open_log: Open, folder: Path, clock: FakeClock
) -> None:
    log = open_log(retention_ms=DAY, message_timestamp_after_max_ms=(1 << 63) - 1)
    fill(log, 1, timestamp=NOW + 1000 * DAY)
    fill(log, 1)
    written = (folder / f"{0:020}.log").stat().st_mtime_ns // 1_000_000
    clock.now = min(written + DAY, NOW + 999 * DAY)
    assert log.retain().segments == 0
    assert log.retain(written + DAY + 1).segments == 2
    assert log.log_start_offset == 20


def test_a_reader_goes_on_in_a_segment_that_went(open_log: Open, clock: FakeClock) -> None:
    log = open_log(retention_ms=DAY, file_delete_delay_ms=0)
    fill(log, 2)
    records = log.read(0, 10)
    first = next(records)
    log.retain(NOW + DAY + 1)
    log.retain(NOW + DAY + 2)
    assert [first.offset, *(record.offset for record in records)] == list(range(10))
    with pytest.raises(ec.OffsetOutOfRange):
        log.read(0)


def test_a_wrong_time_index_takes_nothing_too_early(open_log: Open, folder: Path, clock: FakeClock) -> None:
    log = open_log(retention_ms=DAY)
    log.extend([ec.Record(-1, NOW - 10 * DAY, None, b"old"), ec.Record(-1, NOW, None, b"new")])
    log.roll()
    log.append(b"tail")
    log.close()
    index = folder / f"{0:020}.timeindex"
    index.write_bytes((NOW - 10 * DAY).to_bytes(8, "big") + bytes(4))
    log = open_log(retention_ms=DAY)
    assert log.retain(NOW + 1) == ec.Retained(0, 0)


def test_retention_tells_and_leaves_other_processes_readers(open_log: Open, clock: FakeClock) -> None:
    log = open_log(retention_ms=DAY)
    fill(log, 2)
    log.append(b"tail", timestamp=NOW + DAY)
    reader = open_log(mode="r")
    assert reader.log_start_offset == 0
    log.retain(NOW + DAY + 1)
    assert reader.log_start_offset == 20
    assert [record.value for record in reader] == [b"tail"]

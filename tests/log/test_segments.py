"""Rolling, reopening, truncating, finding by time: what happens between segments, checked against a plain list."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventcore as ec
from tests.scale import seeded

from .conftest import NOW, FakeClock, Open


def records(p: ec.Partition) -> list[tuple[int, bytes | None]]:
    return [(r.offset, r.value) for r in p]


def test_a_segment_rolls_when_the_next_batch_does_not_fit(open_log: Open) -> None:
    p = open_log(segment_bytes=4096)
    for i in range(100):
        p.append(b"%03d" % i * 100)
    assert all(segment.log.size <= 4096 for segment in p.segments)
    assert len(p.segments) == 10
    assert records(p) == [(i, b"%03d" % i * 100) for i in range(100)]


def test_a_segment_rolls_by_record_time(open_log: Open, clock: FakeClock) -> None:
    p = open_log(segment_ms=1000)
    p.append(b"a")
    clock.now += 1000
    p.append(b"b")
    assert len(p.segments) == 1
    clock.now += 1
    p.append(b"c")
    assert [segment.base_offset for segment in p.segments] == [0, 2]
    assert [r.value for r in p] == [b"a", b"b", b"c"]


def test_an_old_record_time_rolls_by_the_clock(open_log: Open, clock: FakeClock) -> None:
    p = open_log(segment_ms=1000)
    p.append(b"a")
    clock.now += 500
    p.append(b"old", timestamp=NOW - 10_000)
    assert len(p.segments) == 1
    clock.now += 501
    p.append(b"old", timestamp=NOW - 10_000)
    assert len(p.segments) == 2


def test_a_segment_rolls_when_an_index_is_full(open_log: Open) -> None:
    p = open_log(segment_index_bytes=48, index_interval_bytes=0)
    for i in range(50):
        p.append(b"x", timestamp=NOW + i)
    assert len(p.segments) > 5
    assert all(segment.time_index.count <= 4 for segment in p.segments)
    assert len(records(p)) == 50


def test_a_segment_rolls_before_relative_offsets_overflow(open_log: Open, folder: Path, tmp_path: Path) -> None:
    with ec.open_partition(tmp_path / "source-0") as source:
        source.append(b"far")
        batch = bytearray(source.fetch(0).data)
    p = open_log()
    p.append(b"near")
    batch[:8] = (1 << 31).to_bytes(8, "big")
    assert p.append_batches(batch, "replica").last_offset == 1 << 31
    assert len(p.segments) == 2
    assert records(p) == [(0, b"near"), (1 << 31, b"far")]
    assert p[1 << 31].value == b"far"
    assert p.append(b"next") == (1 << 31) + 1


def test_rolling_by_hand(open_log: Open) -> None:
    p = open_log()
    p.roll()
    assert len(p.segments) == 1
    p.append(b"a")
    p.roll()
    p.roll()
    assert [segment.base_offset for segment in p.segments] == [0, 1]
    p.append(b"b")
    assert records(p) == [(0, b"a"), (1, b"b")]


def test_the_index_is_sparse_and_right(open_log: Open) -> None:
    p = open_log(index_interval_bytes=1000)
    for i in range(200):
        p.append(b"x" * 100, timestamp=NOW + i)
    active = p.segments.active
    assert active.offset_index.count == 33  # every sixth batch of 171 bytes
    for slot in range(active.offset_index.count):
        offset, position = active.offset_index.entry(slot)
        assert active.find(offset) == position
    assert p.verify().index_entries == 2 * active.offset_index.count


@pytest.mark.parametrize("name", ["index", "timeindex"])
def test_a_wrong_index_costs_time_not_correctness(open_log: Open, folder: Path, name: str) -> None:
    p = open_log(index_interval_bytes=500)
    for i in range(100):
        p.append(b"%d" % i, timestamp=NOW + i)
    expected = records(p)
    p.close()
    path = folder / f"{0:020d}.{name}"
    good = path.read_bytes()
    rng = seeded(5)
    for _ in range(100):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with ec.open_partition(folder, "r") as r:
            assert records(r) == expected
            assert [r[i].value for i in range(0, 100, 7)] == [b"%d" % i for i in range(0, 100, 7)]
    path.write_bytes(good)


def test_a_missing_index_is_rebuilt(open_log: Open, folder: Path) -> None:
    p = open_log(segment_bytes=8192, index_interval_bytes=500)
    p.extend([b"x" * 50] * 2000)
    p.close()
    names = sorted(path.name for path in folder.glob("*.*index"))
    before = {name: (folder / name).read_bytes() for name in names}
    for name in [*names[:4], names[-1]]:
        (folder / name).unlink()
    open_log(segment_bytes=8192, index_interval_bytes=500).close()
    assert {name: (folder / name).read_bytes() for name in names} == before


@pytest.mark.sampled
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_history_equals_a_list(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("history") / "events-0"
    config = {
        "segment.bytes": data.draw(st.sampled_from([4096, 8192, 1 << 20])),
        "index.interval.bytes": data.draw(st.sampled_from([0, 200, 4096])),
        "max.message.bytes": data.draw(st.sampled_from([700, 3000, 1 << 20])),
        "compression.type": data.draw(st.sampled_from(["producer", "lz4", "zstd"])),
    }
    model: list[bytes] = []
    p = ec.open_partition(folder, fsync="never", config=config)
    for step in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["extend", "extend", "append", "roll", "truncate", "reopen", "read", "copy"])):
            case "extend":
                items = [b"%d-%d" % (step, i) for i in range(data.draw(st.integers(0, 80)))]
                p.extend(items)
                model += items
            case "append":
                p.append(b"one" * data.draw(st.integers(0, 100)))
                model.append(p[-1].value or b"")
            case "roll":
                p.roll()
            case "truncate":
                cut = _batch_start(p, data.draw(st.integers(0, len(model))))
                p.truncate(cut)
                del model[cut:]
            case "reopen":
                p.close()
                p = ec.open_partition(folder, fsync="never", config=config)
                assert p.recovery.clean
            case "read":
                start = data.draw(st.integers(0, len(model)))
                assert [r.value for r in p.read(start)] == model[start:]
            case "copy":
                with ec.open_partition(folder, "r") as r:
                    assert [x.value for x in r] == model
        assert p.log_end_offset == len(model)
    assert [(r.offset, r.value) for r in p] == list(enumerate(model))
    columns = p.columns()
    assert [columns.value(row) for row in range(len(columns))] == model
    assert p.verify().problems == []
    p.close()


def _batch_start(p: ec.Partition, offset: int) -> int:
    """The start of the batch that holds `offset`: where a follower would truncate."""
    if offset >= p.log_end_offset:
        return p.log_end_offset
    data = p.fetch(offset, 1).data
    return int.from_bytes(data[:8], "big")


def test_truncation_inside_a_batch_drops_the_batch_but_keeps_the_end(open_log: Open) -> None:
    p = open_log()
    p.extend([b"a"] * 10)
    p.extend([b"b"] * 10)
    p.truncate(15)
    assert p.log_end_offset == 15
    assert [r.offset for r in p] == list(range(10))
    assert p.append(b"c") == 15
    assert [r.offset for r in p] == [*range(10), 15]


@pytest.mark.parametrize("size", [1, 3])
def test_where_a_cut_leaves_off_is_known_at_every_offset(open_log: Open, size: int) -> None:
    """Also where the batch behind it is one record, and has an index entry."""
    log = open_log(index_interval_bytes=0)
    for _ in range(20):
        log.extend([b"v"] * size)
    segment = log.segments.active
    for offset in range(20 * size + 1):
        position, end_offset = segment.cut_at(offset)
        assert end_offset == offset // size * size
        assert position == segment.log.size * (offset // size) // 20


def test_truncation_to_below_the_first_segment_starts_anew(open_log: Open) -> None:
    p = open_log(segment_bytes=4096)
    p.extend([b"x" * 100] * 100)
    p.delete_records(80)
    p.truncate(5)
    assert (p.log_start_offset, p.log_end_offset) == (5, 5)
    assert p.append(b"y") == 5


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(NOW - 50, NOW + 50), min_size=1, max_size=120),
    batch=st.integers(1, 9),
    interval=st.sampled_from([0, 300, 4096]),
    wanted=st.lists(st.integers(NOW - 60, NOW + 60), min_size=1, max_size=20),
)
def test_offset_for_time_equals_a_linear_search(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], batch: int, interval: int, wanted: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("times") / "events-0"
    config = {"segment.bytes": 4096, "index.interval.bytes": interval}
    with ec.open_partition(folder, fsync="never", config=config, clock=FakeClock()) as p:
        for start in range(0, len(times), batch):
            p.extend([ec.Record(value=b"x" * 60, timestamp=time) for time in times[start : start + batch]])
        for target in wanted:
            expected = next((offset for offset, time in enumerate(times) if time >= target), None)
            assert p.offset_for_time(target) == expected
    with ec.open_partition(folder, "r") as r:
        for target in wanted:
            assert r.offset_for_time(target) == next((o for o, time in enumerate(times) if time >= target), None)


def test_the_files_are_as_kafka_leaves_them_after_a_clean_close(open_log: Open, folder: Path) -> None:
    p = open_log(segment_bytes=4096)
    p.extend([b"x" * 100] * 100)
    ends = [(segment.base_offset, segment.log.size) for segment in p.segments]
    p.close()
    for base, size in ends:
        assert (folder / f"{base:020d}.log").stat().st_size == size
        time_index = (folder / f"{base:020d}.timeindex").read_bytes()
        assert len(time_index) % 12 == 0
        assert int.from_bytes(time_index[-12:-4], "big") == NOW
        assert (folder / f"{base:020d}.index").stat().st_size % 8 == 0
    assert (folder / f"{100:020d}.snapshot").exists()
    assert (folder / "leader-epoch-checkpoint").read_text() == "0\n1\n0 0\n"


def test_a_reader_beside_a_writer_sees_what_a_truncation_inside_a_batch_leaves(open_log: Open) -> None:
    """The end is then beyond the last record, until the next append."""
    p = open_log()
    p.extend([b"a"] * 10)
    p.extend([b"b"] * 10)
    r = open_log("r")
    assert len(list(r)) == 20
    p.truncate(15)
    assert (r.high_watermark, len(list(r)), r[3].value) == (15, 10, b"a")
    with open_log("r") as fresh:
        assert len(list(fresh)) == 10
    p.append(b"c")
    assert [record.offset for record in r] == [*range(10), 15]
    p.truncate(3)
    assert list(r) == []
    assert r.high_watermark == 3

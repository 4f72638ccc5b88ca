"""Partition: what a user sees of one log, written and read through the public API."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec

from .conftest import NOW, FakeClock, Open

KINDS = [
    b"value",
    None,
    (b"key", b"value"),
    (None, None),
    (b"", b""),
    ec.Record(value=b"v", key=b"k", headers=(("h", b"x"), ("h", None), ("ü", b""))),
    ec.Record(value=b"v", timestamp=5),
    bytearray(b"array"),
    memoryview(b"view"),
]


def values(partition: ec.Partition) -> list[bytes | None]:
    return [record.value for record in partition]


def test_a_record_comes_back_as_it_went_in(open_log: Open) -> None:
    p = open_log()
    assert p.append(b"v", key=b"k", headers=[("h", b"1"), ("n", None)], timestamp=42) == 0
    assert p[0] == ec.Record(0, 42, b"k", b"v", (("h", b"1"), ("n", None)))


def test_every_kind_of_item_can_be_extended(open_log: Open) -> None:
    p = open_log()
    assert p.extend(KINDS) == range(len(KINDS))
    assert [(r.timestamp, r.key, r.value, r.headers) for r in p] == [
        (NOW, None, b"value", ()),
        (NOW, None, None, ()),
        (NOW, b"key", b"value", ()),
        (NOW, None, None, ()),
        (NOW, b"", b"", ()),
        (NOW, b"k", b"v", (("h", b"x"), ("h", None), ("ü", b""))),
        (5, None, b"v", ()),
        (NOW, None, b"array", ()),
        (NOW, None, b"view", ()),
    ]


def test_it_looks_like_a_sequence(open_log: Open) -> None:
    p = open_log()
    p.extend([b"%d" % i for i in range(10)])
    assert len(p) == 10
    assert p[3].value == b"3"
    assert p[-1].value == b"9"
    assert [r.value for r in p[2:4]] == [b"2", b"3"]
    assert [r.value for r in p[-2:]] == [b"8", b"9"]
    assert p[8:100] == p[8:]
    assert p[5:5] == []
    assert values(p) == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("offset", [10, 11, 1 << 62, -11])
def test_a_missing_offset_raises(open_log: Open, offset: int) -> None:
    p = open_log()
    p.extend([b"x"] * 10)
    with pytest.raises(ec.OffsetOutOfRange):
        p[offset]


def test_reading_at_the_end_is_empty_and_beyond_it_raises(open_log: Open) -> None:
    p = open_log()
    p.extend([b"x"] * 3)
    assert list(p.read(3)) == []
    for offset in (4, -1):
        with pytest.raises(ec.OffsetOutOfRange):
            p.read(offset)


def test_a_read_stops_at_the_end_known_when_it_began(open_log: Open) -> None:
    p = open_log()
    p.extend([b"a", b"b"])
    records = p.read(0)
    p.append(b"c")
    assert [record.value for record in records] == [b"a", b"b"]


def test_a_conditional_append_needs_the_offset_it_expects(open_log: Open) -> None:
    p = open_log()
    assert p.append(b"a", expected_offset=0) == 0
    with pytest.raises(ec.OffsetMismatch, match="expected offset 0, the log ends at 1"):
        p.append(b"b", expected_offset=0)
    assert p.extend([b"b", b"c"], expected_offset=1) == range(1, 3)


@pytest.mark.parametrize("bad", ["text", 5, 1.5, object(), [b"x"], {"k": b"v"}])
def test_what_is_not_bytes_is_refused(open_log: Open, bad: Any) -> None:
    p = open_log()
    p.append(b"before")
    for item in (bad, (bad, b"v"), (b"k", bad), ec.Record(value=bad)):
        with pytest.raises(TypeError):
            p.extend([b"good", item])
    assert p.append(b"after") == 1
    assert values(p) == [b"before", b"after"]


@pytest.mark.parametrize("bad", [(), (b"1",), (b"1", b"2", b"3")])
def test_a_tuple_is_a_pair(open_log: Open, bad: Any) -> None:
    with pytest.raises(TypeError):
        open_log().extend([bad])


@pytest.mark.parametrize("headers", [[("h",)], [(b"h", b"v")], [("h", "v")], ["hv"], [("h", b"v", b"w")]])
def test_headers_are_pairs_of_text_and_bytes(open_log: Open, headers: Any) -> None:
    with pytest.raises(TypeError):
        open_log().append(b"v", headers=headers)


def test_timestamps_are_ms_or_aware_datetimes(open_log: Open) -> None:
    p = open_log()
    at = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=timezone(timedelta(hours=2)))
    p.append(b"v", timestamp=at)
    assert p[0].timestamp == int(at.timestamp() * 1000)
    with pytest.raises(ec.UsageError, match="naive"):
        p.append(b"v", timestamp=datetime(2023, 11, 14))
    with pytest.raises(ec.UsageError, match="negative"):
        p.append(b"v", timestamp=-5)
    for bad in ("2023", 1.5, True):
        with pytest.raises(TypeError):
            p.append(b"v", timestamp=bad)  # type: ignore[arg-type]


def test_extend_cuts_at_max_message_bytes_and_atomic_refuses(open_log: Open) -> None:
    p = open_log(max_message_bytes=1000)
    assert p.extend([b"x" * 300] * 10) == range(10)
    assert p.verify().batches == 4
    with pytest.raises(ec.RecordTooLarge):
        p.extend([b"x" * 300] * 10, atomic=True)
    with pytest.raises(ec.RecordTooLarge):
        p.append(b"x" * 1000)
    assert p.extend([b"x" * 300] * 3, atomic=True) == range(10, 13)
    assert len(values(p)) == 13


def test_a_refused_batch_leaves_no_trace(open_log: Open, folder: Path) -> None:
    p = open_log(max_message_bytes=1000)
    p.append(b"a")
    end = p.segments.active.log.size
    with pytest.raises(ec.RecordTooLarge):
        p.extend([b"x" * 300] * 10, atomic=True)
    assert not any(p.segments.active.log.view[end : end + 61])


@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec(open_log: Open, codec: str) -> None:
    p = open_log(compression_type=codec)
    items = [(b"k%d" % i, os.urandom(i % 50) + b"a" * 100) for i in range(500)]
    p.extend(items)
    p.append(os.urandom(70_000))
    assert [(r.key, r.value) for r in p][:500] == items
    assert len(p[500].value or b"") == 70_000
    columns = p.columns()
    assert [(columns.key(row), columns.value(row)) for row in range(500)] == items


def test_log_append_time(open_log: Open, clock: FakeClock) -> None:
    p = open_log(message_timestamp_type="LogAppendTime")
    p.extend([ec.Record(value=b"a", timestamp=5), b"b"])
    clock.now += 1000
    p.append(b"c", timestamp=7)
    assert [r.timestamp for r in p] == [NOW, NOW, NOW + 1000]
    assert p.columns().timestamp.tolist() == [NOW, NOW, NOW + 1000]


def test_watermarks_with_and_without_sync(folder: Path, clock: FakeClock) -> None:
    with ec.open_partition(folder, fsync="always", clock=clock) as p:
        p.append(b"a")
        assert (p.durable_offset, p.high_watermark, p.log_end_offset) == (1, 1, 1)
    with ec.open_partition(folder, fsync="never", clock=clock) as p:
        p.append(b"b")
        assert (p.durable_offset, p.high_watermark, p.log_end_offset) == (1, 2, 2)
        p.sync()
        assert p.durable_offset == 2


def test_interval_syncs_by_itself(folder: Path) -> None:
    import time

    with ec.open_partition(folder, fsync="interval", config={"flush.ms": 10}) as p:
        p.append(b"a")
        deadline = time.monotonic() + 120
        while p.durable_offset < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert p.durable_offset == 1


def test_a_closed_handle_says_so_and_what_was_read_stays(open_log: Open) -> None:
    p = open_log()
    p.extend([b"abc"] * 3)
    columns, data = p.columns(), p.fetch(0).data
    p.close()
    p.close()
    assert columns.value(2) == b"abc"
    assert len(data) > 61
    for call in (lambda: p.append(b"x"), lambda: p.sync(), lambda: p.roll(), lambda: p.truncate(0)):
        with pytest.raises(ec.ClosedError):
            call()


def test_a_reader_cannot_write(open_log: Open) -> None:
    open_log().append(b"x")
    r = open_log(mode="r")
    assert values(r) == [b"x"]
    for call in (lambda: r.append(b"x"), lambda: r.truncate(0), lambda: r.roll(), lambda: r.sync()):
        with pytest.raises(ec.ReadOnly):
            call()


def test_a_second_writer_is_refused_and_told_who_holds_it(open_log: Open, folder: Path) -> None:
    p = open_log()
    with pytest.raises(ec.LogLocked, match=f"process {os.getpid()}"):
        ec.open_partition(folder)
    p.append(b"x")
    assert values(p) == [b"x"]


def test_a_missing_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ec.NotALog, match="no such folder"):
        ec.open_partition(tmp_path / "nowhere", "r")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_bytes(b"")
    for mode in ("r", "rw"):
        with pytest.raises(ec.NotALog):
            ec.open_partition(tmp_path / "file", mode)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ec.NotALog, match="no segment"):
        ec.open_partition(tmp_path / "empty", "r")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"segment.byte": 1}, "segment.bytes"),
        ({"segment.bytes": 1}, "allowed is 4096"),
        ({"segment.bytes": "many"}, "must be a int"),
        ({"compression.type": "brotli"}, "'zstd'"),
        ({"max.message.bytes": True}, "must be a int"),
    ],
)
def test_bad_configuration_names_what_is_allowed(folder: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ec.InvalidConfig, match=says):
        ec.open_partition(folder, config=config)
    assert not folder.exists()


def test_a_forked_child_is_refused(open_log: Open) -> None:
    p = open_log()
    p.append(b"x")
    child = os.fork()
    if child == 0:
        try:
            p.append(b"child")
        except ec.ClosedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert p.append(b"y") == 1


def test_delete_records_moves_the_log_start(open_log: Open) -> None:
    p = open_log(segment_bytes=4096)
    p.extend([b"x" * 100] * 200)
    assert p.delete_records(150) == 150
    assert p.log_start_offset == 150
    assert p.segments.first.base_offset <= 150 < p.segments.next_base(p.segments.first)
    assert [r.offset for r in p] == list(range(150, 200))
    with pytest.raises(ec.OffsetOutOfRange):
        p.read(149)
    with pytest.raises(ec.OffsetOutOfRange):
        p.delete_records(201)
    p.close()
    p = open_log(segment_bytes=4096)
    assert p.log_start_offset == 150
    assert p.delete_records(-1) == 200
    assert len(p) == 0


def test_leader_epochs(open_log: Open) -> None:
    p = open_log()
    p.append(b"a")
    p.set_leader_epoch(3)
    p.extend([b"b", b"c"])
    assert p.leader_epoch == 3
    assert p.end_offset_for_epoch(0) == (0, 1)
    assert p.end_offset_for_epoch(2) == (0, 1)
    assert p.end_offset_for_epoch(3) == (3, 3)
    assert p.end_offset_for_epoch(4) == (-1, -1)
    with pytest.raises(ec.FencedLeaderEpoch):
        p.set_leader_epoch(2)
    p.close()
    assert open_log().leader_epoch == 3


@pytest.mark.sampled
def test_fetch_gives_whole_batches_in_place(open_log: Open, folder: Path) -> None:
    p = open_log()
    for i in range(5):
        p.extend([b"%d" % i] * 10)
    batch = p.fetch(0, max_bytes=1)
    size = len(batch.data)
    assert batch.next_offset == 10
    assert batch.high_watermark == 50
    two = p.fetch(15, max_bytes=2 * size)
    assert len(two.data) == 2 * size
    assert two.next_offset == 30
    (place,) = two.file_slices()
    assert place.path.read_bytes()[place.position : place.position + place.size] == bytes(two.data)
    assert len(p.fetch(50).data) == 0
    with pytest.raises(ec.OffsetOutOfRange):
        p.fetch(51)
    assert two.data.readonly


def test_a_name_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    folder.mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    (folder / "eventcore.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ec.StorageError):
        ec.open_partition(folder)
    assert (tmp_path / "victim").read_bytes() == b"precious"

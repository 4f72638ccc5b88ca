"""Compaction of one partition: what stays, what stays as it is, and what happens when something comes in between."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.errors import ClosedError, LogTruncated, UsageError
from eventcore.files import names
from eventcore.format import control
from eventcore.log import clean_offset, latest, quarantine
from eventcore.log.partition import Partition
from eventcore.types import Record
from tests.log.compaction_model import check
from tests.parity.test_offset_map import COLLIDING
from tests.scale import DEPTH, SEED

CONFIG = {"cleanup.policy": "compact", "segment.bytes": 1 << 16, "file.delete.delay.ms": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "table-0"


def opened(folder: Path, **config: Any) -> Partition:
    named = {name.replace("_", "."): value for name, value in config.items()}
    return ec.open_partition(folder, config={**CONFIG, **named}, fsync="never")


def table(partition: Partition) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in partition}


def filled(partition: Partition, rounds: int = 30, keys: int = 50) -> dict[bytes | None, bytes | None]:
    """So many values for each key, in several segments, the last one closed."""
    for number in range(rounds):
        partition.extend([(b"key-%d" % key, b"%d of %d" % (number, key)) for key in range(keys)])
        if number % 7 == 6:
            partition.roll()
    partition.roll()
    return table(partition)


def histories(first: int, count: int, place: Path) -> None:
    for seed in range(first, first + count):
        check(seed, place)


@pytest.mark.sampled
def test_random_histories(memory_path: Path) -> None:
    histories(0, 60, memory_path)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_many_random_histories(memory_path: Path) -> None:
    histories(1000 + SEED, 2000 * DEPTH, memory_path)


def test_one_record_a_key_stays(folder: Path) -> None:
    with opened(folder) as partition:
        wanted = filled(partition)
        end = partition.log_end_offset
        report = partition.compact()
        assert report is not None
        assert (report.passes, report.records_before, report.records_after) == (1, 1500, 50)
        assert report.saved_bytes > 0
        assert table(partition) == wanted
        assert [record.offset for record in partition] == list(range(1450, 1500))
        assert partition.log_end_offset == end
        assert partition.verify().ok
        assert partition.compact() is None, "there is nothing to clean"
        assert partition.append(b"new", b"key-0") == end
    with opened(folder) as partition:
        assert partition.recovery.clean
        assert table(partition) == {**wanted, b"key-0": b"new"}
        assert partition.cleanable().first_dirty == 1500
    assert not [name for name in folder.iterdir() if name.suffix in (names.DELETED, names.SWAP, names.CLEANED)]


def test_a_full_map_makes_several_passes(folder: Path) -> None:
    with opened(folder) as partition:
        partition.extend([(b"%d" % at, b"v") for at in range(10_000)])
        wanted = filled(partition, 4, 3000)
        report = partition.compact(map_bytes=1 << 16)
        assert report is not None
        assert report.passes > 1
        assert table(partition) == wanted
        assert len(list(partition)) == len(wanted)


def test_it_is_due_by_ratio_or_by_age(folder: Path) -> None:
    with opened(folder) as partition:
        assert not partition.cleanable().is_due(partition.config, 0)
        filled(partition)
        found = partition.cleanable()
        assert (found.dirty_ratio, found.first_dirty, found.end) == (1.0, 0, 1500)
        assert found.is_due(partition.config, 0)
        partition.compact()
        partition.append(b"v", b"k", timestamp=5)
        partition.roll()
        found = partition.cleanable()
        assert found.dirty_ratio < 0.5
        assert found.earliest_ms == 5
        config = partition.config.with_values({"max.compaction.lag.ms": 100})
        assert [found.is_due(config, now) for now in (105, 106)] == [False, True]


def test_young_records_are_left_alone(folder: Path) -> None:
    with opened(folder, min_compaction_lag_ms=1000) as partition:
        for at in range(4):
            partition.append(b"v%d" % at, b"k", timestamp=at * 1000)
            partition.roll()
        assert [partition.cleanable(now).end for now in (1000, 2000, 3000, 4001)] == [1, 2, 3, 4]
        partition.compact(now=3000)
        assert [record.offset for record in partition] == [2, 3]


def test_two_keys_of_one_hash_both_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest.os, "urandom", bytes)
    one, other = (struct.pack("<Q", number) for number in COLLIDING)
    assert kernels.offset_map.hash_key(one, bytes(16)) == kernels.offset_map.hash_key(other, bytes(16))
    for codec in ("uncompressed", "zstd"):
        with opened(folder / codec, compression_type=codec) as partition:
            for value in (b"1", b"2"):
                partition.extend([(one, value), (b"else", value), (other, value), (b"more", value)])
                partition.roll()
            report = partition.compact()
            assert report is not None
            assert (report.passes, report.records_after) == (1, 4)
            assert table(partition) == dict.fromkeys((one, b"else", other, b"more"), b"2")
            assert [record.offset for record in partition] == [4, 5, 6, 7]


def _flip(partition: Partition, offset: int) -> Path:
    segment = partition.segments.floor(offset)
    position = segment.find(offset) + 70
    with segment.log.path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    return segment.log.path


@pytest.mark.parametrize("offset", [0, 320, 1499])
def test_a_bad_batch_is_put_aside_and_the_rest_cleaned(folder: Path, offset: int) -> None:
    with opened(folder) as partition:
        wanted = filled(partition)
        bad = [record for record in partition if offset // 50 == record.offset // 50]
        _flip(partition, offset)
        report = partition.compact()
        assert report is not None
        assert [(loss.first_offset, loss.next_offset) for loss in report.losses] == [
            (bad[0].offset, bad[-1].offset + 1)
        ]
        aside = Path(report.losses[0].quarantined)
        assert aside.parent == folder / quarantine.NAME
        assert bad[-1].value is not None
        assert bad[-1].value in aside.read_bytes()
        left = dict.fromkeys(wanted, None)
        if offset == 1499:  # the latest of all keys cannot be read: the ones before are what there is
            assert table(partition) == {key: b"28 of %d" % at for at, key in enumerate(left)}
        else:
            assert table(partition) == wanted
        assert partition.verify().ok
        assert partition._log.losses == report.losses  # type: ignore[union-attr]


def test_a_record_that_is_malformed_under_a_good_crc_is_put_aside(folder: Path) -> None:
    with opened(folder) as partition:
        wanted = filled(partition, 8)
        segment = partition.segments.first
        path, header = segment.log.path, segment.header_at(0)
    data = bytearray(path.read_bytes())
    data[61] ^= 2  # the first record's length
    crc = kernels.crc32c.crc32c(memoryview(data)[21 : header.size])
    data[17:21] = crc.to_bytes(4, "big")
    path.write_bytes(data)
    path.with_suffix(".seal").unlink()
    with opened(folder) as partition:
        report = partition.compact()
        assert report is not None
        assert [loss[:2] for loss in report.losses] == [(0, 50)]
        assert table(partition) == wanted


def test_what_ends_it_half_way_leaves_nothing(folder: Path) -> None:
    class Enough(Exception):
        pass

    for allowed in range(6):
        calls = []

        def throttle(count: int, calls: list[int] = calls, allowed: int = allowed) -> None:
            calls.append(count)
            if len(calls) > allowed:
                raise Enough

        with opened(folder / str(allowed)) as partition:
            wanted = filled(partition)
            with pytest.raises(Enough):
                partition.compact(throttle=throttle)
            assert table(partition) == wanted
            assert not [path for path in partition.path.iterdir() if path.suffix in (names.CLEANED, names.SWAP)]
            assert partition.compact() is not None
            assert table(partition) == wanted


def _during(partition: Partition, act: Callable[[], object]) -> Callable[[int], None]:
    done: list[int] = []

    def throttle(count: int) -> None:
        if not done:
            done.append(count)
            act()

    return throttle


def test_a_truncation_meanwhile_makes_it_void(folder: Path) -> None:
    with opened(folder) as partition:
        filled(partition)
        before = [record for record in partition if record.offset < 700]
        with pytest.raises(LogTruncated):
            partition.compact(throttle=_during(partition, lambda: partition.truncate(700)))
        assert list(partition) == before
        partition.roll()
        assert partition.compact() is not None
        assert len(list(partition)) == 50


def test_appends_rolls_and_deletions_meanwhile(folder: Path) -> None:
    with opened(folder) as partition:
        wanted = filled(partition)

        def act() -> None:
            partition.append(b"new", b"key-1")
            partition.roll()
            partition.append(b"newer", b"key-2")

        assert partition.compact(throttle=_during(partition, act)) is not None
        wanted |= {b"key-1": b"new", b"key-2": b"newer"}
        assert table(partition) == wanted
        filled(partition)
        with pytest.raises(LogTruncated):
            partition.compact(throttle=_during(partition, lambda: partition.delete_records(2000)))
        assert partition.log_start_offset == 2000
        assert partition.verify().ok


def test_what_is_appended_to_an_empty_active_segment_meanwhile_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends where the closed ones do when compaction begins, and is none of them when it is read."""
    map_segments = latest.Latest.map_segments
    with opened(folder) as partition:
        partition.extend([(b"key", b"%d" % number) for number in range(20)])
        partition.roll()

        def appending(self: latest.Latest, *arguments: Any) -> None:
            partition.extend([(b"key", b"meanwhile"), (b"other", b"meanwhile")])
            map_segments(self, *arguments)

        monkeypatch.setattr(latest.Latest, "map_segments", appending)
        partition.compact()
        active = partition.segments.active
        assert active.active
        assert active.base_offset == 20
        partition.append(b"later", key=b"key")
        partition.roll()
        found = [(record.offset, record.value) for record in partition]
        assert found == [(19, b"19"), (20, b"meanwhile"), (21, b"meanwhile"), (22, b"later")]


def test_a_close_meanwhile_ends_it(folder: Path) -> None:
    partition = opened(folder)
    wanted = filled(partition)
    with pytest.raises(ClosedError):
        partition.compact(throttle=_during(partition, partition.close))
    with opened(folder) as partition:
        assert partition.recovery.clean
        assert table(partition) == wanted


def test_a_truncation_lowers_what_is_clean(folder: Path) -> None:
    with opened(folder) as partition:
        filled(partition)
        partition.compact()
        assert clean_offset.read(partition._log.disk, folder) == 1500
        partition.truncate(1480)
        assert clean_offset.read(partition._log.disk, folder) == 0, "the only batch is cut, from 0 on"


def test_of_two_offsets_the_lower_one_counts(folder: Path) -> None:
    with opened(folder) as partition:
        filled(partition)
        partition.compact()
        (folder.parent / clean_offset.NAME).write_text("0\n1\ntable 0 77\n")
        assert partition.cleanable().first_dirty == 1500, "what this handle has cleaned itself it knows better"
    with opened(folder) as partition:
        assert partition.cleanable().first_dirty == 77


def test_a_segment_that_would_be_too_large_becomes_two(folder: Path) -> None:
    with opened(folder) as partition:
        partition._log.largest_segment = 1000  # type: ignore[union-attr]
        for at in range(40):
            partition.append(b"v" * 30, b"%d" % at)
        partition.roll()
        wanted = list(partition)
        report = partition.compact()
        assert report is not None
        assert (report.segments_before, report.segments_after) == (1, 4)
        assert list(partition) == wanted
        assert partition.verify().ok
    with opened(folder) as partition:
        assert list(partition) == wanted


def _leader_batch(partition: Partition, records: list[Record], attributes: int, producer: int, sequence: int) -> bytes:
    buf = bytearray(4096)
    end, _, _ = kernels.encode.encode(
        buf, 0, len(buf), records, 0, partition.log_end_offset, 0, attributes, 5, producer, 0, sequence
    )
    return bytes(buf[:end])


def _transact(partition: Partition, producer: int, sequence: int, keys: list[bytes], kind: int) -> None:
    records = [Record(-1, 5, key, b"of %d" % producer) for key in keys]
    partition.append_batches(_leader_batch(partition, records, 0x10, producer, sequence), "replica")
    marker = Record(-1, 5, *control.marker_record(kind, 0))
    partition.append_batches(_leader_batch(partition, [marker], 0x30, producer, -1), "replica")


def test_transactions(folder: Path) -> None:
    """Aborted records go at once, markers with the horizon after their records; committed ones are as others."""
    with opened(folder, delete_retention_ms=100) as partition:
        _transact(partition, 7, 0, [b"a", b"b"], control.COMMIT)
        _transact(partition, 8, 0, [b"a", b"c"], control.ABORT)
        _transact(partition, 9, 0, [b"a"], control.COMMIT)
        _transact(partition, 8, 2, [b"z"], control.COMMIT)  # else its last batch would stay, empty, and the marker
        partition.append(b"x", b"d")
        partition.roll()
        old = partition.segments
        wanted = list(partition.read(0, isolation="read_committed"))
        partition.compact(now=1000)
        assert list(partition.read(0, isolation="read_committed")) == [r for r in wanted if r.offset in (1, 6, 8, 10)]
        assert [r.offset for r in partition] == [1, 6, 8, 10], "nothing is left of what was aborted"
        assert len(old.first.txn_index.entries()) == 1
        assert [entry.producer_id for entry in partition.segments.first.txn_index.entries()] == [8]
        assert partition.verify().ok
        for now, markers in ((1050, [2, 5, 7, 9]), (1149, [2, 5, 7, 9]), (1150, [2, 7, 9])):
            partition.append(b"y", b"e")
            partition.roll()
            partition.compact(now=now)
            segments = partition.segments
            found = [
                header.base_offset
                for segment in segments
                for position, header in _headers(segment)
                if header.control and header.record_count
            ]
            assert found == markers, now
        assert partition.verify().ok


def _headers(segment: Any) -> Any:
    position = 0
    while position < segment.log.size:
        header = segment.header_at(position)
        yield position, header
        position += header.size


def test_arguments(folder: Path) -> None:
    with opened(folder) as partition:
        filled(partition)
        with pytest.raises(UsageError, match="offset map"):
            partition.compact(map_bytes=1000)
        partition.extend([Record(-1, 5, b"k" * (1 << 15), b"v")])
    with ec.open_partition(folder, mode="r") as reader, pytest.raises(ec.ReadOnly):
        reader.compact()


READER = """
import os, sys
import eventcore as ec
with ec.open_partition(sys.argv[1], mode="r") as partition:
    print("ready", flush=True)
    rounds = 0
    while not rounds or not os.path.exists(sys.argv[2]):
        found, last = {}, -1
        for record in partition.read(partition.log_start_offset):
            assert record.offset > last, (record.offset, last)
            number, key = record.value.split(b" of ")
            assert record.key == b"key-" + key
            found[record.key], last = int(number), record.offset
        assert len(found) == 50, sorted(found)
        assert partition.high_watermark >= last
        rounds += 1
    print(rounds, flush=True)
"""


COMPACTIONS = 40


@pytest.mark.sampled
def test_readers_in_other_processes_meanwhile(folder: Path, tmp_path: Path) -> None:
    """What they see is whole at all times: every key, in order, whichever files they have open."""
    stop = tmp_path / "stop"
    with opened(folder) as partition:
        filled(partition)
        command = [sys.executable, "-c", READER, str(folder), str(stop)]
        readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        try:
            assert all(reader.stdout and reader.stdout.readline() == b"ready\n" for reader in readers)
            for _ in range(COMPACTIONS):
                filled(partition, 8)
                partition.compact()
            stop.touch()
            results = [reader.communicate(timeout=120) for reader in readers]
        finally:
            for reader in readers:
                reader.kill()
        assert [reader.returncode for reader in readers] == [0] * 4, results
        assert all(int(out) > 0 for out, _ in results)

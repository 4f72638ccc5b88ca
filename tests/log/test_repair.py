"""`repair`: bad bytes are put aside, everything else stays readable at its offset, and Kafka's rules hold again."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

CONFIG = {"segment.bytes": 4096, "segment.index.bytes": 1024}
RECORDS = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Several sealed segments of batches of three."""
    folder = tmp_path / "events-0"
    with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
        for first in range(0, RECORDS, 3):
            p.extend([b"value %d" % n * 5 for n in range(first, first + 3)])
    return folder


def readable(folder: Path) -> dict[int, bytes | None]:
    with ec.open_partition(folder, mode="r", config=CONFIG) as p:
        assert p.verify().ok, p.verify().problems
        return {record.offset: record.value for record in p}


def test_a_whole_log_needs_no_repair(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = ec.repair_partition(folder, CONFIG)
    assert report.losses == []
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"eventcore.recovery", "eventcore.state"}


@pytest.mark.parametrize("slot", [0, 1, -1])
@pytest.mark.parametrize("position", [25, 120, 900])
def test_bad_bytes_are_put_aside_and_the_rest_stays(folder: Path, slot: int, position: int) -> None:
    log = sorted(folder.glob("*.log"))[slot]
    data = bytearray(log.read_bytes())
    data[position] ^= 0xFF
    log.write_bytes(data)
    dry = ec.repair_partition(folder, CONFIG, dry_run=True)
    report = ec.repair_partition(folder, CONFIG)
    (loss,) = report.losses
    assert [loss.damage for loss in dry.losses] == [loss.damage]
    kept = Path(loss.quarantined).read_bytes()
    assert kept == bytes(data[loss.damage.position : loss.damage.end_position])
    lost = range(loss.damage.first_offset, loss.damage.next_offset)
    assert report.lost_offsets == len(lost) == 3
    expected = {n: b"value %d" % n * 5 for n in range(RECORDS) if n not in lost}
    assert readable(folder) == expected
    assert ec.repair_partition(folder, CONFIG).losses == []
    with ec.open_partition(folder, config=CONFIG) as p:
        assert p.recovery.damage == []
        assert p.append(b"goes on") == RECORDS


def test_a_changed_base_offset_is_found_by_the_seal(folder: Path) -> None:
    log = sorted(folder.glob("*.log"))[1]
    data = bytearray(log.read_bytes())
    data[6] ^= 1  # in the first batch's base offset, which no CRC covers
    log.write_bytes(data)
    with ec.open_partition(folder, mode="r", config=CONFIG) as p, pytest.raises(ec.CorruptRecord, match="damaged"):
        list(p)
    report = ec.repair_partition(folder, CONFIG)
    assert len(report.losses) == 1
    lost = range(report.losses[0].damage.first_offset, report.losses[0].damage.next_offset)
    assert readable(folder) == {n: b"value %d" % n * 5 for n in range(RECORDS) if n not in lost}


def test_a_missing_segment_is_reported_and_then_taken_as_it_is(folder: Path) -> None:
    gone = sorted(folder.glob("*.log"))[1]
    first = int(gone.stem)
    gone.unlink()
    with ec.open_partition(folder, mode="r", config=CONFIG) as p, pytest.raises(ec.CorruptRecord, match="damaged"):
        list(p)
    report = ec.repair_partition(folder, CONFIG)
    assert report.losses[0].damage.first_offset == first
    assert min(offset for offset in readable(folder) if offset >= first) == report.losses[0].damage.next_offset


def test_a_segment_without_a_good_batch_is_left_empty(folder: Path) -> None:
    log = sorted(folder.glob("*.log"))[1]
    log.write_bytes(b"\xff" * log.stat().st_size)
    report = ec.repair_partition(folder, CONFIG)
    assert report.losses
    assert int(log.stem) not in readable(folder)
    assert ec.repair_partition(folder, CONFIG).losses == []


def test_a_repair_that_is_cut_short_can_be_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = sorted(folder.glob("*.log"))[0]
    data = bytearray(log.read_bytes())
    data[100] ^= 0xFF
    log.write_bytes(data)
    monkeypatch.setattr("eventcore.disk.Disk.rename", lambda *_: (_ for _ in ()).throw(ec.StorageError("power")))
    with pytest.raises(ec.EventCoreError):
        ec.repair_partition(folder, CONFIG)
    monkeypatch.undo()
    assert len(ec.repair_partition(folder, CONFIG).losses) == 1
    assert len(readable(folder)) == RECORDS - 3


def test_only_one_writes(folder: Path) -> None:
    with ec.open_partition(folder, config=CONFIG), pytest.raises(ec.LogLocked):
        ec.repair_partition(folder, CONFIG)

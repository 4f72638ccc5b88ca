"""A value may be an encoded batch, of this very log and with offsets that continue it: bytes never become records.

Only what was appended is a record, whatever a kill, a refused append, a damaged batch or a power cut leaves behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.format.batch import HEADER_SIZE, BatchHeader
from eventcore.types import Record

CONFIG = {"segment.bytes": 1 << 20, "max.message.bytes": 1 << 16, "index.interval.bytes": 1000}
RECORDS = 10
EMBEDDED = b"I was never appended"
LOG = f"{0:020d}.log"


def encoded(offset: int, values: list[Any], size: int = 1 << 16, epoch: int = 0) -> bytes:
    """A batch as the log would hold it at `offset`."""
    buf = bytearray(size)
    end, *_ = kernels.encode.encode(buf, 0, len(buf), values, 0, offset, epoch, 0, 1_700_000_000_000)
    return bytes(buf[:end])


def embedded(offset: int) -> bytes:
    return encoded(offset, [EMBEDDED])


def opened(folder: Path, mode: str = "rw", fsync: str = "never") -> ec.Partition:
    return ec.open_partition(folder, mode, fsync, CONFIG)  # type: ignore[arg-type]


def filled(folder: Path) -> ec.Partition:
    partition = opened(folder)
    for number in range(RECORDS):
        partition.append(b"value %d" % number)
    return partition


def killed(partition: ec.Partition, folder: Path, store: bytes = b"") -> Path:
    """What the folder is after a kill, with bytes of a torn append behind its end."""
    copy = folder.with_name("killed-0")
    shutil.copytree(partition.path, copy)
    if store:
        with (copy / LOG).open("r+b") as log:
            log.seek(partition.segments.active.log.size)
            log.write(store)
    return copy


def values(partition: ec.Partition) -> list[bytes | None]:
    return [record.value for record in partition]


EXPECTED = [b"value %d" % number for number in range(RECORDS)]
TORN = bytes(HEADER_SIZE) + encoded(RECORDS, [embedded(40), embedded(50)])[HEADER_SIZE:]
"""An append that was cut short: the header comes last."""


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("behind", [b"", b"\xff" * 40], ids=["whole", "more behind"])
def test_a_torn_append_of_batches_is_no_records(tmp_path: Path, mode: str, behind: bytes) -> None:
    with filled(tmp_path / "events-0") as partition:
        folder = killed(partition, tmp_path / "events-0", TORN + behind)
    with opened(folder, mode) as partition:
        assert (partition.log_end_offset, values(partition)) == (RECORDS, EXPECTED)
        assert partition.recovery.damage == []
    with opened(folder) as partition:
        assert partition.append(b"next") == RECORDS
        assert partition.verify().ok


def test_nor_is_one_whose_pages_came_late(tmp_path: Path) -> None:
    """Of a kill with no loss of power nothing comes late: but a value may look like a batch anywhere."""
    with filled(tmp_path / "events-0") as partition:
        store = b"\x01" * 5000 + embedded(RECORDS) + embedded(RECORDS + 1)
        folder = killed(partition, tmp_path / "events-0", store)
    with opened(folder) as partition:
        assert values(partition) == EXPECTED
        (kept,) = partition.recovery.quarantined  # whole batches are not thrown away, whoever wrote them
        assert Path(kept).read_bytes()[: len(store)] == store


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_whole_batches_that_were_not_yet_published_are_kept(tmp_path: Path, mode: str) -> None:
    with filled(tmp_path / "events-0") as partition:
        whole = encoded(RECORDS, [b"whole"]) + encoded(RECORDS + 1, [b"too"])
        folder = killed(partition, tmp_path / "events-0", whole + TORN)
    with opened(folder, mode) as partition:
        assert values(partition) == [*EXPECTED, b"whole", b"too"]


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_after_a_restart_nothing_behind_the_torn_batch_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    with filled(tmp_path / "events-0") as partition:
        folder = killed(partition, tmp_path / "events-0", TORN)
    monkeypatch.setattr(Disk, "boot_id", lambda disk: b"another boot, 16")
    with opened(folder, mode) as partition:
        assert values(partition) == EXPECTED


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_of_a_folder_nobody_vouches_for_a_find_must_lead_to_the_end(tmp_path: Path, mode: str) -> None:
    """The record behind the embedded batch is none, so the log does not go on there."""
    with filled(tmp_path / "events-0") as partition:
        torn = bytes(HEADER_SIZE) + encoded(RECORDS, [embedded(50), b"plain"])[HEADER_SIZE:]
        folder = killed(partition, tmp_path / "events-0", torn)
    for name in (STATE_NAME, "eventcore.recovery"):
        (folder / name).unlink()
    with opened(folder, mode) as partition:
        assert (partition.log_end_offset, values(partition)) == (RECORDS, EXPECTED)


# -- damage in the middle --------------------------------------------------------------------------------------

CARRIER, BEHIND = 3, 8
"""The batch whose value holds others; and how many batches stand behind it."""


def carrying(folder: Path, inner: list[Any], copy: Path | None = None) -> list[tuple[int, int]]:
    """A log one of whose batches has batches in its values; returns where its batches are. A `copy` is as of a kill."""
    with opened(folder) as partition:
        for number in range(CARRIER):
            partition.append(b"before %d" % number)
        partition.extend(inner, atomic=True)
        for number in range(BEHIND):
            partition.append(b"behind %d" % number)
        if copy is not None:
            shutil.copytree(folder, copy)
        return [(entry.position, entry.size) for entry in partition.batches()]


DAMAGE: dict[str, int] = {"records": -2, "crc": 18, "offset": 6, "length": 10, "magic": 16, "last offset": 25}


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("kind", list(DAMAGE))
@pytest.mark.parametrize("state", ["killed", "strange", "closed"])
def test_what_a_damaged_batch_carries_is_no_records(tmp_path: Path, state: str, kind: str, mode: str) -> None:
    folder = tmp_path / "events-0"
    inner = [embedded(CARRIER + 1), embedded(CARRIER + 2) + embedded(CARRIER + 3), b"plain"]
    batches = carrying(folder, inner, tmp_path / "killed-0")
    if state == "killed":
        folder = tmp_path / "killed-0"
    elif state == "strange":
        (folder / "eventcore.recovery").unlink()
        for path in folder.glob("*.seal"):
            path.unlink()
    position, size = batches[CARRIER]
    at = position + (DAMAGE[kind] if DAMAGE[kind] > 0 else size + DAMAGE[kind])
    with (folder / LOG).open("r+b") as log:
        log.seek(at)
        byte = log.read(1)[0]
        log.seek(at)
        log.write(bytes([byte ^ 0x15]))
    with opened(folder, mode) as partition:
        behind = [record.value for record in partition.read(CARRIER + len(inner))]
        assert behind == [b"behind %d" % number for number in range(BEHIND)]
        for offset in range(CARRIER, CARRIER + len(inner)):
            with pytest.raises(ec.CorruptRecord):
                partition[offset]


@pytest.mark.parametrize("kinds", [("length", "length"), ("zeros", "zeros"), ("length", "zeros"), ("zeros", "records")])
def test_two_bad_batches_lose_no_other(tmp_path: Path, kinds: tuple[str, str]) -> None:
    folder = tmp_path / "events-0"
    batches = carrying(folder, [b"plain"])
    (folder / "eventcore.recovery").unlink()
    for path in folder.glob("*.seal"):
        path.unlink()
    bad = (2, 7)
    data = bytearray((folder / LOG).read_bytes())
    for number, kind in zip(bad, kinds, strict=True):
        position, size = batches[number]
        if kind == "zeros":
            data[position : position + size] = bytes(size)
        else:
            data[position + (DAMAGE[kind] if DAMAGE[kind] > 0 else size + DAMAGE[kind])] ^= 0x15
    (folder / LOG).write_bytes(data)
    with opened(folder) as partition:
        end = CARRIER + 1 + BEHIND
        for offset in range(end):
            if offset in bad:
                with pytest.raises(ec.CorruptRecord):
                    partition[offset]
            else:
                assert partition[offset].offset == offset


def test_a_cleaner_copies_nothing_out_of_a_damaged_batch(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    config = {**CONFIG, "cleanup.policy": "compact"}
    with ec.open_partition(folder, fsync="never", config=config) as partition:
        partition.append(b"first", b"a")
        inner = encoded(2, [Record(value=EMBEDDED, key=b"x")])
        partition.extend([(b"b", inner), (b"c", b"plain"), (b"d", b"plain")], atomic=True)
        partition.append(b"last", b"e")
        position, size = next((e.position, e.size) for e in partition.batches() if e.base_offset == 1)
        partition.roll()
        partition.append(b"active", b"f")
    for path in folder.glob("*.seal"):
        path.unlink()
    with (folder / LOG).open("r+b") as log:
        log.seek(position + size - 2)
        log.write(b"\xfe")
    with ec.open_partition(folder, fsync="never", config=config) as partition:
        partition.compact()
        readable = {}
        for offset in (0, 4, 5):
            readable[offset] = partition[offset].value
        assert readable == {0: b"first", 4: b"last", 5: b"active"}
        for offset in (1, 2, 3):
            with pytest.raises((ec.CorruptRecord, ec.OffsetOutOfRange, IndexError)):
                assert partition[offset].value == b"", "there is a record"


# -- a refused append leaves nothing ---------------------------------------------------------------------------


class Refuses:
    """An item that is none."""


def columns_with_a_bad_row() -> tuple[Any, Any]:
    return [b"good"] * 5, np.array([1_700_000_000_000] * 4 + [-5], dtype=np.int64)


def bad_replica(partition: ec.Partition) -> None:
    end = partition.log_end_offset
    first, second = encoded(end, [embedded(40)]), bytearray(encoded(end + 1, [embedded(41)]))
    second[-1] ^= 1
    partition.append_batches(first + bytes(second), "replica")


REFUSED: dict[str, Callable[[ec.Partition], object]] = {
    "too large, atomic": lambda p: p.extend([embedded(50)] * 2000, atomic=True),
    "too large": lambda p: p.append(b"x" * (1 << 16)),
    "too large, behind others": lambda p: p.extend([embedded(50)] * 5 + [b"x" * (1 << 16)], atomic=True),
    "a bad item behind good ones": lambda p: p.extend([embedded(50), bytearray(embedded(51)), Refuses()]),
    "a bad item behind plain ones": lambda p: p.extend([embedded(50), embedded(51), "text"]),
    "a bad row": lambda p: p.extend_columns(*columns_with_a_bad_row()[:1], timestamps=columns_with_a_bad_row()[1]),
    "a bad CRC": bad_replica,
}


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("fsync", ["never", "always"])
def test_a_refused_append_leaves_nothing_behind_it(tmp_path: Path, what: str, fsync: str) -> None:
    with opened(tmp_path / "events-0", fsync=fsync) as partition:
        for number in range(RECORDS):
            partition.append(b"value %d" % number)
        with pytest.raises((ec.EventCoreError, TypeError, ValueError)):
            REFUSED[what](partition)
        log = partition.segments.active.log
        assert partition.log_end_offset == RECORDS
        assert not any(bytes(log.view[log.size :]))
        folder = killed(partition, tmp_path / "events-0")
    with opened(folder) as again:
        assert values(again) == EXPECTED
        assert again.recovery.cut_bytes == 0


def test_a_refused_extend_of_batches_is_not_there_after_a_kill(tmp_path: Path) -> None:
    with filled(tmp_path / "events-0") as partition:
        with pytest.raises(ec.RecordTooLarge):
            partition.extend([embedded(50)] * 2000, atomic=True)
        folder = killed(partition, tmp_path / "events-0")
    with opened(folder) as again:
        assert (again.log_end_offset, again.recovery.damage) == (RECORDS, [])
        assert values(again) == EXPECTED


def test_what_the_appender_declines_it_takes_back(tmp_path: Path) -> None:
    with filled(tmp_path / "events-0") as partition:
        appender = partition._log.appender  # type: ignore[union-attr]
        assert appender.append_all([embedded(50), embedded(51), 5]) == -1
        assert appender.append_all([embedded(50)] * 2000) == -1
        log = partition.segments.active.log
        assert not any(bytes(log.view[log.size :]))
        assert BatchHeader.read(log.view, 0, log.size).base_offset == 0

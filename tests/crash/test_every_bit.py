"""Every single-bit flip and every truncation of a 64 KiB segment: detected, or provably harmless.

A batch's CRC covers it from byte 21 on. Of the first 21 bytes, a wrong length, magic or CRC field is detected; a wrong
base offset or leader epoch may not be, as long as the segment grows. Once it is sealed, its `.seal` covers them. The
test counts both classes exactly, so that a change of either is noticed.

`EVENTCORE_DEPTH=10 python -m pytest -m nightly tests/crash/test_every_bit.py` flips every header bit of every batch
through the public API, too; without it that is done for some batches only.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files import seal
from eventcore.format.layout import BATCH_HEADER
from tests.scale import DEPTH

SIZE = 1 << 16
_ROW = kernels.batch.ROW_SIZE
_CRC_START = BATCH_HEADER.offsets["attributes"]


DEEP = DEPTH >= 10
LOG = f"{0:020d}.log"
SEAL = f"{0:020d}.seal"


@pytest.fixture(scope="module")
def sealed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segment of exactly 64 KiB: batches of several sizes, keys, headers, values of all lengths; one more behind it.

    It is closed, and nobody writes to it.
    """
    folder = tmp_path_factory.mktemp("bits") / "events-0"
    with ec.open_partition(folder, fsync="never") as p:
        p.set_leader_epoch(3)
        size = 0
        for count in [1, 2, 5, 10, 20] * 100:
            items = [ec.Record(value=b"v%d" % i * 20, key=b"k%d" % i, headers=(("h", b"x"),)) for i in range(count)]
            if size > SIZE - 4000:
                break
            p.extend(items)
            size = p.segments.active.log.size
        p.append(b"x" * (SIZE - size - 61 - 9))
        p.roll()
        p.extend([b"behind"] * 3)
    assert (folder / LOG).stat().st_size == SIZE
    return folder


@pytest.fixture(scope="module")
def image(sealed_folder: Path) -> bytearray:
    """The bytes of the 64 KiB segment."""
    return bytearray((sealed_folder / LOG).read_bytes())


def rows_of(data: bytearray, end: int) -> tuple[int, int, int, np.ndarray]:
    table = np.zeros((512, _ROW), dtype=np.int64)
    count, position, status = kernels.batch.scan(data, 0, end, table.data.cast("B"), True)
    return count, position, status, table[:count]


def fields_at(image: bytearray) -> list[str]:
    """For each byte of the image the name of its header field, "covered" of a header's others, "records" behind."""
    names = [""] * len(image)
    starts = BATCH_HEADER.offsets
    _, _, _, rows = rows_of(image, SIZE)
    for position, size, *_ in rows.tolist():
        names[position : position + size] = ["covered"] * BATCH_HEADER.size + ["records"] * (size - BATCH_HEADER.size)
        for name in ("base_offset", "length", "leader_epoch", "magic", "crc"):
            following = min(start for start in starts.values() if start > starts[name])
            names[position + starts[name] : position + following] = [name] * (following - starts[name])
    return names


@pytest.mark.nightly
@pytest.mark.skipif(kernels.KERNELS == "pure", reason="524,288 scans of 64 KiB take hours in plain Python")
def test_every_bit_flip_is_detected_by_the_crc_or_the_seal(image: bytearray, sealed_folder: Path) -> None:
    count, _, status, good = rows_of(image, SIZE)
    assert status == kernels.batch.OK
    sealed = seal.read(Disk(), sealed_folder / SEAL)
    assert sealed is not None
    assert seal.check_blocks(sealed, image) == []
    names, undetected, flips, unsealed = fields_at(image), Counter[str](), 0, 0
    for byte in range(SIZE):
        for bit in range(8):
            image[byte] ^= 1 << bit
            found, position, status, rows = rows_of(image, SIZE)
            bad = seal.check_blocks(sealed, image)
            belongs = seal.belongs(sealed, SIZE, image)
            image[byte] ^= 1 << bit
            flips += 1
            assert belongs
            assert bool(bad) == (names[byte] != "records")
            if status == kernels.batch.OK and found == count:
                undetected[names[byte]] += 1
                unsealed += not any(damage.position <= byte < damage.end_position for damage in bad)
                changed = (rows != good).any(axis=1)
                assert changed.sum() == 1, (byte, bit)
            else:
                assert position <= byte, (byte, bit)
                assert (rows == good[:found]).all(), (byte, bit)
    batches = count
    assert flips == 524_288
    assert unsealed == 0
    assert (
        undetected["records"]
        == undetected["covered"]
        == undetected["length"]
        == undetected["magic"]
        == undetected["crc"]
        == 0
    )
    # All 32 bits of the leader epoch and 63 of the base offset (its sign is detected) lie outside the CRC.
    assert undetected == {"leader_epoch": 32 * batches, "base_offset": 63 * batches}


@pytest.mark.nightly
@pytest.mark.skipif(kernels.KERNELS == "pure", reason="65,537 scans of up to 64 KiB take hours in plain Python")
def test_every_truncation_keeps_the_longest_prefix(image: bytearray) -> None:
    _, _, _, good = rows_of(image, SIZE)
    ends = [0, *(good[:, 0] + good[:, 1]).tolist()]
    batch = 0
    for length in range(SIZE + 1):
        while batch + 1 < len(ends) and ends[batch + 1] <= length:
            batch += 1
        found, position, status, rows = rows_of(image, length)
        assert (found, position) == (batch, ends[batch])
        assert (rows == good[:found]).all()
        assert (status == kernels.batch.OK) == (length == ends[batch])
    assert length == 65_536


def test_sampled_flips_through_the_public_api(image: bytearray, tmp_path: Path) -> None:
    """Without a seal, in a partition opened for reading: right records, or a typed error that says where."""
    folder = tmp_path / "events-0"
    folder.mkdir()
    log = folder / LOG
    log.write_bytes(image)
    with ec.open_partition(folder, "r") as p:
        good = list(p)
    names = fields_at(image)
    for byte in range(0, SIZE, 509):
        image[byte] ^= 1 << byte % 8
        log.write_bytes(image)
        image[byte] ^= 1 << byte % 8
        with ec.open_partition(folder, "r") as p:
            seen, error = read_until_damage(p)
            if names[byte] in ("records", "covered", "crc", "length", "magic"):
                assert seen == good[: len(seen)]
                assert len(seen) < len(good)
                if error is not None:
                    assert (error.path, error.position) == (str(log), byte_of_batch(image, byte))
                for damage in p.segments.active.damage:
                    assert list(p.read(damage.next_offset)) == good[damage.next_offset :]


def flips_of_sealed(image: bytearray, every: int) -> Iterator[tuple[int, int]]:
    """(byte, bit): the 21 uncovered bytes of each `every`th batch bit by bit, a bit of them in others, a few more."""
    starts = rows_of(image, SIZE)[3][:, 0].tolist()
    for number, start in list(enumerate(starts))[:: max(1, every // 8)]:
        for at in range(_CRC_START):
            yield from ((start + at, bit) for bit in (range(8) if number % every == 0 else [(number + at) % 8]))
    yield from ((byte, byte % 8) for byte in range(0, SIZE, 23 * every))


def check_sealed(folder: Path, byte: int, batch: list[int], good: list[ec.Record]) -> None:
    """The whole log, with one bit of its first, sealed segment changed: an error names its batch, the rest is read."""
    position, _, base_offset, last_offset, *_ = batch
    with ec.open_partition(folder, "r") as p:
        seen, error = read_until_damage(p)
        assert isinstance(error, ec.CorruptRecord), byte
        assert (error.path, error.position, error.offset) == (str(folder / LOG), position, base_offset), byte
        assert seen == good[:base_offset], byte
        with pytest.raises(ec.CorruptRecord):
            p[last_offset]
        assert list(p.read(last_offset + 1)) == good[last_offset + 1 :]


def flip_all(folder: Path, image: bytearray, every: int, good: list[ec.Record]) -> int:
    count = 0
    rows = rows_of(image, SIZE)[3]
    for byte, bit in flips_of_sealed(image, every):
        batch = rows[np.searchsorted(rows[:, 0], byte, side="right") - 1].tolist()
        with (folder / LOG).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([image[byte] ^ 1 << bit]), byte)
            check_sealed(folder, byte, batch, good)
            os.pwrite(file.fileno(), image[byte : byte + 1], byte)
        count += 1
    return count


@pytest.mark.sampled
@pytest.mark.parametrize("every", [64, pytest.param(1 if DEEP else 16, marks=pytest.mark.nightly)])
def test_flips_of_a_sealed_segment_through_the_public_api(
    image: bytearray, sealed_folder: Path, tmp_path: Path, every: int
) -> None:
    folder = tmp_path / "events-0"
    shutil.copytree(sealed_folder, folder)
    with ec.open_partition(folder, "r") as p:
        good = list(p)
    assert flip_all(folder, image, every, good) > 300
    with ec.open_partition(folder, "r") as p:
        assert list(p) == good


def read_until_damage(p: ec.Partition) -> tuple[list[ec.Record], ec.StorageError | None]:
    seen: list[ec.Record] = []
    try:
        for record in p:
            seen.append(record)  # what came before the error counts
    except ec.StorageError as error:
        return seen, error
    return seen, None


def byte_of_batch(image: bytearray, byte: int) -> int:
    """Where the batch that holds `byte` begins."""
    _, _, _, rows = rows_of(image, SIZE)
    return max(position for position in rows[:, 0].tolist() if position <= byte)

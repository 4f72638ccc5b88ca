"""Every single-bit flip and every truncation of a 64 KiB segment: detected, or provably harmless.

A batch's CRC covers it from byte 21 on. Of the first 21 bytes, a wrong length, magic or CRC field is detected; a wrong
base offset or leader epoch may not be, and is what `<base>.seal` digests of sealed segments will be for. The test
counts both classes exactly, so that a change of either is noticed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.format.layout import BATCH_HEADER

SIZE = 1 << 16
_ROW = kernels.batch.ROW_SIZE
_CRC_START = BATCH_HEADER.offsets["attributes"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    """A segment of exactly 64 KiB: batches of several sizes, keys, headers, values of all lengths."""
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
        assert p.segments.active.log.size == SIZE
        return bytearray(p.segments.active.log.view[:SIZE])


def rows_of(data: bytearray, end: int) -> tuple[int, int, int, np.ndarray]:
    table = np.zeros((512, _ROW), dtype=np.int64)
    count, position, status = kernels.batch.scan(data, 0, end, table.data.cast("B"), True)
    return count, position, status, table[:count]


def fields_at(image: bytearray) -> list[str]:
    """For each byte of the image the name of its header field, or "covered"."""
    names = [""] * len(image)
    starts = BATCH_HEADER.offsets
    _, _, _, rows = rows_of(image, SIZE)
    for position, size, *_ in rows.tolist():
        names[position : position + size] = ["covered"] * size
        for name in ("base_offset", "length", "leader_epoch", "magic", "crc"):
            following = min(start for start in starts.values() if start > starts[name])
            names[position + starts[name] : position + following] = [name] * (following - starts[name])
    return names


@pytest.mark.slow
@pytest.mark.skipif(kernels.KERNELS == "pure", reason="524,288 scans of 64 KiB take hours in plain Python")
def test_every_bit_flip_is_detected_where_the_crc_covers(image: bytearray) -> None:
    count, _, status, good = rows_of(image, SIZE)
    assert status == kernels.batch.OK
    names, undetected, flips = fields_at(image), Counter[str](), 0
    for byte in range(SIZE):
        for bit in range(8):
            image[byte] ^= 1 << bit
            found, position, status, rows = rows_of(image, SIZE)
            image[byte] ^= 1 << bit
            flips += 1
            if status == kernels.batch.OK and found == count:
                undetected[names[byte]] += 1
                changed = (rows != good).any(axis=1)
                assert changed.sum() == 1, (byte, bit)
            else:
                assert position <= byte, (byte, bit)
                assert (rows == good[:found]).all(), (byte, bit)
    batches = count
    assert flips == 524_288
    assert undetected["covered"] == undetected["length"] == undetected["magic"] == undetected["crc"] == 0
    # All 32 bits of the leader epoch and 63 of the base offset (its sign is detected) lie outside the CRC.
    assert undetected == {"leader_epoch": 32 * batches, "base_offset": 63 * batches}


@pytest.mark.slow
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
    """The same through a partition opened for reading: right records, or a typed error that says where."""
    folder = tmp_path / "events-0"
    folder.mkdir()
    log = folder / f"{0:020d}.log"
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
            if names[byte] in ("covered", "crc", "length", "magic"):
                assert seen == good[: len(seen)]
                assert len(seen) < len(good)
                if error is not None:
                    assert (error.path, error.position) == (str(log), byte_of_batch(image, byte))
                for damage in p.segments.active.damage:
                    assert list(p.read(damage.next_offset)) == good[damage.next_offset :]


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

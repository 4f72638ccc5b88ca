"""seal: the file as it is documented, every damage to it noticed; and what it says about its log."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, CorruptRecord, UnsupportedFormat
from eventcore.files import seal
from eventcore.files.seal import DamagedRange, Digest, Seal, SealBlock
from tests.parity.twins import batch

BASE = 1000


def log_of(sizes: Sequence[int], base_offset: int = BASE) -> tuple[bytes, list[int]]:
    """Batches of two offsets and `sizes` bytes of records, and where each of them begins, and the last one ends."""
    starts, data = [0], bytearray()
    for number, size in enumerate(sizes):
        found = bytearray(batch_of(size))
        struct.pack_into(">q", found, 0, base_offset + 2 * number)
        struct.pack_into(">i", found, 12, number // 3)
        data += found
        starts.append(len(data))
    return bytes(data), starts


@cache
def batch_of(size: int) -> bytes:
    """Its CRC is reckoned in plain Python, which takes a while."""
    return batch(b"x" * size, last_offset_delta=1)


def sealed(data: bytes, count: int, damage: Sequence[DamagedRange] = ()) -> Seal:
    return Digest(damage).seal(data, BASE, len(data), BASE + 2 * count, (count, 0, 0xFFFFFFFF))


LOG, STARTS = log_of([30_000, 40_000, 5, 70_000, 0, 30_000, 35_300, 8, 8])
HOLE = DamagedRange(STARTS[4], STARTS[6], BASE + 8, BASE + 12)
HOLED = LOG[: HOLE.position] + bytes(HOLE.end_position - HOLE.position) + LOG[HOLE.end_position :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{BASE:020d}.seal"


def test_the_bytes_are_the_documented_ones() -> None:
    rows = np.array([[100, 7, 0xFFFFFFFF, 5]], np.int64)
    data = seal.encode(Seal(5, 120, 9, 39, 0xABCD, rows, (DamagedRange(100, 120, 7, 9),), (1, -1, 0xFFFFFFFF)))
    body = bytes.fromhex(
        "0000000000000005 0000000000000078 0000000000000009 0000000000000027 000000000000abcd 0000000000000001"
        "0000000000000001 0000000000000001 ffffffffffffffff 00000000ffffffff"
        "0000000000000064 0000000000000007 00000000ffffffff 0000000000000005"
        "0000000000000064 0000000000000078 0000000000000007 0000000000000009"
    )
    crc = kernels.crc32c.crc32c(b"evc-seal\0\0\0\1" + body)
    assert data == b"evc-seal\0\0\0\1" + crc.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("data", "count", "damage"),
    [(LOG, 9, ()), (HOLED, 9, (HOLE,)), (b"", 0, ()), (bytes(99), 1, (DamagedRange(0, 99, BASE, BASE + 1),))],
    ids=["whole", "damaged", "empty", "nothing but damage"],
)
def test_what_was_written_is_read(path: Path, data: bytes, count: int, damage: tuple[DamagedRange, ...]) -> None:
    assert seal.read(Disk(), path) is None
    written = sealed(data, count, damage)
    seal.write(Disk(), path, written)
    found = seal.read(Disk(), path)
    assert found is not None
    assert (found.base_offset, found.size, found.next_offset) == (BASE, len(data), BASE + 2 * count)
    assert found.damage == damage
    assert found.blocks.tolist() == written.blocks.tolist()
    assert (found.last_position, found.last_crc) == (written.last_position, written.last_crc)
    assert seal.check_blocks(found, data) == []
    assert seal.belongs(found, len(data), data)


def test_blocks_are_the_longest_runs_that_fit() -> None:
    """The first two batches together exceed 64 KiB, so does the fourth alone, and the three behind it with one more."""
    found = sealed(LOG, 9)
    ends = [STARTS[1], STARTS[3], STARTS[4], STARTS[7], STARTS[9]]
    assert found.blocks[:, 0].tolist() == ends
    assert found.blocks[:, 1].tolist() == [BASE + 2 * STARTS.index(end) for end in ends]
    for block, start in zip(found.blocks.tolist(), [0, *ends], strict=False):
        headers = [LOG[at : at + 61] for at in STARTS[:-1] if start <= at < block[0]]
        assert SealBlock(*block).outer == kernels.crc32c.crc32c(b"".join(header[:21] for header in headers))
        assert SealBlock(*block).inner == kernels.crc32c.crc32c(b"".join(header[21:] for header in headers))
    assert found.last_position == STARTS[8]
    assert found.last_crc == int.from_bytes(LOG[STARTS[8] + 17 : STARTS[8] + 21], "big")


@pytest.mark.parametrize(("data", "damage"), [(LOG, ()), (HOLED, (HOLE,))], ids=["whole", "damaged"])
def test_every_flipped_bit_of_a_seal_is_noticed(data: bytes, damage: tuple[DamagedRange, ...]) -> None:
    good = seal.encode(sealed(data, 9, damage))
    seal.decode(good)
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptFile):
            seal.decode(bytes(damaged))


def test_every_cut_and_every_excess_is_noticed() -> None:
    good = seal.encode(sealed(HOLED, 9, (HOLE,)))
    for size in range(len(good)):
        with pytest.raises(CorruptFile):
            seal.decode(good[:size])
    for excess in range(1, 50):
        with pytest.raises(CorruptFile):
            seal.decode(good + bytes(excess))


def test_a_later_version_is_refused_as_such(path: Path) -> None:
    """Whatever it holds. The same bit flipped by accident breaks the CRC, and is damage."""
    path.write_bytes(seal._framed(2, b"a body of the future"))
    with pytest.raises(CorruptFile):
        seal.read(Disk(), path)
    path.write_bytes(seal._framed(2, bytes(200)))
    with pytest.raises(UnsupportedFormat, match="version 2") as caught:
        seal.read(Disk(), path)
    assert caught.value.path == str(path)


def test_errors_name_the_file(path: Path) -> None:
    path.write_bytes(b"evc-seal")
    with pytest.raises(CorruptFile) as caught:
        seal.read(Disk(), path)
    assert caught.value.path == str(path)


def test_a_huge_file_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptFile, match="1099511627776 bytes"):
        seal.read(Disk(), path)


FIELDS = struct.Struct(">10q")


@pytest.mark.parametrize("field", range(10))
@pytest.mark.parametrize("value", [-(1 << 63), -1, 1 << 20, 1 << 40, 1 << 61, (1 << 63) - 1])
def test_hostile_fields_with_a_right_crc_are_refused(field: int, value: int) -> None:
    body = bytearray(seal.encode(sealed(HOLED, 9, (HOLE,)))[16:])
    fields = list(FIELDS.unpack_from(body))
    fields[field] = value
    FIELDS.pack_into(body, 0, *fields)
    data = seal._framed(1, bytes(body))
    is_crc = field == 4 or field >= 7
    if (field == 2 and value > 0) or (is_crc and 0 <= value < 1 << 32) or (field >= 7 and value == -1):
        seal.decode(data)
    else:
        with pytest.raises(CorruptFile):
            seal.decode(data)


@pytest.mark.parametrize("value", [-(1 << 63), -1, 0, 1, 1 << 40, (1 << 63) - 1])
def test_hostile_rows_with_a_right_crc_are_refused(value: int) -> None:
    """A position or offset out of order, anywhere in the blocks and damaged ranges."""
    good = seal.encode(sealed(HOLED, 9, (HOLE,)))
    digests = {at + more for at in range(96 + 16, len(good) - 32, 32) for more in (0, 8)}
    for at in range(96, len(good), 8):
        body = bytearray(good)
        body[at : at + 8] = value.to_bytes(8, "big", signed=True)
        data = seal._framed(1, bytes(body[16:]))
        if at in digests and 0 <= value < 1 << 32:
            seal.decode(data)
        else:
            with pytest.raises(CorruptFile):
                seal.decode(data)


def of_a_gigabyte() -> Seal:
    """16,384 blocks."""
    ends = np.arange(1, 16_385, dtype=np.int64) * seal.BLOCK_SIZE
    blocks = np.stack((ends, ends // seal.BLOCK_SIZE, ends % 999, ends % 888), 1)
    return Seal(0, 1 << 30, 16_384, (1 << 30) - 100, 7, blocks)


def test_the_seal_of_a_gigabyte_is_read() -> None:
    found = of_a_gigabyte()
    assert np.array_equal(seal.decode(seal.encode(found)).blocks, found.blocks)


@pytest.mark.nightly
def test_the_seal_of_a_gigabyte_is_read_at_once() -> None:
    """Less than a millisecond with a native CRC, 60 without; the limit is generous."""
    data, times = seal.encode(of_a_gigabyte()), []
    for _ in range(5):
        began = perf_counter()
        seal.decode(data)
        times.append(perf_counter() - began)
    assert min(times) < 0.5


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[byte] ^= 1 << bit
    return bytes(damaged)


@pytest.mark.parametrize(("data", "damage"), [(LOG, ()), (HOLED, (HOLE,))], ids=["whole", "damaged"])
def test_every_bit_of_every_header_is_found(data: bytes, damage: tuple[DamagedRange, ...]) -> None:
    found = sealed(data, 9, damage)
    for number, start in enumerate(STARTS[:-1]):
        if damage and HOLE.position <= start < HOLE.end_position:
            continue
        offset = BASE + 2 * number
        for bit in range(61 * 8):
            bad = flipped(data, start + bit // 8, bit % 8)
            assert seal.check_blocks(found, bad) == [DamagedRange(start, STARTS[number + 1], offset, offset + 2)], bit
            assert seal.belongs(found, len(bad), bad)


def test_only_the_asked_for_blocks_are_checked() -> None:
    found = sealed(LOG, 9)
    bad = flipped(flipped(LOG, 3, 1), STARTS[8], 1)
    first, last = seal.check_blocks(found, bad)
    assert first == DamagedRange(0, STARTS[1], BASE, BASE + 2)
    assert last == DamagedRange(STARTS[8], STARTS[9], BASE + 16, BASE + 18)
    assert seal.check_blocks(found, bad, 0, 1) == [first]
    assert seal.check_blocks(found, bad, 0, STARTS[1]) == [first]
    assert seal.check_blocks(found, bad, STARTS[1]) == [last]
    assert seal.check_blocks(found, bad, STARTS[1], STARTS[7]) == []
    assert seal.check_blocks(found, bad, STARTS[1] - 1, STARTS[7] + 1) == [first, last]


def test_a_rewritten_log_does_not_belong() -> None:
    found = sealed(LOG, 9)
    assert not seal.belongs(found, len(LOG) - 1, LOG)
    assert not seal.belongs(found, len(LOG) + 1, LOG + b"\0")
    other = LOG[: STARTS[8]] + batch(b"another.", base_offset=BASE + 16, last_offset_delta=1)
    assert len(other) == len(LOG)
    assert not seal.belongs(found, len(other), other)


def test_a_damaged_last_batch_is_damage_not_another_log() -> None:
    found = sealed(LOG, 9)
    for byte in range(STARTS[8], STARTS[9]):
        for bit in range(8):
            assert seal.belongs(found, len(LOG), flipped(LOG, byte, bit)), byte


def test_a_length_that_cannot_be_is_not_sealed() -> None:
    for damaged in (flipped(LOG, STARTS[3] + 8, 7), flipped(LOG, STARTS[8] + 11, 0), flipped(LOG, STARTS[8] + 16, 0)):
        with pytest.raises(CorruptRecord):
            sealed(damaged, 9)
    with pytest.raises(CorruptRecord):
        Digest().seal(LOG, BASE, len(LOG) - 1, BASE + 18)


SIZES = st.lists(st.sampled_from([0, 1, 20, 900, 20_000, 32_707, 65_475, 65_476, 80_000]), max_size=14)


def pieces(data: st.DataObject, size: int) -> list[DamagedRange]:
    """Ranges of whole batches, in order and apart from each other."""
    edges = data.draw(st.lists(st.integers(0, size), unique=True, max_size=6).map(sorted))
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False)]  # type: ignore[misc]


@settings(deadline=None)
@given(SIZES, st.data())
def test_a_digest_is_the_same_however_it_came_about(sizes: list[int], data: st.DataObject) -> None:
    """Advances at any batch ends, cuts at any batch, other batches behind them: as if it had been read once."""
    log, starts = log_of(sizes)
    ranges = [
        DamagedRange(starts[first], starts[last], BASE + 2 * first, BASE + 2 * last)
        for first, last in pieces(data, len(sizes))
    ]
    noted = data.draw(st.integers(0, len(ranges)))
    digest, behind = Digest(ranges[:noted]), ranges[noted:]
    for end in data.draw(st.lists(st.sampled_from(starts), max_size=6).map(sorted)):
        digest.advance(log, min([end, *(damage.position for damage in behind)]))
        while behind and behind[0].position <= end:
            digest.skip(behind.pop(0))
        digest.advance(log, end)
    for damage in behind:
        digest.skip(damage)
    expected = sealed(log, len(sizes), ranges)
    assert seal.encode(digest.seal(log, BASE, len(log), expected.next_offset, expected.index_crcs)) == seal.encode(
        expected
    )
    seal.decode(seal.encode(expected))
    assert seal.check_blocks(expected, log) == []


@settings(deadline=None)
@given(SIZES, SIZES, st.data())
def test_a_digest_follows_a_truncation(sizes: list[int], more: list[int], data: st.DataObject) -> None:
    log, starts = log_of(sizes)
    cut = data.draw(st.integers(0, len(sizes)))
    tail, _ = log_of(more, base_offset=BASE + 2 * cut + 1)
    digest = Digest()
    digest.advance(log, data.draw(st.sampled_from(starts)))
    digest.reset(starts[cut])
    assert digest.position <= starts[cut]
    after = log[: starts[cut]] + tail
    end_offset = BASE + 2 * (cut + len(more)) + 1
    found = digest.seal(after, BASE, len(after), end_offset)
    assert seal.encode(found) == seal.encode(Digest().seal(after, BASE, len(after), end_offset))


@pytest.mark.parametrize("size", [0, 60_000])
def test_a_truncation_between_blocks_opens_the_one_before(size: int) -> None:
    """What comes next may fit into it, or begin at another offset than what was there."""
    digest = Digest()
    digest.advance(LOG, len(LOG))
    cut = STARTS[3]
    assert cut in sealed(LOG, 9).blocks[:, 0]
    digest.reset(cut)
    after = LOG[:cut] + batch(bytes(size), base_offset=BASE + 7)
    found = digest.seal(after, BASE, len(after), BASE + 8)
    assert found.blocks[:, 1].tolist() == ([BASE + 2, BASE + 7, BASE + 8] if size else [BASE + 2, BASE + 8])
    assert seal.encode(found) == seal.encode(Digest().seal(after, BASE, len(after), BASE + 8))


def test_a_truncation_forgets_damage_behind_it() -> None:
    digest = Digest([HOLE])
    digest.advance(HOLED, len(HOLED))
    digest.reset(STARTS[7])
    found = digest.seal(HOLED, BASE, STARTS[7], BASE + 14)
    assert found.damage == (HOLE,)
    digest.reset(HOLE.position)
    found = digest.seal(LOG, BASE, len(LOG), BASE + 18)
    assert seal.encode(found) == seal.encode(Digest().seal(LOG, BASE, len(LOG), BASE + 18))


@settings(deadline=None)
@given(SIZES, st.data())
def test_a_digest_goes_on_from_a_seal(sizes: list[int], data: st.DataObject) -> None:
    log, starts = log_of(sizes)
    ranges = [
        DamagedRange(starts[first], starts[last], BASE + 2 * first, BASE + 2 * last)
        for first, last in pieces(data, len(sizes))
    ]
    cut = data.draw(st.integers(0, len(sizes)))
    before = [damage for damage in ranges if damage.end_position <= starts[cut]]
    if any(damage.position < starts[cut] < damage.end_position for damage in ranges):
        cut = len(sizes)
        before = ranges
    first = Digest(before).seal(log[: starts[cut]], BASE, starts[cut], BASE + 2 * cut)
    digest = Digest.resumed(seal.decode(seal.encode(first)))
    for damage in ranges[len(before) :]:
        digest.skip(damage)
    found = digest.seal(log, BASE, len(log), BASE + 2 * len(sizes))
    assert seal.encode(found) == seal.encode(Digest(ranges).seal(log, BASE, len(log), BASE + 2 * len(sizes)))

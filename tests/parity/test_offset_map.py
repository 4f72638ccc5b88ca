"""The offset map: what it maps, where it ends, and that keys are compared, in both kernels."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from eventcore.errors import CorruptRecord, Truncated
from tests.parity.twins import batch, load, outcome, record, resealed
from tests.scale import seeded

SECRET = bytes(16)
COLLIDING = (0xE003736CAF6FDF25, 0xFCB439CFC78743E3)
"""Two keys of 8 bytes, as little-endian numbers, with the hash 0xB0B97FA5A8A77772 under the secret of zeros."""
PURE, NATIVE = load("pure"), load("native")
KINDS = [kernels for kernels in (NATIVE, PURE) if kernels is not None]


def log_of(*batches: list[tuple[bytes | None, bytes | None]], attributes: int = 0) -> bytes:
    """Batches of (key, value) records, at the offsets from 0 on."""
    out, offset = b"", 0
    for rows in batches:
        area = b"".join(record(at, 0, key, value) for at, (key, value) in enumerate(rows))
        out += batch(area, len(rows), base_offset=offset, attributes=attributes)
        offset += len(rows)
    return out


@pytest.fixture(params=KINDS, ids=lambda kernels: kernels.kind)
def kernels(request: pytest.FixtureRequest) -> SimpleNamespace:
    found: SimpleNamespace = request.param
    return found


def mapped(kernels: SimpleNamespace, log: bytes, slots: int = 64, min_offset: int = 0, stop_mask: int = 7) -> Any:
    found = kernels.offset_map.OffsetMap(slots, 1 << 10, SECRET)
    ordinal = found.attach(log)
    found.map_batches(ordinal, 0, len(log), min_offset, stop_mask)
    return found


def test_a_hash_is_siphash_1_3(kernels: SimpleNamespace) -> None:
    """CPython hashes bytes with it, under a key of its own: with PYTHONHASHSEED=0 that is zeros."""
    keys = [bytes(range(size)) for size in range(1, 40)] + [b"x" * 300]
    code = f"import sys; assert sys.hash_info.algorithm == 'siphash13'; print([hash(k) for k in {keys!r}])"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this Python hashes in another way")
    known = [value & ((1 << 64) - 1) for value in json.loads(done.stdout)]
    assert [kernels.offset_map.hash_key(key, SECRET) for key in keys] == known


def test_two_keys_of_one_hash_stay_two(kernels: SimpleNamespace) -> None:
    one, other = (struct.pack("<Q", number) for number in COLLIDING)
    assert one != other
    assert kernels.offset_map.hash_key(one, SECRET) == kernels.offset_map.hash_key(other, SECRET) == 0xB0B97FA5A8A77772
    log = log_of([(one, b"1"), (other, b"2")], [(one, b"3")])
    found = mapped(kernels, log)
    second = len(log_of([(one, b"1"), (other, b"2")]))
    places = ((one, 1, 65, 0), (other, 1, second - 12, 1), (one, 1, second + 65, 2))
    wanted = [False, True, True]
    assert [found.is_latest(*place) for place in places] == wanted
    assert len(found) == (1 if found.collided else 2), "it says so if it took them for one"
    careful = kernels.offset_map.OffsetMap(8, 1 << 10, SECRET, True)
    assert careful.map_batches(careful.attach(log), 0, len(log), 0, 7) == len(log)
    assert [careful.is_latest(*place) for place in places] == wanted
    assert (len(careful), careful.collided) == (2, False)


def test_two_copied_keys_of_one_hash_stay_two(kernels: SimpleNamespace) -> None:
    one, other = (struct.pack("<Q", number) for number in COLLIDING)
    area = record(0, 0, one, b"1") + record(1, 0, other, b"2") + record(2, 0, one, b"3")
    for careful in (False, True):
        copies = kernels.offset_map.OffsetMap(8, 1 << 10, SECRET, careful)
        copies.map_records(area, (0, 0, 0, 2, 0, 0, 2, 0, 0, -1, -1, -1, 3), 0)
        if not copies.collided:
            assert (len(copies), copies.end_offset) == (2, 3)
            assert [copies.is_latest(key, 0, 0, at) for key, at in ((one, 0), (other, 1), (one, 2))] == [
                False,
                True,
                True,
            ]
    assert not copies.collided


def test_what_is_mapped(kernels: SimpleNamespace) -> None:
    log = log_of([(b"a", b"1"), (None, b"2"), (b"b", None)], [(b"", b"3"), (b"a", b"4")])
    found = mapped(kernels, log)
    assert (len(found), found.end_offset, found.full) == (3, 5, False)
    assert not found.is_latest(b"a", 1, 65, 0)
    assert found.is_latest(b"never", 0, 0, 0)
    assert not found.is_latest(b"", 0, 1 << 20, 3), "a log that is not in the map lies before all"
    from_four = mapped(kernels, log, min_offset=4)
    assert (len(from_four), from_four.end_offset) == (1, 5)


def test_markers_are_passed_over_and_special_batches_stop_it(kernels: SimpleNamespace) -> None:
    marker = batch(record(0, 0, b"\0\0\0\1", b"\0" * 6), 1, base_offset=0, attributes=0x30)
    zipped = batch(b"?", 1, base_offset=1, attributes=1)
    found = kernels.offset_map.OffsetMap(8, 0, SECRET)
    ordinal = found.attach(marker + zipped)
    assert found.map_batches(ordinal, 0, len(marker + zipped), 0, 7) == len(marker)
    assert (len(found), found.end_offset) == (0, 1)


def test_it_is_full_with_three_of_four_slots(kernels: SimpleNamespace) -> None:
    log = log_of([(b"%d" % (at % 20), b"") for at in range(30)])
    found = mapped(kernels, log, slots=16)
    assert (len(found), found.full, found.end_offset) == (12, True, 12)
    assert found.memory == 16 * kernels.offset_map.SLOT_SIZE + 8
    assert found.map_batches(1, 0, len(log), 0, 7) == 0, "nothing more is mapped"
    assert len(mapped(kernels, log, slots=2)) == 1


def test_copies_fill_it_too(kernels: SimpleNamespace) -> None:
    found = kernels.offset_map.OffsetMap(64, 8 + 3 * 24, SECRET)
    area = b"".join(record(at, 0, b"k%09d" % (at % 5), b"") for at in range(9))
    found.map_records(area, (0, 0, 0, 2, 0, 0, 8, 0, 0, -1, -1, -1, 9), 0)
    assert (len(found), found.full, found.end_offset) == (3, True, 3)


def _damaged() -> dict[str, bytes]:
    second = log_of([(b"a", b"1")], [(b"b", b"2"), (b"c", b"3")])[len(log_of([(b"a", b"1")])) :]
    too_long = record(0, 0, b"b", b"2") + record(1, 0, b"c", b"3").replace(b"\x02c", b"\x7ec")
    flipped = bytearray(second)
    flipped[-1] ^= 1
    return {
        "a bit": bytes(flipped),
        "cut": second[:-1],
        "a record that does not fit, with its CRC": batch(too_long, 2, base_offset=1),
        "a record too few, with its CRC": resealed(second[:57] + b"\0\0\0\1" + second[61:]),
    }


@pytest.mark.parametrize("what", list(_damaged()))
def test_nothing_of_a_bad_batch_is_mapped(kernels: SimpleNamespace, what: str) -> None:
    good = log_of([(b"a", b"1")])
    found = kernels.offset_map.OffsetMap(16, 0, SECRET)
    ordinal = found.attach(good + _damaged()[what])
    with pytest.raises((CorruptRecord, Truncated)):
        found.map_batches(ordinal, 0, len(good + _damaged()[what]), 0, 7)
    assert (len(found), found.end_offset, found.position) == (1, 1, len(good))


def test_arguments(kernels: SimpleNamespace) -> None:
    kind = kernels.offset_map.OffsetMap
    for arguments in ((1, 0, SECRET), (4, -1, SECRET), (4, 0, b"short")):
        with pytest.raises(ValueError, match=r"."):
            kind(*arguments)
    found = kind(4, 0, SECRET)
    ordinal = found.attach(b"")
    for arguments in ((0, 0, 0, 0, 0), (2, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="there is no log"):
            found.map_batches(*arguments)
    with pytest.raises(IndexError):
        found.map_batches(ordinal, 0, 1, 0, 0)
    with pytest.raises(ValueError, match="16 bytes"):
        kernels.offset_map.hash_key(b"", b"")
    with pytest.raises(TypeError):
        found.attach("text")


def test_both_map_alike() -> None:
    if NATIVE is None:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")
    rng = seeded(7)
    for _ in range(400):
        keys = [bytes([rng.randrange(4)] * rng.choice((0, 1, 7, 8, 9, 40, 200))) for _ in range(rng.randint(1, 12))]
        logs = [_random_log(rng, keys) for _ in range(rng.randint(1, 3))]
        slots, copied, min_offset = rng.choice((2, 5, 64)), rng.choice((0, 40, 1 << 12)), rng.choice((0, 3))
        careful = rng.random() < 0.5
        found = [_play(kind, logs, keys, slots, copied, min_offset, careful) for kind in (NATIVE, PURE)]
        assert found[0] == found[1]


def _random_log(rng: random.Random, keys: list[bytes]) -> tuple[bytes, bytes, int]:
    rows = [
        [(rng.choice([*keys, None]), rng.choice((None, b"v" * rng.randint(0, 30)))) for _ in range(rng.randint(1, 6))]
        for _ in range(rng.randint(1, 4))
    ]
    log = bytearray(log_of(*rows))
    if rng.random() < 0.1:
        log[rng.randrange(len(log))] ^= 1 << rng.randrange(8)
    area = b"".join(record(at, 0, key, value) for at, (key, value) in enumerate(rows[0]))
    return bytes(log), area, len(rows[0]) - (rng.random() < 0.1)


def _play(
    kind: Any, logs: Any, keys: list[bytes], slots: int, copied: int, min_offset: int, careful: bool
) -> list[Any]:
    found = kind.offset_map.OffsetMap(slots, copied, SECRET, careful)
    seen: list[Any] = []
    for log, area, count in logs:
        ordinal = found.attach(log)
        seen.append(outcome(found.map_batches, ordinal, 0, len(log), min_offset, 7))
        fields = (50 * ordinal, 0, 0, 2, 0, 0, 9, 0, 0, -1, -1, -1, count)
        seen.append(outcome(found.map_records, area, fields, min_offset))
        seen.append((len(found), found.full, found.end_offset, found.position, found.memory))
        places = [(o, p, x) for o in (0, ordinal) for p in (0, 65, 66, 130, 1000) for x in (0, 2, 50, 51)]
        seen += [found.is_latest(key, *place) for key in keys for place in places]
    return seen

"""The cleaning kernel: what stays of each batch, byte for byte, in both kernels."""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from eventcore.errors import CorruptRecord
from tests.parity.twins import NOW, batch, load, outcome, record
from tests.scale import seeded

SECRET = bytes(16)
PURE, NATIVE = load("pure"), load("native")
KINDS = [kernels for kernels in (NATIVE, PURE) if kernels is not None]
HORIZON = NOW + 1000
LIMIT = (1 << 31) - 1


@pytest.fixture(params=KINDS, ids=lambda kernels: kernels.kind)
def kernels(request: pytest.FixtureRequest) -> SimpleNamespace:
    found: SimpleNamespace = request.param
    return found


def cleaned(
    kernels: SimpleNamespace, log: bytes, *, now: int = NOW, ends: tuple[int, ...] = (), until_offset: int = -1
) -> bytes:
    """The log after one pass over all of it, or one whose map ends early."""
    found = kernels.offset_map.OffsetMap(64, 0, SECRET)
    ordinal = found.attach(log)
    found.map_batches(ordinal, 0, len(log), 0, 7)
    found.end_offset = found.end_offset if until_offset < 0 else until_offset
    cleaner = kernels.clean.Cleaner(found, now, HORIZON, array("q", ends))
    cleaner.begin(0, 0, LIMIT)
    out = bytearray(len(log) + 500)
    position, at, reason = cleaner.clean(log, ordinal, 0, len(log), out, 0, 7)
    assert (position, reason, cleaner.size) == (len(log), kernels.clean.ENDED, at)
    return bytes(out[:at])


def one(offset: int, key: bytes | None, value: bytes | None = b"v", **fields: Any) -> bytes:
    return batch(record(0, 0, key, value), 1, base_offset=offset, **fields)


def test_a_batch_of_which_all_stays_is_copied_as_it_is(kernels: SimpleNamespace) -> None:
    odd = batch(record(3, -7, b"a", b"", ((b"h", None),)), 1, base_offset=5, last_offset_delta=9, producer=(7, 1, 5))
    assert cleaned(kernels, odd) == odd


def test_the_latest_of_each_key_stays(kernels: SimpleNamespace) -> None:
    log = batch(record(0, 0, b"a") + record(1, 4, b"b", b"2") + record(2, 9, b"a", b"3"), 3, base_offset=10)
    log += one(13, b"b", b"4") + one(14, None)
    kept = batch(record(2, 9, b"a", b"3"), 1, base_offset=10, last_offset_delta=2)
    assert cleaned(kernels, log) == kept + one(13, b"b", b"4")


def test_what_lies_behind_the_map_stays(kernels: SimpleNamespace) -> None:
    log = one(0, b"a") + one(1, b"a") + one(2, None) + one(3, b"a")
    assert cleaned(kernels, log, until_offset=2) == one(2, None) + one(3, b"a")


def test_a_tombstone_gets_a_horizon_once_and_goes_after_it(kernels: SimpleNamespace) -> None:
    log = batch(record(0, 5, b"k", None) + record(1, 6, b"l", b"x"), 2, max_timestamp=NOW + 6)
    once = cleaned(kernels, log)
    wanted = batch(
        record(0, 5 - 1000, b"k", None) + record(1, 6 - 1000, b"l", b"x"), 2, attributes=0x40, base_timestamp=HORIZON,
        max_timestamp=NOW + 6,
    )  # fmt: skip
    assert once == wanted
    assert cleaned(kernels, once, now=HORIZON - 1) == once, "not moved"
    left = batch(
        record(1, 6 - 1000, b"l", b"x"), 1, attributes=0x40, base_timestamp=HORIZON, max_timestamp=NOW + 6,
        last_offset_delta=1,
    )  # fmt: skip
    assert cleaned(kernels, once, now=HORIZON) == left


def test_an_empty_batch_stays_only_where_it_is_needed(kernels: SimpleNamespace) -> None:
    log = one(3, b"a", producer=(7, 2, 5), max_timestamp=NOW + 3, attributes=0x08) + one(4, b"a")
    assert cleaned(kernels, log) == one(4, b"a")
    empty = batch(
        b"", 0, base_offset=3, producer=(7, 2, 5), base_timestamp=-1, max_timestamp=NOW + 3, attributes=0x08
    )  # fmt: skip
    assert cleaned(kernels, log, ends=(3,)) == empty + one(4, b"a")
    assert cleaned(kernels, empty + one(4, b"a")) == one(4, b"a"), "it goes with the next pass"


def test_the_largest_timestamp_is_that_of_what_stays(kernels: SimpleNamespace) -> None:
    area = record(0, 50, b"a") + record(1, 3, b"b")
    for attributes, largest in ((0, NOW + 3), (0x08, NOW + 50)):
        log = batch(area, 2, max_timestamp=NOW + 50, attributes=attributes) + one(102, b"a")
        kept = batch(
            record(1, 3, b"b"), 1, max_timestamp=largest, last_offset_delta=1, attributes=attributes
        )  # fmt: skip
        assert cleaned(kernels, log) == kept + one(102, b"a")


def test_a_damaged_batch_is_not_copied(kernels: SimpleNamespace) -> None:
    log = bytearray(one(0, b"a") + one(1, b"b"))
    log[-1] ^= 1
    found = kernels.offset_map.OffsetMap(8, 0, SECRET)
    cleaner = kernels.clean.Cleaner(found, NOW, HORIZON, b"")
    cleaner.begin(0, 0, LIMIT)
    out = bytearray(1000)
    with pytest.raises(CorruptRecord):
        cleaner.clean(bytes(log), 0, 0, len(log), out, 0, 7)
    assert (cleaner.position, cleaner.size) == (len(log) // 2, len(log) // 2)


def test_it_stops_where_there_is_no_room(kernels: SimpleNamespace) -> None:
    log = one(0, b"a") + one(1, b"b", b"v" * 200)
    cleaner = kernels.clean.Cleaner(kernels.offset_map.OffsetMap(8, 0, SECRET), NOW, HORIZON, b"")
    cleaner.begin(0, 0, LIMIT)
    first = len(one(0, b"a"))
    assert cleaner.clean(log, 0, 0, len(log), bytearray(100), 0, 7) == (first, first, kernels.clean.NO_ROOM)
    assert cleaner.needed == len(log) - first
    cleaner.begin(0, 0, 200)
    assert cleaner.clean(log, 0, first, len(log), bytearray(500), 0, 7) == (first, 0, kernels.clean.FULL)
    cleaner.begin(1, 0, 300)
    assert cleaner.clean(log, 0, first, len(log), bytearray(500), 0, 7)[2] == kernels.clean.ENDED
    cleaner.begin(0, 0, LIMIT)
    far = one(1 << 31, b"a")
    assert cleaner.clean(far, 0, 0, len(far), bytearray(500), 0, 7)[2] == kernels.clean.FULL
    assert not cleaner.fits(1, 1 << 31)


def test_indexes_are_those_of_an_appended_log(kernels: SimpleNamespace) -> None:
    cleaner = kernels.clean.Cleaner(kernels.offset_map.OffsetMap(8, 0, SECRET), NOW, HORIZON, b"")
    cleaner.begin(100, 50, LIMIT)
    for size, offset, timestamp in ((61, 101, 5), (61, 102, 3), (40, 103, 9), (40, 104, 9), (40, 110, 9)):
        cleaner.add(size, offset, timestamp)
    pairs = [(2, 61), (3, 122), (10, 202)]
    assert cleaner.offset_entries() == b"".join(a.to_bytes(4, "big") + b.to_bytes(4, "big") for a, b in pairs)
    times = [(5, 1), (9, 3)]
    assert cleaner.time_entries() == b"".join(a.to_bytes(8, "big") + b.to_bytes(4, "big") for a, b in times)
    assert (cleaner.size, cleaner.next_offset, cleaner.max_timestamp, cleaner.max_timestamp_offset) == (
        242,
        111,
        9,
        103,
    )


def test_arguments(kernels: SimpleNamespace) -> None:
    found = kernels.offset_map.OffsetMap(8, 0, SECRET)
    with pytest.raises(ValueError, match="horizon"):
        kernels.clean.Cleaner(found, 0, -1, b"")
    cleaner = kernels.clean.Cleaner(found, 0, 0, b"")
    for arguments in ((-1, 0, 0), (0, 0, -1), (0, 0, 1 << 31)):
        with pytest.raises(ValueError, match="segment"):
            cleaner.begin(*arguments)
    cleaner.begin(0, 0, 10)
    with pytest.raises(ValueError, match="not log 1"):
        cleaner.clean(b"", 1, 0, 0, bytearray(), 0, 0)
    with pytest.raises(TypeError):
        cleaner.clean(b"", 0, 0, 0, b"", 0, 0)
    with pytest.raises(IndexError):
        cleaner.clean(b"", 0, 0, 1, bytearray(), 0, 0)
    with pytest.raises(ValueError, match="less than"):
        cleaner.filter(record(0, 0, b"a", None), (0, 0, 0, 2, 0, 0, 0, 0, 0, -1, -1, -1, 1), 0, 0, bytearray(3), False)


def test_both_clean_alike() -> None:
    if NATIVE is None:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")
    rng = seeded(11)
    for _ in range(500):
        keys = [bytes([97 + at]) * rng.choice((0, 1, 9, 300)) for at in range(rng.randint(1, 6))]
        log = _random_log(rng, keys)
        if rng.random() < 0.15:
            spoilt = bytearray(log)
            spoilt[rng.randrange(len(log))] ^= 1 << rng.randrange(8)
            log = bytes(spoilt)
        terms = (rng.choice((0, NOW, NOW + 5000)), rng.randint(0, 12), rng.choice((0, 90, 2000)), rng.random() < 0.5)
        assert _play(NATIVE, log, *terms) == _play(PURE, log, *terms)


def _random_log(rng: random.Random, keys: list[bytes]) -> bytes:
    log, offset = b"", 0
    for _ in range(rng.randint(1, 5)):
        deltas = sorted(rng.sample(range(9), rng.randint(0, 5)))
        area = b"".join(
            record(
                delta, rng.choice((0, 1, -1, 70, -70, 1 << 40, -(1 << 62))), rng.choice([*keys, None]),
                rng.choice((None, b"", b"v" * 90)), rng.choice(((), ((b"h", None),), ((b"\xc3\xa9", b"x" * 200),))),
            )
            for delta in deltas
        )  # fmt: skip
        log += batch(
            area, len(deltas), base_offset=offset, last_offset_delta=rng.choice((8, 20)),
            attributes=rng.choice((0, 0, 0, 0x08, 0x40, 0x48, 0x10, 0x01)),
            base_timestamp=rng.choice((NOW, 0, -1, 1 << 62)),
            producer=rng.choice(((-1, -1, -1), (5, 1, 0))),
        )  # fmt: skip
        offset += 21
    return log


def _play(kind: Any, log: bytes, now: int, end: int, room: int, in_map: bool) -> list[Any]:
    found = kind.offset_map.OffsetMap(16, 1 << 10, SECRET)
    ordinal = found.attach(log)
    seen: list[Any] = [outcome(found.map_batches, ordinal, 0, len(log), 0, 1)]
    found.end_offset = max(found.end_offset - end, 0)
    cleaner = kind.clean.Cleaner(found, now, HORIZON, array("q", range(8, 200, 21)))
    cleaner.begin(0, 100, 3000)
    out = bytearray(room)
    seen.append(outcome(cleaner.clean, log, ordinal * in_map, 0, len(log), out, 0, 1, 400))
    out2 = bytearray(1 << 12)
    for keep_all in (False, True):
        area = record(0, 3, b"aaaaaaaaa", None) + record(2, -4, b"zz", b"x")
        fields = (5, 0, 0, 2, 0, end % 2 * 0x40, 9, NOW, NOW + 3, -1, -1, -1, 2)
        seen += [outcome(cleaner.filter, area, fields, ordinal * in_map, 61, out2, keep_all), bytes(out2)]
    seen += [
        bytes(out),
        cleaner.offset_entries(),
        cleaner.time_entries(),
        cleaner.keeps_empty(8),
        cleaner.keeps_empty(9),
    ]
    names = ("size", "next_offset", "max_timestamp", "max_timestamp_offset", "records", "kept", "position", "needed")
    return seen + [getattr(cleaner, name) for name in names]

"""group_log: a group's records come back, hostile ones are typed errors, what is not about offsets is told apart."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, UnsupportedFormat
from eventcore.format import group_log
from eventcore.types import CommittedOffset

ints = {bits: st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (32, 64)}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
offsets = st.builds(CommittedOffset, ints[64], ints[32], names, ints[64])


@given(offsets)
def test_an_offset_comes_back(committed: CommittedOffset) -> None:
    assert group_log.decode_value(group_log.encode_value(committed)) == committed


@given(names, names, ints[32])
def test_a_key_comes_back(group: str, topic: str, partition: int) -> None:
    assert group_log.decode_key(group_log.encode_key(group, topic, partition)) == (group, (topic, partition))


def test_the_bytes_are_kafkas() -> None:
    assert group_log.encode_key("g", "t", 7) == bytes.fromhex("0001" "000167" "000174" "00000007")  # fmt: skip
    value = group_log.encode_value(CommittedOffset(5, 2, "m", 9))
    assert value == bytes.fromhex("0003" "0000000000000005" "00000002" "00016d" "0000000000000009")  # fmt: skip


OLD = "0000000000000005", "00016d", "0000000000000009"


@pytest.mark.parametrize(
    ("value", "epoch"),
    [
        ("0000" + "".join(OLD), -1),
        ("0001" + "".join(OLD) + "000000000000000b", -1),
        ("0002" + "".join(OLD), -1),
        ("0004" "0000000000000005" "00000002" "026d" "0000000000000009" "01" "00" "10" + "ab" * 16, 2),
    ],
    ids=["0", "1", "2", "4"],
)  # fmt: skip
def test_versions_that_other_brokers_write(value: str, epoch: int) -> None:
    assert group_log.decode_value(bytes.fromhex(value)) == CommittedOffset(5, epoch, "m", 9)


def test_what_is_about_members_is_told_apart() -> None:
    for kind in (2, 3, 16):
        assert group_log.decode_key(kind.to_bytes(2, "big") + b"\0\1gwhatever") == ("g", None)
    with pytest.raises(UnsupportedFormat):
        group_log.decode_key(b"\0\x1f\0\1g")
    with pytest.raises(UnsupportedFormat):
        group_log.decode_value(b"\0\5" + bytes(30))


@given(st.data())
def test_damage_is_a_typed_error(data: st.DataObject) -> None:
    for whole, decode in (
        (group_log.encode_key("group", "topic", 3), group_log.decode_key),
        (group_log.encode_value(data.draw(offsets)), group_log.decode_value),
    ):
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises((CorruptRecord, UnsupportedFormat)):
            decode(whole[:cut])
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        with suppress(CorruptRecord, UnsupportedFormat):
            decode(bytes(changed))

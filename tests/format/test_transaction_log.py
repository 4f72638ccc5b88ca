"""transaction_log: a coordinator's records come back, hostile ones are typed errors, ids go where Kafka puts them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import CorruptRecord, UnsupportedFormat
from eventcore.format import transaction_log
from eventcore.types import TransactionState, TransactionStatus

ints = {bits: st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (16, 32, 64)}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
partitions = st.lists(st.tuples(names, ints[32]), max_size=6, unique=True).map(
    lambda found: tuple(sorted(found, key=lambda one: [name for name, _ in found].index(one[0])))
)
states = st.builds(
    TransactionState,
    ints[64],
    ints[16],
    ints[32],
    st.sampled_from(list(TransactionStatus)[1:]),
    partitions,
    *(ints[bits] for bits in (64, 64, 64, 64, 16, 16)),
)


@given(states)
def test_a_state_comes_back(state: TransactionState) -> None:
    assert transaction_log.decode_value(transaction_log.encode_value(state)) == state


@given(names)
def test_an_id_comes_back(name: str) -> None:
    assert transaction_log.decode_key(transaction_log.encode_key(name)) == name


def test_an_empty_one_has_no_partitions() -> None:
    state = TransactionState(5, 0, 60_000, TransactionStatus.EMPTY, (), 7, -1)
    data = transaction_log.encode_value(state)
    assert data == bytes.fromhex("0001000000000000000500000000ea6000000000000000000007ffffffffffffffff0102020002")
    assert transaction_log.decode_value(data) == state


def test_version_0_as_older_brokers_wrote_it() -> None:
    data = bytes.fromhex(
        "0000" "0000000000000005" "0003" "0000ea60" "01"
        "00000001" "0001" "74" "00000002" "00000000" "00000007" "0000000000000008" "0000000000000009"
    )  # fmt: skip
    assert transaction_log.decode_value(data) == TransactionState(
        5, 3, 60_000, TransactionStatus.ONGOING, (("t", 0), ("t", 7)), 8, 9, client_version=0
    )


@given(st.data())
def test_damage_is_a_typed_error(data: st.DataObject) -> None:
    state = data.draw(states)
    whole = bytearray(transaction_log.encode_value(state))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    with suppress(CorruptRecord, UnsupportedFormat):
        transaction_log.decode_value(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(
    "value", ["", "0002", "0001", "0001" + "00" * 14 + "08" + "00" * 30, "0001" + "00" * 15 + "ffffffff0f" + "00" * 9]
)
def test_what_is_no_state(value: str) -> None:
    with pytest.raises((CorruptRecord, UnsupportedFormat)):
        transaction_log.decode_value(bytes.fromhex(value))


@pytest.mark.parametrize(
    ("name", "hashed"),
    [("", 0), ("a", 97), ("billing-1", 1828025695), ("é", 233), ("polygenelubricants", 0), ("𝄞", 1772394)],
)
def test_javas_hash_chooses_the_partition(name: str, hashed: int) -> None:
    assert transaction_log.partition_of(name) == hashed % 50

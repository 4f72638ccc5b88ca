"""producers: both twins against each other in any order of calls, at the edges of every number; what one costs."""

from __future__ import annotations

import gc
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.twins import INT32_MAX, INT64_MAX, INT64_MIN, NOW
from tests.scale import seeded

Pair = tuple[SimpleNamespace, SimpleNamespace]

ids = st.sampled_from([0, 1, 2, 7, (1 << 62) - 1, 1 << 62, INT64_MAX, INT64_MIN, -1])
epochs = st.sampled_from([0, 1, 2, 32767])
sequences = st.sampled_from([0, 1, 2, 3, 4, INT32_MAX - 1, INT32_MAX, -1])
deltas = st.sampled_from([0, 1, 2, INT32_MAX])
offsets = st.sampled_from([INT32_MAX, INT32_MAX + 1, 1 << 40, INT64_MAX])
times = st.sampled_from([-1, 0, NOW, NOW + 1, INT64_MAX])
flags = st.booleans()
calls = st.one_of(
    st.tuples(st.just("note"), ids, epochs, sequences, deltas, offsets, times, flags, times),
    st.tuples(st.just("note_marker"), ids, epochs, sequences, times, times),
    st.tuples(st.just("judge"), ids, epochs, sequences, flags),
    st.tuples(st.just("repeated"), ids, epochs, sequences, sequences),
    st.tuples(st.just("next_sequence"), ids, epochs),
    st.tuples(st.just("find"), ids),
    st.tuples(st.just("expire"), times),
    st.sampled_from([("all",), ("open_transactions",), ("largest_offset",), ("dump",), ("clear",), ("__len__",)]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(calls, max_size=40))
def test_twins_agree_on_everything(pair: Pair, todo: list[tuple[Any, ...]]) -> None:
    native, pure = (kernels.producers.ProducerTable() for kernels in pair)
    for name, *arguments in todo:
        assert getattr(native, name)(*arguments) == getattr(pure, name)(*arguments), name
    assert native.all() == pure.all()
    assert native.dump() == pure.dump()


def test_many_of_them(pair: Pair) -> None:
    """The index grows, batches fall out, some expire, and all of it comes back from what was dumped."""
    rng = seeded(4)
    native, pure = (kernels.producers.ProducerTable() for kernels in pair)
    for offset in range(20_000):
        who, epoch = rng.randrange(3000) * 0x1_0000_0001, rng.randrange(50) // 49
        arguments = (
            who,
            epoch,
            offset % 100,
            0,
            offset,
            NOW + offset,
            rng.random() < 0.01,
            NOW + offset + rng.randrange(2),
        )
        assert native.note(*arguments) == pure.note(*arguments)
    assert native.expire(NOW + 9000) == pure.expire(NOW + 9000) > 50
    assert native.dump() == pure.dump()
    again = [kernels.producers.ProducerTable() for kernels in pair]
    for table in again:
        table.load(pure.dump())
        assert table.all() == pure.all()
        assert table.open_transactions() == pure.open_transactions() != []
    with pytest.raises(ValueError, match="twice"):
        again[0].load((2).to_bytes(4, "big") + 2 * pure.dump()[4:50])
    assert len(again[0]) == 0


def test_the_last_five_are_kept_in_order(kernels: SimpleNamespace) -> None:
    table = kernels.producers.ProducerTable()
    for n in range(8):
        table.note(5, 0, n, 0, n, NOW, False, NOW)
    assert [one.last_sequence for one in table.find(5).batches] == [3, 4, 5, 6, 7]
    assert table.next_sequence(5, 0) == 8
    assert (table.next_sequence(5, 1), table.next_sequence(6, 0)) == (0, 0)


@pytest.mark.sampled
def test_who_looks_while_another_thread_changes_it(kernels: SimpleNamespace) -> None:
    """Making the objects of an answer lets other threads run (at the latest when the garbage collector calls someone):
    by then the table may lie elsewhere.
    """
    table, stop = kernels.producers.ProducerTable(), threading.Event()
    thresholds = gc.get_threshold()

    def let_others_run(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    def change() -> None:
        while not stop.is_set():
            for producer_id in range(3000):
                table.note(producer_id, 0, producer_id, 0, producer_id, NOW, False, NOW)
            table.clear()

    interval, thread = sys.getswitchinterval(), threading.Thread(target=change)
    sys.setswitchinterval(1e-6)
    gc.callbacks.append(let_others_run)
    gc.set_threshold(50)
    thread.start()
    try:
        for _ in range(60):
            found = [*table.all(), table.find(7), table.find(2999)]
            assert all(batch.timestamp == NOW for one in found if one for batch in one.batches)
    finally:
        stop.set()
        thread.join()
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_run)
        sys.setswitchinterval(interval)


def body(kernels: SimpleNamespace) -> bytes:
    table = kernels.producers.ProducerTable()
    for n in range(7):
        table.note(n % 2, 0, n, 0, n, NOW, n == 6, NOW)
    dumped: bytes = table.dump()
    return dumped


def test_every_cut_is_refused(kernels: SimpleNamespace) -> None:
    whole, table = body(kernels), kernels.producers.ProducerTable()
    taken = set()
    for size in range(len(whole)):
        try:
            table.load(whole[:size])
            taken.add(size)
        except ValueError:
            assert len(table) == 0
    kafkas = 4 + 2 * 46
    assert taken == {kafkas, *range(kafkas + 8, len(whole), 32)}, "a cut between two batches is for the CRC to find"


@settings(deadline=None)
@given(st.data())
def test_twins_agree_on_damaged_bodies(pair: Pair, data: st.DataObject) -> None:
    damaged = bytearray(body(pair[1]))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    found = []
    for kernels in pair:
        table = kernels.producers.ProducerTable()
        try:
            table.load(damaged)
            found.append(table.all())
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_what_is_no_number_of_kafkas(kernels: SimpleNamespace) -> None:
    table = kernels.producers.ProducerTable()
    with pytest.raises(TypeError):
        table.note(1, 0, "0", 0, 0, NOW, False, NOW)
    with pytest.raises(TypeError):
        table.load("text")

"""producers: sequences, epochs, markers, the first unstable offset (rules P1 to P6, P8, H3), and snapshots."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore import _kernels as kernels
from eventcore.errors import (
    CoordinatorFenced,
    EventCoreError,
    Fenced,
    InvalidProducerEpoch,
    InvalidTxnState,
    OutOfOrderSequence,
)
from eventcore.files import producer_snapshot
from eventcore.format.batch import MAX_SEQUENCE, TRANSACTIONAL, BatchHeader
from eventcore.format.layout import PRODUCER_SNAPSHOT_ENTRY
from eventcore.log.producers import CompletedTransaction, ProducerState
from eventcore.types import CachedBatch

from ..golden import vectors

PID = 7


def batch(
    sequence: int,
    offset: int = 0,
    *,
    count: int = 1,
    pid: int = PID,
    epoch: int = 0,
    transactional: bool = False,
    timestamp: int = 0,
) -> BatchHeader:
    attributes = TRANSACTIONAL if transactional else 0
    return BatchHeader(offset, 100, 0, 2, 0, attributes, count - 1, timestamp, timestamp, pid, epoch, sequence, count)


def marker(offset: int, *, pid: int = PID, epoch: int = 0, timestamp: int = 0) -> BatchHeader:
    return batch(-1, offset, pid=pid, epoch=epoch, transactional=True, timestamp=timestamp)


def send(state: ProducerState, header: BatchHeader) -> CachedBatch | None:
    """What a leader does with a client's batch: the earlier one if it is a repeat."""
    duplicate = state.find_duplicate(header)
    if duplicate is None:
        state.check(header)
        state.note(header)
    return duplicate


@pytest.fixture
def state() -> ProducerState:
    return ProducerState()


# --- sequences --------------------------------------------------------------------------------------------------------


def test_sequences_go_on_where_they_ended(state: ProducerState) -> None:
    for sequence, count in ((0, 3), (3, 1), (4, 10)):
        assert send(state, batch(sequence, sequence, count=count)) is None
    for wrong in (13, 15, 0, 100):
        with pytest.raises(OutOfOrderSequence, match="where 14 is next"):
            state.check(batch(wrong))
    state.check(batch(14))


def test_an_unknown_producer_may_begin_anywhere(state: ProducerState) -> None:
    assert send(state, batch(1000)) is None
    with pytest.raises(OutOfOrderSequence):
        state.check(batch(0))


def test_sequences_wrap_between_and_within_batches(state: ProducerState) -> None:
    send(state, batch(MAX_SEQUENCE - 1, 0, count=2))
    send(state, batch(0, 2))
    assert send(state, batch(MAX_SEQUENCE - 1, 50, count=2)) == CachedBatch(MAX_SEQUENCE - 1, MAX_SEQUENCE, 0, 1, 0)
    within = ProducerState()
    send(within, batch(MAX_SEQUENCE - 1, 0, count=4))
    assert next(iter(within)).last_sequence == 1
    send(within, batch(2, 4))


def test_producers_do_not_know_of_each_other(state: ProducerState) -> None:
    send(state, batch(0, 0, pid=1))
    send(state, batch(5, 1, pid=2))
    send(state, batch(1, 2, pid=1))
    assert [(producer.producer_id, producer.last_sequence) for producer in state] == [(1, 1), (2, 5)]
    assert len(state) == 2


def test_what_has_no_producer_id_is_not_noted(state: ProducerState) -> None:
    state.note(batch(-1, pid=-1, epoch=-1))
    assert len(state) == 0
    assert state.find_duplicate(batch(-1, pid=-1, epoch=-1)) is None


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_the_last_five_batches_are_known_again(state: ProducerState) -> None:
    for n in range(7):
        send(state, batch(n * 2, 100 + n * 2, count=2, timestamp=n))
    for n in range(2, 7):
        assert send(state, batch(n * 2, 999, count=2)) == CachedBatch(n * 2, n * 2 + 1, 100 + n * 2, 101 + n * 2, n)
    for n in range(2):
        with pytest.raises(OutOfOrderSequence):
            send(state, batch(n * 2, 999, count=2))


@pytest.mark.parametrize(("sequence", "count"), [(0, 3), (1, 1), (0, 1), (2, 2)])
def test_a_repeat_has_both_ends_in_common(state: ProducerState, sequence: int, count: int) -> None:
    send(state, batch(0, 0, count=2))
    assert state.find_duplicate(batch(sequence, 9, count=count)) is None


def test_a_repeat_is_of_the_same_epoch(state: ProducerState) -> None:
    send(state, batch(0, 0))
    assert state.find_duplicate(batch(0, epoch=1)) is None
    send(state, batch(0, 1, epoch=1))
    assert state.find_duplicate(batch(0, epoch=0)) is None
    assert state.find_duplicate(batch(0, epoch=1)) == CachedBatch(0, 0, 1, 1, 0)


def test_a_repeat_is_found_after_its_transaction_ended(state: ProducerState) -> None:
    send(state, batch(0, 0, transactional=True))
    state.note_marker(marker(1), 0, commit=True)
    assert send(state, batch(0, 9, transactional=True)) == CachedBatch(0, 0, 0, 0, 0)


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_an_old_epoch_is_fenced(state: ProducerState) -> None:
    send(state, batch(0, epoch=3))
    with pytest.raises(InvalidProducerEpoch, match="epoch 3, the batch 2") as caught:
        state.check(batch(1, epoch=2))
    assert isinstance(caught.value, Fenced)
    assert not caught.value.retriable


def test_a_new_epoch_begins_with_sequence_0(state: ProducerState) -> None:
    send(state, batch(8))
    for wrong in (9, 1):
        with pytest.raises(OutOfOrderSequence, match="where 0 is next"):
            state.check(batch(wrong, epoch=1))
    send(state, batch(0, 1, epoch=1))
    send(state, batch(1, 2, epoch=1))


def test_an_epoch_that_only_a_marker_wrote_begins_with_sequence_0(state: ProducerState) -> None:
    """KIP-890: the marker carries the next epoch; the producer goes on with it."""
    send(state, batch(0, 0, transactional=True))
    state.note_marker(marker(1, epoch=1), 0, commit=True)
    with pytest.raises(InvalidProducerEpoch):
        state.check(batch(1, epoch=0))
    with pytest.raises(OutOfOrderSequence, match="where 0 is next"):
        state.check(batch(1, epoch=1, transactional=True))
    send(state, batch(0, 2, epoch=1, transactional=True))


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_plain_batch_inside_a_transaction_is_refused(state: ProducerState) -> None:
    send(state, batch(0, 0, transactional=True))
    with pytest.raises(InvalidTxnState):
        state.check(batch(1, 1))
    state.note_marker(marker(1), 0, commit=False)
    state.check(batch(1, 2))


def test_a_transaction_begins_with_its_first_batch(state: ProducerState) -> None:
    send(state, batch(0, 5))
    assert state.first_unstable_offset(100) is None
    send(state, batch(1, 6, transactional=True))
    send(state, batch(2, 7, transactional=True))
    assert state.first_unstable_offset(100) == 6
    assert state.note_marker(marker(8), 0, commit=False) == CompletedTransaction(PID, 6, 8, False, 9)
    assert state.first_unstable_offset(100) is None


def test_a_marker_without_a_transaction_completes_nothing(state: ProducerState) -> None:
    assert state.note_marker(marker(3, epoch=2, timestamp=50), 9, commit=True) is None
    (producer,) = state
    assert (producer.epoch, producer.coordinator_epoch, producer.timestamp) == (2, 9, 50)
    assert (producer.last_sequence, producer.last_offset) == (-1, -1)
    assert state.first_unstable_offset(0) is None


def test_the_index_gets_the_first_offset_of_the_oldest_other_transaction(state: ProducerState) -> None:
    for pid in (1, 2, 3):
        send(state, batch(0, pid * 10, pid=pid, transactional=True))
    assert state.note_marker(marker(40, pid=1), 0, commit=False) == CompletedTransaction(1, 10, 40, False, 20)
    assert state.note_marker(marker(41, pid=3), 0, commit=False) == CompletedTransaction(3, 30, 41, False, 20)
    assert state.note_marker(marker(42, pid=2), 0, commit=True) == CompletedTransaction(2, 20, 42, True, 43)


def test_a_decided_transaction_is_unstable_until_its_marker_is_below_the_high_watermark(state: ProducerState) -> None:
    send(state, batch(0, 5, transactional=True))
    state.note_marker(marker(8), 0, commit=True)
    assert [state.first_unstable_offset(high_watermark) for high_watermark in (0, 6, 8, 9, 20)] == [5, 5, 5, None, None]


def test_completed_transactions_are_forgotten_in_time(state: ProducerState) -> None:
    for n in range(1000):
        send(state, batch(n, 2 * n, transactional=True))
        state.note_marker(marker(2 * n + 1), 0, commit=True)
        assert state.first_unstable_offset(2 * n) == (2 * n)
        assert state.first_unstable_offset(2 * n + 2) is None
    assert len(state._completed) == 1


def test_the_unreplicated_are_all_kept_while_the_high_watermark_stands_still(state: ProducerState) -> None:
    for n in range(50):
        send(state, batch(n, 2 * n, transactional=True))
        state.note_marker(marker(2 * n + 1), 0, commit=True)
        assert state.first_unstable_offset(0) == 0
    assert [state.first_unstable_offset(h) for h in (1, 2, 3, 4, 99, 100)] == [0, 2, 2, 4, 98, None]


def test_a_marker_at_the_high_watermark_is_not_yet_replicated(state: ProducerState) -> None:
    """Nor is it forgotten when the next marker makes the state forget those below."""
    for pid in (1, 2, 3):
        send(state, batch(0, pid, pid=pid, transactional=True))
    state.note_marker(marker(10, pid=1), 0, commit=True)
    state.note_marker(marker(11, pid=2), 0, commit=True)
    assert state.first_unstable_offset(11) == 2
    state.note_marker(marker(12, pid=3), 0, commit=True)
    assert state.first_unstable_offset(11) == 2
    assert state.first_unstable_offset(12) == 3


def test_no_transaction_is_stable_for_a_moment_while_it_completes(state: ProducerState) -> None:
    """Another thread asks all the time; at a high watermark of 0 the first transaction is never decided."""
    seen: set[int | None] = set()
    looks, done = threading.Event(), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(state.first_unstable_offset(0))
            looks.set()

    send(state, batch(0, 0, transactional=True))
    thread = threading.Thread(target=look)
    thread.start()
    looks.wait()
    for n in range(1, 2000):
        state.note_marker(marker(2 * n - 1), 0, commit=True)
        send(state, batch(n, 2 * n, transactional=True))
    done.set()
    thread.join()
    assert seen == {0}


def test_a_transaction_is_never_missing_from_open_and_completed(state: ProducerState) -> None:
    """The same, at the one moment that matters, without luck."""

    class Watched(dict[int, int]):
        def pop(self, *arguments: object) -> int:  # type: ignore[override]
            assert [done.first_offset for done in state._completed] == [4]
            return super().pop(*arguments)  # type: ignore[call-overload, no-any-return]

    send(state, batch(0, 4, transactional=True))
    state.opened = Watched(state.opened)
    state.note_marker(marker(5), 0, commit=True)
    assert state.opened == {}


# --- markers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "marker_epoch", "is_open", "raises_epoch", "accepted"),
    [
        (3, 3, True, False, True),
        (3, 4, True, False, True),
        (3, 2, True, False, False),
        (3, 3, False, False, True),
        (3, 4, True, True, True),
        (3, 3, True, True, False),  # late: it would end the transaction after the one it was sent for
        (3, 3, False, True, True),  # sent again
        (3, 2, False, True, False),
        (32767, 32767, True, True, True),  # there is no higher one
        (32767, 32766, True, True, False),
    ],
)
def test_epochs_of_markers(epoch: int, marker_epoch: int, is_open: bool, raises_epoch: bool, accepted: bool) -> None:
    state = ProducerState()
    send(state, batch(0, 0, epoch=epoch, transactional=is_open))
    if accepted:
        state.check_marker(marker(1, epoch=marker_epoch), 0, raises_epoch=raises_epoch)
    else:
        with pytest.raises(InvalidProducerEpoch):
            state.check_marker(marker(1, epoch=marker_epoch), 0, raises_epoch=raises_epoch)


def test_an_old_coordinator_is_fenced(state: ProducerState) -> None:
    state.check_marker(marker(0), 5)
    state.note_marker(marker(0), 5, commit=True)
    state.check_marker(marker(1), 5)
    state.check_marker(marker(1), 6)
    with pytest.raises(CoordinatorFenced, match="epoch 4 after one of 5"):
        state.check_marker(marker(1), 4)


# --- expiry and snapshots ---------------------------------------------------------------------------------------------


def test_idle_producers_expire_unless_their_transaction_is_open(state: ProducerState) -> None:
    send(state, batch(0, 0, pid=1, timestamp=100))
    send(state, batch(0, 1, pid=2, timestamp=101))
    send(state, batch(0, 2, pid=3, timestamp=0, transactional=True))
    assert state.expire(199, 100) == 0
    assert state.expire(200, 100) == 1
    assert [producer.producer_id for producer in state] == [2, 3]
    state.note_marker(marker(3, pid=3, timestamp=150), 0, commit=True)
    assert state.expire(249, 100) == 1
    assert [producer.producer_id for producer in state] == [3]
    send(state, batch(77, 4, pid=1))


def test_who_writes_of_old_times_is_not_forgotten_for_that(state: ProducerState) -> None:
    """Kafka goes by the records' time: an import of last year's records would be forgotten at once."""
    state.note(batch(0, timestamp=5), now=1000)
    assert state.expire(1099, 100) == 0
    assert state.find_duplicate(batch(0)) == CachedBatch(0, 0, 0, 0, 5)
    state.note_marker(marker(1, timestamp=5), 0, commit=True, now=2000)
    assert state.expire(2099, 100) == 0
    assert state.expire(2100, 100) == 1


GOLDEN = (4000, 3, 9, 119, 4, vectors.TIMESTAMP, 9, 100)


def restart(state: ProducerState, body: bytes) -> None:
    """Read a snapshot of this body, as an opening does."""
    state.load(producer_snapshot.decode(producer_snapshot.encode(body), Path("x")))


def body(*entry: int) -> bytes:
    return (1).to_bytes(4, "big") + PRODUCER_SNAPSHOT_ENTRY.struct.pack(*entry)


def test_a_snapshot_has_kafkas_bytes(state: ProducerState) -> None:
    state.note_marker(marker(99, pid=4000, epoch=3), 9, commit=True)
    state.note(batch(0, 100, count=5, pid=4000, epoch=3, transactional=True))
    state.note(batch(5, 115, count=5, pid=4000, epoch=3, transactional=True, timestamp=vectors.TIMESTAMP))
    found = producer_snapshot.encode(state.snapshot())
    assert found[6 : len(vectors.SNAPSHOT_ONE)] == vectors.SNAPSHOT_ONE[6:], "what Kafka reads"
    assert found[len(vectors.SNAPSHOT_ONE) :].startswith(kernels.producers.BATCHES_MAGIC)
    assert producer_snapshot.encode(ProducerState().snapshot()) == vectors.SNAPSHOT_EMPTY


def test_what_a_snapshot_brings_back(state: ProducerState) -> None:
    send(state, batch(0, 0, pid=1))
    restart(state, body(*GOLDEN))
    (producer,) = state
    assert producer.producer_id == 4000
    assert list(producer.batches) == [CachedBatch(5, 9, 115, 119, vectors.TIMESTAMP)]
    assert (producer.epoch, producer.coordinator_epoch, producer.timestamp) == (3, 9, vectors.TIMESTAMP)
    assert state.first_unstable_offset(1000) == 100
    again = batch(5, 0, count=5, pid=4000, epoch=3, transactional=True)
    assert send(state, again) == CachedBatch(5, 9, 115, 119, vectors.TIMESTAMP)
    send(state, batch(10, 120, pid=4000, epoch=3, transactional=True))
    assert state.note_marker(marker(121, pid=4000, epoch=3), 9, commit=False) == CompletedTransaction(
        4000, 100, 121, False, 122
    )


def test_a_producer_known_by_its_marker_alone(state: ProducerState) -> None:
    restart(state, body(4000, 3, -1, -1, 0, vectors.TIMESTAMP, 9, -1))
    (producer,) = state
    assert not producer.batches
    with pytest.raises(OutOfOrderSequence):
        state.check(batch(10, pid=4000, epoch=3))
    send(state, batch(0, 120, pid=4000, epoch=3))


def test_a_producer_of_no_epoch_may_begin_anywhere(state: ProducerState) -> None:
    restart(state, body(1, -1, -1, -1, 0, 0, -1, -1))
    send(state, batch(12, 0, pid=1, epoch=4))
    with pytest.raises(OutOfOrderSequence):
        state.check(batch(12, 1, pid=1, epoch=4))


def test_a_batch_across_the_wrap_comes_back_from_a_snapshot(state: ProducerState) -> None:
    send(state, batch(MAX_SEQUENCE, 10, count=3))
    again = ProducerState()
    restart(again, state.snapshot())
    assert again.find_duplicate(batch(MAX_SEQUENCE, count=3)) == CachedBatch(MAX_SEQUENCE, 1, 10, 12, 0)


def test_the_last_five_batches_survive_a_restart(state: ProducerState) -> None:
    for pid in (1, 2):
        for n in range(7):
            send(state, batch(n, 10 * n + pid, pid=pid, timestamp=n))
    send(state, batch(0, 99, pid=3))
    again = ProducerState()
    restart(again, state.snapshot())
    assert list(again) == list(state)
    for n in range(2, 7):
        assert send(again, batch(n, 999, pid=2)) == CachedBatch(n, n, 10 * n + 2, 10 * n + 2, n)
    with pytest.raises(OutOfOrderSequence):
        send(again, batch(1, 999, pid=2))
    send(again, batch(7, 100, pid=2))


def test_clear_forgets_everything(state: ProducerState) -> None:
    send(state, batch(0, 0, pid=1, transactional=True))
    send(state, batch(0, 1, pid=2, transactional=True))
    state.note_marker(marker(2, pid=2), 0, commit=True)
    state.clear()
    assert len(state) == 0
    assert state.first_unstable_offset(0) is None


# --- against the rules in their plainest form -------------------------------------------------------------------------


@dataclass
class Model:
    """A log of (header, is it a marker), searched from its start for every answer."""

    log: list[tuple[BatchHeader, bool]] = field(default_factory=list)

    def first_unstable(self, high_watermark: int) -> int | None:
        began: dict[int, int] = {}
        unstable: list[int] = []
        for header, is_marker in self.log:
            if is_marker and header.producer_id in began:
                first = began.pop(header.producer_id)
                unstable += [first] if header.base_offset >= high_watermark else []
            elif not is_marker and header.transactional:
                began.setdefault(header.producer_id, header.base_offset)
        return min([*began.values(), *unstable], default=None)

    def own(self, header: BatchHeader) -> list[BatchHeader]:
        return [h for h, is_marker in self.log if h.producer_id == header.producer_id and not is_marker]

    def expected(self, header: BatchHeader) -> str:
        mine = [(h, m) for h, m in self.log if h.producer_id == header.producer_id]
        if not mine:
            return "new"
        epoch = mine[-1][0].producer_epoch
        recent = [h for h, m in mine if not m and h.producer_epoch == header.producer_epoch][-5:]
        same = (header.base_sequence, header.last_offset_delta)
        if header.producer_epoch == epoch and same in [(h.base_sequence, h.last_offset_delta) for h in recent]:
            return "duplicate"
        if header.producer_epoch < epoch:
            return "InvalidProducerEpoch"
        is_open = any(h.transactional for h, m in mine[max([0, *(i + 1 for i, (_, m) in enumerate(mine) if m)]) :])
        if is_open and not header.transactional:
            return "InvalidTxnState"
        following = recent[-1].base_sequence + recent[-1].record_count if recent else 0
        return "new" if header.base_sequence == following else "OutOfOrderSequence"


steps = st.tuples(
    st.integers(1, 2),  # producer
    st.integers(0, 1),  # epoch
    st.integers(0, 4),  # sequence; -1 below stands for a marker
    st.integers(1, 2),  # records
    st.booleans(),  # transactional
    st.sampled_from(["batch", "batch", "next", "next", "marker"]),
)


@given(st.lists(steps, max_size=40), st.integers(0, 60))
def test_it_agrees_with_a_search_of_the_log(todo: list[tuple[int, int, int, int, bool, str]], watermark: int) -> None:
    state, model, end = ProducerState(), Model(), 0
    for pid, epoch, sequence, count, transactional, kind in todo:
        if kind == "marker":
            header = marker(end, pid=pid, epoch=epoch)
            known = [h.producer_epoch for h, _ in model.log if h.producer_id == pid]
            if known and epoch < known[-1]:
                continue
            state.note_marker(header, 0, commit=True)
            model.log.append((header, True))
            end += 1
        else:
            header = batch(sequence, end, count=count, pid=pid, epoch=epoch, transactional=transactional)
            if kind == "next":
                mine = [h for h in model.own(header) if h.producer_epoch == epoch]
                following = mine[-1].base_sequence + mine[-1].record_count if mine else 0
                header = header._replace(base_sequence=following)
            expected = model.expected(header)
            try:
                outcome = "new" if send(state, header) is None else "duplicate"
            except EventCoreError as error:
                outcome = type(error).__name__
            assert outcome == expected
            if outcome == "new":
                model.log.append((header, False))
                end += count
        assert state.first_unstable_offset(watermark) == model.first_unstable(watermark)

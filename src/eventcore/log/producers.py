"""Producers of one partition: sequences that make a retry harmless, open transactions, the last stable offset.

Rules P1 to P6, P8 and P11. Per producer and epoch the sequences rise without a gap; the last five batches are kept,
so that a repeated one is answered with the offsets it got the first time. A transaction is open from its first batch
to its marker; readers of committed data stop at the first offset that is still undecided.

A batch from a client is checked and then noted. What a leader or the log itself hands over is noted without a check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from eventcore.errors import CoordinatorFenced, InvalidProducerEpoch, InvalidTxnState, OutOfOrderSequence
from eventcore.files.producer_snapshot import ProducerEntry
from eventcore.format.batch import MAX_SEQUENCE, BatchHeader

CACHED_BATCHES = 5
NONE = -1
_MAX_EPOCH = (1 << 15) - 1


class CachedBatch(NamedTuple):
    """One batch a producer wrote."""

    first_sequence: int
    last_sequence: int
    first_offset: int
    last_offset: int
    timestamp: int


class CompletedTransaction(NamedTuple):
    """A transaction whose marker was just appended."""

    producer_id: int
    first_offset: int
    marker_offset: int
    committed: bool
    last_stable_offset: int
    """What the transaction index stores: the first offset of the oldest other open transaction, else marker + 1."""


@dataclass
class Producer:
    """What the log knows of one producer id."""

    producer_id: int
    epoch: int = NONE
    batches: deque[CachedBatch] = field(default_factory=lambda: deque(maxlen=CACHED_BATCHES))
    timestamp: int = NONE
    coordinator_epoch: int = NONE
    txn_first_offset: int = NONE

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; -1 if none is known."""
        return self.batches[-1].last_sequence if self.batches else NONE

    @property
    def last_offset(self) -> int:
        """Offset of the last record; -1 if none is known."""
        return self.batches[-1].last_offset if self.batches else NONE


class ProducerState:
    """All producers of a partition. Not durable by itself: see `snapshot`.

    One thread at a time changes it; any may ask `first_unstable_offset` or iterate meanwhile.
    """

    def __init__(self) -> None:
        self._producers: dict[int, Producer] = {}
        self._open: dict[int, int] = {}
        self._completed: list[CompletedTransaction] = []  # by marker offset; those below the high watermark may be gone
        self._high_watermark = 0

    def find_duplicate(self, header: BatchHeader) -> CachedBatch | None:
        """The cached batch that `header` repeats, if any (P1)."""
        producer = self._producers.get(header.producer_id)
        if producer is None or producer.epoch != header.producer_epoch:
            return None
        wanted = (header.base_sequence, header.last_sequence)
        return next((batch for batch in producer.batches if batch[:2] == wanted), None)

    def check(self, header: BatchHeader) -> None:
        """Refuse a client's batch that does not follow what its producer wrote before (P2 to P4).

        A producer of whom nothing is known may begin with any sequence: its state may have expired. One of whom only a
        marker is known begins its epoch, with 0.
        """
        producer = self._producers.get(header.producer_id)
        if producer is None or producer.epoch == NONE:
            return
        who = f"producer {header.producer_id}"
        if header.producer_epoch < producer.epoch:
            raise InvalidProducerEpoch(f"{who} has epoch {producer.epoch}, the batch {header.producer_epoch}")
        if producer.txn_first_offset != NONE and not header.transactional:
            raise InvalidTxnState(f"{who} has an open transaction and sends a batch outside of it")
        begins_epoch = header.producer_epoch != producer.epoch
        expected = 0 if begins_epoch else (producer.last_sequence + 1) & MAX_SEQUENCE
        if header.base_sequence != expected:
            raise OutOfOrderSequence(
                f"{who} epoch {header.producer_epoch}: sequence {header.base_sequence} where {expected} is next"
            )

    def note(self, header: BatchHeader) -> None:
        """Take in a data batch that was appended at the offsets its header says."""
        if header.producer_id < 0:
            return
        producer = self._producers.setdefault(header.producer_id, Producer(header.producer_id))
        if header.producer_epoch != producer.epoch:
            producer.epoch = header.producer_epoch
            producer.batches.clear()
        producer.batches.append(
            CachedBatch(
                header.base_sequence,
                header.last_sequence,
                header.base_offset,
                header.last_offset,
                header.max_timestamp,
            )
        )
        producer.timestamp = header.max_timestamp
        if header.transactional and producer.txn_first_offset == NONE:
            producer.txn_first_offset = header.base_offset
            self._open[header.producer_id] = header.base_offset

    def check_marker(self, header: BatchHeader, coordinator_epoch: int, *, raises_epoch: bool = False) -> None:
        """Refuse a marker of an old producer epoch or an old coordinator (P6).

        With `raises_epoch` the coordinator ends each transaction under a new epoch (KIP-890), so that one of the same
        epoch comes too late. Two may: a marker sent again after its transaction ended, and one of the highest epoch.
        """
        producer = self._producers.get(header.producer_id)
        if producer is None:
            return
        same_is_late = raises_epoch and producer.txn_first_offset != NONE and producer.epoch < _MAX_EPOCH
        if header.producer_epoch < producer.epoch + same_is_late:
            raise InvalidProducerEpoch(
                f"producer {header.producer_id} has epoch {producer.epoch}, its marker {header.producer_epoch}"
            )
        if coordinator_epoch < producer.coordinator_epoch:
            raise CoordinatorFenced(
                f"a marker of coordinator epoch {coordinator_epoch} after one of {producer.coordinator_epoch}"
            )

    def note_marker(self, header: BatchHeader, coordinator_epoch: int, *, commit: bool) -> CompletedTransaction | None:
        """Take in an appended transaction marker. None if no transaction was open: such a marker ends nothing."""
        producer = self._producers.setdefault(header.producer_id, Producer(header.producer_id))
        if header.producer_epoch != producer.epoch:
            producer.epoch = header.producer_epoch
            producer.batches.clear()
        producer.coordinator_epoch = coordinator_epoch
        producer.timestamp = header.max_timestamp
        first = producer.txn_first_offset
        if first == NONE:
            return None
        producer.txn_first_offset = NONE
        others = (offset for producer_id, offset in self._open.items() if producer_id != header.producer_id)
        stable = min(others, default=header.last_offset + 1)
        completed = CompletedTransaction(header.producer_id, first, header.last_offset, commit, stable)
        self._complete(completed)
        return completed

    def _complete(self, completed: CompletedTransaction) -> None:
        """Move a transaction from open to completed, at no moment missing from both: others may be looking."""
        if self._completed and self._completed[0].marker_offset < self._high_watermark:
            self._completed = [done for done in self._completed if done.marker_offset >= self._high_watermark]
        self._completed.append(completed)
        self._open.pop(completed.producer_id, None)

    def first_unstable_offset(self, high_watermark: int) -> int | None:
        """The first offset that is undecided, or decided by a marker at or above the high watermark (H3)."""
        self._high_watermark = high_watermark
        if not self._open and not self._completed:
            return None  # every append asks, and most logs know no transactions
        still_open = list(self._open.values())
        unreplicated = takewhile(lambda done: done.marker_offset >= high_watermark, reversed(self._completed))
        return min([*still_open, *(done.first_offset for done in unreplicated)], default=None)

    def expire(self, now: int, expiration_ms: int) -> int:
        """Forget producers without an open transaction whose last record is too old (P8); returns how many."""
        gone = [
            producer.producer_id
            for producer in self._producers.values()
            if producer.txn_first_offset == NONE and now - producer.timestamp >= expiration_ms
        ]
        for producer_id in gone:
            del self._producers[producer_id]
        return len(gone)

    def clear(self) -> None:
        """Forget everything."""
        self._producers.clear()
        self._open.clear()
        self._completed = []
        self._high_watermark = 0

    def snapshot(self) -> list[ProducerEntry]:
        """One entry a producer, as `.snapshot` files hold them: only the last batch is kept there."""
        return [_entry(producer) for producer in self._producers.values()]

    def load(self, entries: Iterable[ProducerEntry]) -> None:
        """Replace the state with a snapshot's."""
        self.clear()
        for entry in entries:
            producer = Producer(
                entry.producer_id,
                entry.producer_epoch,
                timestamp=entry.timestamp,
                coordinator_epoch=entry.coordinator_epoch,
                txn_first_offset=entry.current_txn_first_offset,
            )
            if entry.last_offset >= 0:
                producer.batches.append(_batch(entry))
            self._producers[entry.producer_id] = producer
            if entry.current_txn_first_offset >= 0:
                self._open[entry.producer_id] = entry.current_txn_first_offset

    def __iter__(self) -> Iterator[Producer]:
        return iter(list(self._producers.values()))

    def __len__(self) -> int:
        return len(self._producers)


def _entry(producer: Producer) -> ProducerEntry:
    last = producer.batches[-1] if producer.batches else None
    return ProducerEntry(
        producer_id=producer.producer_id,
        producer_epoch=producer.epoch,
        last_sequence=last.last_sequence if last else NONE,
        last_offset=last.last_offset if last else NONE,
        offset_delta=last.last_offset - last.first_offset if last else 0,
        timestamp=producer.timestamp,
        coordinator_epoch=producer.coordinator_epoch,
        current_txn_first_offset=producer.txn_first_offset,
    )


def _batch(entry: ProducerEntry) -> CachedBatch:
    first_sequence = (entry.last_sequence - entry.offset_delta) & MAX_SEQUENCE if entry.last_sequence >= 0 else NONE
    return CachedBatch(
        first_sequence, entry.last_sequence, entry.last_offset - entry.offset_delta, entry.last_offset, entry.timestamp
    )

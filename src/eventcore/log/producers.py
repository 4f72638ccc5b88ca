"""Producers of one partition: sequences that make a retry harmless, open transactions, the last stable offset.

Rules P1 to P6, P8 and P11. Per producer and epoch the sequences rise without a gap; the last five batches are kept,
so that a repeated one is answered with the offsets it got the first time. A transaction is open from its first batch
to its marker; readers of committed data stop at the first offset that is still undecided.

A batch from a client is checked and then noted. What a leader or the log itself hands over is noted without a check.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.errors import (
    CoordinatorFenced,
    EventCoreError,
    InvalidProducerEpoch,
    InvalidTxnState,
    OutOfOrderSequence,
)
from eventcore.format.batch import BatchHeader
from eventcore.types import CachedBatch, Producer

NONE = -1
_MAX_EPOCH = (1 << 15) - 1


class CompletedTransaction(NamedTuple):
    """A transaction whose marker was just appended."""

    producer_id: int
    first_offset: int
    marker_offset: int
    committed: bool
    last_stable_offset: int
    """What the transaction index stores: the first offset of the oldest other open transaction, else marker + 1."""


class ProducerState:
    """All producers of a partition. Not durable by itself: see `snapshot`.

    One thread at a time changes it; any may ask `first_unstable_offset` or iterate meanwhile.
    """

    def __init__(self) -> None:
        self.table = kernels.producers.ProducerTable()
        self.opened: dict[int, int] = {}
        """Producer id: first offset, of the transactions that are open. The same object for ever: see `Appender`."""
        self._completed: list[CompletedTransaction] = []  # by marker offset; those below the high watermark may be gone
        self._high_watermark = 0

    def find_duplicate(self, header: BatchHeader) -> CachedBatch | None:
        """The cached batch that `header` repeats, if any (P1)."""
        return self.table.repeated(
            header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence
        )

    def check(self, header: BatchHeader) -> None:
        """Refuse a client's batch that does not follow what its producer wrote before (P2 to P4)."""
        verdict = self.table.judge(
            header.producer_id, header.producer_epoch, header.base_sequence, header.transactional
        )
        if verdict != kernels.producers.FOLLOWS:
            raise self._refusal(header, verdict)

    def _refusal(self, header: BatchHeader, verdict: int) -> EventCoreError:
        who, epoch = f"producer {header.producer_id}", header.producer_epoch
        if verdict == kernels.producers.OLD_EPOCH:
            known = self.table.find(header.producer_id)
            return InvalidProducerEpoch(f"{who} has epoch {known and known.epoch}, the batch {epoch}")
        if verdict == kernels.producers.IN_TRANSACTION:
            return InvalidTxnState(f"{who} has an open transaction and sends a batch outside of it")
        expected = self.table.next_sequence(header.producer_id, epoch)
        return OutOfOrderSequence(f"{who} epoch {epoch}: sequence {header.base_sequence} where {expected} is next")

    def note(self, header: BatchHeader, now: int = NONE) -> None:
        """Take in a data batch that was appended, `now`, at the offsets its header says."""
        if header.producer_id >= 0 and self.table.note(
            header.producer_id, header.producer_epoch, header.last_sequence, header.last_offset_delta,
            header.last_offset, header.max_timestamp, header.transactional, now,
        ):  # fmt: skip
            self.opened[header.producer_id] = header.base_offset

    def check_marker(self, header: BatchHeader, coordinator_epoch: int, *, raises_epoch: bool = False) -> None:
        """Refuse a marker of an old producer epoch or an old coordinator (P6).

        With `raises_epoch` the coordinator ends each transaction under a new epoch (KIP-890), so that one of the same
        epoch comes too late. Two may: a marker sent again after its transaction ended, and one of the highest epoch.
        """
        producer = self.table.find(header.producer_id)
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

    def note_marker(
        self, header: BatchHeader, coordinator_epoch: int, *, commit: bool, now: int = NONE
    ) -> CompletedTransaction | None:
        """Take in an appended transaction marker. None if no transaction was open: such a marker ends nothing."""
        first = self.table.note_marker(
            header.producer_id, header.producer_epoch, coordinator_epoch, header.max_timestamp, now
        )
        if first == NONE:
            return None
        others = (offset for producer_id, offset in self.opened.items() if producer_id != header.producer_id)
        stable = min(others, default=header.last_offset + 1)
        completed = CompletedTransaction(header.producer_id, first, header.last_offset, commit, stable)
        self._complete(completed)
        return completed

    def _complete(self, completed: CompletedTransaction) -> None:
        """Move a transaction from open to completed, at no moment missing from both: others may be looking."""
        if self._completed and self._completed[0].marker_offset < self._high_watermark:
            self._completed = [done for done in self._completed if done.marker_offset >= self._high_watermark]
        self._completed.append(completed)
        self.opened.pop(completed.producer_id, None)

    def first_unstable_offset(self, high_watermark: int) -> int | None:
        """The first offset that is undecided, or decided by a marker at or above the high watermark (H3)."""
        self._high_watermark = high_watermark
        if not self.opened and not self._completed:
            return None  # every append asks, and most logs know no transactions
        still_open = list(self.opened.values())
        unreplicated = takewhile(lambda done: done.marker_offset >= high_watermark, reversed(self._completed))
        return min([*still_open, *(done.first_offset for done in unreplicated)], default=None)

    def expire(self, now: int, expiration_ms: int) -> int:
        """Forget producers without an open transaction that were not heard of for so long (P8); returns how many."""
        return self.table.expire(now - expiration_ms)

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self.opened.clear()
        self._completed = []
        self._high_watermark = 0

    def snapshot(self) -> bytes:
        """The producers as the body of a `.snapshot` file; see `kernels.producers`."""
        return self.table.dump()

    def load(self, table: kernels.producers.ProducerTable) -> None:
        """Replace the producers by those of a snapshot."""
        self.clear()
        self.table.adopt(table)
        self.opened.update(self.table.open_transactions())

    def __iter__(self) -> Iterator[Producer]:
        return iter(self.table.all())

    def __len__(self) -> int:
        return len(self.table)

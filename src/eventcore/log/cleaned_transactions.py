"""What compaction does with transactions, batch by batch in the order of the log (Kafka's CleanedTransactionMetadata).

Batches of aborted transactions go at once. A marker stays as long as a batch of its transaction was there before it in
the same pass; then it gets a delete horizon, and goes once that has passed. What the transaction index says of an
aborted transaction stays with its marker's segment as long as a batch of it was there.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventcore.files.txn_index import TxnEntry
from eventcore.format import control
from eventcore.format.batch import BatchHeader


class CleanedTransactions:
    """Follows one pass. `aborted` are the entries of all transaction indexes of the range."""

    def __init__(self, aborted: Iterable[TxnEntry]) -> None:
        self._waiting = sorted(aborted, key=lambda entry: entry.first_offset, reverse=True)
        self._aborted: dict[int, TxnEntry] = {}
        self._seen: set[int] = set()
        self._committed: set[int] = set()
        self.kept: list[TxnEntry] = []
        """Entries whose markers went by and stay, to be taken from here into the segment's index."""

    def _advance(self, offset: int) -> None:
        while self._waiting and self._waiting[-1].first_offset <= offset:
            entry = self._waiting.pop()
            self._aborted.setdefault(entry.producer_id, entry)

    def discards_batch(self, header: BatchHeader) -> bool:
        """Whether the records of a transactional batch go: it was aborted."""
        self._advance(header.last_offset)
        if header.producer_id in self._aborted:
            self._seen.add(header.producer_id)
            return True
        self._committed.add(header.producer_id)
        return False

    def discards_marker(self, header: BatchHeader, marker: control.Marker | None) -> bool:
        """Whether nothing is left of the marker's transaction; None is a marker that went before."""
        self._advance(header.last_offset)
        producer = header.producer_id
        if marker is None:
            return True
        if marker.kind == control.ABORT:
            entry, was_seen = self._aborted.pop(producer, None), producer in self._seen
            self._seen.discard(producer)
            if entry is not None and was_seen:
                self.kept.append(entry)
            return entry is None or not was_seen
        if marker.kind == control.COMMIT:
            was_there = producer in self._committed
            self._committed.discard(producer)
            return not was_there
        return False

"""What a partition knows of its producers: epoch, the last batches, the open transaction (rules P1 to P6 and P8).

An idle producer costs little, because a million of them is usual where programs come and go: the native twin takes at
most 200 bytes for one. Numbers are those of Kafka's snapshot; -1 stands for "none".

A table is written as the body of a `.snapshot`: the number of producers (int32), an entry of 46 bytes each as Kafka
has it, which holds one batch. Kafka reads no further. What that does not tell follows behind BATCHES_MAGIC, 32 bytes a
batch: producer id, last offset and timestamp (int64 each), last sequence and offset delta (int32 each), in the
producers' order, each one's oldest first: the batches before the last, so that the window of batches that may come
again is as wide after a restart; and the last one, if its time is not the producer's.

A producer's time is the one at which it was heard of, or that of its last record if that is later. Kafka has the
record's alone: whoever imports records of last year is forgotten there as soon as he has written them.
"""

from __future__ import annotations

import struct

from eventcore.types import Buffer, CachedBatch, Producer

__all__ = ["BATCHES_MAGIC", "CACHED_BATCHES", "FIRST_NAMED", "ProducerTable"]

CACHED_BATCHES = 5
BATCHES_MAGIC = b"ecBATCH1"
_ENTRY = struct.Struct(">qhiqiqiq")
_BATCH_ENTRY = struct.Struct(">qqqii")
_NONE = -1
FIRST_NAMED = 1 << 62
"""Ids from here on are of producers with a name, who may come back after any time."""
SEQUENCES = 1 << 31
_NO_BATCH = CachedBatch(_NONE, _NONE, _NONE, _NONE, _NONE)

FOLLOWS, OLD_EPOCH, IN_TRANSACTION, OUT_OF_ORDER = range(4)
"""What `ProducerTable.judge` answers."""


class _Producer:
    __slots__ = ("batches", "coordinator_epoch", "epoch", "timestamp", "txn_first_offset")

    def __init__(self) -> None:
        self.epoch = self.timestamp = self.coordinator_epoch = self.txn_first_offset = _NONE
        self.batches: list[CachedBatch] = []


class ProducerTable:
    """All producers of a partition, by their ids. One thread at a time may change it; any may look meanwhile."""

    def __init__(self) -> None:
        self._producers: dict[int, _Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def find(self, producer_id: int) -> Producer | None:
        """What is known of one producer."""
        producer = self._producers.get(producer_id)
        return None if producer is None else _known(producer_id, producer)

    def all(self) -> list[Producer]:
        """What is known of all, in the order in which they came."""
        return [_known(*item) for item in self._producers.copy().items()]  # another thread may change it

    def open_transactions(self) -> list[tuple[int, int]]:
        """(producer id, first offset) of each."""
        found = self._producers.items()
        return [(one, producer.txn_first_offset) for one, producer in found if producer.txn_first_offset != _NONE]

    def repeated(self, producer_id: int, epoch: int, first_sequence: int, last_sequence: int) -> CachedBatch | None:
        """The cached batch of these sequences and this epoch (P1)."""
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            return None
        return next((one for one in producer.batches if one[:2] == (first_sequence, last_sequence)), None)

    def judge(self, producer_id: int, epoch: int, base_sequence: int, transactional: bool) -> int:
        """Whether a client's batch FOLLOWS what its producer wrote before, else what is wrong with it (P2 to P4).

        A producer of whom nothing is known may begin with any sequence: its state may have expired. One of whom only a
        marker is known begins its epoch, with 0.
        """
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch == _NONE:
            return FOLLOWS
        if epoch < producer.epoch:
            return OLD_EPOCH
        if producer.txn_first_offset != _NONE and not transactional:
            return IN_TRANSACTION
        return FOLLOWS if base_sequence == self.next_sequence(producer_id, epoch) else OUT_OF_ORDER

    def next_sequence(self, producer_id: int, epoch: int) -> int:
        """What the producer's next batch has to begin with: 0 in an epoch of which there is none yet."""
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch or not producer.batches:
            return 0
        return (producer.batches[-1].last_sequence + 1) % SEQUENCES

    def note(
        self,
        producer_id: int,
        epoch: int,
        last_sequence: int,
        offset_delta: int,
        last_offset: int,
        timestamp: int,
        transactional: bool,
        now: int,
    ) -> bool:
        """Take in a batch of data that was appended; whether it opened a transaction (P5)."""
        producer = self._begin(producer_id, epoch, max(timestamp, now))
        producer.batches.append(_batch(last_offset, timestamp, last_sequence, offset_delta))
        del producer.batches[:-CACHED_BATCHES]
        if not transactional or producer.txn_first_offset != _NONE:
            return False
        producer.txn_first_offset = last_offset - offset_delta
        return True

    def note_marker(self, producer_id: int, epoch: int, coordinator_epoch: int, timestamp: int, now: int) -> int:
        """Take in an appended marker: the first offset of the transaction that it ended, or -1."""
        producer = self._begin(producer_id, epoch, max(timestamp, now))
        producer.coordinator_epoch = coordinator_epoch
        first, producer.txn_first_offset = producer.txn_first_offset, _NONE
        return first

    def _begin(self, producer_id: int, epoch: int, timestamp: int) -> _Producer:
        producer = self._producers.setdefault(producer_id, _Producer())
        if epoch != producer.epoch:
            producer.epoch = epoch
            producer.batches.clear()
        producer.timestamp = timestamp
        return producer

    def expire(self, before: int) -> int:
        """Forget those without a name or an open transaction whose time is not after `before` (P8); how many."""
        gone = [
            one
            for one, producer in self._producers.items()
            if producer.txn_first_offset == _NONE and producer.timestamp <= before and one < FIRST_NAMED
        ]
        for producer_id in gone:
            del self._producers[producer_id]
        return len(gone)

    def adopt(self, other: ProducerTable) -> None:
        """Take over what another table has, which is empty then; this one stays the same for those who use it."""
        self._producers, other._producers = other._producers, {}

    def clear(self) -> None:
        """Forget everything."""
        self._producers.clear()

    def dump(self) -> bytes:
        """The table as the body of a snapshot."""
        entries, batches = [], []
        for producer_id, producer in self._producers.items():
            last = producer.batches[-1] if producer.batches else _NO_BATCH
            entries.append(
                _ENTRY.pack(
                    producer_id, producer.epoch, last.last_sequence, last.last_offset,
                    last.last_offset - last.first_offset, producer.timestamp, producer.coordinator_epoch,
                    producer.txn_first_offset,
                )
            )  # fmt: skip
            batches += [
                _BATCH_ENTRY.pack(producer_id, one.last_offset, one.timestamp, one.last_sequence, one[3] - one[2])
                for one in producer.batches
                if one is not last or one.timestamp != producer.timestamp
            ]
        body = len(entries).to_bytes(4, "big") + b"".join(entries)
        return body + BATCHES_MAGIC + b"".join(batches) if batches else body

    def largest_offset(self) -> int:
        """The largest offset of a record that is known, -1 if there is none."""
        return max((one.batches[-1].last_offset for one in self._producers.values() if one.batches), default=_NONE)

    def load(self, body: Buffer) -> None:
        """Replace the table by one that `dump` wrote.

        Raises ValueError, with nothing in the table, if it does not hold together.
        """
        self.clear()
        with memoryview(body).cast("B") as view:
            try:
                self._load(view)
            except ValueError:
                self.clear()
                raise

    def _load(self, view: memoryview) -> None:
        count = int.from_bytes(view[:4], "big", signed=True)
        end = 4 + count * _ENTRY.size
        if not count >= 0 or not 4 <= end <= len(view):
            raise ValueError(f"{count} producers in {len(view)} bytes")
        for entry in _ENTRY.iter_unpack(view[4:end]):
            self._take(*entry)
        if len(self) != count:
            raise ValueError("a producer that is there twice")
        if end < len(view):
            self._load_batches(view[end:])

    def _take(
        self, producer_id: int, epoch: int, last_sequence: int, last_offset: int, offset_delta: int, timestamp: int,
        coordinator_epoch: int, txn_first_offset: int,
    ) -> None:  # fmt: skip
        producer = self._producers.setdefault(producer_id, _Producer())
        producer.epoch, producer.timestamp = epoch, timestamp
        producer.coordinator_epoch, producer.txn_first_offset = coordinator_epoch, max(txn_first_offset, _NONE)
        if last_offset >= 0:
            producer.batches = [_checked(last_offset, timestamp, last_sequence, offset_delta)]

    def _load_batches(self, view: memoryview) -> None:
        size = len(view) - len(BATCHES_MAGIC)
        if bytes(view[: len(BATCHES_MAGIC)]) != BATCHES_MAGIC or size % _BATCH_ENTRY.size:
            raise ValueError(f"{len(view)} bytes behind the producers that are no batches")
        for producer_id, *fields in _BATCH_ENTRY.iter_unpack(view[len(BATCHES_MAGIC) :]):
            batches = self._producers[producer_id].batches if producer_id in self._producers else []
            batch = _checked(*fields)
            if batches and batch.last_offset == batches[-1].last_offset:
                batches[-1] = batch
            elif 0 < len(batches) < CACHED_BATCHES and batch.last_offset < batches[-1].last_offset:
                batches.insert(-1, batch)
            else:
                raise ValueError(f"a batch of producer {producer_id}, of which there can be none")


def _batch(last_offset: int, timestamp: int, last_sequence: int, offset_delta: int) -> CachedBatch:
    first_sequence = (last_sequence - offset_delta) % SEQUENCES if last_sequence >= 0 else _NONE
    return CachedBatch(first_sequence, last_sequence, last_offset - offset_delta, last_offset, timestamp)


def _checked(last_offset: int, timestamp: int, last_sequence: int, offset_delta: int) -> CachedBatch:
    if not 0 <= offset_delta <= last_offset:
        raise ValueError(f"a batch of {offset_delta} and one records that ends at offset {last_offset}")
    return _batch(last_offset, timestamp, last_sequence, offset_delta)


def _known(producer_id: int, one: _Producer) -> Producer:
    return Producer(
        producer_id, one.epoch, tuple(one.batches), one.timestamp, one.coordinator_epoch, one.txn_first_offset
    )

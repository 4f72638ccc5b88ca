"""Records of idempotent producers: appended once, however often they are sent; and how transactions of theirs end.

The producer says with each batch which of its records for this partition is the first one. The batch is appended if it
follows the last one, answered if it is one of the last five (rule P1), and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from eventcore.clock import Clock
from eventcore.errors import ClosedError, EventCoreError, StorageError, UsageError
from eventcore.format.batch import MAX_SEQUENCE, TRANSACTIONAL, BatchHeader
from eventcore.log.durability import Durability
from eventcore.log.ingest import Ingest, TransactionEnd
from eventcore.log.writer import BatchWriter, Producer
from eventcore.types import BatchInfo

_INT16_MAX = (1 << 15) - 1
NEXT = -1
"""In place of a sequence: whichever is next."""


class Sequenced(Durability):
    """The part of a partition's writer that knows sequences."""

    clock: Clock
    _writer: BatchWriter
    _ingest: Ingest

    def _begin_writing(self) -> None:
        raise NotImplementedError

    def _acknowledge_before(self, refused: BaseException, appended: range, wait: bool = True) -> None:
        """What ended an append is going to be raised: the batches before that stay, acknowledged; the error names them.

        Raises StorageFenced from it where they cannot be. Nobody keeps a reference to the error: through its traceback
        it holds the segment, and with that the space of a file that is deleted.
        """
        if not appended:
            return
        try:
            with suppress(ClosedError):  # by another thread, which has made durable what there was
                self.acknowledge(appended.stop, wait)
        except StorageError as error:
            if isinstance(refused, Exception):
                raise error from refused
            return  # Ctrl-C, and whoever comes next is told
        if isinstance(refused, EventCoreError):
            refused.appended = appended
        elif hasattr(refused, "add_note"):
            refused.add_note(f"offsets {appended.start} to {appended.stop - 1} were appended before, and stay")

    def append_sequenced(self, items: Sequence[Any], producer: Producer, wait: bool = True) -> BatchInfo:
        """See `Partition.append_sequenced`."""
        if not items:
            raise UsageError("no records", hint="a batch has at least one")
        self._may_change()
        with self._lock:
            self._check_whole()
            header = self._asked(len(items), producer)
            known = self.producer_store.state.find_duplicate(header)
            if known is not None:
                info = BatchInfo(known.first_offset, known.last_offset, known.timestamp, True)
            else:
                self.producer_store.state.check(header)
                info = self._append_once(items, producer._replace(base_sequence=header.base_sequence))
        self.acknowledge(info.last_offset + 1, wait)  # also of a repeat: the first one may not have got so far
        return info

    def end_transaction(self, end: TransactionEnd, wait: bool = True) -> int:
        """See `Partition.end_transaction`."""
        self._may_change()
        with self._lock:
            self._check_whole()
            self._begin_writing()
            try:
                offset = self._ingest.end_transaction(end, self._leader_epoch, self._local)
            finally:
                self._publish()
        self.acknowledge(offset + 1, wait)
        return offset

    def next_sequence(self, producer_id: int, epoch: int) -> int:
        """See `Partition.next_sequence`."""
        self.check_open()
        return self.producer_store.state.table.next_sequence(producer_id, epoch)

    def _asked(self, count: int, producer: Producer) -> BatchHeader:
        """The header of such a batch, as far as it is known before it is written."""
        who, epoch, sequence = producer[:3]
        if who < 0 or not 0 <= epoch <= _INT16_MAX or not NEXT <= sequence <= MAX_SEQUENCE:
            raise UsageError(f"producer {who}, epoch {epoch}, sequence {sequence}", hint="none of them is below 0")
        sequence = self.next_sequence(who, epoch) if sequence == NEXT else sequence
        attributes = TRANSACTIONAL if producer.transactional else 0
        return BatchHeader(0, 0, 0, 2, 0, attributes, count - 1, 0, 0, who, epoch, sequence, count)

    def _append_once(self, items: Sequence[Any], producer: Producer) -> BatchInfo:
        first, active = self.log_end_offset, self._local.active
        position = active.log.size
        self._begin_writing()
        if self.epochs.latest != self._leader_epoch:
            self.epochs.assign(self._leader_epoch, first)
        try:
            with self._lock.attempt:
                self._writer.write(items, self._leader_epoch, atomic=True, producer=producer)
                segment = self._local.active
                header = segment.header_at(position if segment is active else 0)
                with self._lock.whole:
                    self.producer_store.state.note(header, self.clock.now_ms())
        finally:
            self._publish()
        return BatchInfo(header.base_offset, header.last_offset, header.max_timestamp)

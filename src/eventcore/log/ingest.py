"""Take in encoded batches: from a client (rules A1 to A9) or, offsets kept, from a leader (rules F1 to F4)."""

from __future__ import annotations

from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.clock import Clock
from eventcore.config import INT32_MAX, LogConfig
from eventcore.errors import CorruptRecord, InvalidRecord, Truncated
from eventcore.format import control
from eventcore.format.batch import CONTROL, TRANSACTIONAL, BatchHeader, records_area
from eventcore.log import validator
from eventcore.log.epochs import EpochCache
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore, index_aborted
from eventcore.log.writer import BatchWriter, bad_crc
from eventcore.types import BatchInfo, Record

_MARKER_BYTES = 256


class TransactionEnd(NamedTuple):
    """What a coordinator has decided. With `raises_epoch` it ends each transaction under a new epoch (KIP-890)."""

    producer_id: int
    producer_epoch: int
    commit: bool
    coordinator_epoch: int = 0
    raises_epoch: bool = False

    def marker(self) -> tuple[bytes, bytes]:
        """Key and value of the control record."""
        return control.marker_record(control.COMMIT if self.commit else control.ABORT, self.coordinator_epoch)

    def encoded(self, offset: int, leader_epoch: int, now: int) -> bytes:
        """The marker, a batch of one control record."""
        buf = bytearray(_MARKER_BYTES)
        record, who = Record(-1, now, *self.marker()), (self.producer_id, self.producer_epoch, -1)
        attributes = TRANSACTIONAL | CONTROL
        end, *_ = kernels.encode.encode(buf, 0, len(buf), [record], 0, offset, leader_epoch, attributes, now, *who)
        return bytes(buf[:end])


class Ingest:
    """Appends encoded batches. The caller holds the partition's lock and publishes."""

    def __init__(
        self, config: LogConfig, clock: Clock, writer: BatchWriter, producers: ProducerStore, epochs: EpochCache
    ) -> None:
        self._config = config
        self._clock = clock
        self._writer = writer
        self._producers = producers
        self._epochs = epochs

    def append(self, data: memoryview, origin: str, leader_epoch: int, local: LocalLog) -> BatchInfo:
        """Append a batch from a client (validated, deduplicated) or batches from a leader (offsets kept)."""
        return self.from_client(data, leader_epoch) if origin == "client" else self.from_leader(data, local)

    def from_client(self, data: memoryview, leader_epoch: int) -> BatchInfo:
        """One batch of a producer: checked whole, then given its offsets. A repeat gets its first offsets again."""
        now = self._clock.now_ms()
        header, area = validator.validate(data, self._config, now)
        if header.producer_id >= 0:
            known = self._producers.state.find_duplicate(header)
            if known is not None:
                return BatchInfo(known.first_offset, known.last_offset, known.timestamp, True)
            self._producers.state.check(header)
        # The epoch first (rule A1): what may fail must not stand between a batch and the note of its producer.
        self._epochs.assign(leader_epoch, self._writer.end_offset)
        with self._writer.whole:
            header = self._writer.place(header._replace(leader_epoch=leader_epoch), area)
            self._producers.state.note(header, now)
        return BatchInfo(header.base_offset, header.last_offset, header.max_timestamp)

    def end_transaction(self, end: TransactionEnd, leader_epoch: int, local: LocalLog) -> int:
        """Append the marker that ends a producer's transaction (rule P6)."""
        now, first = self._clock.now_ms(), local.end_offset
        data, kind = end.encoded(first, leader_epoch, now), control.COMMIT if end.commit else control.ABORT
        header = BatchHeader.read(data, 0)
        self._producers.state.check_marker(header, end.coordinator_epoch, raises_epoch=end.raises_epoch)
        self._epochs.assign(leader_epoch, first)
        with self._writer.whole:
            self._append(memoryview(data), 0, header, kind, local)
        return first

    def from_leader(self, data: memoryview, local: LocalLog) -> BatchInfo:
        """Whole batches as a Fetch response carries them; a cut batch at the end is left out.

        Every batch is checked before the first is written. Producers are noted without a check of their sequences:
        the leader has done that.
        """
        found = _whole_batches(data)
        if not found:
            raise Truncated("no whole batch", hint="fetch more bytes", position=0)
        plain = not any(header.control or header.leader_epoch > self._epochs.latest for _, header in found)
        if not plain or found[0][1].base_offset < local.end_offset:
            _check_crcs(data, found)
        end = local.end_offset
        first = found[0][1]
        # F2: the leader's log starts inside this batch.
        restarts = first.base_offset < end <= first.last_offset and local.segments.first.base_offset == end
        if restarts:
            end = first.base_offset
        kinds = [_marker_kind(data, position, header) for position, header in found]
        for _, header in found:
            if header.base_offset < end:
                raise InvalidRecord(
                    f"a batch at offset {header.base_offset} where the log ends at {end}",
                    hint="fetch from the log end offset",
                )
            if header.last_offset - end > INT32_MAX:
                raise InvalidRecord(
                    f"offset {header.last_offset} lies more than 2^31 above the log end {end}",
                    hint="truncate to the leader's log start, and fetch from there",
                )
            end = header.next_offset
        if restarts:
            with local.fencing():
                local.restart_at(first.base_offset)
        if not plain or not self._copy_all(data, found):
            _check_crcs(data, found)
            for (position, header), kind in zip(found, kinds, strict=True):
                with self._writer.whole:
                    self._append(data, position, header, kind, local)
        return BatchInfo(first.base_offset, end - 1, max(header.max_timestamp for _, header in found))

    def _copy_all(self, data: memoryview, found: list[tuple[int, BatchHeader]]) -> bool:
        with self._writer.whole:
            if not self._writer.copy_all(data, found):
                return False
            for _, header in found:
                self._producers.state.note(header, self._clock.now_ms())
            return True

    def _append(self, data: memoryview, position: int, header: BatchHeader, kind: int, local: LocalLog) -> None:
        if header.leader_epoch > self._epochs.latest:
            self._epochs.assign(header.leader_epoch, header.base_offset)
        self._writer.copy(data, position, header, aborts=kind == control.ABORT)
        now = self._clock.now_ms()
        if not header.control:
            self._producers.state.note(header, now)
        elif header.transactional:
            segment = local.active
            completed = self._producers.note_marker(segment, segment.log.size - header.size, header, now)
            if completed is not None:
                with local.fencing():  # an opening notes it again; a retry would find the marker there already
                    index_aborted(segment, completed)


def _marker_kind(data: memoryview, position: int, header: BatchHeader) -> int:
    """What a transaction marker says, else UNKNOWN. One that cannot be read must not get in: raises CorruptRecord."""
    if not (header.control and header.transactional and header.record_count):
        return control.UNKNOWN
    area = records_area(data, position, header, control.MARKER_AREA_MAX)
    records = kernels.decode.decode_records(area, header, header.base_offset, header.next_offset)
    if len(records) != 1 or records[0].key is None:
        raise CorruptRecord("a control batch without a record", position=position, offset=header.base_offset)
    return control.read_marker(records[0].key, records[0].value or b"").kind


def _check_crcs(data: memoryview, found: list[tuple[int, BatchHeader]]) -> None:
    for position, header in found:
        if not kernels.batch.crc_holds(data, position):
            raise bad_crc(position, header)


def _whole_batches(data: memoryview) -> list[tuple[int, BatchHeader]]:
    """Position and header of each; their CRCs are not checked."""
    found: list[tuple[int, BatchHeader]] = []
    position = 0
    while position < len(data):
        try:
            header = BatchHeader.read(data, position)
        except Truncated:
            break
        found.append((position, header))
        position += header.size
    return found

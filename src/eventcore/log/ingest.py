"""Take in encoded batches: from a client (rules A1 to A9) or, offsets kept, from a leader (rules F1 to F4)."""

from __future__ import annotations

from eventcore import _kernels as kernels
from eventcore.clock import Clock
from eventcore.config import LogConfig
from eventcore.errors import CorruptRecord, InvalidRecord, Truncated
from eventcore.format import control
from eventcore.format.batch import BatchHeader, records_area
from eventcore.log import validator
from eventcore.log.epochs import EpochCache
from eventcore.log.local import LocalLog
from eventcore.log.producer_store import ProducerStore, index_aborted
from eventcore.log.segment import INT32_MAX
from eventcore.log.writer import BatchWriter
from eventcore.types import BatchInfo


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

    def from_client(self, data: memoryview, leader_epoch: int) -> BatchInfo:
        """One batch of a producer: checked whole, then given its offsets. A repeat gets its first offsets again."""
        header, area = validator.validate(data, self._config, self._clock.now_ms())
        if header.producer_id >= 0:
            known = self._producers.state.find_duplicate(header)
            if known is not None:
                return BatchInfo(known.first_offset, known.last_offset, known.timestamp, True)
            self._producers.state.check(header)
        # The epoch first (rule A1): what may fail must not stand between a batch and the note of its producer.
        self._epochs.assign(leader_epoch, self._writer.end_offset)
        header = self._writer.place(header._replace(leader_epoch=leader_epoch), area)
        self._producers.state.note(header)
        return BatchInfo(header.base_offset, header.last_offset, header.max_timestamp)

    def from_leader(self, data: memoryview, local: LocalLog) -> BatchInfo:
        """Whole batches as a Fetch response carries them; a cut batch at the end is left out.

        Every batch is checked before the first is written. Producers are noted without a check of their sequences:
        the leader has done that.
        """
        found = _whole_batches(data)
        if not found:
            raise Truncated("no whole batch", hint="fetch more bytes", position=0)
        end = local.end_offset
        first = found[0][1]
        if first.base_offset < end <= first.last_offset and local.segments.first.base_offset == end:
            local.restart_at(first.base_offset)  # F2: the leader's log starts inside this batch
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
        for (position, header), kind in zip(found, kinds, strict=True):
            self._append(data, position, header, kind, local)
        return BatchInfo(first.base_offset, end - 1, max(header.max_timestamp for _, header in found))

    def _append(self, data: memoryview, position: int, header: BatchHeader, kind: int, local: LocalLog) -> None:
        if header.leader_epoch > self._epochs.latest:
            self._epochs.assign(header.leader_epoch, header.base_offset)
        self._writer.copy(data, position, header, aborts=kind == control.ABORT)
        if not header.control:
            self._producers.state.note(header)
        elif header.transactional:
            segment = local.active
            completed = self._producers.note_marker(segment, segment.log.size - header.size, header)
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


def _whole_batches(data: memoryview) -> list[tuple[int, BatchHeader]]:
    found: list[tuple[int, BatchHeader]] = []
    position = 0
    while position < len(data):
        try:
            header = BatchHeader.read(data, position)
        except Truncated:
            break
        if not kernels.batch.crc_holds(data, position):
            raise CorruptRecord("the CRC of a batch does not match its bytes", position=position)
        found.append((position, header))
        position += header.size
    return found

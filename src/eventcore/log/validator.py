"""What a client's batch must satisfy before it enters the log: Kafka's LogValidator (rules A4 to A9).

Everything is checked before anything is written. Unlike Kafka, a batch whose inner offsets are not 0, 1, 2, ... is
refused rather than rebuilt: no producer makes such a batch.
"""

from __future__ import annotations

from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.errors import InvalidRecord, RecordTooLarge, StorageError
from eventcore.format import compression
from eventcore.format.batch import CODEC_MASK, HEADER_SIZE, LOG_APPEND_TIME, BatchHeader, records_area
from eventcore.types import NO_TIMESTAMP


class ValidBatch(NamedTuple):
    """A client's batch as it will be stored: the header's attributes and timestamps, and the stored records area."""

    header: BatchHeader
    area: memoryview | bytes


def validate(data: memoryview, config: LogConfig, now: int) -> ValidBatch:
    """Check one batch from a client. Raises InvalidRecord, RecordTooLarge or CorruptRecord."""
    header = BatchHeader.read(data, 0)
    if header.size != len(data):
        raise InvalidRecord(
            f"{len(data) - header.size} bytes behind the batch", hint="send one batch a call, as a producer does"
        )
    if header.size > config.max_message_bytes:
        raise RecordTooLarge(f"a batch of {header.size} bytes exceeds max.message.bytes {config.max_message_bytes}")
    _check_header(header)
    if not kernels.batch.crc_holds(data):
        raise InvalidRecord("the CRC of the batch does not match its bytes")
    largest = max(config.max_message_bytes * 64, 1 << 20)
    area = records_area(data, 0, header, largest)
    try:
        minimum, maximum, null_keys = kernels.decode.check_records(area, header)
    except StorageError as error:
        raise InvalidRecord(f"a record of the batch is malformed: {error.message}") from None
    _check_records(header, config, now, minimum, maximum, null_keys)
    return _stored_form(header, data, area, config, now)


def _check_header(header: BatchHeader) -> None:
    if header.base_offset != 0:
        raise InvalidRecord(f"a client's batch starts at offset 0, not {header.base_offset}")
    if header.record_count == 0 or header.last_offset_delta + 1 != header.record_count:
        raise InvalidRecord(f"{header.record_count} records in {header.last_offset_delta + 1} offsets")
    if header.control:
        raise InvalidRecord("a client must not write control batches")
    if header.producer_id >= 0 and header.base_sequence < 0:
        raise InvalidRecord("a producer id without a sequence")
    if header.transactional and header.producer_id < 0:
        raise InvalidRecord("a transactional batch without a producer id")
    if header.log_append_time or header.delete_horizon is not None:
        raise InvalidRecord("append time and delete horizon are set by the log, not by a client")


def _check_records(
    header: BatchHeader, config: LogConfig, now: int, minimum: int, maximum: int, null_keys: int
) -> None:
    if config.compacted and null_keys:
        raise InvalidRecord(f"{null_keys} records without a key in a compacted log")
    if config.log_append_time:
        return
    if maximum != header.max_timestamp:
        raise InvalidRecord(f"max timestamp {header.max_timestamp} where the records have {maximum}")
    check_timestamps(minimum, maximum, config, now)


def check_timestamps(minimum: int, maximum: int, config: LogConfig, now: int) -> None:
    """Refuse records whose own time lies too far before or after `now` (KIP-937)."""
    if maximum > now + config.message_timestamp_after_max_ms:
        raise InvalidRecord(f"a timestamp {maximum - now} ms in the future", hint="see message.timestamp.after.max.ms")
    if minimum != NO_TIMESTAMP and minimum < now - config.message_timestamp_before_max_ms:
        raise InvalidRecord(f"a timestamp {now - minimum} ms in the past", hint="see message.timestamp.before.max.ms")


def _stored_form(header: BatchHeader, data: memoryview, area: memoryview, config: LogConfig, now: int) -> ValidBatch:
    stored: memoryview | bytes = data[HEADER_SIZE:]
    codec = header.codec if config.compression_type == "producer" else compression.codec_id(config.compression_type)
    if codec != header.codec:
        stored = compression.compress(codec, config.compression_level, area)
    attributes, max_timestamp = header.attributes & ~CODEC_MASK | codec, header.max_timestamp
    if config.log_append_time:
        attributes, max_timestamp = attributes | LOG_APPEND_TIME, now
    return ValidBatch(header._replace(attributes=attributes, max_timestamp=max_timestamp), stored)

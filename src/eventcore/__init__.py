"""eventcore: an embeddable event-log storage engine. SQLite for event streams, in Kafka's own on-disk format."""

from eventcore.api import build_info, open_partition, repair_partition
from eventcore.config import LogConfig
from eventcore.errors import (
    ClosedError,
    CoordinatorFenced,
    CorruptFile,
    CorruptRecord,
    DiskFull,
    EventCoreError,
    Fenced,
    FencedLeaderEpoch,
    InvalidConfig,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTxnState,
    LogLocked,
    LogTruncated,
    MappingFault,
    MissingCodec,
    NotALog,
    OffsetMismatch,
    OffsetOutOfRange,
    OutOfOrderSequence,
    ReadOnly,
    RecordTooLarge,
    StorageError,
    StorageFenced,
    Truncated,
    UnsupportedFormat,
    UsageError,
)
from eventcore.log.batches import BatchEntry
from eventcore.log.columns import ColumnBatch
from eventcore.log.fetched import Fetched, FileSlice
from eventcore.log.partition import Partition
from eventcore.log.recovery import RecoveryReport
from eventcore.log.repair import RepairReport
from eventcore.log.tailing import Tail
from eventcore.log.verify import Problem, VerifyReport
from eventcore.types import AbortedTransaction, BatchInfo, EpochEndOffset, Record

__version__ = "0.1.0"

__all__ = [
    "AbortedTransaction",
    "BatchEntry",
    "BatchInfo",
    "ClosedError",
    "ColumnBatch",
    "CoordinatorFenced",
    "CorruptFile",
    "CorruptRecord",
    "DiskFull",
    "EpochEndOffset",
    "EventCoreError",
    "Fenced",
    "FencedLeaderEpoch",
    "Fetched",
    "FileSlice",
    "InvalidConfig",
    "InvalidProducerEpoch",
    "InvalidRecord",
    "InvalidTxnState",
    "LogConfig",
    "LogLocked",
    "LogTruncated",
    "MappingFault",
    "MissingCodec",
    "NotALog",
    "OffsetMismatch",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "Partition",
    "Problem",
    "ReadOnly",
    "Record",
    "RecordTooLarge",
    "RecoveryReport",
    "RepairReport",
    "StorageError",
    "StorageFenced",
    "Tail",
    "Truncated",
    "UnsupportedFormat",
    "UsageError",
    "VerifyReport",
    "build_info",
    "open_partition",
    "repair_partition",
]

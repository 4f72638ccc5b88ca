"""eventcore: an embeddable event-log storage engine. SQLite for event streams, in Kafka's own on-disk format."""

from eventcore.api import Store, build_info, open, open_partition, repair_partition, restore, scan, snapshots
from eventcore.config import LogConfig, StoreConfig
from eventcore.errors import (
    ClosedError,
    CoordinatorFenced,
    CorruptFile,
    CorruptRecord,
    DiskFull,
    EventCoreError,
    Fenced,
    FencedLeaderEpoch,
    GroupNotEmpty,
    IllegalGeneration,
    InvalidConfig,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTxnState,
    LogLocked,
    LogTruncated,
    MappingFault,
    MissingCodec,
    MissingObject,
    NoSnapshot,
    NotALog,
    OffsetMismatch,
    OffsetOutOfRange,
    OutOfOrderSequence,
    ReadOnly,
    RecordTooLarge,
    RemoteError,
    SnapshotDamaged,
    StorageError,
    StorageFenced,
    TopicExists,
    Truncated,
    UnknownGroup,
    UnknownMember,
    UnknownTopic,
    UnsupportedFormat,
    UsageError,
)
from eventcore.log.batches import BatchEntry
from eventcore.log.columns import ColumnBatch
from eventcore.log.compaction import Cleanable, CompactionReport
from eventcore.log.fetched import Fetched, FileSlice
from eventcore.log.partition import Partition
from eventcore.log.query import Scan
from eventcore.log.ranges import LazyRecord
from eventcore.log.recovery import RecoveryReport
from eventcore.log.repair import RepairReport
from eventcore.log.retention import Retained
from eventcore.log.tailing import Tail
from eventcore.log.verify import Problem, VerifyReport
from eventcore.snapshot.archive import Snapshots
from eventcore.snapshot.manifest import Extent, Manifest
from eventcore.store.consumer import Consumer, ConsumerRecord
from eventcore.store.coordinator import Identity, OpenTransaction, TransactionCoordinator
from eventcore.store.groups import GroupCoordinator, GroupDescription, GroupPartition
from eventcore.store.housekeeping import HousekeepingReport
from eventcore.store.producer import NamedProducer, producer_id_of
from eventcore.store.store_partition import StorePartition
from eventcore.store.topic import Topic
from eventcore.store.transaction import Transaction
from eventcore.store.view_checkpoint import SavedView, ViewCheckpoint
from eventcore.types import (
    AbortedTransaction,
    BatchInfo,
    CachedBatch,
    CommittedOffset,
    EpochEndOffset,
    Producer,
    Record,
    TransactionState,
    TransactionStatus,
)

__version__ = "0.1.0"

__all__ = [
    "AbortedTransaction",
    "BatchEntry",
    "BatchInfo",
    "CachedBatch",
    "Cleanable",
    "ClosedError",
    "ColumnBatch",
    "CommittedOffset",
    "CompactionReport",
    "Consumer",
    "ConsumerRecord",
    "CoordinatorFenced",
    "CorruptFile",
    "CorruptRecord",
    "DiskFull",
    "EpochEndOffset",
    "EventCoreError",
    "Extent",
    "Fenced",
    "FencedLeaderEpoch",
    "Fetched",
    "FileSlice",
    "GroupCoordinator",
    "GroupDescription",
    "GroupNotEmpty",
    "GroupPartition",
    "HousekeepingReport",
    "Identity",
    "IllegalGeneration",
    "InvalidConfig",
    "InvalidProducerEpoch",
    "InvalidRecord",
    "InvalidTxnState",
    "LazyRecord",
    "LogConfig",
    "LogLocked",
    "LogTruncated",
    "Manifest",
    "MappingFault",
    "MissingCodec",
    "MissingObject",
    "NamedProducer",
    "NoSnapshot",
    "NotALog",
    "OffsetMismatch",
    "OffsetOutOfRange",
    "OpenTransaction",
    "OutOfOrderSequence",
    "Partition",
    "Problem",
    "Producer",
    "ReadOnly",
    "Record",
    "RecordTooLarge",
    "RecoveryReport",
    "RemoteError",
    "RepairReport",
    "Retained",
    "SavedView",
    "Scan",
    "SnapshotDamaged",
    "Snapshots",
    "StorageError",
    "StorageFenced",
    "Store",
    "StoreConfig",
    "StorePartition",
    "Tail",
    "Topic",
    "TopicExists",
    "Transaction",
    "TransactionCoordinator",
    "TransactionState",
    "TransactionStatus",
    "Truncated",
    "UnknownGroup",
    "UnknownMember",
    "UnknownTopic",
    "UnsupportedFormat",
    "UsageError",
    "VerifyReport",
    "ViewCheckpoint",
    "build_info",
    "open",
    "open_partition",
    "producer_id_of",
    "repair_partition",
    "restore",
    "scan",
    "snapshots",
]

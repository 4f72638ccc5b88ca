"""Topic configuration under Kafka's names, as a frozen dataclass; unknown or out-of-range values are refused.

`LogConfig.of({"segment.bytes": 1 << 20})` and `LogConfig(segment_bytes=1 << 20)` are the same: a dot or a hyphen in
Kafka's name is an underscore in ours. Defaults are those of Kafka 4.3. One difference: `segment.bytes` may be as small
as 4 KiB (a broker since 4.0 asks for 1 MiB), because small logs are common in an embedded store.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from eventcore.errors import InvalidConfig

INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1
_DAY_MS = 86_400_000

COMPRESSION_TYPES = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")
CLEANUP_POLICIES = ("delete", "compact", "compact,delete", "delete,compact", "")


def _int(default: int, low: int, high: int) -> int:
    return field(default=default, metadata={"type": int, "range": (low, high)})


def _float(default: float, low: float, high: float) -> float:
    return field(default=default, metadata={"type": float, "range": (low, high)})


def _bool(default: bool) -> bool:
    return field(default=default, metadata={"type": bool, "allowed": (True, False)})


def _choice(default: str, *allowed: str) -> str:
    return field(default=default, metadata={"type": str, "allowed": allowed})


C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Config:
    """Values that are checked when they are set, and known by Kafka's names."""

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), item.metadata)

    @classmethod
    def of(cls: type[C], config: C | Mapping[str, Any] | None) -> C:
        """The configuration a caller means: one of these, a dict of Kafka's names, or None for the defaults.

        Raises InvalidConfig for an unknown name or a value out of range, naming what is allowed.
        """
        return config if isinstance(config, cls) else cls().with_values(cast("Mapping[str, Any]", config or {}))

    @classmethod
    def names(cls) -> list[str]:
        """Kafka's names of all values."""
        return [kafka_name(item.name) for item in fields(cls)]

    def with_values(self: C, values: Mapping[str, Any]) -> C:
        """A copy with some values replaced, given under Kafka's names."""
        names = {kafka_name(item.name): item for item in fields(self)}
        changes = {}
        for name, value in values.items():
            if name not in names:
                close = difflib.get_close_matches(str(name), names, 3)
                raise InvalidConfig(
                    f"there is no configuration {name!r}",
                    hint=f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(names)}",
                )
            changes[names[name].name] = _parse(name, value, names[name].metadata["type"])
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """All values under Kafka's names."""
        return {kafka_name(name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class LogConfig(Config):
    """How one partition's log behaves. Sizes in bytes, times in ms; -1 means "no limit" where Kafka says so."""

    cleanup_policy: str = _choice("delete", *CLEANUP_POLICIES)
    compression_type: str = _choice("producer", *COMPRESSION_TYPES)
    compression_gzip_level: int = _int(-1, -1, 9)
    compression_lz4_level: int = _int(9, 1, 17)
    compression_zstd_level: int = _int(3, -131_072, 22)
    delete_retention_ms: int = _int(_DAY_MS, 0, INT64_MAX)
    file_delete_delay_ms: int = _int(60_000, 0, INT64_MAX)
    flush_messages: int = _int(INT64_MAX, 1, INT64_MAX)
    flush_ms: int = _int(1000, 0, INT64_MAX)
    index_interval_bytes: int = _int(4096, 0, INT32_MAX)
    max_compaction_lag_ms: int = _int(INT64_MAX, 1, INT64_MAX)
    max_message_bytes: int = _int(1_048_588, 256, INT32_MAX)
    message_timestamp_after_max_ms: int = _int(3_600_000, 0, INT64_MAX)
    message_timestamp_before_max_ms: int = _int(INT64_MAX, 0, INT64_MAX)
    message_timestamp_type: str = _choice("CreateTime", *TIMESTAMP_TYPES)
    min_cleanable_dirty_ratio: float = _float(0.5, 0.0, 1.0)
    min_compaction_lag_ms: int = _int(0, 0, INT64_MAX)
    preallocate: bool = _bool(False)
    producer_id_expiration_ms: int = _int(_DAY_MS, 1, INT64_MAX)
    retention_bytes: int = _int(-1, -1, INT64_MAX)
    retention_ms: int = _int(7 * _DAY_MS, -1, INT64_MAX)
    segment_bytes: int = _int(1 << 30, 4096, INT32_MAX)
    segment_index_bytes: int = _int(10 << 20, 48, INT32_MAX)
    segment_jitter_ms: int = _int(0, 0, INT64_MAX)
    segment_ms: int = _int(7 * _DAY_MS, 1, INT64_MAX)

    @property
    def log_append_time(self) -> bool:
        """Whether records get the time of their append instead of their own."""
        return self.message_timestamp_type == "LogAppendTime"

    @property
    def compression_level(self) -> int | None:
        """The level for `compression.type`; None where the codec has none."""
        level = getattr(self, f"compression_{self.compression_type}_level", None)
        return cast("int | None", level)

    @property
    def compacted(self) -> bool:
        """Whether every record needs a key."""
        return "compact" in self.cleanup_policy


@dataclass(frozen=True)
class StoreConfig(Config):
    """How a store takes care of its partitions: a broker's names, and where Kafka has none, `store.*`."""

    store_housekeeping_enable: bool = _bool(True)
    """Whether a thread does it; `Store.housekeep` works without, too."""
    store_open_partitions: int = _int(0, 0, 1_000_000)
    """How many partitions may have their files open at a time; 0: what the process's limits allow, at most 128."""
    store_idle_roll_ms: int = _int(600_000, 1, INT64_MAX)
    """A compacted partition that nothing was appended to for so long begins a new segment: only closed ones are
    compacted."""
    transaction_partition_verification_enable: bool = _bool(True)
    """Whether a client's batch may begin a transaction only in a partition that the coordinator was told of."""
    store_transactions_survive: bool = _bool(False)
    """Whether transactions stay open, until their timeout, when the store is closed or was killed. Those of programs
    that use the store themselves cannot go on; those of a server's clients can."""
    log_cleaner_backoff_ms: int = _int(15_000, 1, INT64_MAX)
    log_cleaner_dedupe_buffer_size: int = _int(128 << 20, 1 << 16, INT64_MAX)
    log_cleaner_enable: bool = _bool(True)
    log_cleaner_io_max_bytes_per_second: int = _int(64 << 20, 1, INT64_MAX)
    log_initial_task_delay_ms: int = _int(30_000, 0, INT64_MAX)
    log_retention_check_interval_ms: int = _int(300_000, 1, INT64_MAX)


def split_config(config: LogConfig | Mapping[str, Any] | None) -> tuple[StoreConfig, LogConfig]:
    """What is the store's and what are its topics' defaults. Raises InvalidConfig for what is neither."""
    if config is None or isinstance(config, LogConfig):
        return StoreConfig(), LogConfig.of(config)
    names = StoreConfig.names()
    of_store = {name: value for name, value in config.items() if name in names}
    of_topics = {name: value for name, value in config.items() if name not in names}
    return StoreConfig.of(of_store), LogConfig.of(of_topics)


def kafka_name(field_name: str) -> str:
    """`segment_bytes` → `segment.bytes`."""
    return field_name.replace("_", ".")


def _parse(name: str, value: Any, kind: type) -> Any:
    """Accept numbers and booleans as text, too: configuration often comes from a command line or a file."""
    if not isinstance(value, str) or kind is str:
        return value
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise InvalidConfig(f"{name} must be a {kind.__name__}, not {value!r}") from None


def _check(field_name: str, value: Any, rule: Mapping[str, Any]) -> None:
    name, kind = kafka_name(field_name), rule["type"]
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
    if not fits:
        raise InvalidConfig(f"{name} must be a {kind.__name__}, not {value!r}")
    if "range" in rule and not rule["range"][0] <= value <= rule["range"][1]:
        raise InvalidConfig(f"{name} is {value}", hint=f"allowed is {rule['range'][0]} to {rule['range'][1]}")
    if "allowed" in rule and value not in rule["allowed"]:
        raise InvalidConfig(f"{name} is {value!r}", hint=f"allowed is one of {', '.join(map(repr, rule['allowed']))}")

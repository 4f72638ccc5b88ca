from collections.abc import Sequence
from typing import Any

from eventcore._native.marks import End, Entries, Marks
from eventcore._native.producers import ProducerTable
from eventcore.types import BatchInfo, Buffer

__all__ = ["NEVER", "Appender"]

NEVER: int

class Appender:
    producers: ProducerTable | None
    opened: dict[int, int] | None
    def __init__(self, max_bytes: int, interval: int, roll_ms: int, attributes: int, wall_clock: bool) -> None: ...
    def attach(
        self,
        state: Buffer,
        marks: Marks,
        base_offset: int,
        created_ms: int,
        log: End,
        log_view: Buffer,
        offset_index: Entries,
        index_view: Buffer,
        time_index: Entries,
        time_view: Buffer,
    ) -> None: ...
    def detach(self) -> None: ...
    def allow(self, limit: int, index_slots: int, time_slots: int) -> None: ...
    def stamp(self, leader_epoch: int, visible: bool, stable_limit: int, faults: int) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def append(self, value: Any, key: Any, timestamp: Any) -> int: ...
    def append_all(self, items: Any) -> int: ...
    def append_sequenced(
        self, items: Any, producer_id: int, epoch: int, sequence: int, transactional: bool = False
    ) -> BatchInfo | None: ...
    def commit(
        self, marker: tuple[bytes, bytes], producer_id: int, epoch: int, coordinator_epoch: int, raises_epoch: bool
    ) -> int: ...
    def extend(
        self,
        items: Sequence[Any],
        first: int,
        now: int,
        whole: bool,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
    ) -> int: ...
    def extend_columns(
        self, rows: int, first: int, now: int, whole: bool, columns: tuple[Any, Any, Any, Any, Any, Any, Any]
    ) -> int: ...

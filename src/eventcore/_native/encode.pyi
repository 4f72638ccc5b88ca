from collections.abc import Sequence
from typing import Any

from eventcore.types import Buffer

__all__ = ["encode", "encode_columns", "plain_size"]

def encode(
    buf: Buffer,
    pos: int,
    end: int,
    items: Sequence[Any],
    first: int,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    now: int,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> tuple[int, int, int]: ...
def encode_columns(
    buf: Buffer,
    pos: int,
    end: int,
    rows: int,
    first: int,
    keys: Buffer | None,
    key_offsets: Buffer | None,
    key_nulls: Buffer | None,
    values: Buffer | None,
    value_offsets: Buffer | None,
    value_nulls: Buffer | None,
    timestamps: Buffer | None,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    now: int,
) -> tuple[int, int, int]: ...
def plain_size(items: Any) -> int: ...

from typing import Any, final

from eventcore._native.source import Source
from eventcore.types import Header, Record

__all__ = [
    "FIELDS",
    "SHAPE_LAZY",
    "SHAPE_RECORD",
    "SHAPE_TUPLE",
    "SHAPE_VALUE",
    "LazyRecord",
    "Rows",
    "decode_rows",
    "read_rows",
]

_BatchFields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]

SHAPE_RECORD: int
SHAPE_LAZY: int
SHAPE_TUPLE: int
SHAPE_VALUE: int
FIELDS: tuple[str, ...]

@final
class LazyRecord:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[Header, ...]: ...
    def record(self) -> Record: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Rows:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def position(self) -> int: ...
    def __iter__(self) -> Rows: ...
    def __next__(self) -> Any: ...

def read_rows(
    source: Source,
    start: int,
    end: int,
    min_offset: int,
    max_offset: int,
    stop_mask: int,
    verify: bool,
    shape: int,
    fields: tuple[int, ...] = (),
    record: type[Record] = Record,
) -> Rows: ...
def decode_rows(
    source: Source,
    header: _BatchFields,
    min_offset: int,
    max_offset: int,
    shape: int,
    fields: tuple[int, ...] = (),
    record: type[Record] = Record,
) -> Rows: ...

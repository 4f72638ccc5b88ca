from eventcore.types import Buffer, Record

__all__ = ["check_records", "decode_columns", "decode_records", "read_columns", "read_records"]

_BatchFields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
_Column = Buffer | None
_Columns = tuple[_Column, _Column, _Column, _Column, _Column, _Column]

def decode_records(data: Buffer, fields: _BatchFields, min_offset: int, max_offset: int) -> list[Record]: ...
def read_records(
    buf: Buffer,
    start: int,
    end: int,
    min_offset: int,
    max_offset: int,
    max_count: int,
    stop_mask: int,
    verify: bool = True,
) -> tuple[list[Record], int]: ...
def decode_columns(
    data: Buffer,
    fields: _BatchFields,
    min_offset: int,
    max_offset: int,
    columns: _Columns,
    row: int,
    base_position: int,
) -> int: ...
def read_columns(
    buf: Buffer,
    start: int,
    end: int,
    min_offset: int,
    max_offset: int,
    columns: _Columns,
    row: int,
    stop_mask: int,
    verify: bool = True,
) -> tuple[int, int]: ...
def check_records(data: Buffer, fields: _BatchFields) -> tuple[int, int, int]: ...

from eventcore.types import Buffer

__all__ = [
    "CODEC_MASK",
    "CONTROL",
    "CORRUPT",
    "DELETE_HORIZON",
    "ENDED",
    "HEADER_SIZE",
    "KNOWN_ATTRIBUTES",
    "LAST_CODEC",
    "LOG_APPEND_TIME",
    "MAGIC",
    "OK",
    "PREFIX_SIZE",
    "ROW_SIZE",
    "TRANSACTIONAL",
    "TRUNCATED",
    "UNSUPPORTED",
    "crc_holds",
    "digest_headers",
    "find_offset",
    "find_timestamp",
    "offsets",
    "read_header",
    "scan",
    "write_header",
]

HEADER_SIZE: int
PREFIX_SIZE: int
MAGIC: int
CODEC_MASK: int
LOG_APPEND_TIME: int
TRANSACTIONAL: int
CONTROL: int
DELETE_HORIZON: int
KNOWN_ATTRIBUTES: int
LAST_CODEC: int
OK: int
ENDED: int
TRUNCATED: int
CORRUPT: int
UNSUPPORTED: int
ROW_SIZE: int

def offsets() -> dict[str, int]: ...
def read_header(
    buf: Buffer, pos: int = 0, end: int = -1
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]: ...
def crc_holds(buf: Buffer, pos: int = 0, end: int = -1) -> bool: ...
def write_header(
    buf: Buffer,
    pos: int,
    size: int,
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    record_count: int,
) -> None: ...
def scan(buf: Buffer, start: int, end: int, rows: Buffer, verify: bool = True) -> tuple[int, int, int]: ...
def digest_headers(buf: Buffer, start: int, end: int, outer: int = 0, inner: int = 0) -> tuple[int, int, int]: ...
def find_offset(buf: Buffer, start: int, end: int, offset: int) -> int: ...
def find_timestamp(buf: Buffer, start: int, end: int, timestamp: int, min_offset: int) -> int: ...

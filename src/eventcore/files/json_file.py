"""Small files of our own that people may read: one JSON object on a line, with its CRC, replaced as a whole.

`crc32c` covers the object without itself, keys sorted, without spaces. A file that fails it is refused: a flipped bit
in a retention time would take records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, UnsupportedFormat

VERSION = 1
_SIZE_MAX = 16 << 20
_CRC = "crc32c"


def _crc(values: dict[str, Any]) -> int:
    return kernels.crc32c.crc32c(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def read(disk: Disk, path: Path) -> dict[str, Any] | None:
    """The object, None if the file is missing. Raises CorruptFile, and UnsupportedFormat for a newer version."""
    if not disk.exists(path):
        return None
    try:
        values = json.loads(disk.read_file(path, _SIZE_MAX))
        crc = values.pop(_CRC, None)
        is_whole = crc == _crc(values)
    except (ValueError, AttributeError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CorruptFile("a file that fails its CRC", path=path, hint="restore it from a copy")
    if values.get("version") != VERSION:
        raise UnsupportedFormat(f"a file of version {values.get('version')!r}", path=path)
    return dict(values)


def write(disk: Disk, path: Path, values: dict[str, Any]) -> None:
    """Replace the file; durable after `sync_dir`."""
    values = {"version": VERSION, **values}
    text = json.dumps({**values, _CRC: _crc(values)}, separators=(",", ":"))
    disk.replace_file(path, text.encode() + b"\n")

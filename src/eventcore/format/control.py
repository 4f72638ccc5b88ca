"""Control records: marks that the log writes for itself and never shows to users.

key    int16 version = 0 | int16 kind
value  of ABORT and COMMIT: int16 version = 0 | int32 coordinator epoch; bytes of newer versions may follow
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from eventcore.errors import CorruptRecord, UsageError

ABORT, COMMIT, LEADER_CHANGE, SNAPSHOT_HEADER, SNAPSHOT_FOOTER, KRAFT_VERSION, KRAFT_VOTERS = range(7)
UNKNOWN = -1
MARKER_AREA_MAX = 1 << 16
"""The records of a control batch take a few bytes: nobody decompresses more to find out that they are no marker."""

_KEY = struct.Struct(">hh")
_END_TRANSACTION = struct.Struct(">hi")


class Marker(NamedTuple):
    """A control record. `coordinator_epoch` is that of ABORT and COMMIT, -1 for the others."""

    kind: int
    coordinator_epoch: int = -1


def read_marker(key: bytes, value: bytes) -> Marker:
    """Decode a control record; kinds of the future are UNKNOWN. Raises CorruptRecord."""
    if len(key) < _KEY.size:
        raise CorruptRecord(f"a control record with a key of {len(key)} bytes")
    version, kind = _KEY.unpack_from(key)
    if version < 0:
        raise CorruptRecord(f"a control record of version {version}")
    if kind not in (ABORT, COMMIT):
        return Marker(kind if 0 <= kind <= KRAFT_VOTERS else UNKNOWN)
    if len(value) < _END_TRANSACTION.size:
        raise CorruptRecord(f"a transaction marker of {len(value)} bytes")
    version, coordinator_epoch = _END_TRANSACTION.unpack_from(value)
    if version < 0:
        raise CorruptRecord(f"a transaction marker of version {version}")
    return Marker(kind, coordinator_epoch)


@lru_cache(maxsize=1 << 6)
def marker_record(kind: int, coordinator_epoch: int) -> tuple[bytes, bytes]:
    """Key and value of an ABORT or COMMIT marker."""
    if kind not in (ABORT, COMMIT):
        raise UsageError(f"a transaction does not end with a marker of kind {kind}")
    return _KEY.pack(0, kind), _END_TRANSACTION.pack(0, coordinator_epoch)

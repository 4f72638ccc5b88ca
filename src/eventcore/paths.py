"""Paths as they are at the moment of an opening: later the process may be in another folder."""

from __future__ import annotations

import os
from pathlib import Path

from eventcore.disk_errors import typed


def absolute(path: str | os.PathLike[str]) -> Path:
    """Where a path leads from the folder we are in now. Raises StorageError if that folder was removed."""
    with typed(Path(path), "find the folder it is relative to"):
        return Path(path).absolute()

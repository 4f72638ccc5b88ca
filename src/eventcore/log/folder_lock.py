"""The locks of a partition's one writer: its own, and a share in that of the Kafka log directory around it.

A broker takes `.lock` of its log directory for itself alone, so it and we keep each other out; several of us share it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import NotALog

LOCK_NAME = "eventcore.lock"
BROKER_LOCK_NAME = ".lock"
BROKER_NAME = "meta.properties"


class FolderLocks:
    """Held from construction until `release`. Raises LogLocked, naming the holder."""

    def __init__(self, disk: Disk, folder: Path, owner: str) -> None:
        self._disk = disk
        self._fds = [disk.lock(folder / LOCK_NAME, owner)]
        try:
            self._share(folder.resolve().parent)
        except BaseException:
            self.release()
            raise

    def _share(self, parent: Path) -> None:
        path = parent / BROKER_LOCK_NAME
        if self._disk.exists(parent / BROKER_NAME) and not self._disk.exists(path):
            with suppress(NotALog):  # a parent that we may not write is one that nobody has locked yet
                self._disk.close(self._disk.open(path, write=True, create=True))
        if self._disk.exists(path):
            self._fds.append(self._disk.lock_shared(path))

    def release(self) -> None:
        """Give everything back."""
        with ExitStack() as releasing:  # all of them, whatever one of them says
            while self._fds:
                releasing.callback(self._disk.unlock, self._fds.pop())

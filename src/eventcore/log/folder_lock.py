"""Whose folder it is: the locks of a partition's one writer, and what must not be taken for a partition.

The writer holds a lock of its own, and a share in that of the Kafka log directory around it.

A broker takes `.lock` of its log directory for itself alone, so it and we keep each other out; several of us share it.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import NotALog
from eventcore.files import names, recovery_point, state_file
from eventcore.log.epochs import NAME as EPOCHS_NAME

LOCK_NAME = "eventcore.lock"
BROKER_LOCK_NAME = ".lock"
BROKER_NAME = "meta.properties"
_OWN_NAMES = {LOCK_NAME, state_file.NAME, recovery_point.NAME, EPOCHS_NAME, "partition.metadata"}


class FolderLocks:
    """Held from construction until `release`. Raises LogLocked, naming the holder.

    With `in_store` the caller has the log directory's lock for himself, and so for all partitions in it.
    """

    def __init__(self, disk: Disk, folder: Path, owner: str, *, in_store: bool = False) -> None:
        self._disk = disk
        self._fds = [disk.lock(folder / LOCK_NAME, owner)]
        try:
            if not in_store:
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


def refuse_foreign_folder(disk: Disk, folder: Path) -> None:
    """Raise NotALog for a folder with things in it, none of them a log's: it was probably not meant."""
    found = disk.entries(folder)
    stems = {name.removesuffix(".tmp") for name in found}
    if found and not any(name in _OWN_NAMES or names.parse_file_name(name) for name in stems):
        kind = "a whole log directory" if BROKER_NAME in found else "something else"
        raise NotALog(
            f"the folder holds {kind}: {', '.join(sorted(found)[:3])}",
            path=folder,
            hint="give the folder of one partition, an empty folder, or a new name",
        )

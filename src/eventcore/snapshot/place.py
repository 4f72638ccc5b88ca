"""Where snapshots are kept: objects with a name, in a folder or in an object store.

An object is whole or not there, and is never changed: its name says what is in it (`manifest.py`), so one that is
there already need not be written again, whoever has written it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from eventcore.types import Buffer

LOCK_NAME = "eventcore.lock"
"""Whoever makes or removes snapshots holds it."""


class Place(Protocol):
    """Objects by name. Names have parts of A-Z a-z 0-9 . _ - between slashes; none is "." or ".."."""

    url: str
    """For messages; without credentials."""
    threads: int
    """How many objects are best written, or read, at a time."""
    links: bool
    """Whether `link` may work."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """The objects whose names begin with `prefix` (which ends with a slash), and how many bytes each has. A place
        that is not there yet has none.
        """

    def read(self, name: str, start: int, size: int) -> Buffer:
        """`size` bytes of an object from `start` on, or as many as there are. Raises MissingObject."""

    def write(self, name: str, data: Buffer) -> None:
        """Store an object, durably; one of that name is replaced: it has the same content. Raises DiskFull."""

    def create(self, name: str, data: Buffer) -> bool:
        """Store an object, durably, unless there is one of that name: then False, and nothing is changed."""

    def link(self, name: str, path: Path) -> bool:
        """Let an object be a file as it is now, without copying it; False if that cannot be."""

    def settle(self) -> None:
        """On return all that was written or linked is durable: an object that refers to it may be created."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def holding(self) -> AbstractContextManager[None]:
        """Be the only one who makes or removes snapshots here. Raises LogLocked while somebody else is."""

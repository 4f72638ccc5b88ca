"""A thread that has pages in place before they are stored to: a page takes the kernel longer to make than us to fill.

One for all files of the process, started by the first that asks. It works without the GIL. What it does not manage in
time `MappedFile.reserve` does itself; so nothing depends on it but speed, and no error of its is one.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from typing import Protocol

from eventcore.errors import StorageError


class Populated(Protocol):
    """What the thread needs of a file."""

    def populate(self, end: int) -> None:
        """Have the pages below `end` in place."""


class Populator:
    """Takes wishes, and forgets those of files that have gone."""

    def __init__(self) -> None:
        self._wishes: queue.SimpleQueue[tuple[Populated, int]] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._pid = -1

    def ask(self, file: Populated, end: int) -> None:
        """Some time soon, pages below `end` shall be there. Returns at once."""
        if self._pid != os.getpid():
            self._start()
        self._wishes.put((file, end))

    def _start(self) -> None:
        """A thread does not live on in a forked child."""
        with self._mutex:
            if self._pid != os.getpid():
                self._wishes, self._pid = queue.SimpleQueue(), os.getpid()
                threading.Thread(target=_work, args=(self._wishes,), name="eventcore-populate", daemon=True).start()


def _work(wishes: queue.SimpleQueue[tuple[Populated, int]]) -> None:
    while True:
        file, end = wishes.get()
        with suppress(StorageError):
            file.populate(end)
        del file  # else the last one's map would live on until the next wish


POPULATOR = Populator()

"""`eventcore.state`: one page that the writer and all readers of a partition map, holding the end of the log.

Its words are described in the `tail` kernel. It speaks of the running machine only: a writer sets it anew when it
opens, and nothing in it is trusted when no writer is alive. Kafka ignores the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import UnsupportedFormat
from eventcore.files.mapped_file import MappedFile

NAME = "eventcore.state"
MAGIC = b"evcstate"
VERSION = 1

tail = kernels.tail


class StateFile:
    """The mapped page. A reader that may not write the folder maps it read-only; waiting then costs it more."""

    def __init__(self, disk: Disk, path: Path, *, create: bool, write: bool = True) -> None:
        self._file = MappedFile(disk, path, write=write, capacity=tail.STATE_SIZE if create else 0, first_chunk=4096)
        view = self._file.view
        if create:
            self._file.reserve(tail.STATE_SIZE)
            tail.store(view, tail.GENERATION, tail.load(view, tail.GENERATION) | 1)  # until `changing` has ended
            view[8:12] = VERSION.to_bytes(4, "big")
            view[:8] = MAGIC
        elif len(view) < tail.STATE_SIZE or view[:8] != MAGIC or int.from_bytes(view[8:12], "big") != VERSION:
            self._file.close()
            raise UnsupportedFormat("no state file of this version", path=path)
        self.page = view

    def load(self, word: int) -> int:
        """One of the words `tail.LOG_START` ... `tail.GENERATION`."""
        return tail.load(self.page, word)

    def store(self, word: int, value: int) -> None:
        """Set one word; wakes nobody."""
        tail.store(self.page, word, value)

    def publish(self, last_stable: int, high_watermark: int, log_end: int, durable: int) -> None:
        """Show the new end of the log to every reader and wake those that wait."""
        tail.publish(self.page, last_stable, high_watermark, log_end, durable)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change of the set of segments: the generation is odd meanwhile, and another one afterwards.

        A reader that finds it odd, or different after it has looked at the folder, looks again.
        """
        self.store(tail.GENERATION, self.load(tail.GENERATION) | 1)
        try:
            yield
        finally:
            self.store(tail.GENERATION, self.load(tail.GENERATION) + 1)
            tail.wake(self.page)

    def signal(self) -> int:
        """Read it before looking at the log, then `wait` for it to change."""
        return tail.signal(self.page)

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until the signal differs from `seen`, at most `timeout_s`."""
        return tail.wait(self.page, seen, max(0, int(timeout_s * 1e9)))

    def wake(self) -> None:
        """Wake every waiter."""
        tail.wake(self.page)

    def close(self) -> None:
        """Let go of the page."""
        self._file.close()

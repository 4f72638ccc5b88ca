"""`eventcore.state`: one page that the writer and all readers of a partition map, holding the end of the log.

Its words are described in the `tail` kernel: they speak of the living writer only. Behind them it leaves a testament
for the next one. Kafka ignores the file.

    192 mark i64 | 200 its complement i64 | 208 fenced u8 | 209 u8: 1 if the log is written by pwrite

The mark is an offset below which everything was durable. It gets to the disk when the system writes the page back, so
after a power cut it may be old, but never too new: it is lowered, and synced, before a truncation. `fenced` is 1 after
a failed sync: what the page cache shows may not be what the disk has. Of a writer that was killed the words tell, too,
as long as the machine goes on: all below LOG_END that it showed is in the page cache.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import UnsupportedFormat
from eventcore.files.mapped_file import MappedFile

NAME = "eventcore.state"
MAGIC = b"evcstate"
VERSION = 1

tail = kernels.tail

_MARK_AT = 192
_MARK = struct.Struct("=qq")
_FENCED_AT = 208
_PWRITE_AT = 209


class Testament(NamedTuple):
    """What the writer before this one left."""

    mark: int = 0
    fenced: bool = False
    log_end: int | None = None
    """What it showed last: true unless the machine was restarted."""


class _SharedPage(MappedFile):
    """Shared with other processes whatever the file system can do: one page of real zeros."""

    shared = True


class StateFile:
    """The mapped page. A reader that may not write the folder maps it read-only; waiting then costs it more."""

    def __init__(self, disk: Disk, path: Path, *, create: bool, write: bool = True) -> None:
        self.path = path
        self._changes, self._changing = 0, threading.Lock()
        self._file = _SharedPage(disk, path, write=write, capacity=tail.STATE_SIZE if create else 0, first_chunk=4096)
        self.page = self._file.view
        try:
            if create:
                self._file.reserve(tail.STATE_SIZE)  # on a full tmpfs even looking at a page without memory is a signal
            self.testament = _testament(self.page) if _is_state(self.page) else Testament()
            if create:
                self._create()
            elif not _is_state(self.page):
                raise UnsupportedFormat("no state file of this version", path=path)
            else:
                self._file.close()  # only the map is needed, and a reader drops it whenever it looks for a new one
        except BaseException:
            self._file.close()
            raise

    def _create(self) -> None:
        self.store(tail.GENERATION, self.load(tail.GENERATION) | 1)  # until `changing` has ended
        self.page[8:12] = VERSION.to_bytes(4, "big")
        self.page[:8] = MAGIC

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

        A reader that finds it odd, or different after it has looked at the folder, looks again. Changes may overlap: a
        roll while a cleaned segment takes its place.
        """
        with self._changing:
            self._changes += 1
            self.store(tail.GENERATION, self.load(tail.GENERATION) | 1)
        try:
            yield
        finally:
            with self._changing:
                self._changes -= 1
                if not self._changes:
                    self.store(tail.GENERATION, self.load(tail.GENERATION) + 1)
            tail.wake(self.page)

    def truncating(self, offset: int) -> None:
        """Tell readers, before anything is changed, that records at and above `offset` go.

        Whoever finds the same count before and after the place, and a place, has two that belong together.
        """
        self.store(tail.TRUNCATED_TO, -1)
        self.store(tail.TRUNCATIONS, self.load(tail.TRUNCATIONS) + 1)
        self.store(tail.TRUNCATED_TO, offset)

    @contextmanager
    def taken_over(self, truncate_to: int) -> Iterator[None]:
        """`changing`, around a recovery; before it changes a byte readers are told what it is going to cut.

        That is a truncation to `truncate_to` (-1: none) which the writer before this one did not finish; and after a
        fence whatever was not durable, as the disk may not have it.
        """
        cuts = [truncate_to] if truncate_to >= 0 else []
        if self.testament.fenced:
            cuts.append(self.testament.mark)
        if cuts:
            self.truncating(min(cuts))
        with self.changing():
            yield

    def set_mark(self, offset: int) -> None:
        """Note that everything below `offset` is durable."""
        _MARK.pack_into(self.page, _MARK_AT, offset, ~offset)

    def begin(self, mark: int, end: int) -> None:
        """The log has been recovered, and ends at `end`: from here on the testament is this writer's.

        Where it ends below what readers saw, somebody else has cut it.
        """
        if end < self.load(tail.HIGH_WATERMARK):
            self.truncating(end)
        self.set_mark(mark)
        self.page[_FENCED_AT] = 0

    @property
    def io(self) -> str:
        """How the writer gets bytes into the log: `mmap`, or `pwrite` where the file system cannot reserve blocks."""
        return "pwrite" if self.page[_PWRITE_AT] else "mmap"

    @io.setter
    def io(self, io: str) -> None:
        self.page[_PWRITE_AT] = io == "pwrite"

    def fence(self) -> None:
        """Note for the next writer that the page cache may lie."""
        self.page[_FENCED_AT] = 1

    @property
    def broken(self) -> bool:
        """Whether the page was taken from under us: readers see nothing any more."""
        return self._file.broken

    def sync(self) -> None:
        """On return the page survives a power cut."""
        self._file.sync()

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
        """Let go of the page; what it said last can still be asked."""
        self.page = memoryview(bytearray(self.page))
        self._file.release()


def _is_state(view: memoryview) -> bool:
    return len(view) >= tail.STATE_SIZE and view[:8] == MAGIC and int.from_bytes(view[8:12], "big") == VERSION


def _testament(view: memoryview) -> Testament:
    mark, complement = _MARK.unpack_from(view, _MARK_AT)
    mark = mark if mark == ~complement and mark >= 0 else 0
    return Testament(mark, bool(view[_FENCED_AT]), tail.load(view, tail.LOG_END))

"""Lines of a file or a pipe, as they arrive, in little memory.

Blocks are read and split at once: a line costs no Python call of its own. No line above the limit is ever held; its
rest is read past. From a pipe a block is what is there now, so that a slow producer's lines are not kept waiting.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

BLOCK_SIZE = 1 << 18


class Burst(NamedTuple):
    """Lines that arrived together, without their `\\n`. One that is too long comes alone, as `lines` of None."""

    number: int
    """Line number of the first one, from 1."""
    lines: list[bytes] | None


class LineSource:
    """The lines of a binary stream. `bytes_read` counts what was read so far."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.limit = limit
        self.bytes_read = 0
        self._stream = stream
        self._read = cast("Any", getattr(stream, "read1", stream.read))

    def would_wait(self) -> bool:
        """Whether nothing more is there just now: the time to append what has come."""
        try:
            return not select.select([self._stream.fileno()], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def bursts(self) -> Iterator[Burst]:
        """All lines. A last one without a line end counts, an empty one after the last line end does not."""
        number, rest, too_long = 1, b"", False
        while block := self._read(BLOCK_SIZE):
            self.bytes_read += len(block)
            head, *lines = block.split(b"\n")
            if not lines:
                rest, too_long = (
                    (b"", True) if too_long or len(rest) + len(head) > self.limit + 1 else (rest + head, False)
                )
                continue
            yield from self._checked(number, [None if too_long else rest + head, *lines[:-1]])
            number += len(lines)
            rest, too_long = lines[-1], False
        if rest or too_long:
            yield from self._checked(number, [None if too_long else rest])

    def _checked(self, number: int, lines: list[bytes | None]) -> Iterator[Burst]:
        """Cut the burst around lines that are too long; a `\\r` at the end is not part of a line's length."""
        if None not in lines[:1] and (len(lines) == 1 or self.limit >= BLOCK_SIZE) and _size(lines[0]) <= self.limit:
            yield Burst(number, cast("list[bytes]", lines))
            return
        start = 0
        for at, line in enumerate(lines):
            if line is None or _size(line) > self.limit:
                if at > start:
                    yield Burst(number + start, cast("list[bytes]", lines[start:at]))
                yield Burst(number + at, None)
                start = at + 1
        if start < len(lines):
            yield Burst(number + start, cast("list[bytes]", lines[start:]))


def _size(line: bytes | None) -> int:
    return 0 if line is None else len(line) - line.endswith(b"\r")


def open_input(path: Path | None) -> AbstractContextManager[BinaryIO]:
    """A file, or stdin for None and `-`."""
    if path is None or str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    return path.open("rb")

"""A buffer that is read while somebody may change it."""

from __future__ import annotations

from typing import final

from eventcore._pure import tail
from eventcore._pure.batch import as_bytes
from eventcore.errors import LogTruncated, MappingFault
from eventcore.types import Buffer

__all__ = ["Source"]


@final
class Source:
    """A buffer with batches in it, pinned, and what tells that its bytes no longer are what they were.

    `state` is the state page whose count of truncations must stay `truncations`; without one nobody is known to write.
    """

    def __init__(self, buf: Buffer, state: Buffer | None = None, truncations: int = 0) -> None:
        self._view = as_bytes(buf)
        self._state = state
        self._truncations = truncations

    def __len__(self) -> int:
        return len(self._view)

    def check(self) -> None:
        """Whether what was read until now can be believed. Raises LogTruncated or MappingFault if not."""
        if self._state is not None and tail.load(self._state, tail.TRUNCATIONS) != self._truncations:
            raise LogTruncated("the log was truncated while it was read")
        if getattr(self._view.obj, "broken", False):
            raise MappingFault("a page of the file cannot be had")

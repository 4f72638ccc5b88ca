"""Who may change a log: a lock that no signal can leave half taken, and what was begun and did not come to its end.

Ctrl-C, or any exception that another thread sends, may come between two lines of Python. So taking and giving back the
lock is one step; and what has to be done as a whole is done inside of `whole`, which keeps count: a change that an
exception has cut short stays `unfinished` for good, and whoever takes the lock next knows of it.
"""

from __future__ import annotations

import _thread
from types import TracebackType
from typing import Protocol

__all__ = ["Whole", "WriteLock"]


class _Pausable(Protocol):
    """What the lock needs of an appender."""

    _lock: WriteLock | None
    """Of the pure appender, which runs lines of Python: it takes the lock for each of its appends."""

    def pause(self) -> None:
        """Make it decline."""

    def resume(self) -> None:
        """Let it append again."""


class Whole:
    """Around what has to be done as a whole; one may be inside of another. After a `harmless` error nothing is half
    done.
    """

    def __init__(self, harmless: tuple[type[BaseException], ...]) -> None:
        self.unfinished = 0
        """How many were begun and have not ended."""
        self._harmless = harmless

    def __enter__(self) -> None:
        self.unfinished += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, self._harmless):
            self.unfinished -= 1


class WriteLock(_thread.RLock):  # type: ignore[misc]  # its own `with` is one step, as no method of ours would be
    """A re-entrant lock. An appender that is shown to it (`attach`) declines while somebody holds it, and for ever
    once it was given back with something unfinished.
    """

    def __init__(self, harmless: tuple[type[BaseException], ...]) -> None:
        self.whole = Whole(harmless)
        self.attempt = Whole((Exception,))
        """Around what may be refused in the midst of it, with nothing done: records with a wrong type."""

    @property
    def unfinished(self) -> int:
        """How many changes were begun and have not ended."""
        return self.whole.unfinished + self.attempt.unfinished

    def attach(self, appender: _Pausable) -> None:
        """The appender declines from now on while somebody holds the lock, and where something is unfinished."""
        appender._lock = self

    def held(self) -> bool:
        """Whether this thread has it."""
        return self._is_owned()  # type: ignore[attr-defined,no-any-return]

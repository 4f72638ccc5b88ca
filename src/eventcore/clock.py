"""Time as a dependency: what the engine asks for, so that tests can hand in their own."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol

from eventcore.errors import UsageError

Time = int | datetime


class Clock(Protocol):
    """A source of wall-clock time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC; may jump when the machine's clock is set."""
        return time.time_ns() // 1_000_000


def to_ms(timestamp: Time) -> int:
    """Milliseconds since the epoch. A naive datetime is refused: its zone would be a guess."""
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise UsageError("a naive datetime", hint="give it a timezone, e.g. datetime.now(timezone.utc)")
        return int(timestamp.timestamp() * 1000)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise TypeError(f"a timestamp must be an int (ms since the epoch) or an aware datetime, not {timestamp!r}")
    if timestamp < 0:
        raise UsageError(f"the timestamp {timestamp} is negative", hint="give ms since the epoch, or None for now")
    return timestamp

"""What a fuzzer needs to know of the thing it feeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventcore.errors import CorruptRecord, Truncated, UnsupportedFormat
from tests.fuzz.mutate import Fix

MALFORMED = (CorruptRecord, Truncated, UnsupportedFormat)
"""What a function says that was given bytes which are no record batches."""


@dataclass(frozen=True)
class Target:
    """A consumer of untrusted bytes. `run` catches the errors that are documented; any other one is a finding."""

    name: str
    run: Callable[[memoryview], None]
    seeds: Callable[[], Sequence[bytes]]
    share: float
    """Its part of all inputs, in relation to the shares of the others."""
    fix: Fix | None = None
    places: Sequence[tuple[int, str]] = ()
    memory: int = 64 << 10
    """Bytes that it may take whatever the input is."""
    factor: int = 4
    """Bytes that it may take for each byte of the input; above 4 where the result itself is larger than that."""

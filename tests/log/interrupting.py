"""Ctrl-C at every place where it can come: where the interpreter runs signal handlers.

That is after a call, at the beginning of a function, and at a jump back; what other threads send (`SetAsyncExc`) comes
there, too. Not in between: who raises before any instruction, as a line's trace may, also hits the moment when a `with`
block has come to its end and its lock is not given back yet, and that of a `return` behind the last `try`.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

_CHECKS = {"RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE"}


class Tracer:
    """Raises KeyboardInterrupt at the `at`-th step (from 1; 0: never) in files with `only` in their names."""

    def __init__(self, at: int, only: str) -> None:
        self.at, self.only = at, only
        self.count = 0
        self.raised = ""
        """Where, once it has."""
        self.places: dict[tuple[CodeType, int], int] = {}
        """Each place that was come to: the first step there."""
        self._names: dict[CodeType, dict[int, str]] = {}
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        """See `sys.settrace`."""
        if self.only not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self._before.get(frame, "")
            self._before[frame] = self._name(frame)
            if before in _CHECKS or before.startswith("CALL"):
                self._step(frame)
        elif event == "return":
            self._before.pop(frame, None)
        return self

    def _step(self, frame: FrameType) -> None:
        self.count += 1
        self.places.setdefault((frame.f_code, frame.f_lasti), self.count)
        if self.count == self.at:
            self.raised = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
            self._before.clear()  # nothing more is traced; and no frame is kept
            raise KeyboardInterrupt

    def _name(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._names:
            self._names[code] = {found.offset: found.opname for found in dis.get_instructions(code)}
        return self._names[code][frame.f_lasti]


@contextmanager
def tracing(tracer: Tracer) -> Iterator[Tracer]:
    """The block's calls, in this thread, are traced."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield tracer
    finally:
        sys.settrace(before)


def interrupted(step: int, only: str, call: Callable[[], Any]) -> bool:
    """Whether `call` was interrupted at that step."""
    tracer = Tracer(step, only)
    try:
        with tracing(tracer):
            call()
    except KeyboardInterrupt:
        return True
    return False

"""Ctrl-C at every place where it can come: where the interpreter runs signal handlers.

That is after a call, at the beginning of a function, and at a jump back; what other threads send (`SetAsyncExc`) comes
there, too. Not in between: who raises before any instruction, as a line's trace may, also hits the moment when a `with`
block has come to its end and its lock is not given back yet, and that of a `return` behind the last `try`.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_CHECKS = {"RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE"}


class _Tracer:
    def __init__(self, step: int, only: str) -> None:
        self.left, self.only = step, only
        self._names: dict[CodeType, dict[int, str]] = {}
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if self.only not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self._before.get(frame, "")
            self._before[frame] = self._name(frame)
            if before in _CHECKS or before.startswith("CALL"):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        elif event == "return":
            self._before.pop(frame, None)
        return self

    def _name(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._names:
            self._names[code] = {found.offset: found.opname for found in dis.get_instructions(code)}
        return self._names[code][frame.f_lasti]


def interrupted(step: int, only: str, call: Callable[[], Any]) -> bool:
    """Whether `call` was interrupted at that step, of those in files with `only` in their names."""
    tracer, before = _Tracer(step, only), sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False

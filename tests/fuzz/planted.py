"""A target with a bug that only a fuzzer would find which sees what ran, under a sanitizer that sees what was read.

It shows that the others would be found.
"""

from __future__ import annotations

import ctypes
import os

from tests.fuzz.target import Target

_PATH = os.environ.get("EVENTCORE_PLANTED")
_LIBRARY = ctypes.CDLL(_PATH) if _PATH else None
if _LIBRARY:
    _LIBRARY.planted.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def run_planted(data: memoryview) -> None:
    """Does nothing without the traced build."""
    if _LIBRARY and len(data):
        _LIBRARY.planted(ctypes.addressof(ctypes.c_char.from_buffer(data)), len(data))


TARGETS = (Target("planted", run_planted, lambda: [b"not"], 0),)
"""A share of 0: it runs only when it is asked for."""

"""Where the input under test lies: at the end of a map, between poisoned margins, in a file that outlives its process.

A sanitizer sees a read of a single byte too many behind the input, and of one before it but for the first 7 bytes (it
keeps account of 8 at a time). When the process dies, its parent finds the input in the file.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

SIZE = 1 << 20
_MARGIN = 256
_END = SIZE - _MARGIN
_LENGTH = slice(0, 8)


class Arena:
    """Holds one input at a time; `path` None: in memory of this process only."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._map = mmap.mmap(-1, SIZE)
        else:
            with path.open("w+b") as file:
                file.truncate(SIZE)
                self._map = mmap.mmap(file.fileno(), SIZE)
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._poison = _runtime("__asan_poison_memory_region")
        self._unpoison = _runtime("__asan_unpoison_memory_region")
        self._low = _END
        if self._poison:
            self._poison(self._address + _END, _MARGIN)

    def place(self, data: bytes | bytearray) -> memoryview:
        """The input as the target gets it."""
        start = _END - len(data)
        if self._unpoison:
            self._unpoison(self._address + self._low - _MARGIN, _MARGIN)
        self._view[start:_END] = data
        self._view[_LENGTH] = len(data).to_bytes(8, "big")
        if self._poison:
            self._low = start & ~7
            self._poison(self._address + self._low - _MARGIN, _MARGIN)
        return self._view[start:_END]


def last_input(path: Path) -> bytes:
    """What a process that died was working on."""
    data = path.read_bytes()
    return data[_END - int.from_bytes(data[_LENGTH], "big") : _END]


def _runtime(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the sanitizer's runtime, None without one."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), None
    return function  # type: ignore[no-any-return]

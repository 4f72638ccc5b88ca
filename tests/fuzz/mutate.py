"""Mutations of byte strings that know what a length, a varint and a checksum are.

Havoc alone would nearly always break a checksum and test nothing but it, so every target has a `fix`: it makes the
lengths and checksums right again, most of the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

from eventcore._pure.crc32c import crc32c as pure_crc32c

SIZE_MAX = 4096
"""Inputs do not grow above this: what a longer one could show, a shorter one shows sooner."""

Fix = Callable[[bytearray, Random], None]

_INT8 = (0, 1, 2, 0x7F, 0x80, 0xFF)
_INT16 = (0, 1, -1, 0x7FFF, -0x8000)
_INT32 = (0, 1, -1, 48, 49, 50, 0x7FFFFFFF, -0x80000000, 0x7FFFFFFE, 1 << 24, 1 << 16)
_INT64 = (0, 1, -1, (1 << 63) - 1, -(1 << 63), (1 << 63) - 2, 1 << 31, 1 << 32, (1 << 31) - 1, -(1 << 31))
_INTEGERS = tuple(
    struct.pack(f"{order}{code}", value)
    for order in ">"
    for code, values in (("h", _INT16), ("i", _INT32), ("q", _INT64))
    for value in values
)
_LITTLE = tuple(struct.pack("<I", value & 0xFFFFFFFF) for value in _INT32)
_BYTES = tuple(bytes([value]) for value in _INT8)


def _zigzag(value: int) -> bytes:
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


_VARINTS = (
    *(_zigzag(value) for value in (*range(-3, 12), 63, -64, 64, -65, 127, 300, 8191, -8192, 8192, *_INT32, *_INT64)),
    b"\x80\x00",
    b"\x82\x00",  # overlong
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x1f",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 9 + b"\x02",
    b"\xff" * 10 + b"\x01",
    b"\x80" * 12,
)
_WORDS = (*_INTEGERS, *_LITTLE, *_BYTES, *_VARINTS)


class Mutator:
    """Makes new inputs of known ones. `places` are the offsets of integers that matter, as (position, struct code)."""

    def __init__(self, rng: Random, places: Sequence[tuple[int, str]] = ()) -> None:
        self._random = rng.random
        self.rng = rng
        self._places = places
        self._operations = (
            self._flip,
            self._set_word,
            self._set_word,
            self._insert_word,
            self._change_byte,
            self._set_byte,
            self._cut,
            self._remove,
            self._repeat,
            self._splice,
            *((self._set_place, self._set_place) if places else ()),
        )

    def __call__(self, corpus: Sequence[bytes]) -> bytearray:
        """One to five mutations of an input of the corpus; often of a newer one, which is rarer."""
        random = self._random
        count = len(corpus)
        at = int(random() * count) if random() < 0.7 else count - 1 - int(random() * min(count, 32))
        data = bytearray(corpus[at])
        self._corpus = corpus
        operations = self._operations
        for _ in range(1 + int(random() * random() * 5)):
            operations[int(random() * len(operations))](data)
        del data[SIZE_MAX:]
        return data

    def _at(self, data: bytearray) -> int:
        return int(self._random() * len(data)) if data else 0

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] ^= 1 << int(self._random() * 8)

    def _set_word(self, data: bytearray) -> None:
        at, word = self._at(data), _WORDS[int(self._random() * len(_WORDS))]
        data[at : at + len(word)] = word

    def _insert_word(self, data: bytearray) -> None:
        at, word = self._at(data), _WORDS[int(self._random() * len(_WORDS))]
        data[at : at + int(self._random() * 2)] = word

    def _change_byte(self, data: bytearray) -> None:
        if data:
            at = self._at(data)
            data[at] = (data[at] + int(self._random() * 9) - 4) & 0xFF

    def _set_byte(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] = int(self._random() * 256)

    def _cut(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _remove(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + 1 + int(self._random() * self._random() * 64)]

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        piece = data[at : at + 1 + int(self._random() * self._random() * 128)]
        data[at:at] = piece * (1 + int(self._random() * self._random() * 8))

    def _splice(self, data: bytearray) -> None:
        other = self._corpus[int(self._random() * len(self._corpus))]
        start = self._at(data)
        data[start:] = other[int(self._random() * len(other)) :] if self._random() < 0.5 else other[start:]

    def _set_place(self, data: bytearray) -> None:
        at, code = self._places[int(self._random() * len(self._places))]
        values = {"h": _INT16, "i": _INT32, "q": _INT64, "b": (0, 1, 2, 3, -1)}[code]
        is_edge = self._random() < 0.4
        value = values[int(self._random() * len(values))] if is_edge else int(self._random() * 40) - 4
        end = at + struct.calcsize(code)
        if end <= len(data):
            struct.pack_into(">" + code, data, at, value)


def put_crc(data: bytearray, at: int, start: int, end: int | None = None) -> None:
    """Store the CRC-32C of data[start:end] at `at`."""
    data[at : at + 4] = crc32c(memoryview(data)[start:end]).to_bytes(4, "big")


def crc32c(data: memoryview | bytes, value: int = 0) -> int:
    """The fastest there is; the kernels under test have tests of their own for it."""
    return _crc32c(data, value)


try:
    from eventcore._native.crc32c import crc32c as _crc32c
except ModuleNotFoundError:
    _crc32c = pure_crc32c

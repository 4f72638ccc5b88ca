"""Kafka's primitive fields, as its coordinators' records have them: integers, strings, arrays, tagged fields.

A flexible version writes lengths as unsigned varints, plus one, and ends each structure with fields that have tags.
"""

from __future__ import annotations

from eventcore.errors import CorruptRecord

_LONGEST_UVARINT = 5


def put_int(out: bytearray, size: int, value: int) -> None:
    """A signed integer of so many bytes."""
    out += value.to_bytes(size, "big", signed=True)


def put_uvarint(out: bytearray, value: int) -> None:
    """An unsigned varint."""
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


def put_string(out: bytearray, text: str) -> None:
    """A string of a version that is not flexible."""
    data = text.encode()
    put_int(out, 2, len(data))
    out += data


def put_compact_string(out: bytearray, text: str) -> None:
    """A string of a flexible version."""
    data = text.encode()
    put_uvarint(out, len(data) + 1)
    out += data


def put_tagged(out: bytearray, fields: dict[int, bytes]) -> None:
    """The end of a structure of a flexible version."""
    put_uvarint(out, len(fields))
    for tag, data in sorted(fields.items()):
        put_uvarint(out, tag)
        put_uvarint(out, len(data))
        out += data


class FieldReader:
    """Takes fields off the front of some bytes. Raises CorruptRecord for what goes beyond their end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """So many bytes."""
        if not 0 <= size <= self.left:
            raise CorruptRecord(f"{self._what}: a field of {size} bytes where {self.left} are left", position=self._at)
        self._at += size
        return self._data[self._at - size : self._at]

    def integer(self, size: int) -> int:
        """A signed integer of so many bytes."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def uvarint(self) -> int:
        """An unsigned varint of 32 bits."""
        value = 0
        for at in range(_LONGEST_UVARINT):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * at
            if byte < 0x80 and value < 1 << 32:
                return value
        raise CorruptRecord(f"{self._what}: a varint of more than 32 bits", position=self._at)

    def string(self) -> str:
        """A string of a version that is not flexible."""
        return self._text(self.integer(2))

    def compact_string(self) -> str:
        """A string of a flexible version."""
        return self._text(self.uvarint() - 1)

    def _text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise CorruptRecord(f"{self._what}: a string that is no UTF-8", position=self._at) from None

    def count(self, number: int, least_bytes: int) -> int:
        """How many items of an array follow, each of at least so many bytes: no more than there is room for."""
        if not 0 <= number * least_bytes <= self.left:
            raise CorruptRecord(f"{self._what}: {number} items where {self.left} bytes are left", position=self._at)
        return number

    def tagged(self) -> dict[int, bytes]:
        """The tagged fields at the end of a structure, those of later versions, too."""
        return {self.uvarint(): self.take(self.uvarint()) for _ in range(self.count(self.uvarint(), 2))}

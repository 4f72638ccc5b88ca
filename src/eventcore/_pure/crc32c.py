"""CRC-32C (Castagnoli, RFC 3720), the checksum of Kafka's record batches.

Polynomials over GF(2) are reflected: bit 31 of the register is x^0, so a step to the right multiplies by x. The
register starts at all ones and the CRC is its complement.

Slicing-by-8: eight tables turn eight bytes into one exclusive-or of eight look-ups, about the least work per byte that
plain Python can do. The tables are computed, so that there is nothing to mistype.
"""

from __future__ import annotations

import operator
import struct

from eventcore.errors import UsageError
from eventcore.types import Buffer

P = 0x82F63B78
"""x^32 + 0x1EDC6F41, reflected, without its x^32."""

_NAME = "pure"

_ALL_ONES = 0xFFFFFFFF


def _tables() -> tuple[tuple[int, ...], ...]:
    """[k][b]: the register of the byte b with k more bytes, of zeros, behind it."""
    registers = list(range(256))
    for _ in range(8):
        registers = [register >> 1 ^ P if register & 1 else register >> 1 for register in registers]
    tables = [tuple(registers)]
    for _ in range(7):
        tables.append(tuple(register >> 8 ^ registers[register & 0xFF] for register in tables[-1]))
    return tuple(tables)


_TABLES = _tables()


def _updated(register: int, data: bytes) -> int:
    """The register after all of `data`."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _TABLES
    whole = len(data) & ~7
    for low, high in struct.iter_unpack("<II", memoryview(data)[:whole]):
        low ^= register
        register = (
            t7[low & 0xFF]
            ^ t6[low >> 8 & 0xFF]
            ^ t5[low >> 16 & 0xFF]
            ^ t4[low >> 24]
            ^ t3[high & 0xFF]
            ^ t2[high >> 8 & 0xFF]
            ^ t1[high >> 16 & 0xFF]
            ^ t0[high >> 24]
        )
    for byte in data[whole:]:
        register = register >> 8 ^ t0[(register ^ byte) & 0xFF]
    return register


def _as_crc(value: int) -> int:
    number = operator.index(value)
    if not 0 <= number <= _ALL_ONES:
        raise ValueError("value must be a CRC, 0 <= value < 2**32")
    return number


def _as_bytes(data: Buffer) -> bytes:
    """A copy: a view of anything but single bytes cannot always be cast. Next to the loop over it, it costs nothing."""
    with memoryview(data) as view:
        if not view.c_contiguous:
            raise BufferError("crc32c needs a C-contiguous buffer")
        return view.tobytes()


def crc32c(data: Buffer, value: int = 0) -> int:
    """The CRC-32C of `data`, any C-contiguous bytes-like object; `value` is the CRC of what came before it.

    Raises TypeError if `data` is no buffer, BufferError if it is not C-contiguous, ValueError if `value` is not in
    0 .. 2**32 - 1.
    """
    return _updated(_as_crc(value) ^ _ALL_ONES, data if type(data) is bytes else _as_bytes(data)) ^ _ALL_ONES


def implementation() -> str:
    """The name of the kernel in use."""
    return _NAME


def available() -> tuple[str, ...]:
    """The names of the kernels this machine can run, fastest first."""
    return (_NAME,)


def crc32c_with(name: str, data: Buffer, value: int = 0) -> int:
    """`crc32c` by the kernel `name`, for tests and benchmarks. UsageError: not among `available()`."""
    if name != _NAME:
        raise UsageError(f"no CRC-32C implementation {name!r} here", hint=f"use one of {', '.join(available())}")
    return crc32c(data, value)

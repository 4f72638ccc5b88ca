"""transfer: a batch copied and checked in one go; known batches, every flipped bit, every cut; the twins agree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.parity import twins
from tests.parity.twins import INT64_MAX, SMALL

LARGE = twins.batch(b"".join(twins.record(n, n, b"k" * (n % 90), b"v" * 700) for n in range(100)), 100)
"""Of more bytes than are copied without letting go of the GIL, and of more than one block."""


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("at", [0, 7])
def test_copies_with_another_offset_and_epoch(kernels: SimpleNamespace, data: bytes, at: int) -> None:
    assert len(LARGE) > 1 << 16
    out = bytearray(len(data) + 20)
    assert kernels.transfer.copy_batch(out, at, b"xyz" + data + b"behind", 3, INT64_MAX - 200, 99) is True
    assert out[:at] + out[at + len(data) :] == bytes(20)
    header = kernels.batch.read_header(out, at, at + len(data))
    assert (header[0], header[2]) == (INT64_MAX - 200, 99)
    assert out[at + 8 : at + 12] + out[at + 16 : at + len(data)] == data[8:12] + data[16:]
    assert kernels.batch.crc_holds(out, at, at + len(data))


def test_a_bad_crc_leaves_no_batch(kernels: SimpleNamespace) -> None:
    for position in (17, 20, 30, 61, len(LARGE) // 2, len(LARGE) - 1):
        bad, out = bytearray(LARGE), bytearray(len(LARGE))
        bad[position] ^= 1
        assert kernels.transfer.copy_batch(out, 0, bad, 0, 5, 5) is False
        assert out[:12] == bytes(12)


def test_there_must_be_room(kernels: SimpleNamespace) -> None:
    out = bytearray(len(SMALL))
    for buf, at, pos in ((out, 1, 0), (out[:-1], 0, 0), (out, -1, 0), (out, 0, len(SMALL) + 1)):
        with pytest.raises(IndexError):
            kernels.transfer.copy_batch(buf, at, SMALL, pos, 0, 0)
    with pytest.raises(TypeError):
        kernels.transfer.copy_batch(bytes(len(SMALL)), 0, SMALL, 0, 0, 0)
    assert out == bytes(len(SMALL))


def both(pair: Any, data: bytes) -> list[Any]:
    found = []
    for kernels in pair:
        out = bytearray(len(SMALL) + 8)
        found.append((twins.outcome(kernels.transfer.copy_batch, out, 4, data, 0, 1 << 40, -1), out[:16]))
    return found


def test_twins_agree_on_every_cut_and_flip(pair: Any) -> None:
    for cut in range(len(SMALL)):
        native, pure = both(pair, SMALL[:cut])
        assert native == pure
    for bit in range(len(SMALL) * 8):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        native, pure = both(pair, bytes(data))
        assert native == pure, f"bit {bit}"

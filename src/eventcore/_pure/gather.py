"""Keys or values of a column back to back in a buffer of their own, as Arrow has them."""

from __future__ import annotations

from eventcore._pure.batch import as_bytes
from eventcore.types import Buffer

__all__ = ["copy_parts", "measure_parts"]


def _items(column: Buffer) -> memoryview:
    return as_bytes(column).cast("q")


def measure_parts(lengths: Buffer, ends: Buffer, valid: Buffer) -> tuple[int, int]:
    """From int64 `lengths` (-1: null) make the rows + 1 int64 offsets of the parts in `ends`, and a bit a row in
    `valid`, lowest first. Returns the bytes of all parts, and how many are null.
    """
    sizes, offsets, bits = _items(lengths), _items(ends), as_bytes(valid)
    rows, total, nulls = len(sizes), 0, 0
    if len(offsets) != rows + 1 or len(bits) != (rows + 7) // 8:
        raise ValueError(f"the results of {rows} rows need {rows + 1} offsets and {(rows + 7) // 8} bytes of bits")
    bits[:] = bytes(len(bits))
    offsets[0] = 0
    for row, size in enumerate(sizes):
        if size > (1 << 62) - total:
            raise ValueError("the parts are too large")
        if size >= 0:
            bits[row >> 3] |= 1 << (row & 7)
            total += size
        else:
            nulls += 1
        offsets[row + 1] = total
    return total, nulls


def copy_parts(data: Buffer, positions: Buffer, lengths: Buffer, out: Buffer) -> int:
    """Copy the parts of `data` to `out`, one behind the other; returns where they end. Nulls have no bytes.

    Raises IndexError for a part that is not in `data`, ValueError if `out` is too small.
    """
    view, starts, sizes, target = as_bytes(data), _items(positions), _items(lengths), as_bytes(out)
    if len(starts) != len(sizes):
        raise ValueError("there must be as many positions as lengths")
    end = 0
    for start, size in zip(starts, sizes, strict=True):
        if size <= 0:
            continue
        if not 0 <= start <= len(view) - size:
            raise IndexError(f"[{start}:{start + size}] is outside a buffer of {len(view)} bytes")
        if size > len(target) - end:
            raise ValueError(f"the parts do not fit into {len(target)} bytes")
        target[end : end + size] = view[start : start + size]
        end += size
    return end

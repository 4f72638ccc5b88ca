"""A stream of Arrow arrays. This twin holds all of them at once: only native code can be called by the consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["export_stream"]


def export_stream(schema: Any, arrays: Iterable[Any], collect: Callable[[list[Any], Any], Any]) -> Any:
    """The capsule of an Arrow stream over the iterator `arrays`, of what has `__arrow_c_array__`.

    `schema` has `__arrow_c_schema__`. `collect(list of arrays, schema)` makes such a capsule of arrays that all are
    there: the twin, which cannot make one of its own, calls it.
    """
    return collect(list(arrays), schema)

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["export_stream"]

def export_stream(schema: Any, arrays: Iterable[Any], collect: Callable[[list[Any], Any], Any]) -> Any: ...

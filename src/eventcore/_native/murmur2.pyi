from collections.abc import Sequence
from typing import Any

from eventcore.types import Buffer

__all__ = ["group", "murmur2"]

def murmur2(data: Buffer) -> int: ...
def group(items: Sequence[Any], count: int, keyless: int) -> list[list[Any]]: ...

from typing import final

from eventcore.types import Buffer

__all__ = ["Source"]

@final
class Source:
    def __init__(self, buf: Buffer, state: Buffer | None = None, truncations: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def check(self) -> None: ...

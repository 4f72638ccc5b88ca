"""A segment's `.log` file: record batches back to back, then, while it is the active one, reserved zeros.

Positions and sizes are signed 32-bit in Kafka, so a file never exceeds 2^31-1 bytes.
"""

from __future__ import annotations

from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import UnsupportedFormat
from eventcore.files.mapped_file import MappedFile

MAX_SIZE = (1 << 31) - 1


class SegmentFile(MappedFile):
    """The bytes of one segment. `size` is the end of the last batch."""

    floored = True

    def __init__(self, disk: Disk, path: Path, *, write: bool, capacity: int = 0) -> None:
        super().__init__(disk, path, write=write, capacity=capacity)
        if self.size > MAX_SIZE:
            self.close()
            raise UnsupportedFormat(f"a segment of {self.size} bytes, more than {MAX_SIZE}", path=path)

    @property
    def room(self) -> int:
        """Bytes that may still be appended."""
        return self.capacity - self.size

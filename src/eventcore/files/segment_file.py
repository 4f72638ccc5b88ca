"""A segment's `.log` file: record batches back to back, then, while it is the active one, reserved zeros.

Positions and sizes are signed 32-bit in Kafka, so a file never exceeds 2^31-1 bytes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import StorageError, UnsupportedFormat
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

    def stored(self, start: int, end: int) -> None:
        """Bytes were stored through `view`: on return they are in the file, whether or not the map is private.

        So whoever syncs writes nothing of the log, and cannot take a batch out of the hands of who appends it. Raises
        DiskFull; then they are zeros again, in the map, and in the file as far as they got there.
        """
        if not self.private:
            return
        try:
            self._write_out(start, end)
        except BaseException:
            self.view[start:end] = bytes(end - start)
            with suppress(StorageError):  # what never got a block cannot be written, and need not be
                self._write_out(start, end)
            raise


def only_zeros(view: memoryview, start: int, end: int) -> bool:
    """Whether nothing was ever written in `[start, end)`."""
    step = 1 << 20
    return all(view[at : min(at + step, end)] == bytes(min(step, end - at)) for at in range(start, end, step))

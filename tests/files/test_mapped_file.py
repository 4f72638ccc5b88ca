"""A mapped file whose writer is at work while somebody opens it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventcore import StorageError
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.files.mapped_file import MappedFile


class CutMeanwhile(Disk):
    """The writer cuts its reserved zeros between the reader's look at the size and its map, a few times."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def map(self, fd: int, size: int, *, write: bool, private: bool = False) -> kernels.guard.Mapping:
        if self.sizes:
            with self._path(fd).open("r+b") as file:
                file.truncate(self.sizes.pop(0))
        return super().map(fd, size, write=write, private=private)


@pytest.mark.parametrize("sizes", [[5000], [6000, 5000]], ids=["once", "twice"])
def test_a_reader_maps_what_the_writer_has_left(tmp_path: Path, sizes: list[int]) -> None:
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(b"x" * 5000 + bytes(5000))
    file = MappedFile(CutMeanwhile(sizes), path, write=False)
    assert (file.size, file.capacity, bytes(file.view)) == (5000, 5000, b"x" * 5000)


def test_nothing_may_be_left_of_it(tmp_path: Path) -> None:
    path = tmp_path / "00000000000000000000.index"
    path.write_bytes(bytes(5000))
    file = MappedFile(CutMeanwhile([0]), path, write=False)
    assert (file.size, file.capacity, bytes(file.view)) == (0, 0, b"")


def test_a_map_that_fails_otherwise_is_an_error(tmp_path: Path) -> None:
    class NoMaps(Disk):
        def map(self, fd: int, size: int, *, write: bool, private: bool = False) -> kernels.guard.Mapping:
            raise StorageError("no maps here", path=self._path(fd))

    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match="no maps here"):
        MappedFile(NoMaps(), path, write=False)

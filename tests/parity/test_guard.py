"""guard: maps of files, what they show, how long they live, how they fail; both twins.

What only the native twin does, absorbing faults, is in tests/crash/test_sigbus.py.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scale import seeded

PAGE = mmap.PAGESIZE
CONTENT = random.Random(1).randbytes(5 * PAGE + 123)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system has no such call")


@pytest.fixture
def guard(kernels: SimpleNamespace) -> Any:
    return import_module(f"eventcore._{kernels.kind}.guard")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def maps_of(path: Path) -> int:
    """How many maps of the file this process has."""
    return Path("/proc/self/maps").read_text().count(f"{path}\n")


@pytest.mark.parametrize("size", [1, PAGE, PAGE + 1, len(CONTENT)])
@pytest.mark.parametrize(("write", "private"), [(True, False), (False, False), (False, True), (True, True)])
def test_a_map_shows_the_file(guard: Any, fd: int, size: int, write: bool, private: bool) -> None:
    mapping = guard.Mapping(fd, size, write, private)
    view = memoryview(mapping)
    assert len(mapping) == size
    assert bytes(view) == CONTENT[:size]
    assert (view.format, view.itemsize, view.ndim, view.shape) == ("B", 1, 1, (size,))
    assert view.readonly is not (write or private)
    assert mapping.broken is False


def test_a_shared_map_and_the_file_are_one(guard: Any, fd: int, path: Path) -> None:
    mapping, reader = guard.Mapping(fd, len(CONTENT), True), guard.Mapping(fd, len(CONTENT), write=False)
    memoryview(mapping)[PAGE : PAGE + 5] = b"store"
    assert path.read_bytes()[PAGE : PAGE + 5] == bytes(memoryview(reader)[PAGE : PAGE + 5]) == b"store"
    os.pwrite(fd, b"write", 7)
    assert bytes(memoryview(mapping)[7:12]) == bytes(memoryview(reader)[7:12]) == b"write"


def test_a_read_only_map_refuses_stores(guard: Any, fd: int) -> None:
    view = memoryview(guard.Mapping(fd, PAGE, False))
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((TypeError, BufferError)):
        os.preadv(fd, [view], 0)


def test_a_private_map_keeps_its_stores_to_itself(guard: Any, fd: int, path: Path) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), write=True, private=True)
    view = memoryview(mapping)
    view[:] = bytes(len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert bytes(view) == bytes(len(CONTENT))


@linux_only
def test_a_private_map_forgets_whole_pages(guard: Any, fd: int) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), write=False, private=True)
    view, end = memoryview(mapping), len(CONTENT)
    for start, stop, gone in (
        (0, 0, (0, 0)),
        (1, PAGE + PAGE - 1, (0, 0)),
        (1, 2 * PAGE, (PAGE, 2 * PAGE)),
        (PAGE, 3 * PAGE + 1, (PAGE, 3 * PAGE)),
        (4 * PAGE, end - 1, (4 * PAGE, 5 * PAGE)),
        (4 * PAGE, end, (4 * PAGE, end)),
        (0, end, (0, end)),
    ):
        view[:] = bytes(end)
        mapping.forget(start, stop)
        expected = bytearray(end)
        expected[slice(*gone)] = CONTENT[slice(*gone)]
        assert view == expected, (start, stop)
    os.pwrite(fd, b"newer", PAGE)
    assert bytes(view[PAGE : PAGE + 5]) == b"newer"


def test_a_shared_map_forgets_nothing(guard: Any, fd: int) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), True)
    view = memoryview(mapping)
    view[:] = bytes(len(CONTENT))
    mapping.forget(0, len(CONTENT))
    assert bytes(view) == bytes(len(CONTENT))


def test_find_is_bytes_find(guard: Any, tmp_path: Path) -> None:
    rng = seeded(2)
    for round_number in range(20):
        data = bytes(rng.choices(b"ab\0", k=rng.randint(1, 3 * PAGE if round_number % 5 == 0 else 30)))
        (tmp_path / "data").write_bytes(data)
        with (tmp_path / "data").open("rb") as file:
            mapping = guard.Mapping(file.fileno(), len(data), False)
        for _ in range(300):
            at, size = rng.randrange(len(data)), rng.randint(0, 12)
            sub = data[at : at + size] if rng.random() < 0.7 else bytes(rng.choices(b"ab\0", k=size))
            start, end = (rng.randint(-len(data) - 3, len(data) + 3) for _ in range(2))
            expected = data.find(sub, start, end)
            assert mapping.find(sub, start, end) == expected, (data, sub, start, end)
            assert mapping.find(bytearray(sub), start, end) == mapping.find(memoryview(sub), start, end) == expected


def test_find_is_bytes_find_at_every_bound(guard: Any, tmp_path: Path) -> None:
    """An empty needle, bounds before the beginning, behind the end and in the wrong order."""
    data = b"abab"
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        mapping = guard.Mapping(file.fileno(), len(data), False)
    bounds = [*range(-len(data) - 3, len(data) + 4), -747, 747]
    for sub, start, end in product((b"", b"a", b"ab", b"ababa"), bounds, bounds):
        assert mapping.find(sub, start, end) == data.find(sub, start, end), (sub, start, end)


def test_find_wants_bytes(guard: Any, fd: int) -> None:
    mapping = guard.Mapping(fd, PAGE, False)
    for wrong in ("text", None, 7):
        with pytest.raises(TypeError):
            mapping.find(wrong, 0, 1)


@linux_only
def test_a_map_lives_as_long_as_its_last_view(guard: Any, fd: int, path: Path) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), False)
    view = memoryview(mapping)[PAGE:]
    part = view[10:20]
    assert maps_of(path) == 1
    del mapping, view
    gc.collect()
    assert bytes(part) == CONTENT[PAGE + 10 : PAGE + 20]
    assert maps_of(path) == 1
    part.release()
    del part
    gc.collect()
    assert maps_of(path) == 0


@linux_only
def test_many_maps_come_and_go(guard: Any, fd: int, path: Path) -> None:
    rng, alive = seeded(3), []
    for _ in range(3000):
        if len(alive) < 50 or rng.random() < 0.5:
            alive.append(guard.Mapping(fd, rng.randint(1, len(CONTENT)), rng.random() < 0.5))
        else:
            alive.pop(rng.randrange(len(alive)))
    assert all(bytes(mapping) == CONTENT[: len(mapping)] for mapping in alive)
    assert maps_of(path) == len(alive)


def test_a_map_does_not_need_the_descriptor(guard: Any, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    mapping = guard.Mapping(fd, len(CONTENT), False)
    os.close(fd)
    path.unlink()
    assert bytes(mapping) == CONTENT


def test_what_cannot_be_mapped(guard: Any, fd: int, path: Path) -> None:
    for size in (0, -1, -(1 << 40), len(CONTENT) + 1, 1 << 62):
        with pytest.raises(ValueError, match="byte"):
            guard.Mapping(fd, size, True)
    for wrong in (-1, 1 << 20):
        with pytest.raises(OSError, match="descriptor") as caught:
            guard.Mapping(wrong, 1, False)
        assert caught.value.errno == errno.EBADF
    read_only = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="denied") as caught:
        guard.Mapping(read_only, 1, True)
    assert caught.value.errno == errno.EACCES
    assert bytes(guard.Mapping(read_only, 1, True, True)) == CONTENT[:1]
    os.close(read_only)


@pytest.mark.parametrize("private", [False, True])
def test_no_part_of_a_map(guard: Any, fd: int, private: bool) -> None:
    mapping = guard.Mapping(fd, 2 * PAGE, True, private)
    for start, end in ((-1, 1), (2, 1), (0, 2 * PAGE + 1), (2 * PAGE + 1, 2 * PAGE + 1), (-(1 << 60), 1 << 60)):
        for call in (mapping.populate, mapping.forget):
            with pytest.raises(ValueError, match="no part"):
                call(start, end)


def resident(path: Path) -> int:
    """Bytes of the file's maps that this process has in its page tables."""
    entries = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(entry.split("Rss:")[1].split()[0]) << 10 for entry in entries)


@linux_only
@pytest.mark.parametrize("write", [False, True])
def test_populate_makes_pages_present(guard: Any, fd: int, path: Path, write: bool) -> None:
    os.ftruncate(fd, 1 << 20)
    mapping = guard.Mapping(fd, 1 << 20, write)
    assert resident(path) == 0
    mapping.populate(0, 0)
    assert resident(path) == 0
    mapping.populate(100, 1 << 20)
    assert resident(path) in (1 << 20, 0)  # 0: a kernel that does not know how to
    assert bytes(memoryview(mapping)[: len(CONTENT)]) == CONTENT


@linux_only
@pytest.mark.parametrize(("write", "private"), [(True, False), (False, False), (True, True)])
def test_populate_says_what_a_store_would_die_of(guard: Any, fd: int, write: bool, private: bool) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), write, private)
    os.ftruncate(fd, PAGE)
    mapping.populate(0, PAGE)
    for start, end in ((PAGE, PAGE + 1), (0, len(CONTENT)), (5 * PAGE + 100, len(CONTENT))):
        with pytest.raises(OSError, match="address") as caught:
            mapping.populate(start, end)
        assert caught.value.errno == errno.EFAULT
    assert mapping.broken is False


@linux_only
def test_allocate_gives_blocks(guard: Any, fd: int, path: Path) -> None:
    os.ftruncate(fd, 0)
    os.ftruncate(fd, 1 << 16)
    assert os.fstat(fd).st_blocks == 0
    guard.allocate(fd, 1 << 12, 1 << 14)
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512) == (1 << 16, 1 << 14)
    guard.allocate(fd, 1 << 16, 1 << 16)
    assert os.fstat(fd).st_size == 1 << 17
    assert not any(path.read_bytes())


@linux_only
def test_allocate_keeps_what_is_there(guard: Any, fd: int, path: Path) -> None:
    guard.allocate(fd, 0, len(CONTENT))
    assert path.read_bytes() == CONTENT


@linux_only
def test_what_cannot_be_allocated(guard: Any, fd: int, path: Path) -> None:
    read_only = os.open(path, os.O_RDONLY)
    bad, invalid = errno.EBADF, errno.EINVAL
    cases = ((-1, 0, 1, bad), (read_only, 0, 1, bad), (fd, -1, 1, invalid), (fd, 0, 0, invalid))
    for number, start, size, expected in cases:
        with pytest.raises(OSError, match=r"Bad|Invalid") as caught:
            guard.allocate(number, start, size)
        assert caught.value.errno == expected
    os.close(read_only)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="seek") as caught:
        guard.allocate(writer, 0, 1)
    assert caught.value.errno == errno.ESPIPE
    os.close(reader)
    os.close(writer)
    assert path.read_bytes() == CONTENT


def test_nothing_was_absorbed(kernels: SimpleNamespace, guard: Any, fd: int) -> None:
    mapping = guard.Mapping(fd, len(CONTENT), False)
    before = guard.faults()
    assert bytes(mapping) == CONTENT
    assert guard.faults() == before
    assert guard.is_guarded() is (kernels.kind == "native")
    with pytest.raises(AttributeError):
        mapping.broken = True

"""The simulated disk itself: it does what a real one does, and loses what a real one may lose, no more and no less."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from eventcore.disk import Disk
from eventcore.errors import EventCoreError
from tests.crash.crash_choices import BoundaryChoices
from tests.crash.crash_recording import BY_TEST, RecordingDisk
from tests.crash.memory_disk import PAGE, Image, MemoryDisk
from tests.scale import seeded

BUILT_FROM_OTHERS = {"copy", "unshare", "remove_folder", "read_file", "replace_file"}
"""Methods of Disk that call nothing but other methods of it."""
ROOT = Path("/folder")
PAGES = {letter: letter.encode() * PAGE for letter in "abc"}


def test_every_method_of_the_disk_is_simulated() -> None:
    public = {name for name, _ in inspect.getmembers(Disk, inspect.isfunction) if not name.startswith("_")}
    missing = {name for name in public - BUILT_FROM_OTHERS if getattr(MemoryDisk, name) is getattr(Disk, name)}
    assert not missing
    for name in public:
        ours, real = inspect.signature(getattr(MemoryDisk, name)), inspect.signature(getattr(Disk, name))
        assert list(ours.parameters) == list(real.parameters), name


# -- it does what a real disk does -----------------------------------------------------------------------------


class _Player:
    """Plays calls to one disk and tells what came of them."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk = disk
        self.folder = folder
        self.fds: list[int] = []
        self.maps: list[memoryview] = []

    def play(self, call: tuple[str, int, int, int]) -> object:
        name, first, second, third = call
        path, other = self.folder / f"file-{first % 3}", self.folder / f"file-{second % 3}"
        try:
            if name == "open":
                self.fds.append(self.disk.open(path, write=True, create=bool(second % 2)))
                return len(self.fds)
            if name in ("exists", "unlink"):
                return getattr(self.disk, name)(path)
            if name == "rename":
                return self.disk.rename(path, other)
            if name == "list":
                return self.disk.list(self.folder), self.disk.entries(self.folder), self.disk.exists(self.folder)
            if name == "replace":
                return self.disk.replace_file(path, b"r" * third)
            if name == "read":
                return self.disk.read_file(path, 6000)
            return self._with_fd(name, self.fds[first % len(self.fds)], second, third) if self.fds else None
        except EventCoreError as error:
            return type(error)

    def _with_fd(self, name: str, fd: int, second: int, third: int) -> object:
        if name == "write":
            return self.disk.pwrite_all(fd, bytes([third % 256]) * (second % 700), third)
        if name in ("grow", "cut"):
            size = self.disk.size(fd)
            if (name == "grow") == (third >= size) and not self.maps:
                getattr(self.disk, name)(fd, third)
            return self.disk.size(fd)
        if name == "reserve":
            return self.disk.reserve(fd, second, third + 1), self.disk.size(fd)
        if name == "map" and self.disk.size(fd) >= PAGE:
            view = memoryview(self.disk.map(fd, PAGE, write=True))  # type: ignore[arg-type]
            view[second % PAGE] = third % 256
            self.maps.append(view)
            return view.obj.find(bytes([third % 256]), 0, PAGE), len(view)  # type: ignore[attr-defined]
        if name == "store" and self.maps:
            self.maps[second % len(self.maps)][third % PAGE] = 7
        return self.disk.pread(fd, second, third), self.disk.size(fd)


@pytest.mark.parametrize("seed", range(15))
def test_it_does_what_a_real_disk_does(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    names = "open open open exists unlink rename list replace read write write grow cut reserve map store pread".split()
    real, simulated = _Player(Disk(), tmp_path), _Player(MemoryDisk({"/": {}, str(ROOT): {}}, capacity=1 << 15), ROOT)
    for _ in range(80):
        call = (rng.choice(names), rng.randrange(9), rng.randrange(5000), rng.randrange(8000))
        assert simulated.play(call) == real.play(call), call
    for fd in real.fds:
        real.disk.close(fd)


def test_a_private_map_keeps_its_stores_until_they_are_written() -> None:
    disk = MemoryDisk({str(ROOT): {"file": bytes(2 * PAGE)}}, allocates=False)
    fd = disk.open(ROOT / "file", write=True)
    mapping = disk.map(fd, 2 * PAGE, write=True, private=True)
    memoryview(mapping)[10:13] = b"abc"
    assert disk.pread(fd, 3, 10) == bytes(3)
    disk.pwrite_all(fd, b"xyz", PAGE)
    assert bytes(mapping[PAGE : PAGE + 3]) == b"xyz", "a page that was not stored to shows the file"
    disk.pwrite_all(fd, b"xyz", 20)
    assert bytes(mapping[20:23]) == bytes(3), "one that was stored to does not"
    mapping.forget(0, PAGE)
    assert bytes(mapping[10:23]) == bytes(10) + b"xyz"


# -- it loses what a real disk may lose ------------------------------------------------------------------------


def _after(play: Callable[[RecordingDisk], object], image: Image | None = None) -> set[tuple[tuple[str, bytes], ...]]:
    """The states that a crash may leave after some calls, as sorted names and contents."""
    disk = RecordingDisk({str(ROOT): {}, **(image or {})})
    play(disk)
    disk.acknowledge("the end")
    choices = BoundaryChoices(disk.boundaries[-1], {})
    return {
        tuple(sorted(state.image()[str(ROOT)].items())) for state in choices.states(seeded(1)) if state.kind != "torn"
    }


def _one_file(*contents: bytes) -> set[tuple[tuple[str, bytes], ...]]:
    return {(("file", content),) for content in contents}


def _store(disk: RecordingDisk, *stores: tuple[int, str], sync: int = -1) -> int:
    """Store whole pages through a map, a boundary after each; sync after the `sync`-th."""
    fd = disk.open(ROOT / "file", write=True)
    view = memoryview(disk.map(fd, disk.size(fd), write=True))
    for number, (page, letter) in enumerate(stores):
        view[page * PAGE : (page + 1) * PAGE] = PAGES[letter]
        disk.acknowledge("a store")
        if number == sync:
            disk.sync(fd)
    return fd


def test_pages_come_to_the_disk_in_any_order_and_at_any_version() -> None:
    image = {str(ROOT): {"file": bytes(2 * PAGE)}}
    zeros, a, b, c = bytes(PAGE), PAGES["a"], PAGES["b"], PAGES["c"]
    found = _after(lambda disk: _store(disk, (0, "a"), (1, "b"), (0, "c")), image)
    assert found == _one_file(*(first + second for first in (zeros, a, c) for second in (zeros, b)))


def test_a_sync_makes_all_pages_durable() -> None:
    image = {str(ROOT): {"file": bytes(2 * PAGE)}}
    found = _after(lambda disk: _store(disk, (0, "a"), (1, "b"), (0, "c"), sync=1), image)
    assert found == _one_file(PAGES["a"] + PAGES["b"], PAGES["c"] + PAGES["b"])


def test_a_torn_page_is_a_mixture_of_its_versions() -> None:
    disk = RecordingDisk({str(ROOT): {"file": bytes(PAGE)}})
    _store(disk, (0, "a"))
    torn = {
        state.image()[str(ROOT)]["file"]
        for seed in range(200)
        for state in BoundaryChoices(disk.boundaries[-1], {}).states(random.Random(seed))
        if state.kind == "torn"
    }
    assert len(torn) > 100
    assert all(set(content) <= {0, ord("a")} and len(content) == PAGE for content in torn)
    assert any(content[:512] == bytes(512) and content[512:1024] == b"a" * 512 for content in torn)
    words = {content.count(b"a") % 512 for content in torn}
    assert all(count % 8 == 0 for count in words)
    assert words != {0}, "a sector may be caught in the middle of a store"


def test_the_size_is_lost_with_what_lies_behind_it() -> None:
    def play(disk: RecordingDisk) -> None:
        disk.grow(disk.open(ROOT / "file", write=True), 2 * PAGE)
        _store(disk, (1, "b"))

    a, zeros = PAGES["a"], bytes(PAGE)
    assert _after(play, {str(ROOT): {"file": a}}) == _one_file(a, a + zeros, a + PAGES["b"])


def test_a_cut_comes_back_with_its_old_bytes() -> None:
    def play(disk: RecordingDisk) -> None:
        disk.cut(disk.open(ROOT / "file", write=True), PAGE)

    both = PAGES["a"] + PAGES["b"]
    assert _after(play, {str(ROOT): {"file": both}}) == _one_file(both, PAGES["a"])


def test_old_bytes_do_not_come_back_behind_a_cut() -> None:
    def play(disk: RecordingDisk) -> None:
        _store(disk, (1, "b"))
        fd = disk.open(ROOT / "file", write=True)
        disk.cut(fd, PAGE)
        disk.grow(fd, 3 * PAGE)
        _store(disk, (1, "c"))

    a, b, c, zeros = PAGES["a"], PAGES["b"], PAGES["c"], bytes(PAGE)
    cut = (a, a + zeros + zeros, a + c + zeros)
    assert _after(play, {str(ROOT): {"file": a + zeros}}) == _one_file(a + zeros, a + b, *cut)
    assert _after(play, {str(ROOT): {"file": a + b}}) == _one_file(a + b, *cut)


def _create(disk: RecordingDisk, name: str, content: bytes, *, sync: bool = True, sync_dir: bool = False) -> None:
    fd = disk.open(ROOT / name, write=True, create=True)
    disk.pwrite_all(fd, content, 0)
    if sync:
        disk.sync(fd)
    if sync_dir:
        disk.sync_dir(ROOT)


def test_a_synced_file_has_no_name_until_its_folder_is_synced() -> None:
    assert _after(lambda disk: _create(disk, "file", b"new")) == {(), *_one_file(b"new")}
    assert _after(lambda disk: _create(disk, "file", b"new", sync_dir=True)) == _one_file(b"new")


def test_a_name_may_come_to_the_disk_without_the_content() -> None:
    found = _after(lambda disk: _create(disk, "file", b"new", sync=False, sync_dir=True))
    assert found == _one_file(b"", bytes(3), b"new")


def test_a_rename_happens_or_not() -> None:
    def play(disk: RecordingDisk) -> None:
        _create(disk, "file.tmp", b"new")
        disk.rename(ROOT / "file.tmp", ROOT / "file")

    before = (("file", b"old"),)
    found = _after(play, {str(ROOT): {"file": b"old"}})
    assert found == {before, (*before, ("file.tmp", b"new")), (("file", b"new"),)}


def test_a_file_that_moves_to_another_folder_has_one_name_or_both() -> None:
    root, inner = str(ROOT), str(ROOT / "inner")
    disk = RecordingDisk({root: {"file": b"1"}, inner: {}})
    disk.rename(ROOT / "file", ROOT / "inner" / "moved")
    disk.acknowledge("the end")
    states = BoundaryChoices(disk.boundaries[-1], {}).states(seeded(1))
    found = {(tuple(image[root]), tuple(image[inner])) for image in (state.image() for state in states)}
    assert found == {(("file",), ()), (("file",), ("moved",)), ((), ("moved",))}


def test_an_unlinked_file_comes_back() -> None:
    def play(disk: RecordingDisk) -> None:
        disk.unlink(ROOT / "file")
        disk.unlink(ROOT / "other")

    names = (("file", b"1"), ("other", b"2"))
    assert _after(play, {str(ROOT): dict(names)}) == {names, names[:1], names[1:], ()}


def test_changes_of_one_name_keep_their_order() -> None:
    def play(disk: RecordingDisk) -> None:
        disk.rename(ROOT / "file", ROOT / "other")
        disk.unlink(ROOT / "other")

    names = (("file", b"1"), ("other", b"2"))
    assert _after(play, {str(ROOT): dict(names)}) == {names, (("other", b"1"),), ()}


def test_a_folder_is_there_with_its_name_only() -> None:
    disk = RecordingDisk({str(ROOT): {}}, dropped=frozenset({BY_TEST}))
    disk.make_folder(ROOT / "inner")
    fd = disk.open(ROOT / "inner" / "file", write=True, create=True)
    disk.sync(fd)
    disk.acknowledge("the end")
    states = BoundaryChoices(disk.boundaries[-1], {}).states(seeded(1))
    found = {str(sorted(state.image().items())) for state in states}
    root, inner = str(ROOT), str(ROOT / "inner")
    assert found == {
        str(sorted(image.items())) for image in ({root: {}}, {root: {}, inner: {}}, {root: {}, inner: {"file": b""}})
    }

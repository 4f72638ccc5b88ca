"""disk: what each call leaves behind, the order that makes it durable, and the typed error for every failure."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, DiskFull, NotALog, StorageError

os_close = os.close


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def fd(disk: Disk, path: Path) -> Iterator[int]:
    fd = disk.open(path, write=True, create=True)
    yield fd
    disk.close(fd)


# --- open -------------------------------------------------------------------------------------------------------------


def test_a_created_file_is_ours_alone(disk: Disk, path: Path, fd: int) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(fd)
    assert disk.size(fd) == 0


def test_opening_to_read_creates_and_changes_nothing(disk: Disk, path: Path) -> None:
    with pytest.raises(NotALog, match="missing"):
        disk.open(path, write=False)
    with pytest.raises(NotALog, match="missing"):
        disk.open(path, write=True)
    assert not path.exists()
    path.write_bytes(b"old")
    fd = disk.open(path, write=False)
    with pytest.raises(StorageError):
        disk.pwrite_all(fd, b"new", 0)
    disk.close(fd)
    fd = disk.open(path, write=True, create=True)
    assert disk.pread(fd, 10, 0) == b"old"
    disk.close(fd)


def test_a_symbolic_link_is_not_followed(disk: Disk, path: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"secret")
    path.symlink_to(tmp_path / "target")
    for write in (False, True):
        with pytest.raises(NotALog, match="symbolic link"):
            disk.open(path, write=write, create=write)


@pytest.mark.timeout(120)
def test_a_pipe_or_a_folder_is_refused_without_waiting(
    disk: Disk, path: Path, tmp_path: Path, count_descriptors: Callable[[], int]
) -> None:
    os.mkfifo(path)
    before = count_descriptors()
    for write in (False, True):
        with pytest.raises(NotALog, match="no regular file"):
            disk.open(path, write=write)
        with pytest.raises(NotALog):
            disk.open(tmp_path, write=write)
    if sys.platform == "linux":
        assert count_descriptors() == before


def test_errors_name_the_file_until_it_is_closed(disk: Disk, path: Path) -> None:
    fd = disk.open(path, write=True, create=True)
    with pytest.raises(StorageError) as caught:
        disk.pread(fd, 1, -1)
    assert caught.value.path == str(path)
    disk.close(fd)
    with pytest.raises(StorageError, match=f"fd {fd}"):
        disk.size(fd)


# --- content ----------------------------------------------------------------------------------------------------------


def test_short_writes_are_continued(disk: Disk, path: Path, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    disk.pwrite_all(fd, b"0123456789", 5)
    disk.pwrite_all(fd, memoryview(b"abcd")[1:], 0)
    disk.pwrite_all(fd, b"", 100)
    assert path.read_bytes() == b"bcd\0\x000123456789"


def test_pread_ends_with_the_file(disk: Disk, fd: int) -> None:
    disk.pwrite_all(fd, b"0123456789", 0)
    assert disk.pread(fd, 4, 3) == b"3456"
    assert disk.pread(fd, 100, 8) == b"89"
    assert disk.pread(fd, 100, 50) == b""


def test_reserved_space_is_real_and_keeps_what_is_there(disk: Disk, path: Path, fd: int) -> None:
    disk.pwrite_all(fd, b"kept", 0)
    disk.grow(fd, 1 << 20)
    assert path.stat().st_blocks * 512 < 1 << 16
    disk.reserve(fd, 0, 1 << 19)
    assert path.stat().st_blocks * 512 >= 1 << 19
    assert path.read_bytes() == b"kept" + bytes((1 << 20) - 4)
    disk.reserve(fd, 1 << 20, 4096)
    assert disk.size(fd) == (1 << 20) + 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has fallocate to begin with")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_without_fallocate_zeros_are_written_around_the_content(
    disk: Disk, path: Path, fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(kernels.guard, "allocate", failing(code))
    disk.grow(fd, 300_000)
    for at in (0, 65_535, 131_072, 199_990):
        disk.pwrite_all(fd, b"kept", at)
    expected = path.read_bytes()
    disk.reserve(fd, 100, 400_000)
    assert path.read_bytes() == expected + bytes(100_100)
    assert path.stat().st_blocks * 512 >= 400_000


def test_grow_and_cut(disk: Disk, path: Path, fd: int) -> None:
    disk.pwrite_all(fd, b"0123456789", 0)
    disk.cut(fd, 4)
    disk.grow(fd, 6)
    assert path.read_bytes() == b"0123\0\0"


def test_maps_are_shared(disk: Disk, path: Path, fd: int) -> None:
    disk.grow(fd, 8192)
    writing, reading = memoryview(disk.map(fd, 8192, write=True)), memoryview(disk.map(fd, 4096, write=False))
    writing[100:104] = b"seen"
    assert reading[100:104] == b"seen" == disk.pread(fd, 4, 100)
    with pytest.raises(TypeError):
        reading[0] = 1


def test_stores_into_a_private_map_stay_in_memory(disk: Disk, fd: int) -> None:
    disk.grow(fd, 8192)
    private = disk.map(fd, 8192, write=True, private=True)
    memoryview(private)[100:104] = b"ours"
    assert disk.pread(fd, 4, 100) == bytes(4)
    private.forget(0, 4096)
    assert memoryview(private)[100:104] == bytes(4)


@pytest.mark.parametrize("size", [0, 4097, 1 << 40])
def test_a_map_that_does_not_fit_the_file_is_a_typed_error(disk: Disk, path: Path, fd: int, size: int) -> None:
    if size:
        disk.grow(fd, 4096)
    with pytest.raises(StorageError, match="map") as caught:
        disk.map(fd, size, write=False)
    assert caught.value.path == str(path)


def test_where_the_data_ends(disk: Disk, fd: int) -> None:
    assert disk.data_end(fd, 0) == 0
    disk.grow(fd, 1 << 20)
    assert disk.data_end(fd, 1 << 20) in (0, 1 << 20)  # the latter on file systems that do not know their holes
    disk.pwrite_all(fd, b"x", 200_000)
    end = disk.data_end(fd, 1 << 20)
    assert 200_000 < end <= 1 << 20
    assert disk.data_end(fd, 1000) <= 1000


# --- folders ----------------------------------------------------------------------------------------------------------


def test_list_gives_plain_files_in_order(disk: Disk, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert disk.list(tmp_path) == ["a", "b", "c"]
    with pytest.raises(NotALog, match="missing"):
        disk.list(tmp_path / "nothing")
    with pytest.raises(NotALog, match="is not a folder"):
        disk.list(tmp_path / "a")


def test_what_exists(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert disk.exists(tmp_path / "link")
    assert not disk.exists(tmp_path / "nothing")
    assert disk.is_folder(tmp_path)
    assert not disk.is_folder(tmp_path / "nothing")


def test_what_may_not_be_looked_at_is_not_said_to_be_missing(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    for call, look in (("lstat", disk.exists), ("stat", disk.is_folder)):
        for code, expected in ((errno.EACCES, NotALog), (errno.EIO, StorageError)):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, failing(code))
                with pytest.raises(StorageError) as caught:
                    look(path)
            assert type(caught.value) is expected
            assert caught.value.path == str(path)
    assert not disk.exists(path / "below")
    assert not disk.is_folder(path / "below")


def test_a_name_that_is_too_long_is_a_typed_error(disk: Disk, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    for call in (disk.exists, disk.is_folder, disk.make_folder, disk.list):
        with pytest.raises(NotALog, match="too long"):
            call(long)


class Traced(Disk):
    """Notes the calls that matter to durability, with the names they are about."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        self.calls.append(("write", self._path(fd).name))
        super().pwrite_all(fd, data, at)

    def sync(self, fd: int) -> None:
        self.calls.append(("sync", self._path(fd).name))
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self.calls.append(("rename", old.name, new.name))
        super().rename(old, new)

    def sync_dir(self, folder: Path) -> None:
        self.calls.append(("sync_dir", folder.name))
        super().sync_dir(folder)


def test_a_new_folder_is_private_and_every_new_name_durable(tmp_path: Path) -> None:
    disk = Traced()
    disk.make_folder(tmp_path / "a" / "b" / "c")
    assert [folder for _, folder in disk.calls] == [tmp_path.name, "a", "b"]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o700
    disk.make_folder(tmp_path / "a" / "b" / "c")
    assert len(disk.calls) == 3


def test_a_file_in_the_place_of_a_folder(disk: Disk, path: Path) -> None:
    path.touch()
    for folder in (path, path / "below"):
        with pytest.raises(NotALog, match="cannot create the folder"):
            disk.make_folder(folder)


def test_changes_of_names_show(disk: Disk, tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(0, 0))
    before = disk.changed_ns(tmp_path)
    assert disk.changed_ns(tmp_path) == before
    (tmp_path / "new").touch()
    assert disk.changed_ns(tmp_path) != before


def test_rename_replaces_and_unlink_removes(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    disk.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    disk.unlink(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotALog, match="missing"):
        disk.unlink(tmp_path / "b")


# --- small files ------------------------------------------------------------------------------------------------------


def test_a_small_file_is_read_whole_or_refused(disk: Disk, path: Path) -> None:
    path.write_bytes(b"0123456789")
    assert disk.read_file(path, 10) == b"0123456789"
    with pytest.raises(CorruptFile, match="10 bytes where at most 9"):
        disk.read_file(path, 9)
    with pytest.raises(NotALog):
        disk.read_file(path.with_name("nothing"), 10)


def test_replacing_is_write_sync_rename(path: Path) -> None:
    disk = Traced()
    disk.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert disk.calls == [
        ("write", "file.tmp"),
        ("sync", "file.tmp"),
        ("rename", "file.tmp", "file"),
    ]


def test_what_a_crash_left_is_no_obstacle(disk: Disk, path: Path, tmp_path: Path) -> None:
    path.with_name("file.tmp").write_bytes(b"half of something longer")
    disk.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "target").write_bytes(b"keep")
    path.with_name("file.tmp").symlink_to(tmp_path / "target")
    disk.replace_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert (tmp_path / "target").read_bytes() == b"keep"


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "open", "close", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_replacement_leaves_the_old_file(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, count_descriptors: Callable[[], int]
) -> None:
    disk.replace_file(path, b"old")
    before = count_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, call if hasattr(os, call) else "fsync", failing(code, after=getattr(os, call, None)))
        with pytest.raises(DiskFull if code == errno.ENOSPC and call != "fdatasync" else StorageError):
            disk.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert count_descriptors() == before
    assert list(path.parent.iterdir()) == [path]
    disk.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_replacement_leaves_nothing(path: Path) -> None:
    class Interrupted(Disk):
        def sync(self, fd: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted().replace_file(path, b"new")
    assert list(path.parent.iterdir()) == []


# --- errors -----------------------------------------------------------------------------------------------------------


def failing(code: int, *, after: Callable[..., object] | None = None) -> Callable[..., Any]:
    """A system call that fails; a failed close has closed all the same, which is what `after` is for."""

    def fail(*arguments: object, **options: object) -> None:
        if after is os_close:
            os_close(*arguments)
        raise OSError(code, os.strerror(code))

    return fail


OPERATIONS: dict[str, tuple[str, Callable[[Disk, Path, int], object]]] = {
    "open": ("open", lambda disk, path, fd: disk.open(path, write=True)),
    "size": ("fstat", lambda disk, path, fd: disk.size(fd)),
    "list": ("scandir", lambda disk, path, fd: disk.list(path.parent)),
    "make_folder": ("mkdir", lambda disk, path, fd: disk.make_folder(path.with_name("new"))),
    "changed_ns": ("stat", lambda disk, path, fd: disk.changed_ns(path.parent)),
    "data_end": ("lseek", lambda disk, path, fd: disk.data_end(fd, 10)),
    "reserve": ("allocate", lambda disk, path, fd: disk.reserve(fd, 0, 10)),
    "grow": ("ftruncate", lambda disk, path, fd: disk.grow(fd, 10)),
    "cut": ("ftruncate", lambda disk, path, fd: disk.cut(fd, 0)),
    "pread": ("pread", lambda disk, path, fd: disk.pread(fd, 10, 0)),
    "pwrite_all": ("pwrite", lambda disk, path, fd: disk.pwrite_all(fd, b"x", 0)),
    "sync": ("fdatasync", lambda disk, path, fd: disk.sync(fd)),
    "sync_dir": ("fsync", lambda disk, path, fd: disk.sync_dir(path.parent)),
    "rename": ("replace", lambda disk, path, fd: disk.rename(path, path.with_name("new"))),
    "unlink": ("unlink", lambda disk, path, fd: disk.unlink(path)),
}
LINUX_ONLY = {"reserve", "sync"}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("code", "expected", "retriable"),
    [
        (errno.ENOSPC, DiskFull, True),
        (errno.EDQUOT, DiskFull, True),
        (errno.EACCES, NotALog, False),
        (errno.EROFS, NotALog, False),
        (errno.EIO, StorageError, False),
        (errno.EMFILE, StorageError, False),
        (errno.ESTALE, StorageError, False),
    ],
)
def test_every_failure_is_typed_and_names_the_place(
    disk: Disk,
    path: Path,
    fd: int,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    expected: type[StorageError],
    retriable: bool,
) -> None:
    if name in LINUX_ONLY and sys.platform != "linux":
        pytest.skip("another system call there")
    system_call, operation = OPERATIONS[name]
    with monkeypatch.context() as patch:
        patch.setattr(kernels.guard if system_call == "allocate" else os, system_call, failing(code))
        with pytest.raises(StorageError) as caught:
            operation(disk, path, fd)
    if name in ("sync", "sync_dir") and expected is DiskFull:
        expected, retriable = StorageError, False  # what was to be synced is lost
    assert type(caught.value) is expected
    assert caught.value.retriable is retriable
    assert str(path.parent) in (caught.value.path or "")
    assert isinstance(caught.value.__cause__, OSError)
    if expected is not StorageError:
        assert caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_that_is_full_is_no_log(disk: Disk) -> None:
    with pytest.raises(NotALog, match="no regular file"):
        disk.open(Path("/dev/full"), write=True)

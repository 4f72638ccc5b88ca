"""view_file: the file as it is documented, every damage to it noticed, written whole or not at all."""

from __future__ import annotations

import io
import json
import struct
import uuid
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.errors import CorruptFile, DiskFull, MappingFault, StorageError, UnsupportedFormat, UsageError
from eventcore.files import view_file
from eventcore.files.view_file import Head, Place

ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
PLACES = {("orders", 0): Place(7, 3, ID), ("a.b-1", 12): Place(0)}
GOLDEN_BODY = bytes.fromhex(
    "0000000000000005 0000018bcfe56800 66db68df 00000002"
    "00112233445566778899aabbccddeeff 0000000000000007 00000003 00000000 0006" + b"orders".hex() + ""
    "00000000000000000000000000000000 0000000000000000 ffffffff 0000000c 0005" + b"a.b-1".hex()
)
"""As docs/format.md has it, from byte 24 on; zeros go up to 128."""
STATE = b"state"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / view_file.file_name("balances")


def golden() -> bytes:
    first, rest = b"evc-view\0\0\0\1", (128).to_bytes(8, "big") + GOLDEN_BODY.ljust(104, b"\0")
    crc = kernels.crc32c.crc32c(rest, kernels.crc32c.crc32c(first))
    return first + crc.to_bytes(4, "big") + rest + STATE


def written(path: Path, state: bytes = STATE) -> bytes:
    view_file.write(Disk(), path, PLACES, 1_700_000_000_000, state)
    return path.read_bytes()


def test_the_bytes_are_the_documented_ones(path: Path) -> None:
    assert written(path) == golden()


def test_what_was_written_is_read(path: Path) -> None:
    assert view_file.read(Disk(), path) is None
    assert view_file.read_head(Disk(), path) is None
    path.write_bytes(golden())
    found = view_file.read(Disk(), path)
    assert found is not None
    head, data = found
    assert head == Head(PLACES, 1_700_000_000_000, 128, 5, kernels.crc32c.crc32c(STATE))
    assert (bytes(data), data.readonly) == (STATE, True)
    assert view_file.read_head(Disk(), path) == head
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # who reads leaves nothing


def test_every_length_but_its_own_is_refused(path: Path) -> None:
    whole = golden()
    for size in [*range(len(whole)), len(whole) + 1, len(whole) + 64]:
        path.write_bytes(whole[:size].ljust(min(size, len(whole) + 64), b"\0") if size <= len(whole) else whole + b"\0")
        with pytest.raises(CorruptFile) as caught:
            view_file.read(Disk(), path)
        assert caught.value.path == str(path)


def test_every_bit_is_covered(path: Path) -> None:
    whole = golden()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CorruptFile, match="`delete` the checkpoint"):
            view_file.read(Disk(), path)
    assert bit > 1000


def framed(rest: bytes, start: int = 128, version: int = 1) -> bytes:
    """A file whose CRC is right, whatever it says."""
    head = struct.pack(">q", start) + rest
    first = b"evc-view" + version.to_bytes(4, "big")
    crc = kernels.crc32c.crc32c(head[: start - 16], kernels.crc32c.crc32c(first))
    return first + crc.to_bytes(4, "big") + head


@pytest.mark.parametrize(
    ("at", "bytes_"),
    [
        (0, struct.pack(">q", -1)),
        (0, struct.pack(">q", 1 << 62)),
        (0, struct.pack(">q", 6)),
        (20, b"\xff\xff\xff\xff"),
        (20, b"\0\0\0\1"),
        (20, b"\0\0\0\3"),
        (40, struct.pack(">q", -1)),
        (48, struct.pack(">i", -2)),
        (52, struct.pack(">i", -1)),
        (56, b"\xff\xff"),
        (56, b"\0\0"),
        (58, b"or/ers"),
        (58, b"\xff"),
        (103, b"\1"),
    ],
)
def test_a_head_that_cannot_be_is_refused_though_its_crc_is_right(path: Path, at: int, bytes_: bytes) -> None:
    rest = bytearray(GOLDEN_BODY.ljust(104, b"\0") + STATE)
    path.write_bytes(framed(bytes(rest)))
    assert view_file.read(Disk(), path) is not None
    rest[24 - 24 + at : at + len(bytes_)] = bytes_
    path.write_bytes(framed(bytes(rest)))
    with pytest.raises(CorruptFile):
        view_file.read(Disk(), path)


@pytest.mark.parametrize("start", [0, 64, 63, 129, 192, -64, 1 << 62])
def test_a_start_of_the_data_that_cannot_be(path: Path, start: int) -> None:
    path.write_bytes(framed(GOLDEN_BODY.ljust(104, b"\0") + STATE, start))
    with pytest.raises(CorruptFile):
        view_file.read(Disk(), path)


def test_a_partition_that_stands_twice_is_refused(path: Path) -> None:
    one = GOLDEN_BODY[24:64]
    path.write_bytes(framed((GOLDEN_BODY[:24] + one + one).ljust(104, b"\0") + STATE))
    with pytest.raises(CorruptFile):
        view_file.read(Disk(), path)


def test_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    """Of a head that nobody knows yet, with data that is something else."""
    later = framed(b"\7" * 48 + b"anything at all", 64, version=2)
    path.write_bytes(later)
    for read in (view_file.read, view_file.read_head):
        with pytest.raises(UnsupportedFormat, match="version 2") as caught:
            read(Disk(), path)
        assert caught.value.path == str(path)
    assert path.read_bytes() == later


@pytest.mark.parametrize("size", [0, 1, 63, 64, 4096, 1 << 20])
def test_states_of_any_size(path: Path, size: int) -> None:
    state = bytes(range(256)) * (size // 256) + bytes(size % 256)
    written(path, state)
    found = view_file.read(Disk(), path)
    assert found is not None
    assert bytes(found[1]) == state


def test_a_state_that_is_streamed(path: Path) -> None:
    """By what writes to files: numpy, text, pieces of any size; the array comes back aligned, without a copy."""
    array = np.arange(1_000_003, dtype=np.int64)

    def fill(file: BinaryIO) -> None:
        np.save(file, array)
        text = io.TextIOWrapper(file, "utf-8")
        json.dump({"version": 1}, text)
        text.flush()
        for size in (0, 1, 100, 3 << 20):
            file.write(b"x" * size)
        text.close()

    view_file.write(Disk(), path, PLACES, 0, fill)
    found = view_file.read(Disk(), path)
    assert found is not None
    expected = io.BytesIO()
    np.save(expected, array)
    text = expected.getvalue() + b'{"version": 1}' + b"x" * (101 + (3 << 20))
    assert bytes(found[1]) == text
    header = len(expected.getvalue()) - array.nbytes
    again = np.frombuffer(found[1][header : header + array.nbytes], np.int64)
    assert again.flags.aligned
    assert (again == array).all()


class Broken(Exception):
    """Of the application."""


def test_a_failure_while_it_is_written_leaves_what_was_there(path: Path) -> None:
    before = written(path)
    kept: list[BinaryIO] = []

    def fill(file: BinaryIO) -> None:
        kept.append(file)
        file.write(b"half a state")
        raise Broken

    with pytest.raises(Broken):
        view_file.write(Disk(), path, PLACES, 0, fill)
    assert path.read_bytes() == before
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
    with pytest.raises(ValueError, match="closed"):
        kept[0].write(b"too late")


class FullDisk(Disk):
    """Takes so many bytes."""

    room = 200

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        if at + len(data) > self.room:
            raise DiskFull("no space")
        super().pwrite_all(fd, data, at)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_full_disk_leaves_what_was_there(path: Path, streamed: bool) -> None:
    before, state = written(path), b"x" * 1000
    with pytest.raises(DiskFull):
        view_file.write(FullDisk(), path, PLACES, 0, (lambda file: file.write(state)) if streamed else state)
    assert path.read_bytes() == before
    assert not path.with_name(path.name + ".tmp").exists()


def test_what_a_killed_saver_left_is_in_nobodys_way(path: Path) -> None:
    path.with_name(path.name + ".tmp").write_bytes(b"half of it" * 1000)
    assert written(path) == golden()


def test_a_mapped_state_stays_when_the_file_is_replaced_or_removed(path: Path) -> None:
    written(path, b"first")
    found = view_file.read(Disk(), path)
    assert found is not None
    written(path, b"second")
    view_file.remove(Disk(), path)
    view_file.remove(Disk(), path)
    assert bytes(found[1]) == b"first"
    assert view_file.read(Disk(), path) is None


def test_a_device_that_fails_is_told(path: Path) -> None:
    class Device(Disk):
        def map(self, fd, size, *, write, private=False):  # type: ignore[no-untyped-def]
            found = super().map(fd, size, write=write, private=private)

            class Bad:
                broken = True

                def __buffer__(self, flags: int) -> memoryview:
                    return memoryview(found)

            return type("Bad", (np.ndarray,), {"broken": True})((size,), np.uint8, found)

    written(path)
    with pytest.raises(MappingFault):
        view_file.read(Device(), path)


def test_too_many_places_are_refused_with_nothing_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(path)
    monkeypatch.setattr(view_file, "_HEAD_MAX", 128)
    many = {("orders", number): Place(1) for number in range(10)}
    with pytest.raises(UsageError):
        view_file.write(Disk(), path, many, 0, b"")
    assert path.read_bytes() == before


def test_names(tmp_path: Path) -> None:
    for name in ("", ".", "..", "a/b", "a b", "ä", "x" * 201, "a\n", "~"):
        with pytest.raises(UsageError):
            view_file.check_name(name)
    for name in ("a", "a-0", "a.view", "a.tmp", "a.view.lock", "x" * 200):
        assert view_file.check_name(name) == name
        view_file.write(Disk(), tmp_path / view_file.file_name(name), PLACES, 0, b"")
    (tmp_path / "eventcore.checkpoint-a b.view").touch()
    (tmp_path / "eventcore.checkpoint-x.view.tmp").touch()
    assert view_file.listed(Disk(), tmp_path) == sorted(["a", "a-0", "a.view", "a.tmp", "a.view.lock", "x" * 200])


def test_what_is_no_file_is_a_typed_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError):
        view_file.read(Disk(), path)

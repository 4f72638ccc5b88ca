"""txn_index: Kafka's bytes, a lazy file, readers that see another process's appends, and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.disk import Disk
from eventcore.errors import CorruptFile, DiskFull, StorageError, UnsupportedFormat
from eventcore.files.txn_index import ENTRY_SIZE, TxnEntry, TxnIndex

GOLDEN = bytes.fromhex("0000 0000000000000fa0 0000000000000064 0000000000000068 0000000000000069")
THREE = (TxnEntry(1, 100, 104, 105), TxnEntry(2, 101, 110, 111), TxnEntry(1, 105, 120, 107))
Make = Callable[..., TxnIndex]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "00000000000000000100.txnindex"


@pytest.fixture
def make(path: Path) -> Make:
    return lambda base_offset=100, disk=None: TxnIndex(disk or Disk(), path, base_offset)


@pytest.fixture
def three(make: Make) -> TxnIndex:
    index = make()
    for entry in THREE:
        index.append(*entry)
    return index


def test_the_bytes_are_kafkas(make: Make, path: Path) -> None:
    make().append(4000, 100, 104, 105)
    assert path.read_bytes() == GOLDEN
    assert make().entries() == (TxnEntry(4000, 100, 104, 105),)


def test_nothing_aborted_is_no_file(make: Make, path: Path) -> None:
    index = make()
    assert index.entries() == ()
    index.truncate(0)
    index.reset()
    index.sync()
    index.close()
    assert not path.exists()


def test_entries_come_back_in_order(three: TxnIndex, make: Make) -> None:
    three.close()
    assert make().entries() == THREE


def test_a_reader_sees_what_another_appends_truncates_and_removes(make: Make, path: Path) -> None:
    writer, reader = make(), make()
    assert reader.entries() == ()
    for count, entry in enumerate(THREE, 1):
        writer.append(*entry)
        assert reader.entries() == THREE[:count]
    writer.truncate(110)
    assert reader.entries() == THREE[:1]
    path.unlink()
    assert reader.entries() == ()


@pytest.mark.parametrize(("offset", "kept"), [(0, 0), (104, 0), (105, 1), (110, 1), (111, 2), (120, 2), (121, 3)])
def test_truncate_drops_from_the_marker_on(three: TxnIndex, make: Make, offset: int, kept: int) -> None:
    three.truncate(offset)
    assert three.entries() == make().entries() == THREE[:kept]
    three.append(9, 130, 131, 132)
    assert make().entries() == (*THREE[:kept], TxnEntry(9, 130, 131, 132))


def test_truncate_and_append_to_the_same_length(three: TxnIndex) -> None:
    """What was read before is not shown again when the file has the old size but other entries."""
    three.truncate(120)
    three.append(7, 118, 125, 126)
    assert three.entries() == (*THREE[:2], TxnEntry(7, 118, 125, 126))


def test_markers_must_rise(three: TxnIndex, path: Path) -> None:
    with pytest.raises(CorruptFile, match="after 120"):
        three.append(3, 119, 120, 121)
    assert path.stat().st_size == 3 * ENTRY_SIZE


@pytest.mark.parametrize("entry", [(1, 90, 99, 100), (1, 130, 129, 131), (1, -1, 104, 105)])
def test_impossible_offsets_are_refused(make: Make, path: Path, entry: tuple[int, int, int, int]) -> None:
    with pytest.raises(CorruptFile):
        make().append(*entry)
    assert not path.exists()


def test_a_transaction_may_begin_in_an_earlier_segment(make: Make) -> None:
    make().append(1, 3, 104, 105)
    assert make().entries() == (TxnEntry(1, 3, 104, 105),)


@pytest.mark.parametrize("extra", range(1, ENTRY_SIZE))
def test_a_partial_entry_at_the_end_is_ignored_and_written_over(three: TxnIndex, path: Path, extra: int) -> None:
    path.write_bytes(path.read_bytes() + b"\xff" * extra)
    fresh = TxnIndex(Disk(), path, 100)
    assert fresh.entries() == THREE
    fresh.append(9, 130, 131, 132)
    assert TxnIndex(Disk(), path, 100).entries() == (*THREE, TxnEntry(9, 130, 131, 132))


def test_every_cut_keeps_the_whole_entries(three: TxnIndex, path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert TxnIndex(Disk(), path, 100).entries() == THREE[: size // ENTRY_SIZE]


def test_every_flipped_bit_raises_or_leaves_entries_in_order(three: TxnIndex, path: Path) -> None:
    """The format has no checksum: what can be known is the version, and that offsets are where they may be."""
    data = path.read_bytes()
    noticed = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            entries = TxnIndex(Disk(), path, 100).entries()
        except (CorruptFile, UnsupportedFormat):
            noticed += 1
        else:
            markers = [entry.last_offset for entry in entries]
            assert len(entries) == 3
            assert markers == sorted(set(markers))
            assert all(0 <= entry.first_offset <= entry.last_offset >= 100 for entry in entries)
    assert noticed > 8 * 2 * 3


def test_a_future_version_is_refused_with_its_place(three: TxnIndex, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[ENTRY_SIZE : ENTRY_SIZE + 2] = b"\0\1"
    path.write_bytes(data)
    fresh = TxnIndex(Disk(), path, 100)
    with pytest.raises(UnsupportedFormat, match="version 1") as caught:
        fresh.entries()
    assert caught.value.position == ENTRY_SIZE
    with pytest.raises(UnsupportedFormat):
        fresh.append(9, 130, 131, 132)
    assert path.read_bytes() == data
    fresh.reset()
    assert fresh.entries() == ()


def test_a_marker_below_the_segment_is_corrupt(three: TxnIndex, path: Path) -> None:
    with pytest.raises(CorruptFile, match="100 to 104"):
        TxnIndex(Disk(), path, 105).entries()


def test_sync_makes_entries_durable(make: Make, path: Path) -> None:
    class Traced(Disk):
        synced: list[Path]

        def sync(self, fd: int) -> None:
            self.synced.append(self._path(fd))
            super().sync(fd)

    disk = Traced()
    disk.synced = []
    index = make(disk=disk)
    index.append(*THREE[0])
    assert disk.synced == []
    index.sync()
    assert disk.synced == [path]
    index.append(*THREE[1])
    index.sync()
    assert disk.synced == [path, path]


def test_a_full_disk_leaves_the_index_as_it_was(make: Make) -> None:
    class Full(Disk):
        full = False

        def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
            if self.full:
                super().pwrite_all(fd, bytes(data)[:10], at)
                raise DiskFull("no space left")
            super().pwrite_all(fd, data, at)

    disk = Full()
    index = make(disk=disk)
    index.append(*THREE[0])
    disk.full = True
    with pytest.raises(DiskFull):
        index.append(*THREE[1])
    assert index.entries() == make().entries() == THREE[:1]
    disk.full = False
    index.append(*THREE[1])
    assert make().entries() == THREE[:2]


def test_what_is_known_is_not_read_again(three: TxnIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    known = three.entries()
    monkeypatch.setattr(Disk, "pread", None)
    assert three.entries() is known


def test_closing_twice_and_going_on(three: TxnIndex) -> None:
    three.close()
    three.close()
    three.append(9, 130, 131, 132)
    assert len(three.entries()) == 4
    three.close()


@given(st.binary(max_size=5 * ENTRY_SIZE))
def test_any_bytes_are_entries_or_a_typed_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "00000000000000000000.txnindex"
    path.write_bytes(data)
    try:
        entries = TxnIndex(Disk(), path, 0).entries()
    except StorageError:
        return
    assert len(entries) == len(data) // ENTRY_SIZE


def test_a_file_that_appears_between_two_looks_is_read(make: Make, path: Path) -> None:
    """Another process makes it just after this one found none."""
    others = make()

    class Late(Disk):
        def open(self, path: Path, *, write: bool, create: bool = False) -> int:
            try:
                return super().open(path, write=write, create=create)
            finally:
                if not others.entries():
                    others.append(*THREE[0])

    assert make(disk=Late()).entries() == THREE[:1]

"""epochs: rules E1 to E4, the file behind every change, and a cache that a full disk does not lead astray."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventcore as ec
from eventcore.disk import Disk
from eventcore.errors import DiskFull
from eventcore.files import checkpoint
from eventcore.log.epochs import NAME, EpochCache

THREE = [(0, 0), (2, 10), (5, 40)]


class Memory(Disk):
    """Keeps the small files in a dict: a test of thousands of changes needs no real disk."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[Path, bytes] = {}

    def exists(self, path: Path) -> bool:
        return path in self.files

    def read_file(self, path: Path, limit: int) -> bytes:
        return self.files[path]

    def replace_file(self, path: Path, data: bytes) -> None:
        self.files[path] = data


def cache(entries: list[tuple[int, int]], disk: Disk | None = None) -> EpochCache:
    epochs = EpochCache(disk or Memory(), Path("/log"), write=True)
    for entry in entries:
        epochs.assign(*entry)
    return epochs


def test_an_empty_cache_knows_nothing() -> None:
    epochs = cache([])
    assert (epochs.entries, epochs.latest, epochs.epoch_at(0)) == ([], -1, -1)
    assert epochs.end_offset_for(0, 100) == (-1, -1)
    epochs.truncate_from_end(0)
    epochs.truncate_from_start(10)
    epochs.replace([], 0)
    assert epochs.entries == []


def test_the_file_is_kafkas(tmp_path: Path) -> None:
    epochs = EpochCache(Disk(), tmp_path, write=True)
    epochs.assign(0, 0)
    epochs.assign(3, 4711)
    assert (tmp_path / NAME).read_bytes() == b"0\n2\n0 0\n3 4711\n"
    assert EpochCache(Disk(), tmp_path, write=False).entries == [(0, 0), (3, 4711)]


@pytest.mark.parametrize(
    ("epoch", "offset", "entries"),
    [
        (5, 40, THREE),  # the same epoch goes on
        (5, 99, THREE),
        (6, 50, [*THREE, (6, 50)]),
        (6, 40, [(0, 0), (2, 10), (6, 40)]),  # the newest one wrote nothing
        (6, 20, [(0, 0), (2, 10), (6, 20)]),
        (6, 0, [(6, 0)]),
        (5, 39, [(0, 0), (2, 10), (5, 39)]),  # it began earlier than was known
        (3, 60, [(0, 0), (2, 10), (3, 60)]),  # an older epoch after a newer: what contradicts it goes
        (0, 60, [(0, 60)]),
    ],
)
def test_assign_drops_what_contradicts_it(epoch: int, offset: int, entries: list[tuple[int, int]]) -> None:
    epochs = cache(THREE)
    epochs.assign(epoch, offset)
    assert epochs.entries == entries
    assert epochs.latest == entries[-1][0]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (-1, (-1, -1)),
        (0, (0, 10)),
        (1, (0, 10)),  # the largest epoch below it
        (2, (2, 40)),
        (4, (2, 40)),
        (5, (5, 77)),  # the newest one ends with the log
        (6, (-1, -1)),
    ],
)
def test_end_offsets(asked: int, answer: tuple[int, int]) -> None:
    assert cache(THREE).end_offset_for(asked, 77) == answer


def test_the_end_of_an_epoch_older_than_all_known() -> None:
    assert cache([(3, 100), (4, 120)]).end_offset_for(1, 200) == (1, 100)


@pytest.mark.parametrize(("offset", "epoch"), [(0, -1), (4, -1), (5, 1), (9, 1), (10, 3), (1000, 3)])
def test_the_epoch_that_wrote_an_offset(offset: int, epoch: int) -> None:
    assert cache([(1, 5), (3, 10)]).epoch_at(offset) == epoch


@pytest.mark.parametrize(("offset", "kept"), [(0, 0), (1, 1), (10, 1), (11, 2), (40, 2), (41, 3)])
def test_truncate_from_the_end(offset: int, kept: int) -> None:
    epochs = cache(THREE)
    epochs.truncate_from_end(offset)
    assert epochs.entries == THREE[:kept]


@pytest.mark.parametrize(
    ("offset", "entries"),
    [
        (0, THREE),
        (1, [(0, 1), (2, 10), (5, 40)]),
        (9, [(0, 9), (2, 10), (5, 40)]),
        (10, [(2, 10), (5, 40)]),
        (39, [(2, 39), (5, 40)]),
        (500, [(5, 500)]),
    ],
)
def test_truncate_from_the_start_keeps_the_epoch_that_goes_on(offset: int, entries: list[tuple[int, int]]) -> None:
    epochs = cache(THREE)
    epochs.truncate_from_start(offset)
    assert epochs.entries == entries


def test_truncate_from_the_start_leaves_later_epochs_alone() -> None:
    epochs = cache([(3, 100)])
    epochs.truncate_from_start(99)
    assert epochs.entries == [(3, 100)]


def test_every_change_is_in_the_file_when_the_call_returns() -> None:
    disk = Memory()
    epochs = cache(THREE, disk)
    for change in (
        lambda: epochs.assign(7, 60),
        lambda: epochs.truncate_from_end(50),
        lambda: epochs.truncate_from_start(5),
        lambda: epochs.replace([], 0),
    ):
        before = dict(disk.files)
        change()
        assert disk.files != before
        assert EpochCache(disk, Path("/log"), write=False).entries == epochs.entries


def test_what_changes_nothing_writes_nothing() -> None:
    disk = Memory()
    epochs = cache(THREE, disk)
    disk.files.clear()
    epochs.assign(5, 60)
    epochs.truncate_from_end(41)
    epochs.truncate_from_start(0)
    assert disk.files == {}


def test_a_reader_writes_nothing() -> None:
    disk = Memory()
    cache(THREE, disk)
    before = dict(disk.files)
    reader = EpochCache(disk, Path("/log"), write=False)
    reader.truncate_from_end(10)
    assert reader.entries == THREE[:1]
    assert disk.files == before


def test_what_could_not_be_written_is_written_by_the_next_call() -> None:
    """Were the epoch known but not in the file, records would be appended under an epoch that a restart forgets."""

    class Full(Memory):
        full = False

        def replace_file(self, path: Path, data: bytes) -> None:
            if self.full:
                raise DiskFull("no space left", path=path)
            super().replace_file(path, data)

    disk = Full()
    epochs = cache(THREE, disk)
    disk.full = True
    with pytest.raises(DiskFull):
        epochs.assign(6, 50)
    assert epochs.entries == THREE
    disk.full = False
    epochs.assign(6, 50)
    assert checkpoint.read_epochs(disk, Path("/log") / NAME) == epochs.entries == [*THREE, (6, 50)]


def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p:
        p.set_leader_epoch(3)
        p.append(b"three")
        p.set_leader_epoch(5)
        p.append(b"five")
    (folder / NAME).write_bytes(b"0\n2\n0 0\n")
    assert EpochCache(Disk(), folder, write=False).damaged
    with ec.open_partition(folder) as p:  # made anew from the batches
        assert p.leader_epoch == 5
        assert p.end_offset_for_epoch(3) == (3, 1)
    assert EpochCache(Disk(), folder, write=False).entries == [(3, 0), (5, 1)]


def test_epochs_below_the_log_start_are_not_missed(tmp_path: Path) -> None:
    """Their batches may still be there, in the segment that holds the start."""
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p:
        for epoch in (1, 2):
            p.set_leader_epoch(epoch)
            p.extend([b"one", b"two", b"three"])
        p.delete_records(4)
    before = (folder / NAME).stat()
    with ec.open_partition(folder) as p:
        assert p.end_offset_for_epoch(2) == (2, 6)
        assert p.verify().ok
    after = (folder / NAME).stat()
    assert EpochCache(Disk(), folder, write=False).entries == [(2, 4)]
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "it was made anew"


def test_an_epoch_is_missed_whose_only_batch_lies_before_a_gap(tmp_path: Path) -> None:
    """A truncation inside a batch leaves offsets of no batch; what lies before them must be looked at, too."""
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p:
        p.append(b"zero")
        p.set_leader_epoch(1)
        p.append(b"one")
        p.extend([b"two", b"three", b"four"])
        p.truncate(4)
        p.append(b"again")
    (folder / NAME).write_bytes(b"0\n2\n0 0\n1 4\n")
    with ec.open_partition(folder) as p:
        assert p.verify().ok
    assert EpochCache(Disk(), folder, write=False).entries == [(0, 0), (1, 1)]


@given(st.lists(st.tuples(st.sampled_from("aes"), st.integers(0, 9), st.integers(0, 30)), max_size=20))
def test_entries_rise_and_are_in_the_file_whatever_happens(changes: list[tuple[str, int, int]]) -> None:
    disk = Memory()
    epochs = cache([], disk)
    for kind, epoch, offset in changes:
        if kind == "a":
            epochs.assign(epoch, offset)
            assert epochs.latest == epoch
            assert epochs.epoch_at(offset) == epoch
        elif kind == "e":
            epochs.truncate_from_end(offset)
            assert all(start < offset for _, start in epochs.entries)
        else:
            known = epochs.epoch_at(offset)
            epochs.truncate_from_start(offset)
            assert epochs.epoch_at(offset) == known
            assert known == -1 or epochs.entries[0] == (known, offset)
        for column in zip(*epochs.entries, strict=True):
            assert list(column) == sorted(set(column))
        assert EpochCache(disk, Path("/log"), write=False).entries == epochs.entries


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(-1, 40))
def test_end_offsets_agree_with_the_log(steps: list[int], asked: int) -> None:
    """Against a log that notes the epoch of every record: an epoch ends where the first later one begins."""
    log, epoch, epochs = [], 0, cache([])
    for step in steps:
        epoch += step
        epochs.assign(epoch, len(log))
        log.append(epoch)
    answer = epochs.end_offset_for(asked, len(log))
    if not 0 <= asked <= log[-1]:
        assert answer == (-1, -1)
    elif asked < log[0]:
        assert answer == (asked, 0)
    else:
        floor = max(known for known in log if known <= asked)
        assert answer == (floor, next((i for i, known in enumerate(log) if known > asked), len(log)))

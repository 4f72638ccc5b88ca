"""A log that is cut while somebody reads it, whether anybody writes at that moment or not.

Old and new records are never mixed without LogTruncated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.errors import StorageError
from eventcore.files.state_file import NAME as STATE_NAME
from eventcore.files.state_file import StateFile, tail
from eventcore.log.tailing import latest_truncation

from .conftest import Open

OLD, NEW = 300, 500
PER_BATCH = 20

READS: dict[str, Callable[[ec.Partition], Iterator[Any]]] = {
    "read": lambda p: (record.value for record in p.read()),
    "read_committed": lambda p: (record.value for record in p.read(isolation="read_committed")),
    "read_as": lambda p: (record.value for record in p.read_as(ec.Record)),
    "read_values": lambda p: p.read_values(),
    "read_tuples": lambda p: (value for (value,) in p.read_tuples(fields=("value",))),
    "read_lazy": lambda p: (record.value for record in p.read_lazy()),
    "read_batches": lambda p: (record.value for _, records in p.read_batches() for record in records),
    "chunks": lambda p: (record.value for chunk in p.chunks(0, OLD) for record in chunk),
    "column_batches": lambda p: (
        part.value(row) for part in p.column_batches(batch_rows=PER_BATCH) for row in range(len(part))
    ),
}


def fill(p: ec.Partition, name: str, count: int) -> None:
    end = p.log_end_offset
    for first in range(end, end + count, PER_BATCH):
        p.extend([b"%s %d" % (name.encode(), at) for at in range(first, first + PER_BATCH)])


def write_anew(folder: Path, cut: int, **config: Any) -> None:
    """What a replica does after a restart: open, truncate, append."""
    with ec.open_partition(folder, fsync="never", config=config) as p:
        p.truncate(cut)
        fill(p, "new", NEW - cut)


def check_unmixed(values: Iterator[Any], seen: list[bytes]) -> None:
    """Old records up to the error, or nothing but the new log from its beginning."""
    with pytest.raises(ec.LogTruncated):
        seen.extend(map(bytes, values))
    assert seen == [b"old %d" % at for at in range(len(seen))]
    assert len(seen) <= OLD


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize(
    ("writer", "segment_bytes"), [("gone", 4096), ("gone", 1 << 20), ("lives", 4096), ("comes", 4096)]
)
def test_a_running_iteration(folder: Path, kind: str, segment_bytes: int, writer: str) -> None:
    config = {"segment.bytes": segment_bytes}
    with ec.open_partition(folder, fsync="never", config=config) as p:
        fill(p, "old", OLD)
        early = ec.open_partition(folder, "r") if writer == "lives" else None
    with early or ec.open_partition(folder, "r") as reader:
        values = READS[kind](reader)
        seen = [bytes(next(values)) for _ in range(5)]
        if writer == "comes":
            with ec.open_partition(folder, fsync="never"):
                assert reader.high_watermark == OLD
        write_anew(folder, 100, **config)
        check_unmixed(values, seen)
        assert [bytes(value) for value in READS[kind](reader)][:110][-20:] == [
            *[b"old %d" % at for at in range(90, 100)],
            *[b"new %d" % at for at in range(100, 110)],
        ]


@pytest.mark.parametrize("kind", [kind for kind in READS if kind != "read_lazy"])
def test_a_running_iteration_over_a_log_that_was_never_ours(folder: Path, kind: str) -> None:
    """There is no state page to look at; the first writer makes one."""
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
    for path in folder.glob("eventcore.*"):
        path.unlink()
    with ec.open_partition(folder, "r") as reader:
        values = READS[kind](reader)
        seen = [bytes(next(values))]
        write_anew(folder, 100)
        with pytest.raises(ec.LogTruncated):
            seen.extend(bytes(value) for value in values)
        assert seen == [b"old %d" % at for at in range(len(seen))]


def test_a_log_that_was_never_ours_and_is_not_cut(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
    for path in folder.glob("eventcore.*"):
        path.unlink()
    with ec.open_partition(folder, "r") as reader:
        values = reader.read_values()
        follow = reader.tail(0, timeout=0)
        seen = [next(values), next(follow).value]
        with ec.open_partition(folder, fsync="never") as p:
            fill(p, "old", PER_BATCH)
        assert len(seen + list(values)) == OLD + 1
        assert [record.offset for record in follow] == list(range(1, OLD + PER_BATCH))


@pytest.mark.parametrize("writer", ["gone", "lives", "never ours"])
@pytest.mark.parametrize("isolation", ["read_uncommitted", "read_committed"])
def test_a_tail(folder: Path, writer: str, isolation: Any) -> None:
    p = ec.open_partition(folder, fsync="never")
    fill(p, "old", OLD)
    if writer != "lives":
        p.close()
    if writer == "never ours":
        for path in folder.glob("eventcore.*"):
            path.unlink()
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=60, isolation=isolation)
        assert [next(follow).offset for _ in range(OLD)] == list(range(OLD))
        p.close()
        write_anew(folder, 100)
        with pytest.raises(ec.LogTruncated):
            next(follow)
        assert follow.position == 100
        assert [next(follow).value for _ in range(NEW - 100)] == [b"new %d" % at for at in range(100, NEW)]


def test_a_tail_that_did_not_come_so_far_is_not_told(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=60)
        assert follow.position == 0
        write_anew(folder, 100)
        seen = [next(follow).value for _ in range(NEW)]
        assert seen == [b"old %d" % at for at in range(100)] + [b"new %d" % at for at in range(100, NEW)]


def test_points_slices_and_columns_between_two_writers(folder: Path) -> None:
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
    with ec.open_partition(folder, "r") as reader:
        assert reader[200].value == b"old 200"
        write_anew(folder, 100)
        assert reader[200].value == b"new 200"
        assert [record.value for record in reader[99:101]] == [b"old 99", b"new 100"]
        assert bytes(reader.columns(100, 101).value(0) or b"") == b"new 100"
        assert reader.truncated_to() == 100


KILLED_IN_A_TRUNCATION = """
import os, sys
import eventcore as ec
from eventcore.files.state_file import StateFile
from eventcore.log.local import LocalLog
at = sys.argv[2]
p = ec.open_partition(sys.argv[1], fsync="never")
where = {"announced": (StateFile, "truncating"), "told": (LocalLog, "truncate")}[at]
setattr(*where, lambda *arguments: os._exit(9))
p.truncate(100)
"""


@pytest.mark.parametrize("at", ["announced", "told"])
def test_a_truncation_that_the_next_opening_finishes(folder: Path, at: str) -> None:
    """The writer dies once the truncation is noted, before or after it told the readers."""
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=60)
        assert [next(follow).offset for _ in range(OLD)] == list(range(OLD))
        values = reader.read_values()
        seen = [bytes(next(values) or b"")]
        done = subprocess.run([sys.executable, "-c", KILLED_IN_A_TRUNCATION, str(folder), at], check=False)
        assert done.returncode == 9
        with ec.open_partition(folder, fsync="never") as p:
            assert p.log_end_offset == 100
            fill(p, "new", NEW - 100)
        check_unmixed(values, seen)
        with pytest.raises(ec.LogTruncated):
            next(follow)
        assert [next(follow).value for _ in range(NEW - 100)] == [b"new %d" % at for at in range(100, NEW)]


def test_what_a_fenced_writer_never_got_to_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers saw it; the next opening asks the disk, which may have something else."""
    p = ec.open_partition(folder, fsync="never")
    fill(p, "old", 100)
    p.sync()
    fill(p, "old", OLD - 100)
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=60)
        assert [next(follow).offset for _ in range(OLD)] == list(range(OLD))
        values = reader.read_values()
        seen = [bytes(next(values) or b"")]
        monkeypatch.setattr(type(p._log.disk), "sync", _fail)
        with pytest.raises(ec.StorageFenced):
            p.sync()
        monkeypatch.undo()
        p.close()
        with ec.open_partition(folder, fsync="never"):
            pass
        with pytest.raises(ec.LogTruncated):
            next(follow)
        assert follow.position == 100
        check_unmixed(values, seen)


def _fail(*arguments: object) -> None:
    raise StorageError("an error of the disk", path="x")


def test_a_shorter_log_is_a_truncated_one(folder: Path) -> None:
    """A broker has cut it while nobody of ours wrote: the next opening finds less than readers saw."""
    with ec.open_partition(folder, fsync="never") as p:
        fill(p, "old", OLD)
        last = list(p.batches())[-1]
    with ec.open_partition(folder, "r") as reader:
        follow = reader.tail(0, timeout=60)
        assert [next(follow).offset for _ in range(OLD)] == list(range(OLD))
        os.truncate(folder / f"{0:020}.log", last.position)
        with ec.open_partition(folder, fsync="never") as p:
            assert p.log_end_offset == OLD - PER_BATCH
            fill(p, "new", NEW)
        with pytest.raises(ec.LogTruncated):
            next(follow)
        assert follow.position == OLD - PER_BATCH


def test_opening_again_is_no_truncation(open_log: Open) -> None:
    counts = []
    for _ in range(3):
        p = open_log()
        fill(p, "old", 2 * PER_BATCH)
        p.truncate(p.log_end_offset - PER_BATCH)
        counts.append(p.truncations())
        p.close()
    assert counts == [1, 2, 3]
    assert open_log().truncations() == 3


def test_an_end_that_an_opening_does_not_find_again(open_log: Open) -> None:
    """The end of a truncation inside a batch is forgotten at a close: other records will get those offsets."""
    p = open_log()
    fill(p, "old", PER_BATCH)
    p.truncate(PER_BATCH - 1)
    follow = open_log(mode="r").tail(timeout=60)
    assert follow.position == PER_BATCH - 1
    p.close()
    p = open_log()
    assert p.log_end_offset == 0
    fill(p, "new", PER_BATCH)
    with pytest.raises(ec.LogTruncated):
        next(follow)
    assert [next(follow).offset for _ in range(PER_BATCH)] == list(range(PER_BATCH))


class _Words:
    """A log whose count and place of truncations are read one after the other, while the writer changes them."""

    def __init__(self, page: StateFile, act: Callable[[], None]) -> None:
        self.page, self.act, self.calls = page, act, 0

    def truncations(self) -> int:
        return self.page.load(tail.TRUNCATIONS)

    def truncated_to(self) -> int:
        self.calls += 1
        if self.calls == 1:
            self.act()
        return self.page.load(tail.TRUNCATED_TO)


def test_count_and_place_of_a_truncation_belong_together(folder: Path, open_log: Open) -> None:
    p = open_log()
    fill(p, "old", 60)
    p.truncate(5)
    page = StateFile(p._log.disk, folder / STATE_NAME, create=False)
    fill(p, "old", 60)

    def again() -> None:
        p.truncate(50)

    assert latest_truncation(_Words(page, again)) == (2, 50)


def test_a_writer_that_dies_between_count_and_place(folder: Path, open_log: Open) -> None:
    """Then the place is not known, and everything may have gone."""
    p = open_log()
    page = StateFile(p._log.disk, folder / STATE_NAME, create=False, write=True)
    page.store(tail.TRUNCATED_TO, -1)
    page.store(tail.TRUNCATIONS, 7)
    assert latest_truncation(_Words(page, lambda: None)) == (7, 0)
    assert p.truncations() == 7


def test_a_tail_begins_with_the_truncations_before_its_end(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes while a tail is made is told to it: it stands where nothing is any more."""
    p = open_log()
    fill(p, "old", 60)
    check = p._check_start

    def slowly(offset: int | None, end: int) -> int:
        found = check(offset, end)
        p.truncate(20)
        fill(p, "new", 60)
        return found

    monkeypatch.setattr(p, "_check_start", slowly)
    follow = p.tail(60, timeout=60)
    monkeypatch.undo()
    with pytest.raises(ec.LogTruncated):
        next(follow)
    assert follow.position == 20

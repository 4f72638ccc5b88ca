"""Recovery: torn tails are cut, damage is kept and reported, nothing that is good is lost, twice is like once."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest

import eventcore as ec

CONFIG = {"segment.bytes": 1 << 20, "index.interval.bytes": 1000}


def build(folder: Path, batches: int = 30, records: int = 4) -> tuple[list[bytes], list[int]]:
    """A closed log; returns its values and the positions where its batches end."""
    values, ends = [], []
    with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
        for batch in range(batches):
            items = [b"%d-%d-" % (batch, i) + b"x" * 50 for i in range(records)]
            p.extend(items)
            values += items
            ends.append(p.segments.active.log.size)
    return values, ends


def unclean(folder: Path) -> Path:
    """Make the folder look like one whose writer died."""
    (folder / "eventcore.recovery").unlink()
    return folder / f"{0:020d}.log"


def values_of(p: ec.Partition) -> list[bytes | None]:
    return [record.value for record in p]


@pytest.mark.sampled
def test_every_cut_of_the_tail_keeps_the_longest_prefix(tmp_path: Path) -> None:
    source = tmp_path / "source-0"
    values, ends = build(source, batches=4)
    log = unclean(source)
    whole = log.read_bytes()
    cuts = {*range(0, len(whole), 23), *(end + step for end in [0, *ends] for step in (-17, -1, 0, 1, 16, 17, 60, 61))}
    for cut in sorted(cut for cut in cuts if 0 <= cut <= len(whole)):
        folder = tmp_path / "cut-0"
        folder.mkdir()
        (folder / log.name).write_bytes(whole[:cut])
        kept = 4 * sum(end <= cut for end in ends)
        with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
            assert values_of(p) == values[:kept]
            good = max([end for end in ends if end <= cut], default=0)
            assert p.recovery.cut_bytes == (cut - good if any(whole[good:cut]) else 0)
            assert p.append(b"next") == kept
        with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
            assert p.recovery.clean
            assert values_of(p) == [*values[:kept], b"next"]
        shutil.rmtree(folder)


def test_recovery_rebuilds_what_a_clean_close_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    build(folder, batches=200)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if "index" in path.name}
    unclean(folder)
    for path in folder.glob("*index"):
        path.write_bytes(b"\xff" * 96)
    with ec.open_partition(folder, config=CONFIG) as p:
        assert not p.recovery.clean
        assert p.verify().problems == []
    assert {path.name: path.read_bytes() for path in folder.iterdir() if "index" in path.name} == before


@pytest.mark.parametrize("where", ["first", "middle"])
@pytest.mark.parametrize("what", ["body", "length", "zeros"])
def test_a_bad_batch_with_good_ones_behind_it_is_kept_and_reported(tmp_path: Path, where: str, what: str) -> None:
    folder = tmp_path / "events-0"
    values, ends = build(folder)
    log = unclean(folder)
    batch = 0 if where == "first" else 12
    start, end = ([0, *ends])[batch], ends[batch]
    data = bytearray(log.read_bytes())
    if what == "zeros":
        data[start:end] = bytes(end - start)
    else:
        data[start + (9 if what == "length" else 100)] ^= 0xFF
    log.write_bytes(data)
    for _ in range(2):  # the second opening finds the same
        with ec.open_partition(folder, fsync="never", config=CONFIG) as p:
            (damage,) = [damage for _, damage in p.recovery.damage]
            assert (damage.first_offset, damage.next_offset) == (batch * 4, batch * 4 + 4)
            assert p.recovery.cut_bytes == 0
            assert values_of_range(p, 0, batch * 4) == values[: batch * 4]
            assert [r.value for r in p.read(batch * 4 + 4)] == values[batch * 4 + 4 :]
            for offset in range(batch * 4, batch * 4 + 4):
                with pytest.raises(ec.CorruptRecord, match="damaged") as caught:
                    p[offset]
                assert caught.value.path == str(log)
            with pytest.raises(ec.CorruptRecord):
                values_of(p)
            assert not p.verify().ok
        assert log.read_bytes() == bytes(data)


def values_of_range(p: ec.Partition, start: int, stop: int) -> list[bytes | None]:
    return [record.value for record in p[start:stop]]


def test_appends_go_on_behind_damage(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    values, ends = build(folder)
    log = unclean(folder)
    data = bytearray(log.read_bytes())
    data[ends[3] + 80] ^= 1
    log.write_bytes(data)
    with ec.open_partition(folder, config=CONFIG) as p:
        assert p.append(b"after") == len(values)
    with ec.open_partition(folder, config=CONFIG) as p:
        assert [r.value for r in p.read(20)] == [*values[20:], b"after"]


def test_damage_at_the_end_of_a_sealed_segment_loses_only_that(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    config = {"segment.bytes": 4096}
    with ec.open_partition(folder, fsync="never", config=config) as p:
        for i in range(100):
            p.append(b"%d" % i * 50)
        second = list(p.segments)[1].base_offset
        expected = values_of(p)
    unclean(folder)
    log = folder / f"{0:020d}.log"
    data = bytearray(log.read_bytes())
    data[-5] ^= 1
    log.write_bytes(data)
    with ec.open_partition(folder, fsync="never", config=config) as p:
        assert [damage.next_offset for _, damage in p.recovery.damage] == [second]
        assert [r.value for r in p.read(second)] == expected[second:]
        with pytest.raises(ec.CorruptRecord):
            p[second - 1]


def test_a_copy_taken_while_open_recovers(tmp_path: Path) -> None:
    folder, copy = tmp_path / "events-0", tmp_path / "copy-0"
    with ec.open_partition(folder, fsync="never", config={"segment.bytes": 8192}) as p:
        p.extend([b"%d" % i * 20 for i in range(1000)])
        expected = values_of(p)
        shutil.copytree(folder, copy)
    with ec.open_partition(copy, config={"segment.bytes": 8192}) as p:
        assert not p.recovery.clean
        assert values_of(p) == expected
        assert p.recovery.damage == []


def test_only_what_lies_above_the_recovery_point_is_read(tmp_path: Path) -> None:
    folder, copy = tmp_path / "events-0", tmp_path / "copy-0"
    with ec.open_partition(folder, fsync="always", config={"segment.bytes": 8192}) as p:
        for _ in range(20):
            p.extend([b"x" * 100] * 20)
        segments = len(p.segments)
        shutil.copytree(folder, copy)
    with ec.open_partition(copy, config={"segment.bytes": 8192}) as p:
        assert segments > 4
        assert p.recovery.scanned_segments <= 2
        assert p.log_end_offset == 400


def test_a_folder_that_somebody_else_wrote_to_is_read_again(tmp_path: Path) -> None:
    folder, other = tmp_path / "events-0", tmp_path / "other-0"
    values, _ = build(folder)
    with ec.open_partition(other) as p:
        p.append(b"foreign")
        batch = bytearray(p.fetch(0).data)
    batch[:8] = len(values).to_bytes(8, "big")
    with (folder / f"{0:020d}.log").open("ab") as log:
        log.write(batch)
    with ec.open_partition(folder, config=CONFIG) as p:
        assert not p.recovery.clean
        assert values_of(p) == [*values, b"foreign"]


@pytest.mark.parametrize(
    "left_over", ["leader-epoch-checkpoint.tmp", f"{0:020d}.log.deleted", f"{7:020d}.log.cleaned", f"{9:020d}.index"]
)
def test_what_a_crash_leaves_lying_about_is_removed(tmp_path: Path, left_over: str) -> None:
    folder = tmp_path / "events-0"
    values, _ = build(folder, batches=2)
    (folder / left_over).write_bytes(b"junk")
    with ec.open_partition(folder, config=CONFIG) as p:
        assert values_of(p) == values
    assert not (folder / left_over).exists()


def other_version(magic: int, offset: int) -> bytes:
    """A whole message of magic 0 or 1 with its IEEE CRC, or a batch of a magic to come."""
    stamp = (5).to_bytes(8, "big") if magic == 1 else b""
    body = bytes([magic, 0]) + stamp + b"\xff\xff\xff\xff" + (3).to_bytes(4, "big") + b"old"
    body = zlib.crc32(body).to_bytes(4, "big") + body
    return offset.to_bytes(8, "big") + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("magic", [0, 1, 3, 127])
@pytest.mark.parametrize("alone", [True, False])
def test_another_format_version_is_refused_and_left_as_it_is(tmp_path: Path, magic: int, alone: bool) -> None:
    folder = tmp_path / "events-0"
    values, _ = build(folder, batches=2)
    log = unclean(folder)
    log.write_bytes(other_version(magic, 0) if alone else log.read_bytes() + other_version(magic, len(values)))
    before = log.read_bytes()
    for mode in ("rw", "r"):
        with pytest.raises(ec.UnsupportedFormat, match=f"magic {magic}") as caught:
            ec.open_partition(folder, mode, config=CONFIG)  # type: ignore[arg-type]
        assert caught.value.path == str(log)
        assert log.read_bytes() == before


@pytest.mark.parametrize("holds", ["meta.properties", "notes.txt", "subfolder"])
def test_a_foreign_folder_is_refused_and_nothing_is_created_in_it(tmp_path: Path, holds: str) -> None:
    folder = tmp_path / "home"
    (folder / holds).mkdir(parents=True)
    with pytest.raises(ec.NotALog, match="give the folder of one partition"):
        ec.open_partition(folder)
    assert [path.name for path in folder.iterdir()] == [holds]


def test_foreign_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "events-0"
    values, _ = build(folder, batches=2)
    for name in ("notes.txt", "notes.tmp", "notes.deleted", "x.swap"):
        (folder / name).write_text("mine")
    (folder / "lost+found").mkdir()
    with ec.open_partition(folder, config=CONFIG) as p:
        assert values_of(p) == values
    for name in ("notes.txt", "notes.tmp", "notes.deleted", "x.swap"):
        assert (folder / name).read_text() == "mine"
    assert (folder / "lost+found").is_dir()


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_a_magic_is_damage_not_another_version(tmp_path: Path, bit: int) -> None:
    folder = tmp_path / "events-0"
    values, ends = build(folder, batches=6)
    log = unclean(folder)
    data = bytearray(log.read_bytes())
    data[ends[1] + 16] ^= 1 << bit
    log.write_bytes(data)
    for mode in ("r", "rw"):
        with ec.open_partition(folder, mode, config=CONFIG) as p:  # type: ignore[arg-type]
            assert [r.value for r in p.read(12)] == values[12:]
            with pytest.raises(ec.CorruptRecord):
                p[8]


def segmented(folder: Path) -> list[bytes | None]:
    """A closed log of several segments; returns its values."""
    with ec.open_partition(folder, fsync="never", config={"segment.bytes": 4096}) as p:
        p.extend([b"%04d" % i * 20 for i in range(200)])
        assert len(p.segments) > 3
        return values_of(p)


@pytest.mark.parametrize("still_writing", [False, True])
def test_a_crash_during_a_segment_swap_leaves_the_old_or_the_new(tmp_path: Path, still_writing: bool) -> None:
    """What Kafka's cleaner leaves: three segments merged into one `.swap`, none of the old files removed yet."""
    folder = tmp_path / "events-0"
    values = segmented(folder)
    logs = sorted(folder.glob("*.log"))
    merged = b"".join(path.read_bytes() for path in logs[:3])
    (folder / f"{logs[0].name}.swap").write_bytes(merged)
    if still_writing:  # another output of the same pass was not yet complete: the whole swap is undone
        (folder / f"{0:020d}.log.cleaned").write_bytes(merged[:500])
    (folder / "eventcore.recovery").unlink()
    for _ in range(2):
        with ec.open_partition(folder, fsync="never", config={"segment.bytes": 4096}) as p:
            assert values_of(p) == values
            assert p.recovery.damage == []
    kept = [path.name for path in sorted(folder.glob("*.log"))]
    assert kept == [path.name for path in (logs if still_writing else [logs[0], *logs[3:]])]
    assert not list(folder.glob("*.swap")) + list(folder.glob("*.cleaned"))

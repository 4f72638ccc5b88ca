"""One reader's handle in two threads: one is held at the worst moment, the other reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.log import sealed
from tests.log.conftest import Open

MINUTE_S = 60


def in_thread(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """What it returned or raised, once the thread has ended."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, found


def test_who_reads_while_another_looks_for_the_end(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It walks over batches that the segment's end does not cover yet; behind the last one stand reserved zeros."""
    p = open_log()
    p.append(b"0")
    r = open_log(mode="r")
    segment = r.segments.active
    real, seen = kernels.batch.find_offset, []

    def find_offset(*arguments: Any) -> int:
        seen.append(segment.log.size)
        thread, found = in_thread(lambda: segment.run_end(0))
        thread.join(MINUTE_S)
        assert found == [segment.log.size]
        return real(*arguments)

    before = segment.log.size
    p.append(b"1")
    monkeypatch.setattr(kernels.batch, "find_offset", find_offset)
    assert r.high_watermark == 2
    assert seen == [before] != [segment.log.capacity]
    assert [record.value for record in r] == [b"0", b"1"]


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A sealed segment with damage that only its seal tells of."""
    folder = tmp_path / "events-0"
    with ec.open_partition(folder, fsync="never") as p:
        for number in range(60):
            p.extend([(b"key %d" % number, bytes([number]) * 5000)])
        p.roll()
        p.append(b"last")
    log = folder / f"{0:020d}.log"
    data = bytearray(log.read_bytes())
    data[15] ^= 1  # the first batch's leader epoch
    log.write_bytes(data)
    return folder


@pytest.mark.parametrize("held", ["the seal is read", "its blocks are checked"])
def test_who_reads_while_another_finds_damage(damaged: Path, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody believes bytes that another one is just about to check."""
    holds, go, first = threading.Event(), threading.Event(), []
    where: tuple[object, str] = (sealed, "load") if held == "the seal is read" else (sealed.seal_file, "check_blocks")
    real: Callable[..., Any] = getattr(*where)

    def hold(*arguments: Any) -> Any:
        found = real(*arguments)
        if not first:
            first.append(True)
            holds.set()
            assert go.wait(MINUTE_S)
        return found

    with ec.open_partition(damaged, "r") as r:
        monkeypatch.setattr(*where, hold)
        one, found_by_one = in_thread(lambda: r[0].offset)
        assert holds.wait(MINUTE_S)
        other, found_by_other = in_thread(lambda: r[1].offset)
        other.join(0.2)
        go.set()
        for thread in (one, other):
            thread.join(MINUTE_S)
        assert isinstance(found_by_one[0], ec.CorruptRecord)
        assert found_by_other == [1] or isinstance(found_by_other[0], ec.CorruptRecord)
        with pytest.raises(ec.CorruptRecord):
            r[0]
        assert r[59].value == bytes([59]) * 5000


def test_damage_is_noted_before_its_block_counts_as_checked(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in between must not make the block a good one."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with ec.open_partition(damaged, "r") as r:
        with monkeypatch.context() as patch:
            patch.setattr(sealed.CheckedLog, "_note", interrupted)
            with pytest.raises(KeyboardInterrupt):
                r[0]
        with pytest.raises(ec.CorruptRecord):
            r[0]

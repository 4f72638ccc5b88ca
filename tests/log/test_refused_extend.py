"""An append of several batches of which a later one is refused: the earlier ones stay, as good as any others."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore.log.durability import Durability
from eventcore.log.writer import BatchWriter
from tests.log.test_bytes_in_values import encoded

CONFIG = {"max.message.bytes": 1000, "segment.bytes": 1 << 16}
GOOD = [b"%04d" % number * 50 for number in range(12)]
TOO_LARGE = b"x" * 2000


class Refuses:
    """An item that is none."""


def columns(partition: ec.Partition) -> object:
    data = b"".join([*GOOD, TOO_LARGE])
    offsets = np.cumsum([0, *(len(value) for value in GOOD), len(TOO_LARGE)]).astype(np.int64)
    return partition.extend_columns((np.frombuffer(data, np.uint8), offsets))


REFUSED: dict[str, tuple[Callable[[ec.Partition], object], type[BaseException]]] = {
    "too large": (lambda p: p.extend([*GOOD, TOO_LARGE]), ec.RecordTooLarge),
    "no item": (lambda p: p.extend([*GOOD, Refuses()]), TypeError),
}


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("codec", ["producer", "zstd"])
@pytest.mark.parametrize("fsync", ["always", "never"])
def test_what_was_appended_is_acknowledged(tmp_path: Path, what: str, codec: str, fsync: Any) -> None:
    act, error = REFUSED[what]
    config = {**CONFIG, "compression.type": codec}
    with ec.open_partition(tmp_path / "events-0", "rw", fsync, config) as partition:
        partition.append(b"first")
        told: list[int] = []
        partition.subscribe(lambda: told.append(partition.high_watermark))
        with pytest.raises(error) as caught:
            act(partition)
        end = partition.log_end_offset
        assert end > 2, "some batches stay"
        assert partition.high_watermark == end
        assert partition.durable_offset == (end if fsync == "always" else 0)
        assert told[-1] == end
        assert [record.value for record in partition] == [b"first", *GOOD][:end]
        with ec.open_partition(tmp_path / "events-0", "r", config=config) as reader:
            assert reader.high_watermark == end
        if isinstance(caught.value, ec.EventCoreError):
            assert caught.value.appended == range(1, end)
            assert f"offsets 1 to {end - 1}" in str(caught.value)
        elif sys.version_info >= (3, 11):
            assert caught.value.__notes__ == [f"offsets 1 to {end - 1} were appended before, and stay"]
        assert partition.extend(GOOD) == range(end, end + len(GOOD))


def test_columns(tmp_path: Path) -> None:
    with ec.open_partition(tmp_path / "events-0", config=CONFIG) as partition:
        with pytest.raises(ec.RecordTooLarge) as caught:
            columns(partition)
        end = partition.log_end_offset
        assert 0 < end == partition.high_watermark == partition.durable_offset
        assert caught.value.appended == range(end)


def test_nothing_stays_of_one_that_is_refused_as_a_whole(tmp_path: Path) -> None:
    with ec.open_partition(tmp_path / "events-0", config=CONFIG) as partition:
        partition.append(b"first")
        for act in (lambda: partition.append(TOO_LARGE), lambda: partition.extend([*GOOD, TOO_LARGE], atomic=True)):
            with pytest.raises(ec.RecordTooLarge) as caught:
                act()
            assert not caught.value.appended
            assert "stay" not in str(caught.value)
        assert partition.log_end_offset == 1


def test_batches_of_a_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the third of them."""
    with ec.open_partition(tmp_path / "events-0", config=CONFIG) as partition:
        original, left = BatchWriter.copy, [2]

        def copy(writer: BatchWriter, *arguments: Any, **keywords: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ec.DiskFull("no space is left")
            original(writer, *arguments, **keywords)

        monkeypatch.setattr(BatchWriter, "copy", copy)
        monkeypatch.setattr(BatchWriter, "copy_all", lambda *_: False)
        with pytest.raises(ec.DiskFull) as caught:
            partition.append_batches(b"".join(encoded(at, [b"%d" % at]) for at in range(4)), "replica")
        assert partition.log_end_offset == partition.high_watermark == partition.durable_offset == 2
        assert caught.value.appended == range(2)


def test_a_sync_that_fails_then_is_told_and_why_it_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = ec.open_partition(tmp_path / "events-0", config=CONFIG)
    partition.append(b"first")
    with monkeypatch.context() as patch:
        patch.setattr("eventcore.disk.Disk.sync", lambda *_: (_ for _ in ()).throw(ec.StorageError("no disk")))
        with pytest.raises(ec.StorageFenced) as caught:
            partition.extend([*GOOD, TOO_LARGE])
    refused = caught.value.__cause__
    assert isinstance(refused, ec.RecordTooLarge)
    assert not refused.appended, "they are not acknowledged"
    with pytest.raises(ec.StorageFenced):
        partition.append(b"more")
    partition.close()


def test_a_close_meanwhile_does_not_hide_why_it_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = ec.open_partition(tmp_path / "events-0", config=CONFIG)
    real = Durability.sync_to

    def sync_to(log: Durability, end: int) -> None:
        partition.close()
        real(log, end)

    with monkeypatch.context() as patch:
        patch.setattr(Durability, "sync_to", sync_to)
        with pytest.raises(ec.RecordTooLarge) as caught:
            partition.extend([*GOOD, TOO_LARGE])
    with ec.open_partition(tmp_path / "events-0", "r") as partition:
        assert caught.value.appended == range(partition.log_end_offset) != range(0)


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_nobody_keeps_the_error_nor_what_it_holds(tmp_path: Path, fsync: Any) -> None:
    """A deleted segment's space is free again when its last map is gone: not only after a garbage collection."""
    with ec.open_partition(tmp_path / "events-0", "rw", fsync, CONFIG) as partition:
        refused = (
            lambda: partition.append(TOO_LARGE),
            lambda: partition.extend([*GOOD, TOO_LARGE]),
            lambda: partition.append(b"x", expected_offset=77),
            lambda: partition.append_batches(b"x" * 100, "replica"),
        )
        gc.collect()
        gc.disable()
        try:
            before = living_errors()
            for act in refused:
                with suppress(ec.EventCoreError):
                    act()
                    raise AssertionError("it was not refused")
            assert [error for error in living_errors() if error not in before] == []
        finally:
            gc.enable()


def living_errors() -> list[ec.EventCoreError]:
    return [thing for thing in gc.get_objects() if isinstance(thing, ec.EventCoreError)]


def test_a_leaders_epoch_counts_though_a_later_batch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next append of a client would have an older epoch than the log."""
    with ec.open_partition(tmp_path / "events-0", config=CONFIG) as partition:
        original, left = BatchWriter.copy, [1]

        def copy(writer: BatchWriter, *arguments: Any, **keywords: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ec.DiskFull("no space is left")
            original(writer, *arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(BatchWriter, "copy", copy)
            with pytest.raises(ec.DiskFull):
                partition.append_batches(b"".join(encoded(at, [b"%d" % at], epoch=3) for at in range(2)), "replica")
        assert partition.append(b"by a client") == 1
        assert partition.leader_epoch == partition.epoch_at(1) == 3
        assert partition.verify().problems == []

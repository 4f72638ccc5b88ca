"""Deleting records is what frees space: on a full disk it works, and the file of the leader epochs follows later."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec
from eventcore.files import checkpoint


def test_the_epochs_follow_with_their_next_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "events-0"
    with ec.open_partition(folder) as p:
        for epoch in range(3):
            p.set_leader_epoch(epoch)
            p.extend([b"x"] * 10)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_epochs", lambda *_: (_ for _ in ()).throw(ec.DiskFull("no space is left")))
            assert p.delete_records(15) == 15
            assert p.epoch_at(14) == -1
            assert p.epoch_at(15) == 1
        with ec.open_partition(folder, "r") as reader:
            assert reader.log_start_offset == 15
            assert reader.epoch_at(15) == 1
        p.set_leader_epoch(7)
        assert p.append(b"goes on") == 30
        assert "1 15\n2 20\n7 30" in (folder / "leader-epoch-checkpoint").read_text()
    with ec.open_partition(folder) as p:
        assert p.recovery.clean
        assert [p.epoch_at(at) for at in (15, 19, 20, 30)] == [1, 1, 2, 7]

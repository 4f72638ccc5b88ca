"""A sealed segment of several blocks: what the CRC of a batch does not cover is checked whatever range is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files import seal

FIELDS = {"base offset": 7, "base offset, high": 6, "leader epoch": 15}
READS: dict[str, Callable[[ec.Partition, int], Any]] = {
    "one record": lambda p, offset: p[offset],
    "from there": lambda p, offset: next(iter(p.read(offset))),
    "up to its first record": lambda p, offset: list(p.read(offset - 1, offset + 1)),
    "columns up to it": lambda p, offset: p.columns(offset - 1, offset + 1),
    "tuples up to it": lambda p, offset: list(p.read_tuples(offset - 1, offset + 1)),
}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks") / "events-0"
    with ec.open_partition(folder, "rw", "never") as p:
        for number in range(60):
            p.extend([(b"key %d" % number, bytes([number]) * 5000)])
    return folder


@pytest.mark.parametrize("mode", ["r", "rw"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("field", FIELDS)
def test_damage_in_the_first_batch_of_a_block(closed: Path, tmp_path: Path, field: str, read: str, mode: Any) -> None:
    found = seal.read(Disk(), closed / f"{0:020d}.seal")
    assert found is not None
    assert len(found.blocks) >= 3
    for position, offset in found.blocks[:2, :2].tolist():
        folder = tmp_path / f"copy-{offset}" / "events-0"
        shutil.copytree(closed, folder)
        log = folder / f"{0:020d}.log"
        data = bytearray(log.read_bytes())
        data[position + FIELDS[field]] ^= 1
        log.write_bytes(data)
        with ec.open_partition(folder, mode, "never") as p, pytest.raises(ec.CorruptRecord):
            READS[read](p, offset)

"""Hostile sizes are refused before memory is asked for them: every named case, on both sets of kernels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore.errors import CorruptFile, CorruptRecord, EventCoreError, StorageError
from eventcore.files import checkpoint, producer_snapshot, seal
from eventcore.format import compression
from eventcore.format.batch import BatchHeader, records_area
from tests.crash.memory_disk import MemoryDisk
from tests.fuzz.declared_sizes import BATCH, CODEC, FILE, Case, all_cases
from tests.fuzz.folder_targets import open_on
from tests.fuzz.target import MALFORMED
from tests.parity import twins

CASES = all_cases()
FLOOR, FACTOR = 64 << 10, 4
CODEC_FLOOR = 192 << 10
"""gzip and zstd give their output in pieces of 64 KiB."""
PARTITION_FLOOR = 256 << 10
LIMIT = 1 << 20
Wrong = dict[str, str]


def of_kind(kind: str) -> list[Case]:
    return [case for case in CASES if case.kind == kind]


def floor_of(data: bytes) -> int:
    """Compressed batches go through a codec."""
    return CODEC_FLOOR if data[22] & 7 else FLOOR


def peak_of(act: Callable[[], object]) -> int:
    """The most memory that `act` held at a time."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def complaint(act: Callable[[], object], errors: Any, limit: int) -> str | None:
    """What is wrong with a call that must raise one of `errors` and take no more than `limit` bytes."""
    said = "it raises nothing"

    def refuse() -> None:
        nonlocal said
        try:
            act()
        except errors:
            said = ""

    with suppress(errors):
        act()  # once before, so that what is made once is there already
    peak = peak_of(refuse)
    return said or (f"{peak} bytes, not {limit}" if peak > limit else None)


def note(wrong: Wrong, name: str, act: Callable[[], object], errors: Any, limit: int) -> None:
    """Add the complaint, if there is one."""
    try:
        found = complaint(act, errors, limit)
    except Exception as error:
        found = repr(error)
    if found:
        wrong[name] = found


@pytest.fixture(scope="module", params=["native", "pure"])
def kernels(request: pytest.FixtureRequest) -> SimpleNamespace:
    loaded = twins.load(request.param)
    if loaded is None:
        pytest.skip("the native kernels are not built (EVENTCORE_PURE)")
    return loaded


def test_there_are_two_hundred_and_each_has_a_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 200


def test_what_is_wrong_is_found() -> None:
    wrong: Wrong = {}
    note(wrong, "nothing raised", lambda: None, ValueError, 1000)
    note(wrong, "another error", lambda: {}["x"], ValueError, 1000)
    note(wrong, "too much", lambda: int("x" * 2000), ValueError, 1000)
    note(wrong, "right", lambda: int("x"), ValueError, 10_000)
    assert set(wrong) == {"nothing raised", "another error", "too much"}


class Reading:
    """One batch, read in every way there is."""

    def __init__(self, kernels: SimpleNamespace, data: bytes) -> None:
        self.kernels = kernels
        self.data = data
        self.columns = tuple(np.zeros(8, np.int64).data.cast("B") for _ in range(6))

    def header(self) -> BatchHeader:
        return BatchHeader._make(self.kernels.batch.read_header(self.data))

    def records(self) -> None:
        found = self.header()
        self.kernels.decode.decode_records(records_area(self.data, 0, found, LIMIT), found, *twins.EVERY)

    def check(self) -> None:
        found = self.header()
        self.kernels.decode.check_records(records_area(self.data, 0, found, LIMIT), found)

    def in_place(self) -> None:
        self.kernels.decode.read_records(self.data, 0, len(self.data), *twins.EVERY, 99, 0, True)

    def in_columns(self) -> None:
        end = len(self.data)
        row, position = self.kernels.decode.read_columns(self.data, 0, end, *twins.EVERY, self.columns, 0, 0, True)
        assert (row, position) == (0, 0), "it stops where the records might not fit into the rows"
        self.check()


def test_batches_that_lie_about_a_size(kernels: SimpleNamespace) -> None:
    wrong: Wrong = {}
    for case in of_kind(BATCH):
        reading = Reading(kernels, case.data)
        for act in (reading.records, reading.check, reading.in_place, reading.in_columns):
            limit = floor_of(case.data) + FACTOR * len(case.data)
            note(wrong, f"{case.name}: {act.__name__}", act, MALFORMED, limit)
    assert wrong == {}


def test_compressed_streams_that_lie_about_a_size() -> None:
    wrong: Wrong = {}
    for case in of_kind(CODEC):
        codec, limit = compression.codec_id(case.reader), CODEC_FLOOR + FACTOR * len(case.data)
        note(wrong, case.name, lambda: compression.decompress(codec, case.data, LIMIT), CorruptRecord, limit)  # noqa: B023
    assert wrong == {}


READERS: dict[str, Callable[[MemoryDisk, Path], object]] = {
    "snapshot": producer_snapshot.read,
    "seal": seal.read,
    "epochs": checkpoint.read_epochs,
    "offsets": checkpoint.read_offsets,
}


def test_files_that_lie_about_a_size() -> None:
    wrong: Wrong = {}
    for case in of_kind(FILE):
        disk, path = MemoryDisk({"/f": {"x": case.data}}), Path("/f/x")
        limit = FLOOR + FACTOR * len(case.data)
        note(wrong, case.name, lambda: READERS[case.reader](disk, path), CorruptFile, limit)  # noqa: B023
    assert wrong == {}


def test_clients_that_lie_about_a_size() -> None:
    """Nothing is appended, whatever they say."""
    wrong: Wrong = {}
    partition = open_on(MemoryDisk({"/logs": {}}))
    for case in of_kind(BATCH):
        data = bytearray(case.data)
        if data[:8] == (100).to_bytes(8, "big"):
            data[:8] = bytes(8)
        limit = CODEC_FLOOR + FACTOR * len(data)
        note(wrong, case.name, lambda: partition.append_batches(data), EventCoreError, limit)  # noqa: B023
        assert partition.log_end_offset == 0, case.name
    partition.close()
    assert wrong == {}


def test_a_marker_that_is_a_bomb() -> None:
    """A control batch holds a few bytes: nobody decompresses 64 MiB to find out that they are no marker."""
    bomb = compression.compress(compression.ZSTD, 19, bytes(64 << 20))
    data = twins.batch(bomb, 1, base_offset=1, attributes=0x30 | compression.ZSTD, producer=(7, 0, -1))
    partition = open_on(MemoryDisk({"/logs": {}}))
    partition.append(b"first")
    act = lambda: partition.append_batches(data, "replica")  # noqa: E731
    assert complaint(act, MALFORMED, 2 * CODEC_FLOOR + FACTOR * len(data)) is None
    partition.close()


def _take_and_read(partition: ec.Partition, data: bytes) -> None:
    """What is taken over from a leader is believed only until somebody reads it."""
    with suppress(StorageError, ec.InvalidRecord):
        partition.append_batches(data, "replica")
    if partition.log_end_offset == 1:
        return
    for read in (lambda: list(partition.read()), partition.columns):
        with pytest.raises(StorageError):
            read()


def test_leaders_that_lie_about_a_size() -> None:
    wrong: Wrong = {}
    for case in of_kind(BATCH):
        partition = open_on(MemoryDisk({"/logs": {}}))
        partition.append(b"first")
        try:
            peak = peak_of(lambda: _take_and_read(partition, case.data))  # noqa: B023
            if peak > PARTITION_FLOOR + FACTOR * len(case.data):
                wrong[case.name] = f"{peak} bytes"
            partition.close()
        except Exception as error:
            wrong[case.name] = repr(error)
    assert wrong == {}

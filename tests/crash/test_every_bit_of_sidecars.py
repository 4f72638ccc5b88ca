"""Every file beside the log, damaged: each bit flipped, each byte zeroed, cut at each length, missing, swapped.

Indexes, snapshots, checkpoints and seals only help to find what the log holds. Damaged, each is rebuilt, refused with
a typed error, or does no harm; a wrong answer, of reads by offset and by time, committed reads, epochs, producers or
ends of the log, is none of these. Folders closed, killed, and killed after a truncation; opened for reading, and for
writing on a copy.

By default a small share of the damages is tried, with `-m nightly` more of them, and all (half an hour)
by `EVENTCORE_DEPTH=10 python -m pytest -m nightly tests/crash/test_every_bit_of_sidecars.py`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.files import names, recovery_point, state_file
from tests.crash import survey
from tests.scale import DEPTH

Image = dict[str, bytes]
DEEP = DEPTH >= 10
FLIPS = [997, pytest.param(1 if DEEP else 29, marks=pytest.mark.nightly)]
"""Every how-maniest damage is tried; neighbours in the order are different bits of one byte."""
BYTES = [197, pytest.param(1 if DEEP else 11, marks=pytest.mark.nightly)]
PAIRS = [41, pytest.param(1 if DEEP else 3, marks=pytest.mark.nightly)]
STATES = ["closed", "killed", "truncated"]
MODES = ["r", "rw"]
_SLOTS = (0, recovery_point.SIZE // 2)
_USED = {recovery_point.NAME: [at + slot for slot in _SLOTS for at in range(128)], state_file.NAME: range(240)}
"""Of the two pages that are nearly empty."""
_REST = 97


class Bench:
    """The folder in one state, the right answers, and a place to damage copies of it."""

    def __init__(self, state: str, folder: Path) -> None:
        self.folder = folder / "events-0"
        self.image = image_of(state, folder / "deleted-0", 2)
        self.truth = self._truth(self.image)
        self.without_log_start = self._truth(image_of(state, folder / "whole-0", 0))
        """Where the log began is in one file only. If that is lost, it begins with its first segment again."""

    def _truth(self, image: Image) -> survey.Answers:
        found = self._answers("r", image)
        assert not isinstance(found, survey.Refused)
        assert not survey.refused(found)
        assert self._answers("rw", image) == found
        return found

    def _answers(self, mode: str, image: Mapping[str, bytes | None]) -> survey.Answers | survey.Refused:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, data in image.items():
            if data is not None:
                (self.folder / name).write_bytes(data)
        return survey.opened(self.folder, mode)

    def wrong(self, mode: str, damage: Mapping[str, bytes | None]) -> str:
        """The first thing that is not so of what a folder with other files (None: missing) says."""
        answers = self._answers(mode, {**self.image, **damage})
        wrong = survey.wrong(answers, self.truth)
        data = damage.get(recovery_point.NAME, bytes(recovery_point.SIZE))
        if wrong and (data is None or not all(data[slot : slot + 8] == recovery_point.MAGIC for slot in _SLOTS)):
            wrong = survey.wrong(answers, self.without_log_start) and wrong
        return f"{', '.join(damage)}: {wrong[0]}" if wrong else ""

    @property
    def sidecars(self) -> list[str]:
        """The files that are damaged."""
        return sorted(name for name in self.image if not name.endswith((names.LOG, ".lock")))


def image_of(state: str, folder: Path, log_start: int) -> Image:
    """The files of a folder that was closed, or left by a writer that was killed."""

    def at_end(partition: ec.Partition) -> None:
        if state == "truncated":
            partition.truncate(44)
            for number in range(3):
                partition.append(b"after %d" % number)

    survey.build(folder, closed=state == "closed", log_start=log_start, at_end=at_end)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=STATES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Bench(request.param, Path(folder))


def places(name: str, data: bytes) -> list[int]:
    """The bytes of a file that are damaged one by one: all but most of the empty ones."""
    return sorted({*_USED.get(name, range(len(data))), *range(0, len(data), _REST)})


def flips(name: str, data: bytes) -> Iterator[bytes]:
    for byte in places(name, data):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[byte] ^= 1 << (byte + bit) % 8  # another bit of each byte comes first
            yield bytes(damaged)


def zeros(name: str, data: bytes) -> Iterator[bytes]:
    for byte in places(name, data):
        if data[byte]:
            yield data[:byte] + b"\0" + data[byte + 1 :]


def cuts(name: str, data: bytes) -> Iterator[bytes]:
    for size in places(name, data):
        yield data[:size]


def check(bench: Bench, mode: str, damages: Callable[[str, bytes], Iterator[bytes]], every: int) -> None:
    tried = [
        {name: damaged}
        for name in bench.sidecars
        for number, damaged in enumerate(damages(name, bench.image[name]))
        if number % every == 0
    ]
    wrong = list(filter(None, (bench.wrong(mode, damage) for damage in tried)))
    assert tried
    assert not wrong, f"{len(wrong)} of {len(tried)}, the first of them:\n" + "\n".join(wrong[:20])


@pytest.mark.parametrize("every", FLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_every_flipped_bit_is_harmless_or_refused(bench: Bench, mode: str, every: int) -> None:
    check(bench, mode, flips, every)


@pytest.mark.parametrize("every", BYTES)
@pytest.mark.parametrize("mode", MODES)
def test_every_zeroed_byte_is_harmless_or_refused(bench: Bench, mode: str, every: int) -> None:
    check(bench, mode, zeros, every)


@pytest.mark.parametrize("every", BYTES)
@pytest.mark.parametrize("mode", MODES)
def test_every_cut_file_is_harmless_or_refused(bench: Bench, mode: str, every: int) -> None:
    check(bench, mode, cuts, every)


@pytest.mark.parametrize("mode", MODES)
def test_every_missing_file_is_harmless_or_refused(bench: Bench, mode: str) -> None:
    assert list(filter(None, (bench.wrong(mode, {name: None}) for name in bench.sidecars))) == []


@pytest.mark.parametrize("every", PAIRS)
@pytest.mark.parametrize("mode", MODES)
def test_every_two_swapped_files_are_harmless_or_refused(bench: Bench, mode: str, every: int) -> None:
    pairs = list(combinations(bench.sidecars, 2))[::every]
    swaps = [{one: bench.image[other], other: bench.image[one]} for one, other in pairs]
    assert list(filter(None, (bench.wrong(mode, swapped) for swapped in swaps))) == []

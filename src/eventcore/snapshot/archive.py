"""Snapshots: what is kept at one place, and what is removed there.

A snapshot exists once its manifest does, which is made last, when all that it refers to is durable; it is gone as soon
as its manifest is, and what nobody refers to any more goes after that. So a crash leaves each of them whole or absent,
and at most objects that nobody needs, which the next snapshot uses or the next `prune` removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timezone

from eventcore import _kernels as kernels
from eventcore.errors import MissingObject, NoSnapshot, SnapshotDamaged, StorageError, UsageError
from eventcore.snapshot import manifest as manifests
from eventcore.snapshot.manifest import Manifest, StoredFile
from eventcore.snapshot.place import Place
from eventcore.types import Buffer

STEP = 8 << 20
Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and those to do."""


class Snapshots:
    """The snapshots at one place. Get them by `eventcore.snapshots`."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __repr__(self) -> str:
        return f"<Snapshots at {self.place.url!r}>"

    def numbers(self) -> list[int]:
        """The numbers of all snapshots, rising; later ones are newer."""
        return sorted(filter(None, map(manifests.number_of, self.place.sizes(manifests.FOLDER))))

    def read(self, number: int) -> Manifest:
        """One of them. Raises NoSnapshot, SnapshotDamaged and UnsupportedFormat."""
        name = manifests.name_of(number)
        try:
            data = self.place.read(name, 0, manifests.SIZE_MAX + 1)
        except MissingObject:
            raise NoSnapshot(f"there is no snapshot {number}", path=self.place.url) from None
        if len(memoryview(data)) > manifests.SIZE_MAX:
            raise SnapshotDamaged("a manifest that is too large", path=f"{self.place.url}/{name}")
        return manifests.decode(data, number, f"{self.place.url}/{name}")

    def all(self) -> list[Manifest]:
        """All that can be read, the oldest first; `verify` tells what is wrong with the others."""
        found = []
        for number in self.numbers():
            with suppress(NoSnapshot, SnapshotDamaged):
                found.append(self.read(number))
        return found

    def latest(self) -> Manifest:
        """The newest one that can be read. Raises NoSnapshot, and SnapshotDamaged if none can."""
        numbers = self.numbers()
        for number in reversed(numbers):
            with suppress(SnapshotDamaged):
                return self.read(number)
        if numbers:
            raise SnapshotDamaged("none of the manifests can be read", path=self.place.url)
        raise NoSnapshot("there are no snapshots", path=self.place.url)

    def verify(self, number: int, *, progress: Progress | None = None) -> list[str]:
        """Read all of a snapshot and check its sizes and CRCs; the answer is what is wrong, one line each."""
        try:
            manifest = self.read(number)
        except StorageError as error:
            return [str(error)]
        problems = self._missing(manifest)
        done = 0
        for file in manifest.files:
            problem = self._check(file)
            problems += [f"{file.path}: {problem}"] if problem else []
            done += file.size
            if progress is not None:
                progress(done, manifest.size)
        return problems

    def _missing(self, manifest: Manifest) -> list[str]:
        sizes = self.place.sizes(manifests.OBJECTS)
        needed = manifest.objects().items()
        return [f"{name}: {sizes.get(name, 0)} of {size} bytes" for name, size in needed if sizes.get(name, 0) < size]

    def _check(self, file: StoredFile) -> str:
        crc = 0
        try:
            for data in content(self.place, file):
                crc = kernels.crc32c.crc32c(data, crc)
        except StorageError as error:
            return str(error)
        return "" if crc == file.crc else f"its CRC is {crc:08x}, not {file.crc:08x}"

    def prune(
        self,
        *,
        keep_last: int = 1,
        keep_daily: int = 0,
        keep_weekly: int = 0,
        keep_monthly: int = 0,
        dry_run: bool = False,
    ) -> list[int]:
        """Remove all snapshots but the last so many, and the newest of each of the last so many days, weeks and months
        (UTC) that have one; and what none of the others needs. The answer are the numbers of the removed ones.

        The newest always stays. Raises LogLocked while a snapshot is made or removed here, and SnapshotDamaged, with
        nothing removed, if a manifest that is to stay cannot be read: what it needs could not be known.
        """
        rules = {"%Y-%m-%d": keep_daily, "%G-%V": keep_weekly, "%Y-%m": keep_monthly}
        if keep_last < 1 or min(rules.values()) < 0:
            raise UsageError("prune keeps one snapshot at least", hint="give keep_last=1 or more, the others 0 or more")
        with self.place.holding():
            found = [self.read(number) for number in self.numbers()]
            kept = {one.number for one in found[-keep_last:]}
            for pattern, count in rules.items():
                kept |= _newest_of_each(found, pattern, count)
            removed = [one.number for one in found if one.number not in kept]
            if not dry_run:
                self.place.remove(map(manifests.name_of, removed))
                self._sweep(one for one in found if one.number in kept)
        return removed

    def _sweep(self, kept: Iterable[Manifest]) -> None:
        needed = {name for manifest in kept for name in manifest.objects()}
        self.place.remove(name for name in self.place.sizes(manifests.OBJECTS) if name not in needed)


def _newest_of_each(found: list[Manifest], pattern: str, count: int) -> set[int]:
    """The number of the newest of each of the last `count` days, weeks or months."""
    times = ((datetime.fromtimestamp(one.created_ms / 1000, timezone.utc), one.number) for one in found)
    newest = {time.strftime(pattern): number for time, number in times}
    return set(list(newest.values())[-count:]) if count else set()


def content(place: Place, file: StoredFile) -> Iterable[Buffer]:
    """The bytes of a stored file, step by step. Raises SnapshotDamaged if an object is missing or too short."""
    for piece in file.pieces:
        for at in range(0, piece.size, STEP):
            wanted = min(STEP, piece.size - at)
            try:
                data = place.read(piece.object, piece.start + at, wanted)
            except MissingObject as error:
                raise SnapshotDamaged("an object is missing", path=error.path) from None
            if len(memoryview(data)) != wanted:
                raise SnapshotDamaged("an object is too short", path=f"{place.url}/{piece.object}")
            yield data

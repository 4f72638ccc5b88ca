"""Which states of the disk a crash at a boundary may leave.

Of a file each pending page may be at any version, independently of all others (write-back takes pages when it likes),
and, torn, each of its 512-byte sectors; the size may be any since the last sync. Versions of a page from before a cut
that took it away do not come back behind it.

Of a folder's changes any subset may have happened in which changes of one name keep their order (weak model); the
strong model, prefixes, is a part of it and always among what is sampled.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product
from math import prod
from typing import NamedTuple, TypeVar

from tests.crash.crash_recording import (
    Boundary,
    FrozenFile,
    FrozenFolder,
    apply_change,
)
from tests.crash.memory_disk import PAGE, Image, LinkedBytes

SECTOR = 512
WORD = 8
"""What a processor stores at once."""
EXHAUSTIVE = 4096
SAMPLES = 256

T = TypeVar("T")

Pick = tuple[int, ...]
"""The version of a page, or one for each of its sectors; -1 is what it was before all of them."""


class FileChoice(NamedTuple):
    """One file after the crash."""

    size_index: int
    picks: tuple[Pick, ...]
    """One for each pending page."""
    splice: int = 0
    """If not 0: the byte of a torn page up to which the sector that holds it is of the version picked before it."""


class FileChoices:
    """What may become of one file."""

    def __init__(self, file: FrozenFile) -> None:
        self.file = file
        self._lives = [self._lives_of(number) for number, _ in file.pages]
        self._contents: dict[FileChoice, bytes] = {}
        self.last = len(file.sizes) - 1

    def _lives_of(self, page: int) -> list[int]:
        """For each pending size: which cut was the last one that took this page away."""
        lives, sizes = [0], self.file.sizes
        for index in range(1, len(sizes)):
            cut = sizes[index][1] < sizes[index - 1][1] and sizes[index][1] <= page * PAGE
            lives.append(index if cut else lives[-1])
        return lives

    def candidates(self, slot: int, size_index: int) -> list[int]:
        """The versions a page may be at, given the size."""
        number, versions = self.file.pages[slot]
        if number * PAGE >= self.file.sizes[size_index][1]:
            return [-1]
        lives = self._lives[slot]
        life = lives[size_index]
        return [-1, *(at for at, version in enumerate(versions) if lives[version.size_index] == life)]

    @cached_property
    def count(self) -> int:
        """How many whole-page states there are."""
        slots = range(len(self.file.pages))
        return sum(prod(len(self.candidates(slot, at)) for slot in slots) for at in range(self.last + 1))

    def all(self) -> Iterator[FileChoice]:
        """All of them."""
        for at in range(self.last + 1):
            for picked in product(*(self.candidates(slot, at) for slot in range(len(self.file.pages)))):
                yield FileChoice(at, tuple((pick,) for pick in picked))

    def at(self, moment: int) -> FileChoice:
        """Everything that came up to a moment, and nothing later."""
        size_index = max(index for index, (when, _) in enumerate(self.file.sizes) if when <= moment or index == 0)
        return FileChoice(size_index, tuple(self._pick_at(slot, size_index, moment) for slot in self._slots))

    def _pick_at(self, slot: int, size_index: int, moment: int) -> Pick:
        versions = self.file.pages[slot][1]
        old = [at for at in self.candidates(slot, size_index) if at < 0 or versions[at].moment <= moment]
        return (old[-1],)

    @property
    def _slots(self) -> range:
        return range(len(self.file.pages))

    @cached_property
    def newest(self) -> FileChoice:
        """As the writer saw it."""
        return self.at(1 << 62)

    def one_lost(self) -> Iterator[FileChoice]:
        """All but one page, or the size, as the writer saw it."""
        for slot in self._slots:
            for pick in self.candidates(slot, self.last)[:-1]:
                yield self.newest._replace(picks=_swap(self.newest.picks, slot, (pick,)))
        for at in range(self.last):
            yield FileChoice(at, tuple((self.candidates(slot, at)[-1],) for slot in self._slots))

    def one_kept(self) -> Iterator[FileChoice]:
        """Nothing but one page came to the disk, or nothing but the size."""
        none = FileChoice(self.last, ((-1,),) * len(self.file.pages))
        yield none
        for slot in self._slots:
            for pick in self.candidates(slot, self.last)[1:]:
                yield none._replace(picks=_swap(none.picks, slot, (pick,)))

    def any(self, rng: random.Random, kept: float) -> FileChoice:
        """Each page and the size at the newest version with probability `kept`, else at any."""
        at = self.last if rng.random() < kept else rng.randrange(self.last + 1)
        picks = []
        for slot in self._slots:
            candidates = self.candidates(slot, at)
            picks.append((candidates[-1] if rng.random() < kept else rng.choice(candidates),))
        return FileChoice(at, tuple(picks))

    def torn(self, rng: random.Random, kept: float) -> FileChoice:
        """As `any`, for each sector of one of the pages."""
        whole = self.any(rng, kept)
        if not whole.picks:
            return whole
        slot = rng.randrange(len(whole.picks))
        candidates = self.candidates(slot, whole.size_index)
        sectors = tuple(
            candidates[-1] if rng.random() < kept else rng.choice(candidates) for _ in range(PAGE // SECTOR)
        )
        splice = rng.randrange(0, PAGE, WORD) if rng.random() < 0.5 else 0
        return FileChoice(whole.size_index, _swap(whole.picks, slot, sectors), splice)

    def content(self, choice: FileChoice) -> bytes:
        """The bytes of the file."""
        known = self._contents.get(choice)
        if known is None:
            known = self._contents[choice] = self._content(choice)
        return known

    def _content(self, choice: FileChoice) -> bytes:
        file, size = self.file, self.file.sizes[choice.size_index][1]
        data = bytearray(file.content[:size].ljust(size, b"\0"))
        for index in range(1, choice.size_index + 1):
            data[file.sizes[index][1] :] = bytes(max(size - file.sizes[index][1], 0))
        for slot, pick in enumerate(choice.picks):
            at = file.pages[slot][0] * PAGE
            if at < size:
                base = bytes(data[at : at + PAGE]).ljust(PAGE, b"\0")
                data[at : at + PAGE] = self._page(slot, pick, base, choice.splice)[: size - at]
        return bytes(data)

    def _page(self, slot: int, pick: Pick, base: bytes, splice: int) -> bytes:
        versions = self.file.pages[slot][1]
        if len(pick) == 1:
            return base if pick[0] < 0 else versions[pick[0]].content
        sources = [base if at < 0 else versions[at].content for at in pick]
        page = b"".join(source[at * SECTOR : (at + 1) * SECTOR] for at, source in enumerate(sources))
        sector = splice // SECTOR
        if splice and sector:
            start = sector * SECTOR
            page = page[:start] + sources[sector - 1][start:splice] + page[splice:]
        return page

    def describe(self, choice: FileChoice, name: str) -> Iterator[str]:
        """What is not as the writer saw it."""
        if choice.size_index != self.last:
            size, newest = self.file.sizes[choice.size_index][1], self.file.sizes[self.last][1]
            yield f"{name}: size {size}, not {newest}"
        for (number, versions), pick in zip(self.file.pages, choice.picks, strict=True):
            if pick != (len(versions) - 1,):
                shown = [f"{at + 1}" for at in pick]
                yield f"{name}: page {number} at version {' '.join(shown)} of {len(versions)}" + (
                    f", spliced at byte {choice.splice}" if len(pick) > 1 and choice.splice else ""
                )


def _swap(things: tuple[T, ...], slot: int, thing: T) -> tuple[T, ...]:
    return (*things[:slot], thing, *things[slot + 1 :])


Happened = tuple[int, ...]
"""The changes of a folder that came to the disk."""


class FolderChoices:
    """What may become of one folder's names."""

    def __init__(self, folder: FrozenFolder) -> None:
        self.folder = folder
        self._before: list[set[int]] = []
        last: dict[str, int] = {}
        for index, change in enumerate(folder.changes):
            touched = [name for name in (change.old, change.new) if name is not None]
            self._before.append({last[name] for name in touched if name in last})
            last.update(dict.fromkeys(touched, index))
        self.everything: Happened = tuple(range(len(folder.changes)))

    def all(self) -> Iterator[Happened]:
        """Every subset that keeps the order of each name."""
        yield from self._from(0, ())

    def _from(self, index: int, chosen: Happened) -> Iterator[Happened]:
        if index == len(self._before):
            yield chosen
            return
        if self._before[index].issubset(chosen):
            yield from self._from(index + 1, (*chosen, index))
        yield from self._from(index + 1, chosen)

    @cached_property
    def some(self) -> list[Happened]:
        """All subsets, but no more than are ever used."""
        return list(islice(self.all(), EXHAUSTIVE + 1))

    def at(self, moment: int) -> Happened:
        """All changes up to a moment."""
        return tuple(index for index, change in enumerate(self.folder.changes) if change.moment <= moment)

    def one_lost(self) -> Iterator[Happened]:
        """All changes but one, and those that build upon it."""
        for lost in self.everything:
            yield self._closed(set(self.everything) - {lost})

    def one_kept(self) -> Iterator[Happened]:
        """One change, and those it builds upon."""
        for kept in self.everything:
            chosen = {kept}
            for index in reversed(range(kept)):
                if any(index in self._before[later] for later in chosen):
                    chosen.add(index)
            yield tuple(sorted(chosen))

    def any(self, rng: random.Random, kept: float) -> Happened:
        """Each change with probability `kept`."""
        return self._closed({index for index in self.everything if rng.random() < kept})

    def _closed(self, wanted: set[int]) -> Happened:
        chosen: list[int] = []
        for index in sorted(wanted):
            if self._before[index].issubset(chosen):
                chosen.append(index)
        return tuple(chosen)

    def names(self, happened: Happened) -> dict[str, int]:
        """The names after the crash."""
        names = dict(self.folder.names)
        for index in happened:
            apply_change(names, self.folder.changes[index])
        return names

    def describe(self, happened: Happened) -> Iterator[str]:
        """What did not happen."""
        for index in set(self.everything).difference(happened):
            yield f"{self.folder.path}: not done: {self.folder.changes[index]}"


@dataclass(frozen=True)
class CrashState:
    """One state of the disk."""

    choices: BoundaryChoices = field(repr=False)
    kind: str
    folders: tuple[Happened, ...]
    files: tuple[FileChoice, ...]

    def image(self) -> Image:
        """The files of each folder."""
        return self.choices.image(self.folders, self.files)

    def describe(self) -> list[str]:
        """Which boundary, and what is not as the writer saw it."""
        boundary = self.choices.boundary
        lines = [f"crash at boundary {boundary.number}, before: {boundary.operation} (kind {self.kind})"]
        for folder, happened in zip(self.choices.folders, self.folders, strict=True):
            lines += folder.describe(happened)
        for file, choice in zip(self.choices.files, self.files, strict=True):
            lines += file.describe(choice, self.choices.name_of(file.file.number))
        return lines


class BoundaryChoices:
    """All that may become of the disk at one boundary. `known` keeps what boundaries have in common."""

    def __init__(self, boundary: Boundary, known: dict[int, FileChoices]) -> None:
        self.boundary = boundary
        self.folders = [FolderChoices(folder) for folder in boundary.folders]
        self.files: list[FileChoices] = []
        self._durable: dict[int, bytes] = {}
        reachable = {number for folder in boundary.folders for _, number in folder.names}
        reachable |= {change.number for folder in boundary.folders for change in folder.changes}
        for file in boundary.files:
            if file.number not in reachable:
                continue
            if not file.pending:
                self._durable[file.number] = file.content
                continue
            choices = known.get(file.number)
            if choices is None or choices.file is not file:
                choices = known[file.number] = FileChoices(file)
            self.files.append(choices)

    @cached_property
    def count(self) -> int:
        """How many whole-page states there are; more than EXHAUSTIVE if too many to count."""
        return prod(len(folder.some) for folder in self.folders) * prod(file.count for file in self.files)

    def states(self, rng: random.Random, exhaustive: int = EXHAUSTIVE, samples: int = SAMPLES) -> Iterator[CrashState]:
        """All states if they are no more than `exhaustive`, else a sample of them; and some torn ones."""
        if self.count <= exhaustive:
            for picked in product(*(folder.some for folder in self.folders), *(list(f.all()) for f in self.files)):
                yield self._state("all", picked[: len(self.folders)], picked[len(self.folders) :])
        else:
            yield from self._prefixes()
            yield from self._one_lost()
            yield from self._one_kept()
            for _ in range(samples):
                yield self._random("random", rng)
        if self.files:
            for _ in range(min(samples, self.count)):
                yield self._random("torn", rng)

    def newest(self) -> CrashState:
        """As the writer saw it."""
        return self._state("none", self._all_names, self._newest)

    def unsynced_lost(self) -> CrashState:
        """Every name as the writer saw it, and of the contents only what was synced."""
        return self._state("none", self._all_names, tuple(file.at(0) for file in self.files))

    def lacking(self, suspects: Container[int | str]) -> Iterator[CrashState]:
        """Some of what is pending of a few files (by number) and folders (by path) is lost; of the rest all or none."""
        for files in (self._newest, tuple(file.at(0) for file in self.files)):
            for slot, folder in enumerate(self.folders):
                if folder.folder.path in suspects:
                    for happened in ((), *folder.one_lost(), *folder.one_kept()):
                        yield self._state("lacking", _swap(self._all_names, slot, happened), files)
            for slot, file in enumerate(self.files):
                if file.file.number in suspects:
                    for choice in (*file.one_kept(), *file.one_lost()):
                        yield self._state("lacking", self._all_names, _swap(files, slot, choice))

    def _state(self, kind: str, folders: tuple[Happened, ...], files: tuple[FileChoice, ...]) -> CrashState:
        return CrashState(self, kind, folders, files)

    @property
    def _all_names(self) -> tuple[Happened, ...]:
        return tuple(folder.everything for folder in self.folders)

    @property
    def _newest(self) -> tuple[FileChoice, ...]:
        return tuple(file.newest for file in self.files)

    def _prefixes(self) -> Iterator[CrashState]:
        """Names and pages in the order of time; then names in the order of time, with all pages, and with none."""
        moments = {0} | {change.moment for folder in self.boundary.folders for change in folder.changes}
        none = tuple(file.at(0) for file in self.files)
        for moment in sorted(moments):
            names = tuple(folder.at(moment) for folder in self.folders)
            yield self._state("prefix", names, self._newest)
            yield self._state("prefix", names, none)
        moments |= {when for file in self.files for when, _ in file.file.sizes}
        moments |= {version.moment for file in self.files for _, versions in file.file.pages for version in versions}
        for moment in sorted(moments):
            names = tuple(folder.at(moment) for folder in self.folders)
            yield self._state("prefix", names, tuple(file.at(moment) for file in self.files))

    def _one_lost(self) -> Iterator[CrashState]:
        names, newest = self._all_names, self._newest
        for slot, folder in enumerate(self.folders):
            for happened in folder.one_lost():
                yield self._state("lost", _swap(names, slot, happened), newest)
        for slot, file in enumerate(self.files):
            for choice in file.one_lost():
                yield self._state("lost", names, _swap(newest, slot, choice))

    def _one_kept(self) -> Iterator[CrashState]:
        names, none = self._all_names, tuple(next(file.one_kept()) for file in self.files)
        for slot, folder in enumerate(self.folders):
            for happened in folder.one_kept():
                nothing: tuple[Happened, ...] = ((),) * len(names)
                yield self._state("kept", _swap(nothing, slot, happened), self._newest)
        for slot, file in enumerate(self.files):
            for choice in file.one_kept():
                yield self._state("kept", names, _swap(none, slot, choice))

    def _random(self, kind: str, rng: random.Random) -> CrashState:
        kept = rng.choice((0.0, 0.1, 0.5, 0.9))
        names = tuple(folder.any(rng, rng.choice((0.1, 0.5, 0.9, 1.0))) for folder in self.folders)
        if kind == "random":
            return self._state(kind, names, tuple(file.any(rng, kept) for file in self.files))
        torn = rng.randrange(len(self.files))
        files = (file.torn(rng, kept) if slot == torn else file.any(rng, kept) for slot, file in enumerate(self.files))
        return self._state(kind, names, tuple(files))

    def image(self, folders: tuple[Happened, ...], files: tuple[FileChoice, ...]) -> Image:
        """The disk after the crash."""
        contents = dict(self._durable)
        for file, choice in zip(self.files, files, strict=True):
            contents[file.file.number] = file.content(choice)
        names = {f.folder.number: f.names(happened) for f, happened in zip(self.folders, folders, strict=True)}
        if self._moves:
            self._keep_moved(folders, names)
        counts = Counter(number for found in names.values() for number in found.values())
        for number, count in counts.items():
            if count > 1 and number in contents:
                contents[number] = LinkedBytes(contents[number])
        image: Image = {}
        for root in self.boundary.folders:
            if root.is_root:
                _place(root.number, root.path, names, contents, image)
        return image

    @cached_property
    def _moves(self) -> set[int]:
        """Renames from one folder to another whose new name is not durable."""
        changes = (change for folder in self.boundary.folders for change in folder.changes)
        return {change.move for change in changes if change.move and change.old is None}

    def _keep_moved(self, folders: tuple[Happened, ...], names: dict[int, dict[str, int]]) -> None:
        """A file that did not get its new name still has its old one."""
        chosen = list(zip(self.boundary.folders, folders, strict=True))
        arrived = {folder.changes[index].move for folder, happened in chosen for index in happened
                   if folder.changes[index].old is None}  # fmt: skip
        for folder, happened in chosen:
            for change in (folder.changes[index] for index in happened):
                if change.old is not None and change.move in self._moves - arrived:
                    names[folder.number].setdefault(change.old, change.number)

    def name_of(self, number: int) -> str:
        """A name that the file has or had."""
        for folder in self.boundary.folders:
            for change in reversed(folder.changes):
                if change.number == number:
                    return change.new or change.old or "?"
            for name, found in folder.names:
                if found == number:
                    return name
        return f"file {number}"


def _place(number: int, path: str, names: dict[int, dict[str, int]], contents: dict[int, bytes], image: Image) -> None:
    """A folder of that name, with what has a name in it."""
    image[path] = {name: contents[found] for name, found in names[number].items() if found not in names}
    for name, found in names[number].items():
        if found in names:
            _place(found, f"{path}/{name}", names, contents, image)

"""A disk that records what a power loss may take back.

Stores through a map make no call that could be traced, so every writable file is compared with a copy of it before
each call that changes something: what differs is a set of pages, each with a new version. A sync makes the newest
version of every page, and the size, the durable one; a folder's sync does so for the names in it.

`boundaries` holds what was durable and what was pending at each moment between two such calls, frozen;
`crash_choices` tells which states of the disk a crash at that moment may leave.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.memory_disk import PAGE, Image, Inode, MemoryDisk, copy_of, mask_state

Site = tuple[str, str]
"""Who asked for a sync: its kind, and `module.function:line`."""
BY_TEST: Site = ("", "a test")


class Version(NamedTuple):
    """A page as it was at one moment since the last sync."""

    moment: int
    size_index: int
    """Which of the file's pending sizes it had then."""
    content: bytes


class FrozenFile(NamedTuple):
    """What is known of one file: what is durable, and what came since."""

    number: int
    content: bytes
    sizes: tuple[tuple[int, int], ...]
    """(moment, size); the first is the durable one."""
    pages: tuple[tuple[int, tuple[Version, ...]], ...]

    @property
    def pending(self) -> bool:
        """Whether a crash may leave it in more than one state."""
        return len(self.sizes) > 1 or bool(self.pages)


class NameChange(NamedTuple):
    """One change of a folder's names; `old` is None for a new name, `new` for one that goes."""

    moment: int
    old: str | None
    new: str | None
    number: int
    move: int = 0
    """The same in both folders of a rename from one to the other: no crash leaves the file without a name."""

    def __str__(self) -> str:
        if self.old is None:
            return f"create {self.new}"
        return f"unlink {self.old}" if self.new is None else f"rename {self.old} to {self.new}"


class FrozenFolder(NamedTuple):
    """The durable names of a folder, and the changes since its last sync. A folder's number is negative."""

    number: int
    path: str
    """What it is called now, or was when it was removed."""
    is_root: bool
    """Whether no crash takes it away."""
    names: tuple[tuple[str, int], ...]
    changes: tuple[NameChange, ...]


class Boundary(NamedTuple):
    """A moment between two operations."""

    number: int
    moment: int
    operation: str
    step: int
    """How many calls of the engine had begun."""
    acknowledged: int
    """How many of them had returned."""
    folders: tuple[FrozenFolder, ...]
    files: tuple[FrozenFile, ...]


@dataclass
class _File:
    """The history of one inode since its last sync."""

    inode: Inode
    name: str
    content: bytes = b""
    shadow: bytes = b""
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    pages: dict[int, list[Version]] = field(default_factory=dict)
    frozen: FrozenFile | None = None
    blocks: set[int] = field(default_factory=set)
    """Pages that the file system has given space to."""
    unreserved: set[int] = field(default_factory=set)
    """Pages that were stored to without: on a full disk that is a signal, not an error."""

    def observe(self, moment: int) -> None:
        """Note the pages and the size that changed."""
        inode, shadow = self.inode, self.shadow
        if inode.size == len(shadow) and inode.data.startswith(shadow):
            return
        if inode.size != len(shadow):
            self.sizes.append((moment, inode.size))
        now = inode.content()
        for at in range(0, max(len(now), len(shadow)), PAGE):
            page = now[at : at + PAGE]
            if page.ljust(PAGE, b"\0") != shadow[at : at + PAGE].ljust(PAGE, b"\0") and at < len(now):
                self._note(at // PAGE, Version(moment, len(self.sizes) - 1, page.ljust(PAGE, b"\0")))
                self.unreserved |= {at // PAGE} - self.blocks
        self.shadow, self.frozen = now, None

    def _note(self, number: int, version: Version) -> None:
        """A new version of a page; in place of the last one if they are the same to an opening."""
        versions = self.pages.setdefault(number, [])
        if versions and versions[-1].size_index == version.size_index:
            last = mask_state(self.name, versions[-1].content)
            if last == mask_state(self.name, version.content):
                versions.pop()
        versions.append(version)

    def sync(self) -> None:
        """What it holds now is durable."""
        if len(self.sizes) > 1 or self.pages:
            self.content, self.sizes, self.pages, self.frozen = self.shadow, self.sizes[-1:], {}, None

    def on(self, inode: Inode) -> _File:
        """The same history of another inode."""
        pages = {number: [*versions] for number, versions in self.pages.items()}
        return replace(self, inode=inode, sizes=[*self.sizes], pages=pages, blocks={*self.blocks}, unreserved=set())

    def give_blocks(self, start: int, size: int) -> None:
        """Space for `[start, start + size)`."""
        self.blocks.update(range(start // PAGE, -(-(start + size) // PAGE)))

    def freeze(self) -> FrozenFile:
        """What a boundary keeps of it."""
        if self.frozen is None:
            pages = tuple((number, tuple(versions)) for number, versions in sorted(self.pages.items()))
            self.frozen = FrozenFile(self.inode.number, self.content, tuple(self.sizes), pages)
        return self.frozen


@dataclass
class _Folder:
    """The history of one folder's names since its last sync."""

    number: int
    path: str
    is_root: bool = False
    names: dict[str, int] = field(default_factory=dict)
    changes: list[NameChange] = field(default_factory=list)
    durable: tuple[tuple[str, int], ...] = ()

    def copy(self) -> _Folder:
        """The same, for another disk."""
        return replace(self, names={**self.names}, changes=[*self.changes])

    def sync(self) -> None:
        """The names it has now are durable."""
        for change in self.changes:
            apply_change(self.names, change)
        self.changes, self.durable = [], tuple(self.names.items())


def apply_change(names: dict[str, int], change: NameChange) -> None:
    """Let one change happen."""
    if change.old is not None:
        names.pop(change.old, None)
    if change.new is not None:
        names[change.new] = change.number


class RecordingDisk(MemoryDisk):
    """Starts from an image that is durable; `dropped` names the sync call sites that do nothing."""

    def __init__(
        self,
        image: Image,
        *,
        boot: int = 1,
        allocates: bool = True,
        dropped: frozenset[Site] = frozenset(),
        on_boundary: Callable[[Boundary], None] | None = None,
    ) -> None:
        super().__init__(image, boot=boot, allocates=allocates)
        self.boundaries: list[Boundary] = []
        self.sites: set[Site] = set()
        self.spared: dict[int | str, int] = {}
        """Files by number and folders by path whose sync was dropped → the boundary before it was so first."""
        self.begun = self.returned = 0
        self.fork_at = -1
        """At this boundary the disk is copied."""
        self.forked: RecordingDisk | None = None
        """The copy: what another process would find if this one died there. What was not synced still is not."""
        self._dropped = dropped
        self._moment = 0
        self._files: dict[int, _File] = {}
        self._folders_ever: list[_Folder] = []
        self._names_of: dict[str, _Folder] = {}
        for folder in self.folders:
            self._add_folder(folder, is_root=folder.rpartition("/")[0] not in self.folders)
        for folder, files in self.folders.items():
            numbers = {name: inode.number for name, inode in files.items()}
            numbers |= {
                path.rpartition("/")[2]: self._names_of[path].number
                for path in self.folders
                if path.rpartition("/")[0] == folder
            }
            self._names_of[folder].names = numbers
            self._names_of[folder].durable = tuple(numbers.items())
            for name, inode in files.items():
                content = inode.content()
                file = self._files[inode.number] = _File(inode, name, content, content, [(0, inode.size)])
                file.give_blocks(0, len(content.rstrip(b"\0")))

    def _add_folder(self, path: str, *, is_root: bool = False) -> _Folder:
        folder = self._names_of[path] = _Folder(-1 - len(self._folders_ever), path, is_root)
        self._folders_ever.append(folder)
        return folder

    # -- calls of the engine -----------------------------------------------------------------------------------

    def begin(self, what: str) -> None:
        """A call of the engine begins."""
        self._mark(f"begin {what}")
        self.begun += 1

    def acknowledge(self, what: str) -> None:
        """It returned: what it promises holds from here on."""
        self.returned = self.begun
        self._mark(f"acknowledged {what}")

    def _mark(self, operation: str) -> None:
        self._observe()
        folders = tuple(
            FrozenFolder(folder.number, folder.path, folder.is_root, folder.durable, tuple(folder.changes))
            for folder in self._folders_ever
        )
        files = tuple(file.freeze() for file in self._files.values())
        number = len(self.boundaries)
        self.boundaries.append(Boundary(number, self._moment, operation, self.begun, self.returned, folders, files))
        if number == self.fork_at:
            self.forked = self._fork()

    def _fork(self) -> RecordingDisk:
        """Another process's view of the same machine: nothing is open or locked, all that is pending is pending."""
        other = RecordingDisk({}, boot=self._boot, allocates=self._allocates, dropped=self._dropped)
        other._next, other._moment, other.spared = self._next, self._moment, dict.fromkeys(self.spared, 0)
        copies = {inode.number: copy_of(inode) for inode in (file.inode for file in self._files.values())}
        other._files = {number: file.on(copies[number]) for number, file in self._files.items()}
        other._folders_ever = [folder.copy() for folder in self._folders_ever]
        other._names_of = {path: other._folders_ever[-1 - folder.number] for path, folder in self._names_of.items()}
        for path, files in self.folders.items():
            other.folders[path] = {name: copies[inode.number] for name, inode in files.items()}
        return other

    def _observe(self) -> None:
        self._moment += 1
        for file in self._files.values():
            file.observe(self._moment)

    def stored_without_space(self) -> list[str]:
        """Pages that were stored to through a map before they had blocks."""
        return [f"{file.name} page {page}" for file in self._files.values() for page in sorted(file.unreserved)]

    # -- recorded operations -----------------------------------------------------------------------------------

    def _change(self, path: Path, old: str | None, new: str | None, number: int, move: int = 0) -> None:
        self._moment += 1
        self._names_of[str(path.parent)].changes.append(NameChange(self._moment, old, new, number, move))

    def open(self, path: Path, *, write: bool, create: bool = False) -> int:
        new = create and self._find(path) is None
        if new:
            self._mark(f"create {path.name}")
        fd = super().open(path, write=write, create=create)
        if new:
            inode = self._open[fd]
            self._files[inode.number] = _File(inode, path.name)
            self._change(path, None, path.name, inode.number)
        return fd

    def make_folder(self, path: Path) -> None:
        if not self.is_folder(path):
            self.make_folder(path.parent)
            self._mark(f"create the folder {path.name}")
            self._change(path, None, path.name, self._add_folder(str(path)).number)
        super().make_folder(path)

    def new_folder(self, path: Path) -> None:
        self._mark(f"create the folder {path.name}")
        super().new_folder(path)
        self._change(path, None, path.name, self._add_folder(str(path)).number)

    def unlink_folder(self, path: Path) -> None:
        self._mark(f"remove the folder {path.name}")
        super().unlink_folder(path)
        self._change(path, path.name, None, self._names_of.pop(str(path)).number)

    def _rename_folder(self, old: Path, new: Path) -> None:
        assert old.parent == new.parent
        super()._rename_folder(old, new)
        for path in [path for path in self._names_of if path == str(old) or path.startswith(f"{old}/")]:
            folder = self._names_of.pop(path)
            folder.path = f"{new}{path[len(str(old)) :]}"
            self._names_of[folder.path] = folder
        self._change(new, old.name, new.name, self._names_of[str(new)].number)

    def rename(self, old: Path, new: Path) -> None:
        self._mark(f"rename {old.name} to {new.name}")
        inode = self._find(old)
        super().rename(old, new)
        if inode is None:  # a folder
            return
        if old.parent == new.parent:
            self._change(new, old.name, new.name, inode.number)
        else:
            move = self._moment + 1
            self._change(new, None, new.name, inode.number, move)
            self._change(old, old.name, None, inode.number, move)

    def link(self, path: Path, new: Path) -> bool:
        self._mark(f"link {path.name} to {new.name}")
        super().link(path, new)
        inode = self._find(new)
        assert inode is not None
        self._change(new, None, new.name, inode.number)
        return True

    def unlink(self, path: Path) -> None:
        self._mark(f"unlink {path.name}")
        inode = self._find(path)
        super().unlink(path)
        assert inode is not None
        self._change(path, path.name, None, inode.number)

    def reserve(self, fd: int, start: int, size: int) -> None:
        if start + size > self._open[fd].size:
            self._mark(f"reserve {self._paths[fd].name}")
        super().reserve(fd, start, size)
        self._files[self._open[fd].number].give_blocks(start, size)

    def grow(self, fd: int, size: int) -> None:
        self._mark(f"grow {self._paths[fd].name} to {size}")
        super().grow(fd, size)

    def cut(self, fd: int, size: int) -> None:
        if size != self._open[fd].size:
            self._mark(f"cut {self._paths[fd].name} to {size}")
        super().cut(fd, size)
        file = self._files[self._open[fd].number]
        file.blocks = {page for page in file.blocks if page * PAGE < size}

    def pwrite_all(self, fd: int, data: bytes | memoryview, at: int) -> None:
        self._mark(f"write {len(data)} bytes to {self._paths[fd].name}")
        super().pwrite_all(fd, data, at)
        self._files[self._open[fd].number].give_blocks(at, len(data))

    def sync(self, fd: int) -> None:
        site = call_site("sync")
        self._mark(f"sync {self._paths[fd].name} by {site[1]}")
        self.sites.add(site)
        number = self._open[fd].number
        if site in self._dropped:
            self.spared.setdefault(number, len(self.boundaries) - 1)
        else:
            self._files[number].sync()

    def sync_dir(self, folder: Path) -> None:
        super().sync_dir(folder)
        site = call_site("sync_dir")
        self._mark(f"sync the folder {folder.name} by {site[1]}")
        self.sites.add(site)
        if site in self._dropped:
            self.spared.setdefault(str(folder), len(self.boundaries) - 1)
        else:
            self._names_of[str(folder)].sync()


PASSES_ON = {
    ("eventcore.disk", "make_folder"),
    ("eventcore.disk", "replace_file"),
    ("eventcore.disk", "_write_synced"),
    ("eventcore.files.mapped_file", "sync"),
    ("eventcore.files.state_file", "sync"),
    ("eventcore.files.txn_index", "sync"),
    ("eventcore.log.segment", "sync"),
    ("eventcore.log.segment", "sync_indexes"),
    ("eventcore.snapshot.folder_place", "settle"),
}
"""Functions that sync for their caller: the call site is the one that called them."""


def call_site(kind: str) -> Site:
    """The code of the engine that asked for a sync."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("eventcore.") and (module, frame.f_code.co_name) not in PASSES_ON:
            return kind, f"{module}.{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return BY_TEST

"""Ctrl-C below `eventcore.disk.Disk`: the k-th system call raises KeyboardInterrupt, before or after it took effect.

    with Interrupts() as calls:
        prepare()
        calls.arm(Interrupt(3, late=True))   # from here on, in this thread
        act()                                # its third call is made, and then raises
        calls.disarm()

Meanwhile every sync is noted: `power_cut` makes a folder of what a disk would hold that has kept nothing but what it
was told to sync.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eventcore.disk import Disk
from tests.crash.failing_disk import SYNCS, Call, SystemCalls

MORE_NAMES = {"os": ("link", "rmdir")}
_STEP = 1 << 24


class Interrupt(NamedTuple):
    """The `at`-th call (from 1) raises KeyboardInterrupt: in place of the call or, if `late`, after it was made."""

    at: int
    late: bool

    def __str__(self) -> str:
        return f"{self.at}/{'after' if self.late else 'before'}"


class RestartedDisk(Disk):
    """The machine was started anew since."""

    def boot_id(self) -> bytes:
        return b"another start..."


@dataclass
class Interrupts(SystemCalls):
    """Counts the calls that the arming thread makes while it is armed, and interrupts one of them."""

    interrupt: Interrupt | None = None
    interrupted: Call | None = None
    excused: set[int] = field(default_factory=set)
    """A descriptor nobody can close: it was opened and never handed over, or was about to be closed."""
    _thread: int = 0
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[str, dict[str, int]] = field(default_factory=dict)

    def arm(self, interrupt: Interrupt | None) -> None:
        """Count from here on, and interrupt that call."""
        self.interrupt, self._thread = interrupt, threading.get_ident()

    def disarm(self) -> None:
        """Interrupt nothing more, and count nothing."""
        self._thread = 0

    def _replace(self, module: Any, name: str, names: tuple[str, ...]) -> None:
        super()._replace(module, name, (*names, *MORE_NAMES.get(name, ())))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            made = Call(self._kind(name, arguments), self._path(arguments))
            hit = self._counts(made)
            if hit and not (self.interrupt and self.interrupt.late):
                self._excuse_one_to_close(made, arguments)
                raise KeyboardInterrupt
            try:
                result = real(*arguments, **keywords)
            except OSError:
                if hit:
                    raise KeyboardInterrupt from None
                raise
            self._note(made, arguments, result)
            if hit:
                self._excuse_opened(made, result)
                raise KeyboardInterrupt
            return result

        return call

    def _counts(self, made: Call) -> bool:
        if self._thread != threading.get_ident():
            return False
        self.calls.append(made)
        hit = self.interrupt is not None and len(self.calls) == self.interrupt.at
        if hit:
            self.interrupted = made
        return hit

    def _excuse_one_to_close(self, made: Call, arguments: tuple[Any, ...]) -> None:
        if made.kind == "close":
            self.excused.add(arguments[0])

    def _excuse_opened(self, made: Call, result: Any) -> None:
        if made.kind in ("open", "create"):
            self.excused.add(result)

    # -- what is synced ----------------------------------------------------------------------------------------

    def _note(self, made: Call, arguments: tuple[Any, ...], result: Any) -> None:
        if made.kind in ("open", "create"):
            self._paths[result] = made.path
        elif made.kind in SYNCS:
            self._synced(arguments[0], made.path)

    def _synced(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(fd) as entries:
                self._names[path] = {entry.name: entry.inode() for entry in entries if entry.is_file()}
        else:
            self._contents[status.st_ino] = os.pread(fd, _STEP, 0)

    def settle(self, folder: Path) -> None:
        """All that is there now is on the disk."""
        if folder.is_dir():
            files = [path for path in folder.iterdir() if path.is_file()]
            self._names[str(folder)] = {path.name: path.stat().st_ino for path in files}
            self._contents.update((path.stat().st_ino, path.read_bytes()) for path in files)

    def power_cut(self, folder: Path, target: Path) -> bool:
        """Make `target` what `folder` is after a power cut that took all that was not synced; False if nothing was."""
        names = self._names.get(str(folder))
        if names is None:
            return False
        target.mkdir()
        for name, inode in names.items():
            (target / name).write_bytes(self._contents.get(inode, b""))
        return True


def held_locks(root: object, depth: int = 4) -> list[str]:
    """The locks below an object of the engine that somebody holds, by the names of the attributes that lead there."""
    found: list[str] = []
    looker = threading.Thread(target=lambda: _look(root, "", depth, found, set()))
    looker.start()
    looker.join()
    return found


def _look(thing: Any, name: str, depth: int, found: list[str], seen: set[int]) -> None:
    if id(thing) in seen or depth < 0:
        return
    seen.add(id(thing))
    if hasattr(thing, "acquire") and hasattr(thing, "release"):
        if thing.acquire(blocking=False):
            thing.release()
        else:
            found.append(name)
    elif isinstance(thing, (list, tuple)):
        for one in thing[-2:]:
            _look(one, name, depth - 1, found, seen)
    elif type(thing).__module__.startswith("eventcore."):
        for attribute, value in list(getattr(thing, "__dict__", {}).items()):
            _look(value, f"{name}.{attribute}", depth - 1, found, seen)

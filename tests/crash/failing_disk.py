"""Fault injection below `eventcore.disk.Disk`: the k-th system call fails, once or from then on.

The modules that make system calls reach them through a few names (`os`, `fcntl`, `mmap`, `kernels.guard`). Those names
are replaced, in these modules only, by stand-ins that count each call and may raise `OSError` in its place:

    with SystemCalls() as calls:             # count
        act()
    with SystemCalls(Fault(3, errno.EIO)):   # the third call fails, all others are made
        act()

A call that fails is not made, except `close`, which lets go of the descriptor whatever it returns (Linux), and a
rename or unlink under `late`, which happens and then reports an error, as on a network file system.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventcore import disk as disk_module
from eventcore import file_lock

SHORT = -1
"""In place of an errno: the call moves fewer bytes than it was asked to."""

NAMES = {
    "os": (
        *("open", "close", "fstat", "stat", "lstat", "listdir", "scandir", "lseek", "fstatvfs", "statvfs"),
        *("pread", "preadv", "pwrite", "pwritev", "ftruncate", "posix_fallocate", "posix_fadvise"),
        *("fdatasync", "fsync", "replace", "rename", "unlink", "mkdir"),
    ),
    "fcntl": ("flock", "fcntl"),
    "mmap": ("mmap",),
}
GUARD = ("Mapping", "allocate")
SYNCS = ("fdatasync", "fsync")
WRITES = ("pwrite", "pwritev", "ftruncate", "posix_fallocate", "allocate", "replace", "rename", "unlink", "mkdir")
TAKES_SPACE = ("create", "pwrite", "posix_fallocate", "allocate", "replace", "rename", "mkdir", *SYNCS)
DESCRIPTORS = ("open", "create", "listdir", "scandir")

COMES_FROM: dict[int, tuple[str, ...] | None] = {
    errno.ENOSPC: TAKES_SPACE,
    errno.EDQUOT: (*TAKES_SPACE, "close"),
    errno.EIO: None,
    errno.EROFS: (*WRITES, "create", "open"),
    errno.EMFILE: DESCRIPTORS,
    errno.EAGAIN: ("flock", "fcntl", "mmap", "Mapping", "open"),
    errno.ESTALE: None,
    errno.EFBIG: ("pwrite", "ftruncate", "posix_fallocate", "allocate"),
    SHORT: ("pwrite", "pread", "preadv"),
}
"""Which calls an errno can come from, `None`: from all. Those of a disk that stays so fail again and again."""


@dataclass(frozen=True)
class Fault:
    """The `at`-th call (from 1) fails with `error`; if `sticky`, so does every later one that `error` can come from."""

    at: int
    error: int
    sticky: bool = False
    late: bool = False
    kinds: tuple[str, ...] = ()
    """Count only calls of these kinds; empty: all."""

    def __str__(self) -> str:
        name = "SHORT" if self.error == SHORT else errno.errorcode[self.error]
        return f"{name} at call {self.at}{' and ever after' if self.sticky else ''}{' (late)' if self.late else ''}"


@dataclass(frozen=True)
class Call:
    """One system call that was counted."""

    kind: str
    path: str

    @property
    def is_sync(self) -> bool:
        """Whether it makes something durable."""
        return self.kind in SYNCS


class _StandIn:
    """A module or namespace with some of its names replaced."""

    def __init__(self, real: Any, replaced: dict[str, Any]) -> None:
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@dataclass
class SystemCalls:
    """Counts the system calls made while it is entered, and lets one fail."""

    fault: Fault | None = None
    calls: list[Call] = field(default_factory=list)
    failed: list[Call] = field(default_factory=list)
    modules: tuple[Any, ...] = (disk_module, file_lock)
    _counted: int = 0
    _paths: dict[int, str] = field(default_factory=dict)
    _saved: list[tuple[Any, str, Any]] = field(default_factory=list)

    def __enter__(self) -> SystemCalls:
        for module in self.modules:
            for name, names in NAMES.items():
                if hasattr(module, name):
                    self._replace(module, name, names)
            if hasattr(module, "kernels") and hasattr(module.kernels, "guard"):
                guard = self._stand_in(module.kernels.guard, GUARD)
                self._set(module, "kernels", _StandIn(module.kernels, {"guard": guard}))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._saved:
            setattr(*self._saved.pop())

    def _set(self, module: Any, name: str, value: Any) -> None:
        self._saved.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def _replace(self, module: Any, name: str, names: tuple[str, ...]) -> None:
        self._set(module, name, self._stand_in(getattr(module, name), names))

    def _stand_in(self, real: Any, names: tuple[str, ...]) -> _StandIn:
        return _StandIn(real, {name: self._failing(name, getattr(real, name)) for name in names if hasattr(real, name)})

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            made = Call(self._kind(name, arguments), self._path(arguments))
            self.calls.append(made)
            if self._fails(made):
                self.failed.append(made)
                return self._fail(made, real, arguments, keywords)
            result = real(*arguments, **keywords)
            if name == "open":
                self._paths[result] = made.path
            return result

        return call

    def _kind(self, name: str, arguments: tuple[Any, ...]) -> str:
        return "create" if name == "open" and arguments[1] & os.O_CREAT else name

    def _path(self, arguments: tuple[Any, ...]) -> str:
        first = arguments[0] if arguments else ""
        if isinstance(first, int):
            return self._paths.get(first) or _path_of(first)
        return os.fspath(first)

    def _fails(self, call: Call) -> bool:
        fault = self.fault
        if fault is None or (fault.kinds and call.kind not in fault.kinds):
            return False
        self._counted += 1
        if self._counted == fault.at:
            return True
        sources = COMES_FROM.get(fault.error)
        return fault.sticky and self._counted > fault.at and (sources is None or call.kind in sources)

    def _fail(self, call: Call, real: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        assert self.fault is not None
        if self.fault.error == SHORT:
            return _move_less(call.kind, real, arguments)
        if call.kind == "close" or (self.fault.late and call.kind in ("replace", "rename", "unlink", "mkdir")):
            real(*arguments, **keywords)
        raise OSError(self.fault.error, os.strerror(self.fault.error))


def _move_less(kind: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make the call for half of the bytes, at least one."""
    if kind == "pwrite":
        fd, data, at = arguments
        return real(fd, memoryview(data)[: max(len(data) // 2, 1)], at)
    if kind == "pread":
        fd, size, at = arguments
        return real(fd, max(size // 2, 1), at)
    assert kind == "preadv", kind
    fd, buffers, at = arguments
    return real(fd, [memoryview(buffers[0])[: max(len(buffers[0]) // 2, 1)]], at)


def _path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"<fd {fd}>"


def open_descriptors() -> dict[str, str]:
    """The descriptors of this process and what they are open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that lists them
    return found


def maps_below(folder: Path) -> list[str]:
    """The maps of this process of files below `folder`."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]

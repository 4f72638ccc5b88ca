"""A fork's child, with every lock of the parent's handles held by another thread: all it may ask is refused, at once.

No list of methods is kept here: whatever a handle has is called. What needs no log may answer; the rest raises
ClosedError, and nothing waits.
"""

from __future__ import annotations

import _thread
import inspect
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eventcore as ec
from eventcore import _kernels as kernels

LOCKS = (type(threading.Lock()), type(threading.RLock()), _thread.RLock, kernels.write_lock.WriteLock)
SKIPPED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, threading.Thread)
WAIT_S, MINUTE_S = 20, 60
ANSWERS = {
    "partition": {"path", "mode", "config", "recovery"},
    "store partition": {"path", "mode", "config", "topic", "number"},
    "store": {"path", "mode", "cluster_id"},
}
"""What needs no log answers."""
INNER = {
    *("close", "freeze", "failure", "touched", "users", "opening", "current", "is_watched", "notify", "was_clean"),
    *(
        "moment",
        "recovery",
        "disk",
        "settings",
        "clock",
        "fsync",
        "write",
        "config_of",
        "partitions",
        "end_of",
        "verifying",
    ),
}
"""What answers or refuses, as it likes, but does not wait."""

VALUES: dict[str, Any] = {
    "offset": 0, "offsets": {}, "records": [b"x"], "value": b"x", "timestamp": 0, "data": b"x", "callback": print,
    "epoch": 0, "name": "events", "partitions": 1, "group": "g", "producer_id": 1, "topic": "events", "start": 0,
    "stop": 1, "keys": [b"x"], "values": np.zeros((1, 1), np.uint8), "config": {}, "destination": "there",
    "max_bytes": 100,
}  # fmt: skip


def locks_of(root: object) -> list[Any]:
    """Every lock that can be reached from here through objects of ours."""
    found: list[Any] = []
    seen, left = {id(root)}, [root]
    while left:
        thing = left.pop()
        if isinstance(thing, LOCKS):
            found.append(thing)
            continue
        for inner in insides(thing):
            if id(inner) not in seen and not isinstance(inner, SKIPPED):
                seen.add(id(inner))
                left.append(inner)
    return found


def insides(thing: object) -> Iterator[object]:
    if isinstance(thing, (list, tuple, set, frozenset)):
        yield from thing
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
    elif type(thing).__module__.startswith("eventcore"):
        for kind in type(thing).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if hasattr(thing, name):
                    yield getattr(thing, name)
        yield from getattr(thing, "__dict__", {}).values()


@contextmanager
def held_elsewhere(locks: list[Any]) -> Iterator[None]:
    """Another thread has them all."""
    ready, go = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as holding:
            for lock in locks:
                holding.enter_context(lock)
            ready.set()
            go.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert ready.wait(MINUTE_S)
    try:
        yield
    finally:
        go.set()
        thread.join()


def with_arguments(call: Callable[..., Any]) -> object:
    """What it says when each parameter that has to be given is, and those that it cannot do without."""
    plain, named = [], {}
    for name, parameter in inspect.signature(call).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if (needed and parameter.kind is parameter.KEYWORD_ONLY) or name == "values":
            named[name] = VALUES.get(name, 0)
        elif needed:
            plain.append(VALUES.get(name, 0))
    return call(*plain, **named)


def asked(handle: object, name: str) -> object:
    """What it answers; what a lazy answer gives first."""
    found = getattr(handle, name)
    if callable(found):
        found = with_arguments(found)
    if isinstance(found, Iterator):
        found = next(found)
    return found


def answer(handle: object, name: str, may_answer: bool, must_answer: bool) -> str:
    """What is wrong with it."""
    try:
        found = asked(handle, name)
    except (ec.ClosedError, ec.ReadOnly):
        return "refused" if must_answer else ""  # a reader of what may only be written need not look whose it is
    except Exception as error:
        return "" if may_answer else f"{type(error).__name__}: {error}"
    return "" if may_answer or must_answer else repr(found)


def wrong_in_child(handle: object, answers: set[str]) -> str:
    """The names that did not do what they ought to in a fork's child, and what they did."""
    names = [name for name in dir(handle) if not name.startswith("_")] + ["__len__", "__iter__"]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it
        try:
            for name in filter(partial(hasattr, type(handle)), names):
                os.write(writer, f"{name} ".encode())
                signal.alarm(WAIT_S)
                os.write(writer, f"{answer(handle, name, name in INNER, name in answers)}\n".encode())
        finally:
            os.write(writer, b"end")
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        *lines, last = pipe.read().split("\n")
    os.waitpid(pid, 0)
    assert len(lines) > 10
    wrong = [line for line in lines if not line.endswith(" ")]
    return "\n".join([*wrong, *([] if last == "end" else [f"{last}never ended"])])


@pytest.mark.parametrize("fsync", ["always", "interval"])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_partition(tmp_path: Path, mode: Any, fsync: Any) -> None:
    with ec.open_partition(tmp_path / "events-0", fsync=fsync) as writer:
        writer.extend([b"x"] * 10)
        with ec.open_partition(tmp_path / "events-0", "r") as reader:
            reader.subscribe(print)
            assert len(list(reader)) == 10
            handle = writer if mode == "rw" else reader
            with held_elsewhere(locks_of(handle)):
                assert wrong_in_child(handle, ANSWERS["partition"]) == ""
        assert writer.append(b"goes on") == 10


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("what", ["store", "partition"])
def test_a_store(tmp_path: Path, mode: Any, what: str) -> None:
    with ec.open(tmp_path / "store") as store:
        store.create_topic("events", 2)[0].append(b"x")
        with ec.open(tmp_path / "store", "r") as reader:
            chosen = store if mode == "rw" else reader
            handle = chosen if what == "store" else chosen.topic("events")[0]
            assert chosen.topic("events")[0][0].value == b"x"
            answers = ANSWERS["store" if what == "store" else "store partition"]
            with held_elsewhere(locks_of(handle)):
                assert wrong_in_child(handle, answers) == ""
        assert store.topic("events")[0].append(b"goes on") == 1

"""Native objects in cycles, in hands that never made them whole, and after others are gone; collected at every turn."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eventcore.errors import LogTruncated, StorageError
from tests.parity.test_follow import page
from tests.parity.twins import EVERY, NOW, SMALL

SIZE = 1 << 13
REFUSED = (AttributeError, IndexError, StopIteration, StorageError, TypeError, ValueError)
"""What a method may say to who calls it on an object that was never initialised."""
ROUNDS = 20
REVISITED = 3


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """The collector runs with nearly every object that is made, and looks at no older ones: that would take long."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(SMALL.ljust(SIZE, b"\0"))
    return path


def mapping(kernels: SimpleNamespace, path: Path, write: bool = True) -> Any:
    fd = os.open(path, os.O_RDWR)
    try:
        return kernels.guard.Mapping(fd, SIZE, write)
    finally:
        os.close(fd)


def makers(
    kernels: SimpleNamespace, path: Path, tell: Callable[[memoryview], None] = lambda view: None
) -> dict[str, Callable[[], Any]]:
    """One of each native class, over maps that nobody else refers to, through views, which `tell` is told of."""

    def view(buf: Any) -> memoryview:
        made = memoryview(buf)
        tell(made)
        return made

    def state() -> memoryview:
        return view(page(kernels.tail, 103))

    def source() -> Any:
        return kernels.source.Source(view(mapping(kernels, path)), state(), 5)

    def rows(shape: int) -> Any:
        return kernels.rows.read_rows(source(), 0, SIZE, *EVERY, 0, True, shape, (0, 3))

    def follower() -> Any:
        at = kernels.tail.HIGH_WATERMARK
        return kernels.follow.Follower(state(), mapping(kernels, path), at, 0, 100, 2, 5, 0)

    def appender() -> Any:
        marks, made = kernels.marks, kernels.append.Appender(1000, 100, 1 << 40, 0, True)
        log, index, times = (view(bytearray(SIZE)) for _ in range(3))
        made.attach(
            state(), marks.Marks(), 0, NOW, marks.End(), log, marks.Entries(), index, marks.Entries(), times
        )  # fmt: skip
        made.allow(SIZE, 9, 9)
        made.stamp(1, True, kernels.append.NEVER, kernels.guard.faults())
        return made

    return {
        "mapping": lambda: mapping(kernels, path),
        "source": source,
        "rows": lambda: rows(kernels.rows.SHAPE_TUPLE),
        "lazy": lambda: next(rows(kernels.rows.SHAPE_LAZY)),
        "record": lambda: next(rows(kernels.rows.SHAPE_RECORD)),
        "follower": follower,
        "appender": appender,
        "marks": kernels.marks.Marks,
        "end": kernels.marks.End,
        "entries": kernels.marks.Entries,
    }


NAMES = ("mapping", "source", "rows", "lazy", "record", "follower", "appender", "marks", "end", "entries")
USES: dict[str, Callable[[Any], Any]] = {
    "mapping": lambda one: (bytes(memoryview(one)[:8]), one.broken),
    "source": lambda one: one.check(),
    "rows": list,
    "lazy": lambda one: one.record(),
    "record": tuple,
    "follower": lambda one: one.follow(10, 0, 0),
    "appender": lambda one: one.append(b"v", b"k", None),
}


class Holder:
    """What the collector has to take apart."""

    def __init__(self, held: Any) -> None:
        self.held, self.me = held, self
        self.made: Any = None


@pytest.mark.parametrize("name", NAMES)
def test_in_a_cycle_and_collected(kernels: SimpleNamespace, file: Path, name: str) -> None:
    make, use, troubles = makers(kernels, file)[name], USES.get(name, repr), []
    hook, sys.unraisablehook = sys.unraisablehook, troubles.append
    try:
        for order in range(ROUNDS):
            made = make()
            holders = [Holder(made) for _ in range(1 + order % 3)]
            gone = weakref.ref(holders[0])
            holders.append(Holder(holders))
            use(made)
            del made, holders
            gc.collect()
            assert gone() is None
    finally:
        sys.unraisablehook = hook
    assert troubles == []


@pytest.mark.parametrize("name", ["source", "rows", "lazy", "follower", "appender"])
def test_the_view_that_it_holds_is_not_cleared_before_it(kernels: SimpleNamespace, file: Path, name: str) -> None:
    """A memoryview that the collector clears while somebody has its buffer crashes when the buffer is given back.

    So the collector must not learn of these references. It clears in the order in which things were made.
    """
    holders: list[Holder] = []
    make, troubles = makers(kernels, file, lambda view: holders.append(Holder(view)))[name], []
    hook, sys.unraisablehook = sys.unraisablehook, troubles.append
    gc.disable()
    try:
        for _ in range(ROUNDS):
            made = make()
            for holder in holders:
                holder.made = made
            gone = weakref.ref(holders[0])
            del made, holder
            holders.clear()
            gc.collect()
            assert gone() is None
    finally:
        gc.enable()
        sys.unraisablehook = hook
    assert troubles == []


NATIVE = Path(__file__).resolve().parents[2] / "src/eventcore/_native"
CLASS = re.compile(r"((?:^@.*\n)*)^cdef class (\w+)[^\n]*:\n((?:(?:    .*)?\n)*)", re.MULTILINE)


@pytest.mark.skipif(not NATIVE.is_dir(), reason="needs a checkout")
def test_every_class_with_a_buffer_is_hidden_from_the_collector() -> None:
    """Cython has the collector visit and clear the owner of each `Py_buffer` member, without giving the buffer back."""
    holders, hidden = set(), set()
    for path in sorted(NATIVE.glob("*.p[xy][dx]")):
        for decorators, name, body in CLASS.findall(path.read_text()):
            if re.search(r"^    cdef Py_buffer \w+$", body, re.MULTILINE):
                holders.add(name)
            if re.search(r"\bno_gc\b", decorators):
                hidden.add(name)
    assert {"Cleaner", "Follower", "Source"} <= holders
    assert holders <= hidden


def test_a_collected_follower_gives_its_buffers_back(kernels: SimpleNamespace, file: Path) -> None:
    """The collector must not take a buffer that only its owner can give back."""
    data = page(kernels.tail, 103)
    state = memoryview(data)
    for _ in range(ROUNDS):
        one = kernels.follow.Follower(state, mapping(kernels, file), kernels.tail.HIGH_WATERMARK, 0, 100, 2, 5, 0)
        holder = Holder(one)
        del one, holder
        gc.collect()
    state.release()  # says if somebody still has it
    data.extend(b"and this, too")


@pytest.mark.parametrize("name", ["appender", "source", "follower"])
def test_what_could_not_be_made_gives_its_buffers_back(kernels: SimpleNamespace, file: Path, name: str) -> None:
    tail, marks = kernels.tail, kernels.marks
    data = page(tail, 103)
    state, log = memoryview(data), memoryview(bytearray(SIZE))

    def make() -> Any:
        if name == "source":
            return kernels.source.Source(state, b"too short", 5).check()
        if name == "follower":
            return kernels.follow.Follower(state, mapping(kernels, file), tail.HIGH_WATERMARK, SIZE + 1, 0, 2, 5, 0)
        appender = kernels.append.Appender(1000, 100, 1 << 40, 0, True)
        return appender.attach(
            state, marks.Marks(), 0, NOW, marks.End(), log, marks.Entries(), b"read-only", marks.Entries(), log
        )

    for _ in range(ROUNDS):
        with pytest.raises((TypeError, ValueError, IndexError)):
            make()
    gc.collect()
    state.release()
    data.extend(b"and this, too")


def test_a_source_that_was_refused_looks_nowhere(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    """The object is there although it was not made: its page, which is too short, must not be looked at."""
    native = pair[0].source.Source
    for state in (b"", b"short", memoryview(bytearray(4096))[1:]):
        one = native.__new__(native)
        with pytest.raises(ValueError, match="no state page"):
            one.__init__(SMALL, state, 5)
        one.check()
        with pytest.raises(TypeError, match="already"):
            one.__init__(SMALL)


def bare(kernels: SimpleNamespace) -> list[Any]:
    """Objects whose `__init__` never ran. Those that need arguments cannot be made this way."""
    found = []
    rows, marks = kernels.rows, kernels.marks
    for kind in (kernels.source.Source, kernels.append.Appender, rows.Rows, rows.LazyRecord):
        found.append(kind.__new__(kind))
    for kind in (marks.Marks, marks.End, marks.Entries):
        found.append(kind.__new__(kind))
    for kind in (kernels.guard.Mapping, kernels.follow.Follower):
        with pytest.raises(TypeError):
            kind.__new__(kind)
    return found


def test_uses_of_what_was_never_initialised(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    native = pair[0]
    arguments = {
        "append": (b"v", None, None),
        "append_all": ([b"v"],),
        "extend": ([b"v"], 0, NOW, True),
        "extend_columns": (1, 0, NOW, True, (None,) * 7),
        "allow": (1, 1, 1),
        "stamp": (1, True, 1, 0),
    }
    for _ in range(ROUNDS):
        for one in bare(native):
            for method in sorted(set(dir(one)) - set(dir(object)) | {"__repr__", "__hash__", "__iter__", "__next__"}):
                try:
                    found = getattr(one, method)
                    if callable(found):
                        found(*arguments.get(method, ()))
                except REFUSED:
                    pass
            holder = Holder(one)
            del one, holder
    with pytest.raises((TypeError, LogTruncated)):
        native.rows.LazyRecord.__new__(native.rows.LazyRecord).record()
    assert list(native.rows.Rows.__new__(native.rows.Rows)) == []
    empty = native.source.Source.__new__(native.source.Source)
    assert list(native.rows.read_rows(empty, 0, 0, *EVERY, 0, True, native.rows.SHAPE_LAZY)) == []


def test_an_appender_that_was_only_attached(kernels: SimpleNamespace) -> None:
    marks, made = kernels.marks, kernels.append.Appender(1000, 100, 1 << 40, 0, True)
    log = bytearray(SIZE)
    made.attach(page(kernels.tail, 0), marks.Marks(), 0, NOW, marks.End(), log, marks.Entries(), bytearray(9),
                marks.Entries(), bytearray(9))  # fmt: skip
    assert made.append(b"v", None, None) == -1
    assert made.extend([b"v"], 0, NOW, True) == 0
    assert log == bytes(SIZE)


def test_threads_and_the_collector(kernels: SimpleNamespace, file: Path) -> None:
    """Objects are made, used and dropped in threads while another one collects; records outlive their rows."""
    make, stop, troubles = makers(kernels, file), threading.Event(), []

    def churn(name: str) -> None:
        try:
            kept: list[Any] = []
            for _ in range(ROUNDS):
                made = make[name]()
                kept.append(Holder([made, kept]))
                USES[name](made)
                for holder in kept[-REVISITED:]:
                    USES[name](holder.held[0])
        except Exception as error:
            troubles.append((name, error))

    def collect() -> None:
        while not stop.is_set():
            gc.collect()

    collector = threading.Thread(target=collect)
    churners = [threading.Thread(target=churn, args=(name,)) for name in USES]
    for thread in (collector, *churners):
        thread.start()
    for thread in churners:
        thread.join(120)
    stop.set()
    collector.join(120)
    assert troubles == []


def test_gathered_parts_outlive_their_buffers(kernels: SimpleNamespace) -> None:
    data, out = memoryview(bytearray(b"abc" * 9)), bytearray(12)
    for _ in range(ROUNDS):
        assert kernels.gather.copy_parts(data, array("q", [0, 3]), array("q", [6, 6]), memoryview(out)) == 12
        with pytest.raises(IndexError):
            kernels.gather.copy_parts(data, array("q", [0, 30]), array("q", [6, 6]), out)
        gc.collect()
    data.release()
    out.extend(b"free again")

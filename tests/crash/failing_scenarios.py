"""What is done to a log while a system call fails, and the log that may come of it.

A `Session` is one folder, one handle, and the set of logs that the folder may hold: a call that returned leaves one,
a call that failed leaves several (the log before it, the log after it, an append's prefixes). `SCENARIOS` names what is
prepared without faults and what is done under them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.format import control

NOW = 1_700_000_000_000
CONFIG = {"segment.bytes": 4096, "segment.index.bytes": 512, "index.interval.bytes": 200, "max.message.bytes": 1024}
SIZE = 300


class StillClock:
    """A clock that stands still: what depends on time happens the same way each time."""

    def now_ms(self) -> int:
        """Always the same."""
        return NOW


class State(NamedTuple):
    """One log: where it starts, and the value at each offset from 0 on; None where there is no record."""

    start: int
    values: tuple[bytes | None, ...]

    def records(self) -> list[tuple[int, bytes]]:
        """What a reader gets."""
        return [(at, value) for at, value in enumerate(self.values) if value is not None and at >= self.start]


def value_of(number: int) -> bytes:
    """A value of `SIZE` bytes that no other number has, and that compresses a little."""
    return (b"%d." % (number * 7919) * SIZE)[:SIZE]


@dataclass
class Session:
    """A folder, the handle on it, and what it may hold."""

    folder: Path
    fsync: str = "always"
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    p: ec.Partition | None = None
    states: list[State] = field(default_factory=lambda: [State(0, ())])
    written: int = 0
    closed: bool = False

    def open(self) -> None:
        """Open for writing, unless it is open."""
        if self.p is None:
            self.p = ec.open_partition(self.folder, "rw", self.fsync, self.config, clock=StillClock())  # type: ignore[arg-type]

    @property
    def log(self) -> ec.Partition:
        """The handle."""
        assert self.p is not None
        return self.p

    def _next(self, count: int) -> list[bytes]:
        self.written += count
        return [value_of(number) for number in range(self.written - count, self.written)]

    @contextmanager
    def _adding(self, values: list[bytes | None]) -> Iterator[None]:
        """An append: all of `values` if it returns; if it fails, any first few; none if one did not fit on the disk."""
        before = self.states
        try:
            yield
        except ec.DiskFull:
            self.states = _grown(before, values[:-1])
            raise
        except ec.EventCoreError:
            self.states = _grown(before, values)
            raise
        self.states = [State(state.start, (*state.values, *values)) for state in before]

    @contextmanager
    def _changing(self, change: Callable[[State], State]) -> Iterator[None]:
        before = self.states
        after = [change(state) for state in before]
        self.states = [*before, *(state for state in after if state not in before)]
        yield
        self.states = after

    def append(self, count: int = 1) -> None:
        """Single records, each a batch."""
        for value in self._next(count):
            with self._adding([value]):
                self.log.append(value)

    def extend(self, count: int) -> None:
        """One call, several batches."""
        values = self._next(count)
        with self._adding(list(values)):
            self.log.extend(values)

    def truncate(self, offset: int) -> None:
        """Cut the end."""
        with self._changing(lambda state: State(min(state.start, offset), state.values[:offset])):
            self.log.truncate(offset)

    def delete_records(self, before: int) -> None:
        """Move the start."""
        with self._changing(lambda state: State(max(state.start, before), state.values)):
            self.log.delete_records(before)

    def produce(self, sequence: int) -> None:
        """A client's batch of an idempotent producer; sent again it is there once."""
        value = b"p-%d" % sequence
        data = _batch([value], producer=(7, 0, sequence))
        known = [state for state in self.states if value in state.values]
        new = [state for state in self.states if value not in state.values]
        self.states = new
        try:
            with self._adding([value]):
                info = self.log.append_batches(data)
        except ec.EventCoreError:
            self.states += known
            raise
        self.states = known if info.duplicate else self.states

    def replicate(self, producer: int) -> None:
        """A leader's batches: a plain one, one of a transaction, and the marker that aborts it."""
        end = self.log.log_end_offset
        values = [*self._next(2), None]
        data = (
            _batch([values[0]], base=end, epoch=1)
            + _batch([values[1]], base=end + 1, epoch=1, attributes=0x10, producer=(producer, 0, 0))
            + _batch([control.marker_record(control.ABORT, 0)], base=end + 2, epoch=1, attributes=0x30,
                     producer=(producer, 0, -1))
        )  # fmt: skip
        with self._adding(list(values)):
            self.log.append_batches(data, "replica")

    def close(self) -> None:
        """Close; the handle is gone even if that fails."""
        self.closed = True
        p, self.p = self.p, None
        if p is not None:
            p.close()

    def abandon(self) -> None:
        """Leave the folder as a killed writer would."""
        image = self.folder.with_name("image-0")
        shutil.copytree(self.folder, image)
        self.close()
        self.closed = False
        shutil.rmtree(self.folder)
        image.rename(self.folder)


def _grown(before: list[State], values: list[bytes | None]) -> list[State]:
    return [State(s.start, (*s.values, *values[:count])) for s in before for count in range(len(values) + 1)]


def _batch(
    items: list[Any],
    *,
    base: int = 0,
    epoch: int = -1,
    attributes: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    buf = bytearray(4096)
    end, _, _ = kernels.encode.encode(buf, 0, len(buf), items, 0, base, epoch, attributes, NOW, *producer)
    return bytes(buf[:end])


class Scenario(NamedTuple):
    """`prepare` runs without faults, `act` under them and, after a fault, once more without."""

    prepare: Callable[[Session], None]
    act: Callable[[Session], None]
    fsync: str = "always"
    config: tuple[tuple[str, Any], ...] = ()

    def session(self, folder: Path) -> Session:
        """A new one."""
        return Session(folder, self.fsync, {**CONFIG, **dict(self.config)})


def _nothing(session: Session) -> None:
    """A folder that does not exist."""


def _opened(session: Session) -> None:
    session.open()
    session.append(3)


def _segments(session: Session) -> None:
    session.open()
    session.extend(30)
    session.append(2)


def _closed(session: Session) -> None:
    _segments(session)
    session.close()
    session.closed = False


def _killed(session: Session) -> None:
    _segments(session)
    session.abandon()


def _torn(session: Session) -> None:
    """Killed, and half a batch behind the last one."""
    _segments(session)
    end = session.log.segments.active.log.size
    name = session.log.segments.active.log.path.name
    session.abandon()
    path = session.folder / name
    with path.open("r+b") as file:
        batch = file.read(200)
        file.seek(end)
        file.write(batch[:150])


def _open_and_append(session: Session) -> None:
    session.open()
    session.append()


def _close(session: Session) -> None:
    if not session.closed:
        session.append()
        session.close()


def _roll(session: Session) -> None:
    session.log.roll()
    session.append()


def _truncate_inside(session: Session) -> None:
    session.truncate(31)


def _truncate_over(session: Session) -> None:
    session.truncate(6)
    session.append()


def _truncate_to_base(session: Session) -> None:
    """To where a segment begins: the one before it takes appends again, or that one stays, empty."""
    session.truncate(24)
    session.append()


def _truncate_all(session: Session) -> None:
    """Below the first segment: the log starts anew."""
    session.truncate(2)
    session.append()


def _deleted(session: Session) -> None:
    _segments(session)
    session.delete_records(20)


def _delete(session: Session) -> None:
    session.delete_records(25)


def _epoch(session: Session) -> None:
    session.log.set_leader_epoch(session.log.leader_epoch + 1)
    session.append()


def _produce(session: Session) -> None:
    for sequence in range(3):
        session.produce(sequence)


def _replicate(session: Session) -> None:
    for producer in range(3):
        session.replicate(session.written * 10 + producer)


def _sync(session: Session) -> None:
    session.append(2)
    session.log.sync()


SCENARIOS = {
    "create": Scenario(_nothing, _open_and_append),
    "open clean": Scenario(_closed, _open_and_append),
    "open unclean": Scenario(_killed, _open_and_append),
    "open torn": Scenario(_torn, _open_and_append),
    "append": Scenario(_opened, lambda session: session.append(3)),
    "extend": Scenario(_opened, lambda session: session.extend(20)),
    "extend unsynced": Scenario(_opened, lambda session: session.extend(20), "never"),
    "compressed": Scenario(_opened, lambda session: session.extend(40), config=(("compression.type", "gzip"),)),
    "sync": Scenario(_opened, _sync, "never"),
    "roll": Scenario(_opened, _roll),
    "truncate inside": Scenario(_segments, _truncate_inside),
    "truncate over segments": Scenario(_segments, _truncate_over),
    "truncate to a base": Scenario(_segments, _truncate_to_base),
    "truncate all": Scenario(_deleted, _truncate_all),
    "delete records": Scenario(_segments, _delete),
    "leader epoch": Scenario(_opened, _epoch),
    "client batches": Scenario(_opened, _produce),
    "replica batches": Scenario(_opened, _replicate, "never"),
    "close": Scenario(_opened, _close),
    "close unsynced": Scenario(_segments, _close, "never"),
}

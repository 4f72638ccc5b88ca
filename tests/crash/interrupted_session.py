"""What is done to a log while Ctrl-C comes, and the log that may come of it.

A `Session` is one folder, the handles on it, and the set of logs that the folder may hold: a call that returned leaves
one; a call that was interrupted leaves several (the log before it, the log after it, an append's prefixes). What comes
later tells which: an append by its offset. `SCENARIOS` names what is prepared without an interrupt, and what is done
under it; after the interrupt that is done again, to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import eventcore as ec
from eventcore.log.tailing import Tail
from tests.crash import failing_scenarios as failing
from tests.crash.failing_scenarios import Scenario, State, StillClock, _batch, _grown, value_of

KEYS = 5
NEVER_MS = 1 << 40


class Wrong(AssertionError):
    """A promise that was not kept: its kind, and what was seen."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Session(failing.Session):
    """See the module. Everything acknowledged is in all of `states`."""

    reader: ec.Partition | None = None
    tail: Tail | None = None
    has_ended: bool = False
    """Whether the tail was read to its end."""
    tail_of: Callable[[int], Tail] = field(default=lambda offset: (_ for _ in ()).throw(AssertionError(offset)))
    seen: list[tuple[int, bytes]] = field(default_factory=list)
    optional: set[int] = field(default_factory=set)
    """Offsets of records that a compaction may have taken."""
    aborted: set[bytes] = field(default_factory=set)
    open_transactions: set[int] = field(default_factory=set)
    promised: int = 0
    """The end of what was acknowledged under `always`."""

    # -- the log that there is ---------------------------------------------------------------------------------

    def shows(self, state: State, start: int, end: int, seen: list[tuple[int, bytes]]) -> bool:
        """Whether this is what a reader of [start, end) may see of a log that is `state`."""
        wanted = {at: value for at, value in state.records() if start <= at < end}
        needed = wanted.keys() - self.optional
        offsets = [at for at, _ in seen]
        return (
            state.start == start
            and end <= len(state.values)
            and offsets == sorted(set(offsets))
            and needed <= set(offsets)
            and all(wanted.get(at) == value for at, value in seen)
        )

    def fitting(self, start: int, end: int, seen: list[tuple[int, bytes]], *, whole: bool) -> list[State]:
        """The logs that it may be. Raises Wrong."""
        fits = [state for state in self.states if self.shows(state, start, end, seen)]
        fits = [state for state in fits if not whole or len(state.values) == end]
        if not fits:
            lengths = sorted({(state.start, len(state.values)) for state in self.states})
            raise Wrong("lost", f"[{start}, {end}) with offsets {_spans([at for at, _ in seen])}; may be {lengths}")
        return fits

    def look(self, p: ec.Partition, *, whole: bool) -> list[State]:
        """What a handle shows; `whole` if everything must be visible. Raises Wrong."""
        start, end = p.log_start_offset, p.high_watermark
        try:
            seen = [(record.offset, record.value) for record in p.read()]
        except ec.StorageError as error:
            raise Wrong("unreadable", f"{type(error).__name__}: {error.message}") from error
        if whole and end != p.log_end_offset:
            raise Wrong("lost", f"the high watermark is {end}, the end {p.log_end_offset}")
        states = self.fitting(start, end, seen, whole=whole)
        stable = p.last_stable_offset
        committed = [record.value for record in p.read(isolation="read_committed")]
        wanted = [value for at, value in seen if at < stable and value not in self.aborted]
        if committed != wanted:
            raise Wrong("transaction", f"{len(committed)} committed records below {stable}, where {len(wanted)} are")
        return states

    # -- what changes it ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open for writing, unless it is open."""
        if self.p is None:
            self.p = ec.open_partition(self.folder, "rw", self.fsync, self.config, clock=StillClock())  # type: ignore[arg-type]

    def _add(self, values: list[bytes | None], act: Callable[[], int]) -> int:
        before = self.states
        self.states = _grown(before, values)
        first = act()
        fits = [state for state in before if len(state.values) == first]
        if not fits:
            ends = sorted({len(state.values) for state in before})
            raise Wrong("lost", f"an append got offset {first}, where the log may end at {ends}")
        self.states = [State(state.start, (*state.values, *values)) for state in fits]
        self.promised = first + len(values)
        return first

    @contextmanager
    def _changing(self, change: Callable[[State], State]) -> Iterator[None]:
        before = self.states
        after = [change(state) for state in before]
        self.states = [*before, *(state for state in after if state not in before)]
        self.promised = min(self.promised, *(len(state.values) for state in after))
        yield
        self.states = after

    def append(self, count: int = 1) -> None:
        """Single records, each a batch."""
        for value in self._next(count):
            self._add([value], lambda value=value: self.log.append(value))  # type: ignore[misc]

    def extend(self, count: int) -> None:
        """One call, several batches."""
        values = self._next(count)
        self._add(list(values), lambda: self.log.extend(values).start)

    def columns(self, count: int) -> None:
        """One call, several batches, from columns."""
        values = self._next(count)
        offsets = [at * failing.SIZE for at in range(count + 1)]
        import numpy as np

        column = (b"".join(values), np.array(offsets, np.int64))
        self._add(list(values), lambda: self.log.extend_columns(column).start)

    def append_keyed(self, count: int) -> None:
        """Records with keys that come again, a batch each."""
        for number in range(self.written, self.written + count):
            value, key = self._next(1)[0], b"key %d" % (number % KEYS)
            self._add([value], lambda value=value, key=key: self.log.append(value, key))  # type: ignore[misc]

    def compact(self) -> None:
        """What is superseded may go, of closed segments."""
        (state,) = self.states if len(self.states) == 1 else self.look(self.log, whole=False)[:1]
        bound, last = self.log.segments.active.base_offset, {}
        for at in range(len(state.values)):
            last[at % KEYS] = at
        self.optional |= {at for at in range(bound) if at not in last.values()}
        self.log.compact(map_bytes=1 << 16)

    def produce(self, sequence: int, *, encoded: bool = True) -> None:
        """A batch of an idempotent producer; sent again it is there once."""
        value = b"p-%d" % sequence
        known = [state for state in self.states if value in state.values]
        new = [state for state in self.states if value not in state.values]
        self.states = [*known, *_grown(new, [value])]
        if encoded:
            info = self.log.append_batches(_batch([value], producer=(7, 0, sequence)))
        else:
            info = self.log.append_sequenced([value], 7, 0, sequence)
        if info.duplicate:
            self.states = [state for state in known if state.values[info.first_offset] == value]
        else:
            self.states = [State(s.start, (*s.values, value)) for s in new if len(s.values) == info.first_offset]
        if not self.states:
            raise Wrong("lost", f"sequence {sequence} got offset {info.first_offset}, duplicate {info.duplicate}")
        self.promised = max(self.promised, info.last_offset + 1)

    def transact(self, producer: int, *, commit: bool) -> None:
        """Two batches of a transaction, unless they were sent already, and its marker."""
        self.open_transactions.add(producer)
        for sequence in range(2):
            value = b"t-%d-%d" % (producer, sequence)
            if not commit:
                self.aborted.add(value)
            known = [state for state in self.states if value in state.values]
            new = [state for state in self.states if value not in state.values]
            self.states = [*known, *_grown(new, [value])]
            info = self.log.append_sequenced([value], producer, 0, sequence, transactional=True)
            self.states = (
                known if info.duplicate else [State(s.start, (*s.values, value)) for s in new]
            )  # a marker in between is the same to both
            if not self.states:
                raise Wrong("lost", f"{value!r}: duplicate is {info.duplicate}")
        self._add([None], lambda: self.log.end_transaction(producer, 0, commit=commit))
        self.open_transactions.discard(producer)
        if not self.open_transactions and self.log.last_stable_offset != self.log.high_watermark:
            raise Wrong("transaction", "it has ended, and is still open")

    def replicate(self, producer: int) -> None:
        """A leader's batches: a plain one, one of a transaction, and the marker that aborts it."""
        end = self.log.log_end_offset
        values = [*self._next(2), None]
        marker = failing.control.marker_record(failing.control.ABORT, 0)
        data = (
            _batch([values[0]], base=end, epoch=1)
            + _batch([values[1]], base=end + 1, epoch=1, attributes=0x10, producer=(producer, 0, 0))
            + _batch([marker], base=end + 2, epoch=1, attributes=0x30, producer=(producer, 0, -1))
        )
        self.aborted.add(values[1])
        self._add(list(values), lambda: self.log.append_batches(data, "replica").first_offset)

    def sync(self) -> None:
        """Everything is promised, whatever `fsync` says."""
        end = self.log.log_end_offset
        self.log.sync()
        if self.log.durable_offset < end:
            raise Wrong("undurable", f"synced to {end}, durable below {self.log.durable_offset}")

    def close(self) -> None:
        """Close; the handle is kept, to be closed again."""
        self.closed = True
        self.log.close()

    def abandon(self) -> None:
        """Leave the folder as a killed writer would."""
        super().abandon()
        self.p = None

    # -- readers -----------------------------------------------------------------------------------------------

    def open_reader(self) -> ec.Partition:
        """The reader; it is opened unless it is open."""
        if self.reader is None:
            self.reader = ec.open_partition(self.folder, "r", config=self.config)
        return self.reader

    def read(self) -> None:
        """All records, and each once more by its offset."""
        reader = self.open_reader()
        states = self.look(reader, whole=False)
        records = states[-1].records()
        if reader.high_watermark != len(states[-1].values):
            raise Wrong("reader", f"reads to {reader.high_watermark} of {len(states[-1].values)}")
        if [(at, reader[at].value) for at, _ in records] != records:
            raise Wrong("reader", "a record by its offset is another one")

    def read_columns(self) -> None:
        """All records, as columns."""
        reader, records = self.open_reader(), self.states[-1].records()
        batch = reader.columns()
        found = [(int(batch.offset[row]), batch.value(row)) for row in range(len(batch))]
        again = [int(at) for part in reader.column_batches(batch_rows=7) for at in part.offset]
        if found != records or again != [at for at, _ in records]:
            raise Wrong("reader", f"columns of {len(found)} and {len(again)} records, where there are {len(records)}")

    def follow(self) -> None:
        """Go on with the tail until there is nothing more: no record is skipped, and none comes twice."""
        assert self.tail is not None
        if self.has_ended:  # an ended one stays so
            self.tail, self.has_ended = self.tail_of(self.tail.position), False
        for record in self.tail:
            self.seen.append((record.offset, record.value))
        self.has_ended = True
        wanted = self.states[-1].records()
        if self.seen != wanted:
            gone = [at for at, _ in wanted if at not in {seen for seen, _ in self.seen}]
            raise Wrong("reader", f"a tail gave {len(self.seen)} of {len(wanted)} records; skipped: {_spans(gone)}")


def _spans(offsets: list[int]) -> str:
    """Runs of neighbours, shortly."""
    spans: list[list[int]] = []
    for at in offsets:
        if spans and spans[-1][1] == at - 1:
            spans[-1][1] = at
        else:
            spans.append([at, at])
    return ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in spans) or "none"


# -- scenarios ---------------------------------------------------------------------------------------------------------

Step = Callable[[Session], None]


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
    session.p, session.closed = None, False


def _killed(session: Session) -> None:
    _segments(session)
    session.abandon()


def _deleted(session: Session) -> None:
    _segments(session)
    session.delete_records(20)


def _keyed(session: Session) -> None:
    session.open()
    session.append_keyed(40)
    session.log.roll()
    session.append_keyed(1)


def _open_and_append(session: Session) -> None:
    session.open()
    session.append()


def _close(session: Session) -> None:
    if not session.closed:
        session.append()
    session.close()


def _retire(session: Session) -> None:
    session.closed = True
    log: Any = session.log._log
    log.retire()


def _roll(session: Session) -> None:
    session.log.roll()
    session.append()


def _sync(session: Session) -> None:
    session.append(2)
    session.sync()


def _truncate_to(offset: int) -> Step:
    def truncate(session: Session) -> None:
        session.truncate(offset)
        session.append()

    return truncate


def _delete(session: Session) -> None:
    session.delete_records(25)


def _epoch(session: Session) -> None:
    session.log.set_leader_epoch(session.log.leader_epoch + 1)
    session.append()


def _produce(session: Session) -> None:
    for sequence in range(3):
        session.produce(sequence)


def _produce_sequenced(session: Session) -> None:
    for sequence in range(3):
        session.produce(sequence, encoded=False)


def _replicate(session: Session) -> None:
    for producer in range(2):
        session.replicate(session.written * 10 + producer)


def _commit(session: Session) -> None:
    session.transact(70, commit=True)
    session.transact(71, commit=False)


def _with_reader(prepare: Step) -> Step:
    def opened(session: Session) -> None:
        prepare(session)
        session.open_reader()

    return opened


def _with_tail(session: Session) -> None:
    """It has read some, and stands; then a segment ends, and another begins."""
    _opened(session)
    session.tail_of = lambda offset: session.open_reader().tail(offset, timeout=0)
    session.tail = session.tail_of(0)
    session.follow()
    session.extend(30)
    session.append(2)


def _with_own_tail(session: Session) -> None:
    """The writer's own."""
    _opened(session)
    session.tail_of = lambda offset: session.log.tail(offset, timeout=0)
    session.tail = session.tail_of(0)
    session.follow()
    session.extend(30)
    session.append(2)


def _behind(session: Session) -> None:
    """A reader that has yet to see that segments ended."""
    _opened(session)
    session.open_reader()
    session.read()
    session.extend(30)
    session.append(2)


COMPACTED = (("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", 0.0))
INTERVAL = (("flush.ms", NEVER_MS),)
"""The thread sleeps."""


def _writing(name: str, prepare: Step, act: Step, modes: str = "always never") -> Iterator[tuple[str, Scenario]]:
    for mode in modes.split():
        config = INTERVAL if mode == "interval" else ()
        yield f"{name}, {mode}", Scenario(prepare, act, mode, config)  # type: ignore[arg-type]


SCENARIOS: dict[str, Scenario] = {
    **dict(_writing("open new", _nothing, _open_and_append, "always interval never")),
    **dict(_writing("open clean", _closed, _open_and_append)),
    **dict(_writing("open unclean", _killed, _open_and_append)),
    **dict(_writing("append", _opened, lambda session: session.append(3), "always interval never")),
    **dict(_writing("extend", _opened, lambda session: session.extend(20), "always interval never")),
    **dict(_writing("extend columns", _opened, lambda session: session.columns(20))),
    **dict(_writing("client batches", _opened, _produce)),
    **dict(_writing("replica batches", _opened, _replicate)),
    **dict(_writing("producer", _opened, _produce_sequenced)),
    **dict(_writing("transactions", _opened, _commit)),
    **dict(_writing("roll", _opened, _roll, "always interval never")),
    **dict(_writing("sync", _opened, _sync, "interval never")),
    **dict(_writing("sync segments", _segments, _sync, "never")),
    **dict(_writing("truncate inside", _segments, _truncate_to(31))),
    **dict(_writing("truncate over segments", _segments, _truncate_to(6))),
    **dict(_writing("truncate to a base", _segments, _truncate_to(24), "always")),
    **dict(_writing("restart", _deleted, _truncate_to(2))),
    **dict(_writing("delete records", _segments, _delete)),
    "compact, always": Scenario(_keyed, lambda session: session.compact(), "always", COMPACTED),  # type: ignore[arg-type, attr-defined]
    "compact, never": Scenario(_keyed, lambda session: session.compact(), "never", COMPACTED),  # type: ignore[arg-type, attr-defined]
    **dict(_writing("leader epoch", _opened, _epoch)),
    **dict(_writing("close", _opened, _close, "always interval never")),
    **dict(_writing("close segments", _segments, _close, "never")),
    **dict(_writing("retire", _segments, _retire)),
    **dict(_writing("reader opens", _segments, Session.read, "always")),
    **dict(_writing("reader opens closed", _closed, Session.read, "always")),
    **dict(_writing("reader opens unclean", _killed, Session.read, "always")),
    **dict(_writing("reader reads", _with_reader(_segments), Session.read, "always")),
    **dict(_writing("reader reads closed", _with_reader(_closed), Session.read, "always")),
    **dict(_writing("reader catches up", _behind, Session.read, "always")),
    **dict(_writing("writer reads", _segments, lambda session: _read_own(session), "always")),
    **dict(_writing("columns", _with_reader(_segments), Session.read_columns, "always")),
    **dict(_writing("columns closed", _with_reader(_closed), Session.read_columns, "always")),
    **dict(_writing("tail", _with_tail, Session.follow, "always")),
    **dict(_writing("writer's tail", _with_own_tail, Session.follow, "always")),
}


def _read_own(session: Session) -> None:
    session.look(session.log, whole=False)


def session_of(scenario: Scenario, folder: Any) -> Session:
    """A new one."""
    return Session(folder, scenario.fsync, {**failing.CONFIG, **dict(scenario.config)})


__all__ = ["SCENARIOS", "Scenario", "Session", "Wrong", "session_of", "value_of"]

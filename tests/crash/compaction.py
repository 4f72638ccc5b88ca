"""Histories of a compacted log, for `scenarios`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.crash.oracle import World

if TYPE_CHECKING:
    from tests.crash.session import Session

CONFIG = (("cleanup.policy", "compact"), ("segment.bytes", 8192), ("min.cleanable.dirty.ratio", 0.0))


def append_keyed(session: Session, *keys: str, value: bytes | None = b"") -> None:
    """A record for each key in one batch; a value of None is a tombstone."""
    values = session._values(len(keys))
    items = [(key.encode(), None if value is None else text) for key, text in zip(keys, values, strict=True)]
    sent = [
        one._replace(record=one.record._replace(key=key, value=text))
        for one, (key, text) in zip(session._records(values), items, strict=True)
    ]
    session._add(f"keys {keys} at {session.world.end}", sent, lambda: session.log.extend(items))


def compact(session: Session) -> None:
    """Each segment that takes the place of others is a step of its own: as before it, or as after it."""
    log: Any = session.log._log
    swap, bound = log._swap, log.segments.active.base_offset
    latest = {sent.record.key: at for at, sent in enumerate(session.world.records[:bound]) if sent is not None}
    expired = session.clock.now - session.config.delete_retention_ms

    def step(old: list[Any], *arguments: Any) -> None:
        first, end = old[0].base_offset, log.segments.next_base(old[-1])

        def after() -> World:
            records = list(session.world.records)
            for at in range(first, end):
                sent = records[at]
                stays = sent is not None and latest[sent.record.key] == at
                gone = sent is not None and sent.record.value is None and at in session.horizons
                if not stays or (gone and session.horizons[at] <= expired):
                    records[at] = None
                elif sent is not None and sent.record.value is None:
                    session.horizons.setdefault(at, session.clock.now)
            return session._changed(session.world.start, records, session.world.end)

        session._step(f"swap at {first}", lambda: swap(old, *arguments), after)

    log._swap = step
    session.log.compact()
    del log._swap
    session.world = session._same()


def rewrite(session: Session) -> None:
    """Two segments become one, of which nothing of the second stays; then more comes, and tombstones go."""
    session.open()
    append_keyed(session, "a", "b", "c")
    append_keyed(session, "a", "d")
    session.roll()
    append_keyed(session, "b", "d")
    append_keyed(session, "d", value=None)
    session.roll()
    compact(session)
    append_keyed(session, "b", "c", "b")
    session.roll()
    session.tick(90_000)
    compact(session)
    append_keyed(session, "e")
    session.close()


def emptied(session: Session) -> None:
    """Nothing stays of the second of two segments that become one: only the seal says how far the new one reaches."""
    session.open()
    append_keyed(session, "a" * 500, "x")
    session.roll()
    append_keyed(session, "y", "x")
    session.roll()
    append_keyed(session, "x", "y")
    for key in "abcdefghijkl":
        if session.log.segments.active.log.size < 8192 - 650:
            append_keyed(session, key * 480)  # together too large to become one with the others
    session.roll()
    compact(session)
    append_keyed(session, "a")
    session.close()


def groups(session: Session) -> None:
    """Several segments that stay several, one of them without a record, and appends in between."""
    session.open()
    for keys in ("abcdefgh", "aabbccdd", "efgh", "x"):
        for key in keys:
            append_keyed(session, *[key] * 6)
        session.roll()
    append_keyed(session, "y")
    compact(session)
    append_keyed(session, "x")
    session.tick()
    append_keyed(session, "y")
    session.reopen()
    session.roll()
    compact(session)
    session.delete_records(session.world.end - 2)
    session.close()


def unsynced(session: Session) -> None:
    """With fsync="never", and a truncation behind it."""
    session.open()
    append_keyed(session, "a", "b")
    append_keyed(session, "a", "c")
    session.sync()  # of a compacted log nobody can tell a segment that was lost from one that was emptied
    session.roll()
    append_keyed(session, "a")
    compact(session)
    append_keyed(session, "a", "b")
    session.truncate(5)
    append_keyed(session, "c")
    session.truncate(3)  # below what was cleaned
    append_keyed(session, "c", "b")

"""Small histories of one log, played on a recording disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from eventcore.config import LogConfig
from tests.crash import compaction
from tests.crash.crash_choices import BoundaryChoices
from tests.crash.crash_recording import Site
from tests.crash.session import CONFIG, EMPTY, NOTHING, Session


def _always(session: Session) -> None:
    session.open()
    session.append(3)
    session.tick()
    session.append(2)
    session.extend(3)
    session.close()


def _never(session: Session) -> None:
    session.open()
    session.append(4)
    session.extend(6, 300)
    session.close()


def _interval(session: Session) -> None:
    session.open()
    for count in (2, 1, 3):
        session.append(count)
        session.tick()
        session.sync()
    session.append()
    session.reopen()
    session.append()
    session.sync()


def _extend(session: Session) -> None:
    session.open()
    session.extend(12, 300)
    session.extend(5, 120)
    session.close()


def _roll(session: Session) -> None:
    session.open()
    session.append(2, 120)
    session.roll()
    session.append(2)
    session.roll()
    session.append()
    session.close()


def _roll_unsynced(session: Session) -> None:
    session.open()
    session.append(2, 300)
    session.roll()
    session.append(2, 300)
    session.roll()
    session.append(1)
    session.sync()
    session.append(1)


def _fill(session: Session) -> None:
    """Segments that roll because they are full."""
    session.open()
    session.extend(18, 600)
    session.tick()
    session.append(1)
    session.sync()
    session.append(3)


def _truncate_inside(session: Session) -> None:
    session.open()
    session.append(6, 120)
    session.tick()
    session.append(1)
    session.truncate(4)
    session.append(2)
    session.truncate(5)
    session.append(2)


def _segments(session: Session) -> None:
    session.open()
    for _ in range(3):
        session.append(3, 120)
        session.roll()
    session.append(2)


def _truncate_over(session: Session) -> None:
    _segments(session)
    session.truncate(4)
    session.append(2)
    session.roll()
    session.append(1)


def _truncate_to_base(session: Session) -> None:
    _segments(session)
    session.truncate(6)
    session.append(2)


def _truncate_below(session: Session) -> None:
    _segments(session)
    session.delete_records(5)
    session.truncate(2)
    session.append(2)
    session.tick()
    session.append(1)


def _truncate_unsynced(session: Session) -> None:
    """Much that never came to the disk, cut and written anew."""
    session.open()
    session.append(4, 300)
    session.roll()
    session.append(4, 300)
    session.truncate(6)
    session.append(2)
    session.truncate(2)
    session.append(3, 300)
    session.sync()


def _delete(session: Session) -> None:
    _segments(session)
    session.delete_records(1)
    session.delete_records(7)
    session.append()
    session.delete_records(session.world.end)
    session.append()
    session.close()


def _delete_unsynced(session: Session) -> None:
    _segments(session)
    session.delete_records(7)
    session.append()
    session.delete_records(session.world.end)
    session.append()
    session.sync()


def _truncate_below_the_start(session: Session) -> None:
    """Start and end lie inside the last batch: once it is cut, all that is left lies below the start."""
    session.open()
    session.append(2)
    session.extend(6)
    session.delete_records(6)
    session.truncate(7)
    session.reopen()
    session.append()
    session.close()


def _roll_at_the_start(session: Session) -> None:
    """Once there is a new segment, the one before it is not wanted any more."""
    session.open()
    session.append(2)
    session.tick()
    session.append(1)
    session.delete_records(3)
    session.roll()
    session.append()
    session.close()


def _reopen(session: Session) -> None:
    session.open()
    session.append(2)
    session.reopen()
    session.append(2)
    session.reopen()
    session.roll()
    session.append(1)
    session.reopen()


def _reopen_unsynced(session: Session) -> None:
    """What a clean close left counts no longer once there is more."""
    session.open()
    session.append(2)
    session.reopen()
    session.extend(3, 300)
    session.append(2)
    session.extend(4, 120)


def _reopen_idle(session: Session) -> None:
    """Opened, and closed with nothing done."""
    session.open()
    session.append(2)
    session.roll()
    session.append(1, 120)
    session.reopen()
    session.reopen()
    session.append(1)
    session.reopen()
    session.close()


def _retain(session: Session) -> None:
    _segments(session)
    session.retain(1)
    session.append(2)
    session.roll()
    session.retain(7)
    session.append()
    session.retain(0)
    session.retain(30)
    session.append()
    session.close()


def _epochs(session: Session) -> None:
    session.open()
    session.append(2)
    session.set_leader_epoch(3)
    session.append(2)
    session.roll()
    session.set_leader_epoch(5)
    session.append(1)
    session.truncate(3)
    session.append(1)
    session.delete_records(3)
    session.close()


def _producers(session: Session) -> None:
    session.open()
    session.produce(7, 0, 0, 2)
    session.produce(8, 0, 0)
    session.produce(7, 0, 2)
    session.roll()
    session.tick()
    session.produce(7, 0, 3, 2)
    session.produce(8, 1, 0)
    session.tick()
    session.produce(7, 0, 5)
    session.truncate(session.world.end - 1)
    session.produce(7, 0, 5)
    session.close()


def _producers_truncated(session: Session) -> None:
    """Snapshots of what a truncation took away must not be believed."""
    session.open()
    session.produce(7, 0, 0)
    session.tick()
    session.produce(7, 0, 1)
    session.truncate(1)
    session.produce(8, 0, 0)
    session.tick()
    session.produce(8, 0, 1)
    session.truncate(2)
    session.produce(8, 0, 1)
    session.close()


def _transactions(session: Session) -> None:
    session.open()
    session.produce(7, 0, 0, transactional=True)
    session.append()
    session.end_transaction(7, 0, commit=False)
    session.produce(8, 0, 0, transactional=True)
    session.tick()
    session.produce(7, 0, 1, transactional=True)
    session.end_transaction(8, 0, commit=True)
    session.roll()
    session.end_transaction(7, 0, commit=False)
    session.append()
    session.reopen()
    session.append()


def _own_transactions(session: Session) -> None:
    session.own_producers = True
    _transactions(session)
    session.produce(9, 0, 0, 3)
    session.produce(9, 0, 3, 2)
    session.reopen()
    session.produce(9, 0, 5)


def _swap(session: Session) -> None:
    """A cleaner that merged two segments has died with the new one complete."""
    _segments(session)
    session.close()
    session.merge(0, 3)
    session.open()
    session.append()
    session.close()


def _delete_in_the_cache(session: Session) -> None:
    _segments(session)
    session.delete_records(7)


def _delete_inside(session: Session) -> None:
    session.open()
    session.append(2)
    session.sync()
    session.tick()
    session.append(1)
    session.sync()
    session.append(3)
    session.delete_records(5)


def _restart(session: Session) -> None:
    """The log start is durable, the records behind it are gone (rule S8)."""
    session.open()
    session.append(2)
    session.close()


def _random(session: Session) -> None:
    """Anything, in any order."""
    rng = session.rng
    sequences: dict[int, int] = {}
    session.open()
    for _ in range(rng.randint(4, 12)):
        action = rng.choice(_ACTIONS)
        if action == "produce":
            producer, count = rng.randint(7, 8), rng.randint(1, 3)
            known = session.world.producers(session.world.end).get(producer)
            sequences[producer] = known[1][-1][0] + 1 if known and known[1] else 0
            session.produce(producer, 0, sequences[producer], count)
        else:
            _RANDOM[action](session, rng)
    if rng.random() < 0.5:
        session.close()


_RANDOM: dict[str, Callable[[Session, random.Random], None]] = {
    "append": lambda session, rng: session.append(rng.randint(1, 3)),
    "extend": lambda session, rng: session.extend(rng.randint(2, 10), rng.choice((0, 300))),
    "tick": lambda session, rng: session.tick(),
    "sync": lambda session, rng: session.sync(),
    "roll": lambda session, rng: session.roll(),
    "truncate": lambda session, rng: session.truncate(rng.randint(0, session.world.end)),
    "delete": lambda session, rng: session.delete_records(rng.randint(0, session.world.end)),
    "epoch": lambda session, rng: session.set_leader_epoch(session.log.leader_epoch + 1),
    "reopen": lambda session, rng: session.reopen(),
}
_ACTIONS = (*["append"] * 4, *["extend"] * 3, *["produce"] * 3, *["truncate"] * 2, *_RANDOM)


def play_recovery(session: Session) -> None:
    """What is done with a folder that a crash left."""
    session.open()
    session.append()
    if session.rng.random() < 0.5:
        session.tick()
        session.extend(3, 300)
        session.truncate(session.world.end - 2)
    session.close()


class Scenario(NamedTuple):
    """What is played, and how the log is opened."""

    play: Callable[[Session], None]
    fsync: str = "always"
    config: tuple[tuple[str, Any], ...] = ()
    allocates: bool = True
    before: Callable[[Session], None] | None = None
    """Played first; then the power goes, and of what was not synced only the names are left."""

    def record(self, rng: random.Random, fork_at: int = -1, dropped: frozenset[Site] = frozenset()) -> Session:
        """Play it on a new recording disk."""
        config = LogConfig.of({**CONFIG, **dict(self.config)})
        image, expected = EMPTY, NOTHING
        if self.before:
            first = Session(rng, fsync=self.fsync, config=config, allocates=self.allocates)
            self.before(first)
            last = first.disk.boundaries[-1]
            image = BoundaryChoices(last, {}).unsynced_lost().image()
            expected = first.in_flight(last.step, last.acknowledged)
        session = Session(
            rng,
            image=image,
            expected=expected,
            fsync=self.fsync,
            config=config,
            boot=2,
            allocates=self.allocates,
            dropped=dropped,
        )
        session.disk.fork_at = fork_at
        self.play(session)
        return session


SCENARIOS: dict[str, Scenario] = {
    "always": Scenario(_always),
    "always by pwrite": Scenario(_always, allocates=False),
    "never": Scenario(_never, "never"),
    "interval": Scenario(_interval, "never"),
    "interval by pwrite": Scenario(_interval, "never", allocates=False),
    "extend": Scenario(_extend),
    "extend compressed": Scenario(_extend, config=(("compression.type", "gzip"),)),
    "roll": Scenario(_roll),
    "roll unsynced": Scenario(_roll_unsynced, "never"),
    "fill": Scenario(_fill),
    "fill unsynced": Scenario(_fill, "never"),
    "truncate inside": Scenario(_truncate_inside),
    "truncate over segments": Scenario(_truncate_over),
    "truncate to a base": Scenario(_truncate_to_base),
    "truncate below the first": Scenario(_truncate_below),
    "truncate unsynced": Scenario(_truncate_unsynced, "never"),
    "truncate by pwrite": Scenario(_truncate_over, allocates=False),
    "delete records": Scenario(_delete),
    "delete records unsynced": Scenario(_delete_unsynced, "never"),
    "truncate below the start": Scenario(_truncate_below_the_start),
    "roll at the start": Scenario(_roll_at_the_start),
    "reopen": Scenario(_reopen),
    "reopen unsynced": Scenario(_reopen_unsynced, "never"),
    "reopen idle": Scenario(_reopen_idle),
    "retention": Scenario(_retain),
    "retention unsynced": Scenario(_retain, "never"),
    "epochs": Scenario(_epochs),
    "producers": Scenario(_producers),
    "producers truncated": Scenario(_producers_truncated),
    "transactions": Scenario(_transactions),
    "transactions unsynced": Scenario(_transactions, "never"),
    "transactions of our own": Scenario(_own_transactions),
    "transactions of our own by pwrite": Scenario(_own_transactions, "never", allocates=False),
    "swap": Scenario(_swap),
    "compact": Scenario(compaction.rewrite, config=compaction.CONFIG),
    "compact emptied": Scenario(compaction.emptied, config=compaction.CONFIG),
    "compact groups": Scenario(compaction.groups, config=compaction.CONFIG),
    "compact compressed": Scenario(compaction.rewrite, config=(*compaction.CONFIG, ("compression.type", "gzip"))),
    "compact unsynced": Scenario(compaction.unsynced, "never", config=compaction.CONFIG),
    "compact by pwrite": Scenario(compaction.rewrite, config=compaction.CONFIG, allocates=False),
    "restart": Scenario(_restart, "never", before=_delete_in_the_cache),
    "restart inside": Scenario(_restart, "never", before=_delete_inside),
    "random": Scenario(_random),
    "random unsynced": Scenario(_random, "never"),
    "random compressed": Scenario(_random, "never", config=(("compression.type", "zstd"),)),
    "random by pwrite": Scenario(_random, "never", allocates=False),
}
RANDOM = [name for name in SCENARIOS if name.startswith("random")]
"""Those that are another history with every seed."""

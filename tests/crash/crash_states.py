"""Every state of the disk that a power loss may leave, at every moment of many small histories: opened and judged.

    python -m tests.crash.crash_states --states 5000000 --processes 2         # nightly; exits 1 on a bad state
    python -m tests.crash.crash_states --states 2000000 --first-seed 1000     # more of the random histories alone
    python -m tests.crash.crash_states --state 'reopen:0:117.3'               # one state again, with what it is

A history is a scenario with a seed, and the name of a state is `scenario:seed:boundary.number`; the states of a
recovery that lost power, too, have the name of the state it began with before a slash. Or the writer was killed, and
its successor lost power: then that is `scenario:seed:kboundary`. Equal states with equal promises are checked once;
what counts are these distinct ones.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import multiprocessing
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.crash.crash_choices import EXHAUSTIVE, SAMPLES, BoundaryChoices, CrashState, FileChoices
from tests.crash.crash_recording import Site
from tests.crash.memory_disk import Image
from tests.crash.oracle import Expected, Oracle, Violation, image_key
from tests.crash.scenarios import RANDOM, SCENARIOS, play_recovery
from tests.crash.session import Session

NESTED_EVERY = 400
"""One of so many states is recovered on a recording disk, and the power lost again meanwhile."""
_NESTED_QUOTA = 300
KILLS = 4
DEEPEST = 2
_ENOUGH_KINDS = 20


class Limits(NamedTuple):
    """How many states of one boundary are looked at."""

    exhaustive: int = EXHAUSTIVE
    samples: int = SAMPLES
    nested_every: int = NESTED_EVERY
    shuffled: bool = False
    """Boundaries in any order, so that the first few hundred states are from everywhere."""


FULL = Limits(shuffled=True)
NESTED = Limits(24, 6, 400)


@dataclass
class Tally:
    """What was done."""

    generated: int = 0
    distinct: int = 0
    nested: int = 0
    histories: int = 0
    boundaries: int = 0
    bad: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    scenarios: Counter[str] = field(default_factory=Counter)
    reports: dict[str, str] = field(default_factory=dict)
    """The first bad state of each kind."""

    def add(self, other: Tally) -> None:
        """What another process has done."""
        self.generated += other.generated
        self.distinct += other.distinct
        self.nested += other.nested
        self.histories += other.histories
        self.boundaries += other.boundaries
        self.kinds += other.kinds
        self.scenarios += other.scenarios
        self.bad += other.bad
        self.reports.update(other.reports)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return (
            f"{self.histories} histories, {self.boundaries} boundaries: {self.generated} states generated, "
            f"{self.distinct} distinct and checked ({kinds}), {self.nested} of them in recoveries; {self.bad} bad"
        )


class Found(NamedTuple):
    """One state of one history."""

    name: str
    state: CrashState
    image: Image
    expected: Expected


class Search:
    """Goes through the crash states of histories until `wanted` distinct ones have been checked."""

    def __init__(self, wanted: int, limits: Limits = FULL, enough: int = _ENOUGH_KINDS) -> None:
        self.tally = Tally()
        self._wanted = wanted
        self._limits = limits
        self._enough = enough
        self._seen: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether enough was seen."""
        return self.tally.distinct >= self._wanted or len(self.tally.reports) >= self._enough

    def history(self, name: str, session: Session, oracle: Oracle, *, quota: int = 1 << 62, depth: int = 0) -> None:
        """All states of one recorded history, at most `quota` of them."""
        self.tally.histories += depth == 0
        self.tally.boundaries += len(session.disk.boundaries)
        before = self.tally.distinct
        for page in session.disk.stored_without_space():
            self._bad(name, f"stored without space: {page}", f"BAD {name}: a store without space reserved: {page}")
        for found in states_of(name, session, self._limits if depth == 0 else NESTED):
            self.tally.generated += 1
            key = _key(found)
            if key in self._seen:
                continue
            self._seen.add(key)
            self._check(found, oracle, session, depth)
            if self.done or self.tally.distinct - before >= quota:
                return

    def kills(self, name: str, seed: int, session: Session, quota: int) -> None:
        """The writer dies at some moments of a history, and the power goes while the next one is at work.

        Half of the moments are before a sync: then most of what was done is in the cache alone.
        """
        rng, moments = random.Random(f"{name}:{seed}"), list(session.disk.boundaries)
        syncs = [one for one in moments if one.operation.startswith("sync")]
        chosen = {*rng.sample(moments, KILLS // 2), *rng.sample(syncs, min(KILLS // 2, len(syncs)))}
        for boundary in sorted(one.number for one in chosen):
            if self.done:
                return
            again, oracle = kill(name, seed, boundary)
            self.history(f"{name}:{seed}:k{boundary}/", again, oracle, quota=min(quota, _NESTED_QUOTA), depth=1)

    def _check(self, found: Found, oracle: Oracle, session: Session, depth: int) -> None:
        tally = self.tally
        tally.distinct += 1
        tally.nested += depth > 0
        tally.kinds[found.state.kind] += 1
        tally.scenarios[found.name.partition(":")[0]] += 1
        try:
            oracle.check(found.image, found.expected, session.kept)
        except Violation as violation:
            self._bad(found.name, str(violation), report(found, violation))
            return
        every = self._limits.nested_every if depth == 0 else NESTED.nested_every
        if depth < DEEPEST and tally.distinct % every == 0:
            recovery = recover(found, session, depth, oracle)
            self.history(f"{found.name}/", recovery, oracle, depth=depth + 1, quota=_NESTED_QUOTA)

    def _bad(self, name: str, what: str, told: str) -> None:
        self.tally.bad += 1
        kind = name.split(":")[0] + re.sub(r"[0-9]+|b'.*?'|\[.*\]", "#", what)
        self.tally.reports.setdefault(kind, told)


def recover(found: Found, session: Session, depth: int, oracle: Oracle) -> Session:
    """Open a crash state on a recording disk, and go on."""
    again = Session(
        random.Random(found.name),
        image=found.image,
        expected=found.expected,
        fsync=session.fsync,
        config=session.config,
        boot=100 + depth,
        allocates=session.allocates,
        dropped=session.dropped,
        kept=session.kept | oracle.put_aside(found.image),
    )
    play_recovery(again)
    return again


def kill(name: str, seed: int, boundary: int, dropped: frozenset[Site] = frozenset()) -> tuple[Session, Oracle]:
    """Kill the writer at a boundary, and open what it left without a loss of power: nothing more is synced by that."""
    session, oracle = record(name, seed, dropped, fork_at=boundary)
    assert session.disk.forked is not None
    found = session.disk.boundaries[boundary]
    again = Session(
        random.Random(f"{name}:{seed}:k{boundary}"),
        disk=session.disk.forked,
        expected=session.in_flight(found.step, found.acknowledged),
        fsync=session.fsync,
        config=session.config,
        boot=50,
        allocates=session.allocates,
        dropped=dropped,
    )
    play_recovery(again)
    return again, oracle


def states_of(name: str, session: Session, limits: Limits) -> Iterator[Found]:
    """The states that a crash may leave, boundary by boundary; `name` is what their names begin with."""
    known: dict[int, FileChoices] = {}
    before: tuple[object, ...] = ()
    boundaries = list(session.disk.boundaries)
    if limits.shuffled:
        random.Random(name).shuffle(boundaries)
    for boundary in boundaries:
        expected = session.in_flight(boundary.step, boundary.acknowledged)
        if before == (boundary.folders, boundary.files, expected):
            continue  # nothing has changed: the last operation was one that leaves no trace
        before = (boundary.folders, boundary.files, expected)
        rng = random.Random(f"{name}{boundary.number}")
        choices = BoundaryChoices(boundary, known)
        for number, state in enumerate(choices.states(rng, limits.exhaustive, limits.samples)):
            yield Found(f"{name}{boundary.number}.{number}", state, state.image(), expected)


def lacking_states(name: str, session: Session) -> Iterator[Found]:
    """Where a sync was dropped: states that lack what it should have kept."""
    spared, known = session.disk.spared, dict[int, FileChoices]()
    for boundary in session.disk.boundaries:
        suspects = {what for what, since in spared.items() if since <= boundary.number}
        if suspects:
            expected = session.in_flight(boundary.step, boundary.acknowledged)
            for number, state in enumerate(BoundaryChoices(boundary, known).lacking(suspects)):
                yield Found(f"{name}{boundary.number}.{number}", state, state.image(), expected)


def _key(found: Found) -> int:
    """Equal for states that are the same to the engine and must keep the same promises."""
    promises = tuple((id(world), promised) for world, promised in found.expected)
    return hash((image_key(found.image), promises))


def report(found: Found, violation: Violation) -> str:
    """Everything that is needed to see what happened."""
    worlds = [
        f"expected: offsets {world.start} to {world.end}, batches end at {sorted(world.ends)}, "
        f"promised below {promised}"
        for world, promised in found.expected
    ]
    return "\n  ".join([f"BAD {found.name}: {violation}", *found.state.describe(), *worlds])


def histories(process: int, processes: int, first_seed: int = 0) -> Iterator[tuple[str, int]]:
    """A process's share of (scenario, seed): first all scenarios, then random ones with ever new seeds.

    With a `first_seed` it begins with the random ones: what a search without it does not get to is something else.
    """
    if not first_seed:
        yield from ((name, 0) for name in list(SCENARIOS)[process::processes])
    seed = first_seed + process + 1
    while True:
        yield from ((name, seed) for name in RANDOM)
        seed += processes


def record(name: str, seed: int, dropped: frozenset[Site] = frozenset(), fork_at: int = -1) -> tuple[Session, Oracle]:
    """Play a scenario; and the oracle that judges it."""
    scenario = SCENARIOS[name]
    session = scenario.record(random.Random(f"{name}:{seed}"), fork_at=fork_at, dropped=dropped)
    return session, Oracle(session.config, allocates=scenario.allocates)


@contextmanager
def quiet() -> Iterator[None]:
    """No log of every recovery; garbage is collected by reference counts, and what cycles hold once in a while."""
    logger = logging.getLogger("eventcore")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def search(wanted: int, *, process: int = 0, processes: int = 1, first_seed: int = 0, progress: bool = False) -> Tally:
    """Check `wanted` distinct states, this process's share of the histories.

    Three quarters of them are shared out evenly among the fixed scenarios; the rest, and what a scenario has not got,
    is for random ones.
    """
    found, started, shown = Search(wanted), time.monotonic(), 0.0
    share = wanted * 3 // 4 // len(list(SCENARIOS)[process::processes])
    with quiet():
        for name, seed in histories(process, processes, first_seed):
            session, oracle = record(name, seed)
            quota = 1 << 62 if seed else share
            found.history(f"{name}:{seed}:", session, oracle, quota=quota)
            found.kills(name, seed, session, quota // (4 * KILLS))
            gc.collect()
            took = time.monotonic() - started
            if progress and took - shown > 30:
                shown = took
                print(
                    f"[{process}] {took:.0f} s, {found.tally.distinct / took:.0f} states/s: {found.tally}", flush=True
                )
            if found.done:
                return found.tally
    raise AssertionError("there is always another history")


def search_in_processes(wanted: int, processes: int, *, first_seed: int = 0, progress: bool = False) -> Tally:
    """Check `wanted` distinct states in several processes."""
    if processes == 1:
        return search(wanted, first_seed=first_seed, progress=progress)
    total = Tally()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        shares = [
            pool.apply_async(
                search,
                (-(-wanted // processes),),
                {"process": at, "processes": processes, "first_seed": first_seed, "progress": progress},
            )
            for at in range(processes)
        ]
        for share in shares:
            total.add(share.get())
    return total


def find(name: str) -> tuple[Found, Oracle, frozenset[bytes]]:
    """The state of that name, who judges it, and what must be in its quarantine."""
    first, *nested = name.split("/")
    scenario, seed, place = first.rsplit(":", 2)
    if place.startswith("k"):
        session, oracle = kill(scenario, int(seed), int(place[1:]))
        found, nested = _at(f"{first}/", nested[0], session, NESTED), nested[1:]
    else:
        session, oracle = record(scenario, int(seed))
        found = _at(f"{scenario}:{seed}:", place, session, FULL)
    for depth, inner in enumerate(nested, start=int(place.startswith("k"))):
        session = recover(found, session, depth, oracle)
        found = _at(f"{found.name}/", inner, session, NESTED)
    return found, oracle, session.kept


def _at(prefix: str, place: str, session: Session, limits: Limits) -> Found:
    for found in states_of(prefix, session, limits):
        if found.name == prefix + place:
            return found
    raise SystemExit(f"there is no state {prefix}{place}")


def show(name: str) -> int:
    """Check one state again, with all that can be said of it."""
    found, oracle, kept = find(name)
    print("\n  ".join([f"state {found.name}", *found.state.describe()]))
    for folder, files in found.image.items():
        for file, content in sorted(files.items()):
            digest = hashlib.sha256(content).hexdigest()[:8]
            print(f"  {folder}/{file}: {len(content)} bytes, {len(content.rstrip(bytes(1)))} to the last one, {digest}")
    try:
        oracle.check(found.image, found.expected, kept)
    except Violation as violation:
        print(report(found, violation))
        return 1
    print("it is good")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=200_000, help="how many distinct states to check")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="leave out the histories of other searches")
    parser.add_argument("--state", help="check this one again and describe it")
    arguments = parser.parse_args()
    if arguments.state:
        return show(arguments.state)
    started = time.monotonic()
    tally = search_in_processes(arguments.states, arguments.processes, first_seed=arguments.first_seed, progress=True)
    print("\n".join(tally.reports.values()))
    took = time.monotonic() - started
    print(f"{tally}\n{took:.0f} s, {tally.distinct / took:.0f} distinct states a second")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""What was asked, what came out, and whether a goal was met. Everything here is plain data and survives JSON.

A figure is a cost: seconds, or bytes, for one operation; less is better. How a table shows it is the unit's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

Measure = Callable[[], float]
"""One turn of one contestant: prepare, warm up, measure, tidy up; returns the cost of one operation."""


def _short(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def rate(cost: float) -> str:
    """So many a second."""
    number = 1 / cost
    for size, letter in ((1e6, " M"), (1e3, " K")):
        if number >= size:
            return f"{_short(number / size)}{letter}/s"
    return f"{_short(number)}/s"


def time(cost: float) -> str:
    """Seconds, in the unit that suits."""
    for size, name in ((1e-3, "ms"), (1e-6, "µs")):
        if cost >= size:
            return f"{_short(cost / size)} {name}"
    return f"{_short(cost * 1e9)} ns"


def bytes_(cost: float) -> str:
    """Bytes."""
    return f"{_short(cost)} B"


UNITS: dict[str, Callable[[float], str]] = {"rate": rate, "time": time, "bytes": bytes_}
"""How a cost is shown."""


@dataclass
class Answer:
    """The costs of every contestant of one question, a figure a round."""

    name: str
    title: str
    unit: str
    costs: dict[str, list[float]]
    missing: dict[str, str] = field(default_factory=dict)
    """Who could not take part, and why."""

    def median(self, who: str) -> float:
        """The middle round of a contestant."""
        return median(self.costs[who])

    def quartiles(self, who: str) -> tuple[float, float]:
        """Between these lies the middle half of a contestant's rounds."""
        found = self.costs[who]
        if len(found) == 1:
            return found[0], found[0]
        low, _, high = quantiles(found, n=4, method="inclusive")
        return low, high

    def shown(self, who: str) -> str:
        """The median as text."""
        return UNITS[self.unit](self.median(who))

    def spread(self, who: str) -> str:
        """The quartiles as text, the smaller number first."""
        low, high = self.quartiles(who)
        show = UNITS[self.unit]
        return f"{show(high)} – {show(low)}" if self.unit == "rate" else f"{show(low)} – {show(high)}"

    def best_first(self) -> list[str]:
        """The contestants by their medians."""
        return sorted(self.costs, key=self.median)

    def best(self, names: tuple[str, ...]) -> str | None:
        """The best of those that took part."""
        return min((name for name in names if name in self.costs), key=self.median, default=None)

    def to_json(self) -> dict[str, Any]:
        """With the medians and quartiles beside the rounds, for whoever reads the file."""
        spread = {who: {"median": self.median(who), "quartiles": self.quartiles(who)} for who in self.costs}
        return {**asdict(self), "spread": spread}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Answer:
        """What `to_json` wrote."""
        return cls(**{name: found[name] for name in ("name", "title", "unit", "costs", "missing")})


@dataclass(frozen=True)
class Goal:
    """A promise about one contestant's median.

    Against peers (the best of those named) it is a ratio: how many times quicker, or smaller, `who` is at least.
    Without peers it is a cost that is not exceeded.
    """

    question: str
    limit: float
    peers: tuple[str, ...] = ()
    who: str = "eventcore"
    as_part: bool = False
    """Say it as a part of the peer's cost (at most 1 / limit) rather than as a multiple."""


@dataclass(frozen=True)
class Verdict:
    """How far a goal was reached."""

    goal: Goal
    peer: str | None
    reached: float
    met: bool

    def __str__(self) -> str:
        return f"{self.aim()}: {self.result()}, {'met' if self.met else 'MISSED'}"

    def aim(self) -> str:
        """The goal in words."""
        goal = self.goal
        if not goal.peers:
            return f"{goal.who} ≤ {time(goal.limit)}"
        among = goal.peers[0] if len(goal.peers) == 1 else f"the best of {', '.join(goal.peers)}"
        return (
            f"{goal.who} ≤ {1 / goal.limit:.3g} × {among}" if goal.as_part else f"{goal.who} ≥ {goal.limit:g} × {among}"
        )

    def result(self) -> str:
        """What it came to."""
        if self.peer is None:
            return time(self.reached)
        ratio = f"{1 / self.reached:.3f}" if self.goal.as_part else _short(self.reached)
        return ratio + (f" ({self.peer})" if len(self.goal.peers) > 1 else "")


def verdicts(answer: Answer, goals: tuple[Goal, ...]) -> Iterator[Verdict]:
    """Of the goals of this question that can be judged: who it is about took part, and so did somebody to beat."""
    for goal in goals:
        if goal.question != answer.name or goal.who not in answer.costs:
            continue
        own, peer = answer.median(goal.who), answer.best(goal.peers)
        if not goal.peers:
            yield Verdict(goal, None, own, own <= goal.limit)
        elif peer is not None:
            reached = answer.median(peer) / own
            yield Verdict(goal, peer, reached, reached >= goal.limit)

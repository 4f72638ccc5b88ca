"""Compare contestants in one run: rounds that take turns, garbage collection off, medians, ratios against goals.

A machine's speed moves by a factor of two from minute to minute; the ratio of two medians of interleaved rounds does
not. Only ratios are goals.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

Contestants = Mapping[str, Callable[[], object]]


def medians(contestants: Contestants, rounds: int = 9, least_s: float = 0.01) -> dict[str, float]:
    """Seconds a call of each; a round repeats a fast call until it takes `least_s`."""
    often = {name: repeats(call, least_s) for name, call in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in contestants.items():
                times[name].append(_time(call, often[name]) / often[name])
    finally:
        if was_on:
            gc.enable()
    return {name: median(found) for name, found in times.items()}


def _time(call: Callable[[], object], often: int) -> float:
    start = perf_counter()
    for _ in range(often):
        call()
    return perf_counter() - start


def repeats(call: Callable[[], object], least_s: float) -> int:
    """How often to call for one measurement of at least `least_s` seconds."""
    often = 1
    while _time(call, often) < least_s:
        often *= 2
    return often


def report(title: str, contestants: Contestants, count: int, goals: Mapping[str, float]) -> dict[str, float]:
    """Print what one of `count` operations costs each contestant, and native's ratio to it against the goal."""
    seconds = medians(contestants)
    print(f"\n{title}")
    for name, taken in sorted(seconds.items(), key=lambda pair: pair[1]):
        ratio, goal = taken / seconds["native"], goals.get(name)
        verdict = "" if goal is None else f"  goal {goal:g}x: {'met' if ratio >= goal else 'MISSED'}"
        print(f"  {name:<28} {taken / count * 1e9:10.1f} ns  {ratio:8.1f}x{verdict}")
    return {name: taken / seconds["native"] for name, taken in seconds.items()}

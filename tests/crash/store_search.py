"""The search of a store's crash states. By itself, so that several processes can do a part of it each."""

from __future__ import annotations

from tests.crash.crash_states import Found, Limits, quiet, states_of
from tests.crash.oracle import Violation, image_key
from tests.crash.store_session import check, record_store


def search(
    name: str, limits: Limits, quota: int, process: int = 0, processes: int = 1, enough: int = 5
) -> tuple[int, list[str]]:
    """How many distinct states were checked, and what was bad. A process does its share of them."""
    seen: set[tuple[int, int]] = set()
    checked, bad = 0, list[str]()
    with quiet():
        for found in states_of(f"{name}:", record_store(name), limits):  # type: ignore[arg-type]
            key = (image_key(found.image), id(found.expected[-1]))
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % processes == process:
                checked += 1
                judge(found, bad)
            if len(seen) >= quota or len(bad) >= enough:
                break
    return checked, bad


def judge(found: Found, bad: list[str]) -> None:
    """Look at one state."""
    try:
        check(found.image, found.expected)  # type: ignore[arg-type]
    except Violation as violation:
        bad.append("\n  ".join([f"{found.name}: {violation}", *found.state.describe()]))

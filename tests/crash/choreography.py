"""The example of orders, inventory and fulfilment, its services killed at random moments and started again.

    python -m tests.crash.choreography --runs 200

prints totals and exits with 1 if an order got two outcomes, or none, or was shipped twice.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import eventcore as ec
from eventcore.format import group_log, transaction_log

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "orders.py"
ORDERS = 40
KILLS = 4
_WAITS_S = (0.005, 0.03, 0.08)
_DEADLINE_S = 120.0


@dataclass
class Totals:
    """What was done and found."""

    runs: int = 0
    kills: int = 0
    orders: int = 0
    wrong: list[str] = field(default_factory=list)


def example() -> ModuleType:
    """The module of the example."""
    spec = importlib.util.spec_from_file_location("example_orders", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def start(service: Callable[..., None], folder: Path) -> int:
    """A service in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            service(folder, ORDERS)
        except BaseException as error:  # whatever it is, the parent must not go on in the child
            sys.stderr.write(f"{service.__name__}: {type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return child


def one(module: Any, folder: Path, pick: random.Random, totals: Totals) -> None:
    """One run: all of them are started, some are killed, all come to their end."""
    for name in module.SERVICES:
        with ec.open(folder / name, fsync="never", config={"store.housekeeping.enable": False}) as store:
            for internal in (group_log.TOPIC, transaction_log.TOPIC):  # fifty partitions would be much of the same
                store.internal_topic(internal, 1, {"cleanup.policy": "compact"})
    living = {name: start(service, folder) for name, service in module.SERVICES.items()}
    for _ in range(KILLS):
        time.sleep(pick.choice(_WAITS_S) * (0.5 + pick.random()))
        name = pick.choice(list(module.SERVICES))
        if name not in living or _ended(living[name], totals):
            living.pop(name, None)
            continue
        os.kill(living[name], signal.SIGKILL)
        os.waitpid(living[name], 0)
        totals.kills += 1
        living[name] = start(module.SERVICES[name], folder)
    _wait(living, totals)
    totals.runs += 1
    totals.orders += ORDERS
    if totals.wrong:
        return
    outcomes = module.report(folder)
    got = sorted(order for order, _ in outcomes.elements())
    if got != list(range(ORDERS)):
        totals.wrong.append(f"{folder}: outcomes of the orders {got}")


def _ended(child: int, totals: Totals) -> bool:
    """Whether it has come to its end; then it was waited for, once."""
    found, status = os.waitpid(child, os.WNOHANG)
    if found and status:
        totals.wrong.append(f"a service ended with {status}")
    return bool(found)


def _wait(living: dict[str, int], totals: Totals) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    left = dict(living)
    while left:
        for name, child in list(left.items()):
            if _ended(child, totals):
                del left[name]
        if time.monotonic() > deadline:
            totals.wrong.append(f"they do not come to an end: {sorted(left)}")
            for child in left.values():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return
        time.sleep(0.005)


def run(runs: int, seed: int, ground: Path, totals: Totals) -> Totals:
    """So many runs."""
    pick, module = random.Random(seed), example()
    while totals.runs < runs and not totals.wrong:
        one(module, ground / f"run{totals.runs}", pick, totals)
    return totals


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as ground:
        totals = run(arguments.runs, arguments.seed, Path(ground), Totals())
    print(f"{totals.runs} runs, {totals.kills} kills, {totals.orders} orders, {len(totals.wrong)} violations")
    print(*totals.wrong, sep="\n")
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compare with other stores and libraries: a table a question, JSON, a plot.

python -m bench.peers                      everything, about ten minutes
python -m bench.peers --quick              less of everything, a minute; the figures are rough
python -m bench.peers --only scan point    some groups of questions
python -m bench.peers --json F --svg F     keep the figures, and the picture of them
python -m bench.peers --from F --readme    from kept figures: the tables of the README
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.machine import machine
from bench.peers import appends, codec, durable, latency, reads, tables, twins
from bench.peers.answers import Answer, verdicts
from bench.peers.goals import GOALS
from bench.peers.rounds import FULL, QUICK, Ground, Scale, ground
from bench.peers.stores import STORES, installed

ALL_GOALS = (*GOALS, *twins.GOALS)
GROUPS: dict[str, Callable[[Ground], Iterator[Answer]]] = {
    # First what forks: later there are threads of other stores in this process.
    "tail": latency.tail,
    "append": appends.appends,
    "columns": appends.columns_in,
    "durable": durable.durable,
    "threads": durable.threads,
    "scan": reads.scan,
    "point": reads.point_reads,
    "disk": reads.disk,
    "open": reads.opening,
    "encode": codec.encode,
    "decode": codec.decode,
    "crc": codec.crc,
    "twins": twins.twins,
}


def conditions(where: Ground) -> dict[str, str]:
    """What has to be known about the figures."""
    stores = {f"{store.name} is": store.durability for store in STORES if installed(store.name)}
    load = f"{os.getloadavg()[0]:.1f} when it began"
    return {**machine(where.path), "load": load, "rounds": str(where.scale.rounds), **stores}


def run(where: Ground, groups: Iterable[str], say: Callable[[str], None] = print) -> list[Answer]:
    """Ask, and print each table as soon as it is there."""
    answers: list[Answer] = []
    for group in groups:
        start = perf_counter()
        found = []
        for answer in GROUPS[group](where):
            found.append(answer)
            if group != "twins":
                say(tables.text(answer, ALL_GOALS))
        if group == "twins":
            say(tables.twins(found, ALL_GOALS))
        say(f"  [{group}: {perf_counter() - start:.0f} s]")
        answers += found
    say(tables.summary(answers, ALL_GOALS))
    return answers


def compare(scale: Scale, folder: str | None, groups: Iterable[str]) -> dict[str, Any]:
    """Everything, printed; and as data."""
    with ground(folder, scale) as where:
        about = conditions(where)
        print(tables.RULES + "\n")
        for name, value in about.items():
            print(f"{name:<32}{value}")
        answers = run(where, groups)
    return as_data(about, answers)


def as_data(about: dict[str, str], answers: list[Answer]) -> dict[str, Any]:
    """What goes into the JSON file."""
    judged = [
        {"question": answer.name, "goal": verdict.aim(), "reached": verdict.result(), "met": verdict.met}
        for answer in answers
        for verdict in verdicts(answer, ALL_GOALS)
    ]
    return {"machine": about, "answers": [answer.to_json() for answer in answers], "goals": judged}


def added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new figures, and the old ones of questions that were not asked again. Ratios are of one run all the same."""
    asked = {answer["name"]: answer for answer in [*old["answers"], *new["answers"]]}
    return as_data(new["machine"], [Answer.from_json(answer) for answer in asked.values()])


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--folder", help="where to write; a temporary folder of the system if not given")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures")
    parser.add_argument("--add", action="store_true", help="keep what the JSON file has on other questions")
    parser.add_argument("--svg", type=Path, metavar="F", help="write the picture (needs matplotlib)")
    parser.add_argument(
        "--from", type=Path, metavar="F", dest="kept", help="measure nothing: figures of an earlier run"
    )
    parser.add_argument("--readme", action="store_true", help="print tables in Markdown at the end")
    options = parser.parse_args(arguments)
    if options.kept:
        figures = json.loads(options.kept.read_text())
    else:
        figures = compare(QUICK if options.quick else FULL, options.folder, options.only)
    if options.json:
        if options.add and options.json.exists():
            figures = added(json.loads(options.json.read_text()), figures)
        options.json.write_text(json.dumps(figures, indent=1))
    answers = [Answer.from_json(found) for found in figures["answers"]]
    if options.svg:
        from bench.peers.plot import plot

        plot({answer.name: answer for answer in answers}, options.svg)
    if options.readme:
        print(tables.markdown(answers))


if __name__ == "__main__":
    main()

"""The comparison with others, tiny: every store gives back the same records, every question finds an answer.

The figures of so little mean nothing; `python -m bench.peers` measures. Peers that are not installed are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bench.bench_partition import Bench
from bench.peers import __main__ as command
from bench.peers import stores, tables
from bench.peers.answers import Answer, Goal, verdicts
from bench.peers.goals import GOALS, TWINS
from bench.peers.records import batches, key_of, value_of
from bench.peers.rounds import TINY, Ground, ask, warm
from bench.peers.stores import STORES, Store, installed

EVERY = [*STORES, stores.SqliteOff]


@pytest.fixture(params=EVERY, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> type[Store]:
    if not installed(request.param.name):
        pytest.skip(f"{request.param.name} is not installed")
    chosen: type[Store] = request.param
    return chosen


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Answer]]:
    """The answers of a group of questions, asked once."""
    where = Ground(tmp_path_factory.mktemp("ground"), TINY)

    @cache
    def ask_them(group: str) -> list[Answer]:
        return list(command.GROUPS[group](where))

    return ask_them


GROUPS = [name for name in command.GROUPS if name != "twins" and (name != "tail" or hasattr(os, "fork"))]


@pytest.mark.parametrize("durable", [False, True])
def test_a_store_gives_back_what_it_got(store: type[Store], durable: bool, tmp_path: Path) -> None:
    log = store(tmp_path, durable)
    for batch in batches(300, 100):
        log.append_batch(batch)
    for offset in range(300, 310):
        log.append_one(value_of(offset), key_of(offset))
    rows = list(log.scan())
    assert [(row[0], row[2], row[3]) for row in rows] == [(n, key_of(n), value_of(n)) for n in range(310)]
    assert rows[0][1] > 1_600_000_000_000
    assert tuple(log.get(305))[:4] == tuple(rows[305])[:4]
    log.close()
    assert stores.size_on_disk(tmp_path) > 300 * 110
    again = store(tmp_path, durable)
    again.append_one(b"v", b"k")
    assert [tuple(row)[:4] for row in again.scan()][:310] == [tuple(row)[:4] for row in rows]
    assert (again.get(310)[2], again.get(310)[3]) == (b"k", b"v")
    again.close()


@pytest.mark.sampled
@pytest.mark.parametrize("group", GROUPS)
def test_every_question_has_an_answer(group: str, answers: Callable[[str], list[Answer]]) -> None:
    for answer in answers(group):
        assert answer.costs
        assert all(cost > 0 for found in answer.costs.values() for cost in found)
        assert answer.title in tables.text(answer, command.ALL_GOALS)
        assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer
    assert tables.markdown(answers(group))


@pytest.mark.sampled
def test_goals_are_about_questions_and_contestants_that_there_are(answers: Callable[[str], list[Answer]]) -> None:
    """A name that is misspelt would be a goal that is never judged."""
    found = {answer.name: answer for group in GROUPS for answer in answers(group)}
    for goal in GOALS:
        if goal.question != "tail" or "tail" in GROUPS:
            known = {*found[goal.question].costs, *found[goal.question].missing}
            assert {goal.who, *goal.peers} <= known, goal


def test_goals_of_the_twins_are_about_operations_that_there_are(tmp_path: Path) -> None:
    assert set(TWINS) <= {*Bench(tmp_path, 1).operations(), "extend_columns, 1,000 records"}


def test_everybody_takes_turns_and_begins_once() -> None:
    seen = []

    def contestant(name: str) -> float:
        seen.append(name)
        return 1.0

    answer = ask("q", "a question", "time", {name: lambda name=name: contestant(name) for name in "abc"}, 3)
    assert "".join(seen) == "abcbcacab"
    assert answer.costs == {name: [1.0] * 3 for name in "abc"}


def test_verdicts() -> None:
    answer = Answer("q", "a question", "time", {"eventcore": [1e-6, 2e-6, 9e-6], "a": [8e-6], "b": [6e-6]})
    goals = {
        Goal("q", 3, ("a", "b")): "eventcore ≥ 3 × the best of a, b: 3.00 (b), met",
        Goal("q", 4.1, ("a",)): "eventcore ≥ 4.1 × a: 4.00, MISSED",
        Goal("q", 1 / 0.3, ("b",), as_part=True): "eventcore ≤ 0.3 × b: 0.333, MISSED",
        Goal("q", 2e-6): "eventcore ≤ 2.00 µs: 2.00 µs, met",
        Goal("q", 1, ("absent",)): None,
        Goal("other", 1, ("a",)): None,
    }
    assert [str(found) for found in verdicts(answer, tuple(goals))] == [words for words in goals.values() if words]
    assert answer.quartiles("eventcore") == (1.5e-6, 5.5e-6)
    assert answer.best_first() == ["eventcore", "b", "a"]


@pytest.mark.parametrize("size", [1, 4096, 10_000_001])
def test_memory_of_any_size_is_warmed(size: int) -> None:
    warm(size)


def figures() -> dict[str, Answer]:
    names = ["eventcore", "sqlite3", "lmdb"]
    rates = ["append-1000", "append-100", "append-1", "durable-1", "scan", "point-1", "encode-1000"]
    found = {name: Answer(name, name, "rate", {who: [1e-7] for who in names}) for name in rates}
    return {**found, "tail": Answer("tail", "tail", "time", {"pipe": [2e-5]})}


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.peers.plot import plot

    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    plot(figures(), one)
    plot(figures(), other)
    assert one.read_bytes() == other.read_bytes()
    assert b"10 M" in one.read_bytes()


def test_kept_figures_make_the_tables_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "figures.json"
    kept.write_text(json.dumps(command.as_data({"cpu": "any"}, list(figures().values()))))
    command.main(["--from", str(kept), "--readme"])
    printed = capsys.readouterr().out
    assert "| append, batches of 1,000 | **10.0 M/s** | 10.0 M/s | 10.0 M/s | – | – | – |" in printed


@pytest.mark.sampled
def test_the_command_line_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    kept = tmp_path / "figures.json"
    command.main(["--quick", "--only", "disk", "--folder", str(tmp_path), "--json", str(kept)])
    printed = capsys.readouterr().out
    assert "Bytes on disk" in printed
    assert "eventcore ≤ 0.92 × sqlite3" in printed
    assert {found["name"] for found in json.loads(kept.read_text())["answers"]} == {"disk-1", "disk-100", "disk-1000"}
    assert list(tmp_path.iterdir()) == [kept]
    command.main(["--quick", "--only", "crc", "--folder", str(tmp_path), "--json", str(kept), "--add"])
    assert {"disk-1", "crc-64"} <= {found["name"] for found in json.loads(kept.read_text())["answers"]}

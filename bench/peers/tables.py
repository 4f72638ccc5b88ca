"""Answers as text: a table a question for the terminal, two tables for a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.peers.answers import Answer, Goal, verdicts
from bench.peers.stores import STORES

RULES = """\
Every store holds the same records (10-byte key, 100-byte value) under their offsets, with a timestamp, and gives them
back as (offset, timestamp, key, value). All of them in one process, garbage collection off, on one file system, the
page cache warm; contestants take turns in rounds, and a figure is the median, beside it the middle half of the rounds.
eventcore with everything it has: index, roll, guard against SIGBUS, state page for readers, locks, CRC of each batch.
Steady: the pages of eventcore's segment are there (`preallocate`), and every store has had a tenth of the records
before. New files: the first page of each to be touched is counted. Not durable: what the process wrote survives its
death, not a power cut. Durable: on stable storage when the call returns, as far as the system knows."""


def text(answer: Answer, goals: tuple[Goal, ...]) -> str:
    """The table of one question."""
    against = next((name for name in answer.costs if name.startswith("eventcore")), None)
    lines = [f"\n{answer.title}", f"  {'':<38}{'median':>12}{'middle half':>26}{'÷ eventcore' if against else '':>14}"]
    for name in answer.best_first():
        ratio = f"{answer.median(name) / answer.median(against):.2f} x" if against else ""
        lines.append(f"  {name:<38}{answer.shown(name):>12}{answer.spread(name):>26}{ratio:>14}")
    lines += [f"  {name:<38} {why}" for name, why in answer.missing.items()]
    lines += [f"  goal {verdict}" for verdict in verdicts(answer, goals)]
    return "\n".join(lines)


def twins(answers: Iterable[Answer], goals: tuple[Goal, ...]) -> str:
    """Native beside pure, all operations in one table."""
    lines = [f"\nNative and pure kernels, a record or a call\n  {'':<40}{'native':>12}{'pure':>12}{'÷':>10}"]
    for answer in answers:
        ratio = answer.median("pure") / answer.median("native")
        aims = "".join(f"  goal ≥ {v.goal.limit:g}: {'met' if v.met else 'MISSED'}" for v in verdicts(answer, goals))
        lines.append(f"  {answer.title:<40}{answer.shown('native'):>12}{answer.shown('pure'):>12}{ratio:>10.0f}{aims}")
    return "\n".join(lines)


def summary(answers: Iterable[Answer], goals: tuple[Goal, ...]) -> str:
    """All goals, at the end."""
    found = [(answer.title, verdict) for answer in answers for verdict in verdicts(answer, goals)]
    missed = [f"  {title}: {verdict}" for title, verdict in found if not verdict.met]
    return "\n".join([f"\nGoals: {len(found) - len(missed)} of {len(found)} met", *missed])


_COLUMNS = tuple(store.name for store in STORES)
_OF_STORES = {
    "append-1000": "append, batches of 1,000",
    "append-1000-cold": "the same into new files",
    "append-100": "append, batches of 100",
    "append-1": "append, one record a call",
    "durable-1000": "durable, batches of 1,000",
    "durable-100": "durable, batches of 100",
    "durable-1": "durable, one record a call",
    "scan": "scan to tuples",
    "point-1": "read by offset, batches of 1",
    "point-100": "read by offset, batches of 100",
    "point-1000": "read by offset, batches of 1,000",
    "point-10000": "read by offset, batches of 10,000",
    "disk-1000": "bytes of a record on disk",
}
_BESIDE_OTHERS = {
    "columns-in": ("columns in, 1,000 records a call", "eventcore", ("memcpy", "pyarrow IPC")),
    "encode-1000": ("encode a batch of 1,000", "eventcore", ("aiokafka", "kafka-python")),
    "decode-1000": ("decode batches of 1,000 to tuples", "eventcore, tuples", ("aiokafka", "kafka-python")),
    "scan": ("scan to columns", "eventcore, columns", ("sqlite3",)),
    "tail": ("from process to process", "eventcore, spinning", ("socketpair", "pipe", "multiprocessing.Queue")),
    "durable-threads": ("durable, 32 threads, one record a call", "eventcore, 32 threads", ("eventcore, 1 thread",)),
    "open": ("open a large log", "eventcore, the large log", ("sqlite3", "rocksdict")),
    "crc-1048576": ("CRC-32C of 1 MiB", "eventcore", ("google-crc32c",)),
}


def _shown(answer: Answer, who: str) -> str:
    return answer.shown(who) if who in answer.costs else "–"


def markdown(answers: Iterable[Answer]) -> str:
    """The tables of the README: questions by stores, and what is beside other things than stores."""
    found: Mapping[str, Answer] = {answer.name: answer for answer in answers}
    lines = [f"| | {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * len(_COLUMNS)]
    for name, title in _OF_STORES.items():
        if (answer := found.get(name)) is not None:
            own = "eventcore, tuples" if name == "scan" else "eventcore"
            names = (own, *_COLUMNS[1:])
            best = min((who for who in names if who in answer.costs), key=answer.median, default="")
            cells = [f"**{_shown(answer, who)}**" if who == best else _shown(answer, who) for who in names]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| | eventcore | beside it |", "|---|---:|---|"]
    for name, (title, own, others) in _BESIDE_OTHERS.items():
        if (answer := found.get(name)) is not None and own in answer.costs:
            beside = "; ".join(f"{who} {_shown(answer, who)}" for who in others if who in answer.costs)
            lines.append(f"| {title} | {_shown(answer, own)} | {beside} |")
    return "\n".join(lines)

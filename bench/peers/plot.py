"""The figures as a picture, an SVG that is the same for the same figures: bars on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers.answers import Answer

Bar = tuple[str, str, float]
"""(who, label, value)"""
_OURS, _THEIRS = "#1f6feb", "#afb8c1"
_INK, _PAPER, _GRID = "#24292f", "#ffffff", "#d0d7de"


class Panel(NamedTuple):
    """A group of questions on one scale."""

    title: str
    rate: bool
    """Whether bars show how many a second, or else what one costs, times `scale`."""
    scale: float
    questions: Mapping[str, str]
    """Name of the question → what stands above its bars."""


_STORES = ("eventcore", "sqlite3", "lmdb", "rocksdict", "plyvel", "plain file")
_SHOWN = {
    "scan": ("eventcore, columns", "eventcore, lazy records", "eventcore, tuples", *_STORES[1:]),
    "tail": ("eventcore, spinning", "eventcore, asleep", "socketpair", "pipe", "multiprocessing.Queue"),
    "encode-1000": ("eventcore", "aiokafka", "kafka-python"),
    "decode-1000": ("eventcore, columns (kernel)", "eventcore, tuples", "aiokafka", "kafka-python"),
}
"""Who is in the picture, where it is not the stores."""

PANELS = (
    Panel(
        "append, records/s",
        True,
        1,
        {"append-1000": "batches of 1,000", "append-100": "batches of 100", "append-1": "one a call"},
    ),
    Panel(
        "durable append, records/s",
        True,
        1,
        {"durable-1000": "batches of 1,000", "durable-100": "batches of 100", "durable-1": "one a call"},
    ),
    Panel("scan, records/s", True, 1, {"scan": "all records"}),
    Panel(
        "random read by offset, reads/s",
        True,
        1,
        {"point-1000": "batches of 1,000", "point-1": "batches of 1"},
    ),
    Panel("to another process, µs (less is better)", False, 1e6, {"tail": "one record"}),
    Panel("Kafka batches of 1,000, records/s", True, 1, {"encode-1000": "encode", "decode-1000": "decode"}),
)


def _bars(panel: Panel, answer: Answer) -> list[Bar]:
    names = [name for name in _SHOWN.get(answer.name, _STORES) if name in answer.costs]
    costs = {name: answer.median(name) for name in names}
    values = {name: 1 / cost if panel.rate else cost * panel.scale for name, cost in costs.items()}
    return [(name, _number(value), value) for name, value in values.items()]


def _number(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _draw(axes: Any, panel: Panel, answers: Mapping[str, Answer]) -> None:
    """One panel, from top to bottom: a line of text a question, then its bars."""
    rows = [
        row
        for name, title in panel.questions.items()
        if name in answers
        for row in [("", title, 0.0), *_bars(panel, answers[name])]
    ]
    values = [value for _, _, value in rows if value]
    low = min(values, default=1) / 4
    for place, (who, label, value) in enumerate(rows):
        if not value:
            axes.text(low, place, label, va="center", fontsize=8, style="italic", color=_INK)
            continue
        axes.barh(place, value - low, left=low, color=_OURS if who.startswith("eventcore") else _THEIRS, height=0.8)
        axes.text(value * 1.1, place, label, va="center", fontsize=8, color=_INK)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(low, max(values, default=1) * 6)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [who for who, _, _ in rows], fontsize=8, color=_INK)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", length=0, labelbottom=False)
    axes.grid(axis="x", which="major", color=_GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, fontsize=9, fontweight="bold", loc="left", color=_INK)
    for side in axes.spines.values():
        side.set_visible(False)


def plot(answers: Mapping[str, Answer], path: Path) -> None:
    """Write the picture; needs matplotlib."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    # Text stays text, ids do not depend on chance, and the background is the picture's own in dark pages, too.
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "eventcore",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    }
    with matplotlib.rc_context(settings):
        pyplot = import_module("matplotlib.pyplot")
        figure, grid = pyplot.subplots(3, 2, figsize=(10, 11), facecolor=_PAPER, height_ratios=(21, 14, 9))
        for axes, panel in zip(grid.flat, PANELS, strict=True):
            axes.set_facecolor(_PAPER)
            _draw(axes, panel, answers)
        figure.text(0.01, 0.005, "logarithmic scales; medians of interleaved rounds", fontsize=8, color=_INK)
        figure.tight_layout(rect=(0, 0.015, 1, 1))
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)

"""Progress on stderr, for people only: nothing is drawn where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from eventcore.cli.output import console

Advance = Callable[[int, int], None]
"""Called with (bytes read, records appended) so far."""


@contextmanager
def ingest_progress(total: int | None, wanted: bool) -> Iterator[Advance]:
    """A bar over the bytes of the input, if their number is known, and the rate."""
    if not wanted or not sys.stderr.isatty():
        yield lambda done, records: None
        return
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, text="")

        def advance(done: int, records: int) -> None:
            rate = records / max(progress.tasks[0].elapsed or 0.0, 1e-3)
            progress.update(task, completed=done, text=f"{records:,} records, {rate:,.0f}/s")

        yield advance


@contextmanager
def spinner(text: str, wanted: bool) -> Iterator[None]:
    """A sign of life during a call that cannot say how far it is."""
    if not wanted or not sys.stderr.isatty():
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=None)
        yield


@contextmanager
def step_progress(total: int, wanted: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar over bytes of work, told the bytes of each step."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    columns = (SpinnerColumn(), BarColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def work_progress(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over bytes of work, told how many are done and how many there are in all."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    columns = (SpinnerColumn(), BarColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

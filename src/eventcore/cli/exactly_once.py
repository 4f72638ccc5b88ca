"""An import that may be killed at any moment and started again: every line becomes one record.

The log remembers how many records of the import each partition has, under the import's name; a later run reads the file
from its start and leaves out as many. So the file may have grown since, but not changed before its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import eventcore as ec


class Once:
    """Appends what is not there yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.repeated = 0
        """Records that an earlier run has appended."""
        self._producer_id = ec.producer_id_of(name)
        self._positions: dict[int, int] = {}

    def extend(self, number: int, partition: ec.Partition, records: list[Any]) -> None:
        """Append the next records of a partition as one batch, without those that it has."""
        position = self._positions.get(number, 0)
        known = min(max(partition.next_sequence(self._producer_id) - position, 0), len(records))
        if known < len(records):
            partition.append_sequenced(records[known:], self._producer_id, sequence=position + known)
        self._positions[number] = position + len(records)
        self.repeated += known

    def keyless(self, partitions: int) -> int:
        """The partition of records without a key: the same in every run."""
        return self._producer_id % partitions


def once_option(is_wanted: bool, name: str | None, file: Path | None, skip_bad: bool) -> Once | None:
    """What `--exactly-once` and `--name` mean."""
    if not is_wanted:
        if name is not None:
            raise typer.BadParameter("it names what is appended once", param_hint="--name without --exactly-once")
        return None
    if skip_bad:
        text = "a line that is skipped now and taken later would move all behind it; mend the line and start again"
        raise typer.BadParameter(text, param_hint="--exactly-once with --skip-bad")
    if name is None and file is None:
        raise typer.BadParameter("what comes through a pipe needs one", param_hint="--name")
    return Once(name if name is not None else str(Path(str(file)).resolve()))

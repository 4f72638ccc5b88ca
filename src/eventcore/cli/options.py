"""The arguments that several commands share, and what their texts mean."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Literal

import typer

import eventcore as ec
from eventcore.cli.failures import CommandFailed

Folder = Annotated[Path, typer.Argument(metavar="PATH", help="The folder of one partition.", show_default=False)]
StoreFolder = Annotated[Path, typer.Argument(metavar="PATH", help="The folder of a store.", show_default=False)]
AnyFolder = Annotated[
    Path, typer.Argument(metavar="PATH", help="The folder of one partition, or of a store.", show_default=False)
]
TopicName = Annotated[
    str | None, typer.Option("--topic", metavar="TOPIC", help="PATH is a store's, and this topic is meant.")
]
PartitionNumber = Annotated[
    int | None, typer.Option("--partition", min=0, metavar="N", help="This partition of the topic.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output: JSON, no colours, no progress.")]
Fsync = Annotated[
    Literal["always", "interval", "never"],
    typer.Option(help="What an append waits for: the disk, a sync every flush.ms, nothing."),
]

Config = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A configuration in Kafka's name; repeatable.")
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_INT64_MAX = (1 << 63) - 1


def open_folder(
    path: Path, mode: Literal["rw", "r"] = "r", fsync: str = "always", config: object = None
) -> ec.Partition:
    """The partition in a folder; a path that is something else is said so plainly."""
    check_folder(path, may_be_missing=mode != "r")
    try:
        return ec.open_partition(path, mode, fsync, config)  # type: ignore[arg-type]
    except ec.LogLocked as error:
        error.hint = "end the other writer first; read, tail and stat work meanwhile"
        raise


def open_store(
    path: Path, mode: Literal["rw", "r"] = "r", fsync: str = "always", *, may_be_missing: bool = True
) -> ec.Store:
    """The store in a folder, without a thread that looks after it."""
    check_folder(path, may_be_missing=mode != "r" and may_be_missing)
    try:
        return ec.open(path, mode, fsync, {"store.housekeeping.enable": False})  # type: ignore[arg-type]
    except ec.LogLocked as error:
        error.hint = "end the other writer first; read and stat work meanwhile"
        raise


def is_store(path: Path) -> bool:
    """Whether a folder is a store's."""
    return (path / "meta.properties").is_file()


def check_folder(path: Path, *, may_be_missing: bool = False) -> None:
    """Say plainly what is wrong with a path that is no folder."""
    if path.exists() and not path.is_dir():
        raise CommandFailed(f"{path} is a file; give the folder it lies in")
    if not may_be_missing and not path.exists():
        raise CommandFailed(
            f"there is no folder {path}; check the path, or make it with `eventcore append {path} FILE`"
        )


def parse_time(text: str) -> int:
    """Milliseconds since the epoch, from just that or from ISO-8601 with a zone. Raises ValueError."""
    if text.isascii() and text.isdigit():
        if len(text) > 19 or int(text) > _INT64_MAX:
            raise ValueError(f"the time {text[:40]} is too large")
        return int(text)
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no time: give ms since the epoch, or ISO-8601 with a zone") from None
    if moment.tzinfo is None:
        raise ValueError(f"the time {text!r} has no zone: add Z or an offset such as +02:00")
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    if milliseconds < 0:
        raise ValueError(f"the time {text!r} lies before 1970")
    return milliseconds


def time_option(text: str | None, name: str) -> int | None:
    """The time an option names."""
    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def confirm(question: str, refusal: str) -> None:
    """Ask whoever runs the command; without a yes it has failed."""
    if not typer.confirm(question, err=True):
        raise CommandFailed(refusal)


def config_pairs(pairs: list[str]) -> dict[str, str]:
    """The names and values of `name=value` pairs."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not name=value", param_hint="--config")
        values[name.strip()] = value.strip()
    return values


def config_option(pairs: list[str]) -> ec.LogConfig:
    """The configuration that `name=value` pairs describe."""
    try:
        return ec.LogConfig.of(config_pairs(pairs))
    except ec.InvalidConfig as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None

"""`eventcore groups`: list, describe, reset and delete the consumer groups of a store."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.failures import Group
from eventcore.cli.options import Json, StoreFolder, confirm, open_store, parse_time
from eventcore.cli.output import print_table, write, write_json

groups = typer.Typer(cls=Group, help="List, describe, reset and delete the consumer groups of a store.")
Name = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.", show_default=False)]


@groups.command("list")
def list_groups(path: StoreFolder, as_json: Json = False) -> None:
    """List the groups, with how far they lag behind."""
    with open_store(path) as store:
        facts = [group_facts(store, name) for name in store.groups.list()]
    if as_json:
        write_json(facts)
        return
    rows = [
        (
            one["group"],
            len(one["members"]),
            len(one["partitions"]),
            sum(place["lag"] or 0 for place in one["partitions"]),
        )
        for one in facts
    ]
    print_table(("group", ">members", ">partitions", ">lag"), rows)


@groups.command()
def describe(path: StoreFolder, name: Name, as_json: Json = False) -> None:
    """Show where a group is in each partition, how far it lags behind, and whose the partition is."""
    with open_store(path) as store:
        _tell(group_facts(store, name), as_json)


@groups.command()
def reset(
    path: StoreFolder,
    name: Name,
    to: Annotated[
        str,
        typer.Option(metavar="PLACE", help="earliest, latest, an offset, or a time such as 2026-11-20T08:00Z."),
    ],
    topic: Annotated[str | None, typer.Option(help="Of this topic only; needed if the group has no place yet.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Of this partition of the topic only.")] = None,
    as_json: Json = False,
) -> None:
    """Move a group, whose consumers are closed, to another place."""
    with _open_for_offsets(path) as store:
        store.groups.reset(name, _place(to), _partitions(store, topic, partition))
        _tell(group_facts(store, name), as_json)


@groups.command()
def delete(
    path: StoreFolder,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget a group, whose consumers are closed, and where it is."""
    if not yes:
        confirm(f"forget group {name} and where it is?", "nothing was deleted")
    with open_store(path, "rw", may_be_missing=False) as store:
        store.groups.delete(name)
    if as_json:
        write_json({"group": name, "deleted": True})
    else:
        write(f"group {name} is deleted\n")


def _open_for_offsets(path: Path) -> ec.Store:
    """For a writer, so that the log has it at once; while another one writes as a reader, who can commit, too."""
    try:
        return open_store(path, "rw", may_be_missing=False)
    except ec.LogLocked:
        return open_store(path)


def _place(to: str) -> int | datetime | str:
    if to in ("earliest", "latest"):
        return to
    if to.isascii() and to.isdigit():
        return int(to)
    try:
        return datetime.fromtimestamp(parse_time(to) / 1000, timezone.utc)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None


def _partitions(store: ec.Store, topic: str | None, partition: int | None) -> list[tuple[str, int]] | None:
    if topic is None:
        if partition is not None:
            raise typer.BadParameter("a partition of which topic? give --topic", param_hint="--partition")
        return None
    if partition is not None:
        return [(topic, partition)]
    return [(topic, one.number) for one in store.topic(topic)]


def group_facts(store: ec.Store, name: str) -> dict[str, Any]:
    """What there is to say of a group, for JSON."""
    found = store.groups.describe(name)
    return {
        "group": found.group,
        "members": {member: list(topics) for member, topics in found.members.items()},
        "partitions": [
            {
                "topic": one.topic,
                "partition": one.partition,
                "committed_offset": one.committed.offset if one.committed else None,
                "committed_ms": one.committed.commit_ms if one.committed else None,
                "metadata": one.committed.metadata if one.committed else None,
                "end_offset": one.end_offset,
                "lag": one.lag,
                "member": one.member_id,
            }
            for one in found.partitions
        ],
    }


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    """A row for each partition."""
    if as_json:
        write_json(facts)
        return
    write(f"{facts['group']}  {len(facts['members'])} members\n")
    columns = ("topic", ">partition", ">committed", ">end", ">lag", "member")
    names = ("topic", "partition", "committed_offset", "end_offset", "lag", "member")
    print_table(
        columns, [tuple("-" if one[name] is None else one[name] for name in names) for one in facts["partitions"]]
    )

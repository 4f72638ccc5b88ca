"""`eventcore topics`: create, list, describe, alter and delete the topics of a store."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.failures import Group
from eventcore.cli.options import Config, Json, StoreFolder, config_pairs, confirm, open_store
from eventcore.cli.output import plain_text, print_table, size_text, write, write_json

topics = typer.Typer(cls=Group, help="Create, list, describe, alter and delete the topics of a store.")
Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.", show_default=False)]


@topics.command()
def create(
    path: StoreFolder,
    name: Name,
    partitions: Annotated[int, typer.Option(min=1, help="How many partitions it has.")] = 1,
    config: Config = None,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="Fine if it is there already, and the same.")] = False,
    as_json: Json = False,
) -> None:
    """Make a topic. The store is made if the folder is missing."""
    values = config_pairs(config or [])
    with open_store(path, "rw") as store:
        topic = store.create_topic(name, partitions, values, exist_ok=exist_ok)
        facts = topic_facts(store, topic)
    if as_json:
        write_json(facts)
    else:
        write(f"topic {name} has {len(topic)} partition{'s' * (len(topic) > 1)}\n")


@topics.command("list")
def list_topics(path: StoreFolder, as_json: Json = False) -> None:
    """List the topics of a store."""
    with open_store(path) as store:
        facts = [topic_facts(store, store.topic(name)) for name in _whole(store)]
    if as_json:
        write_json(facts)
    else:
        print_topics(facts)


@topics.command()
def describe(path: StoreFolder, name: Name, as_json: Json = False) -> None:
    """Show a topic's partitions, and all of its configuration."""
    with open_store(path) as store:
        topic = store.topic(name)
        facts = topic_facts(store, topic)
        own, config = facts["config"], topic.config.as_dict()
    if as_json:
        write_json({**facts, "effective_config": config})
        return
    write(f"{name}  id {facts['topic_id'] or '-'}\n")
    columns = (">partition", ">log start", ">high watermark", ">records at most", "size")
    print_table(columns, [_partition_row(partition) for partition in facts["partitions"]])
    rows = [(key, str(value), "this topic" if key in own else "the default") for key, value in config.items()]
    print_table(("configuration", "value", "set by"), rows)


@topics.command()
def alter(
    path: StoreFolder,
    name: Name,
    config: Config = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Go back to the default; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Change a topic's configuration."""
    changes = {**config_pairs(config or []), **dict.fromkeys(unset or [])}
    if not changes:
        raise typer.BadParameter("nothing to change; give --config NAME=VALUE or --unset NAME", param_hint="--config")
    with open_store(path, "rw", may_be_missing=False) as store:
        store.configure_topic(name, changes)
        own = store.own_config(name)
    if as_json:
        write_json({"topic": name, "config": own})
    else:
        text = ", ".join(f"{key}={value}" for key, value in own.items()) or "the defaults"
        write(f"topic {name} has {plain_text(text)}\n")


@topics.command()
def delete(
    path: StoreFolder,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a topic and all of its records."""
    if not yes:
        confirm(f"delete topic {name} with all of its records?", "nothing was deleted")
    with open_store(path, "rw", may_be_missing=False) as store:
        store.delete_topic(name)
    if as_json:
        write_json({"topic": name, "deleted": True})
    else:
        write(f"topic {name} is deleted; its files go with the next housekeeping\n")


def _whole(store: ec.Store) -> list[str]:
    problems = {problem.name for problem in store.problems}
    return [name for name in store.topics if name not in problems]


def topic_facts(store: ec.Store, topic: ec.Topic) -> dict[str, Any]:
    """What there is to say of a topic, for JSON."""
    return {
        "topic": topic.name,
        "topic_id": str(topic.topic_id) if topic.topic_id else None,
        "config": store.own_config(topic.name),
        "partitions": [_partition_facts(partition) for partition in topic],
    }


def _partition_facts(partition: ec.StorePartition) -> dict[str, Any]:
    try:
        return {
            "partition": partition.number,
            "log_start_offset": partition.log_start_offset,
            "high_watermark": partition.high_watermark,
            "bytes": sum(segment.log.size for segment in partition.segments),
        }
    except ec.StorageError as error:
        return {"partition": partition.number, "error": str(error)}


def _partition_row(facts: dict[str, Any]) -> tuple[Any, ...]:
    if "error" in facts:
        return (facts["partition"], "-", "-", "-", facts["error"])
    start, end = facts["log_start_offset"], facts["high_watermark"]
    return (facts["partition"], start, end, end - start, size_text(facts["bytes"]))


def print_topics(topics: list[dict[str, Any]]) -> None:
    """A row for each topic."""
    rows = []
    for facts in topics:
        good = [partition for partition in facts["partitions"] if "error" not in partition]
        config = ", ".join(f"{key}={value}" for key, value in facts["config"].items())
        records = sum(partition["high_watermark"] - partition["log_start_offset"] for partition in good)
        size = size_text(sum(partition["bytes"] for partition in good))
        rows.append((facts["topic"], len(facts["partitions"]), records, size, config))
    print_table(("topic", ">partitions", ">records at most", "size", "configuration"), rows)

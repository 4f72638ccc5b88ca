"""`eventcore transactions`: what is open in a store, what hangs, and an end for it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

import eventcore as ec
from eventcore.cli.failures import CommandFailed, Group
from eventcore.cli.options import Json, StoreFolder, confirm, open_store
from eventcore.cli.output import print_table, write, write_json

transactions = typer.Typer(cls=Group, help="List, describe and abort the transactions of a store.")


@transactions.command("list")
def list_transactions(
    path: StoreFolder,
    all_ids: Annotated[bool, typer.Option("--all", help="Also ids without an open transaction.")] = False,
    as_json: Json = False,
) -> None:
    """List transactional ids whose transaction is open or being ended."""
    with open_store(path) as store:
        states = store.transactions.states()
    facts = [state_facts(name, state) for name, state in sorted(states.items()) if all_ids or state.is_open]
    if as_json:
        write_json(facts)
        return
    columns = ("transactional id", "state", ">open for s", ">producer", ">epoch", "partitions")
    rows = [
        (
            one["transactional_id"],
            one["state"],
            "-" if one["open_for_ms"] is None else one["open_for_ms"] // 1000,
            one["producer_id"],
            one["producer_epoch"],
            ", ".join(one["partitions"]),
        )
        for one in facts
    ]
    print_table(columns, rows)


@transactions.command()
def hanging(path: StoreFolder, as_json: Json = False) -> None:
    """Find transactions that partitions wait for, and that no coordinator will end. Reads every partition."""
    with open_store(path, "rw", may_be_missing=False) as store:
        found = store.transactions.hanging()
    if as_json:
        write_json([one._asdict() for one in found])
        return
    rows = [(one.topic, one.partition, one.first_offset, one.producer_id, one.epoch) for one in found]
    print_table(("topic", ">partition", ">first offset", ">producer", ">epoch"), rows)


@transactions.command()
def abort(
    path: StoreFolder,
    topic: Annotated[str, typer.Option(help="Where it hangs.")],
    partition: Annotated[int, typer.Option(min=0, help="Where it hangs.")],
    first_offset: Annotated[int, typer.Option(min=0, help="Its first offset, as `hanging` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Abort a hanging transaction: what it wrote is never seen by readers of committed records."""
    with open_store(path, "rw", may_be_missing=False) as store:
        place = (topic, partition, first_offset)
        found = [one for one in store.transactions.hanging() if (one.topic, one.partition, one.first_offset) == place]
        if not found:
            raise CommandFailed("no transaction hangs there; `eventcore transactions hanging` lists what does")
        if not yes:
            confirm(f"abort the transaction of producer {found[0].producer_id}?", "nothing was aborted")
        store.transactions.abort_hanging(found[0])
    if as_json:
        write_json({**found[0]._asdict(), "aborted": True})
    else:
        write(f"the transaction of producer {found[0].producer_id} in {topic}-{partition} is aborted\n")


def state_facts(name: str, state: ec.TransactionState) -> dict[str, Any]:
    """What there is to say of a transactional id, for JSON."""
    return {
        "transactional_id": name,
        "state": state.status.name.lower(),
        "producer_id": state.producer_id,
        "producer_epoch": state.producer_epoch,
        "timeout_ms": state.timeout_ms,
        "open_for_ms": int(time.time() * 1000) - state.start_ms if state.is_open else None,
        "partitions": [f"{topic}-{number}" for topic, number in state.partitions],
    }

"""The commands."""

from __future__ import annotations

from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.append import append
from eventcore.cli.compact import compact
from eventcore.cli.demo import demo
from eventcore.cli.dump import dump
from eventcore.cli.failures import Group
from eventcore.cli.groups import groups
from eventcore.cli.output import write
from eventcore.cli.read import read
from eventcore.cli.repair import repair
from eventcore.cli.snapshots import restore, snapshot, snapshots
from eventcore.cli.stat import stat
from eventcore.cli.tail import tail
from eventcore.cli.topics import topics
from eventcore.cli.transactions import transactions
from eventcore.cli.verify import verify

app = typer.Typer(cls=Group, add_completion=False, pretty_exceptions_enable=False)
for command in (demo, append, read, tail, stat, dump, verify, repair, compact, snapshot, restore):
    app.command()(command)
app.add_typer(topics, name="topics")
app.add_typer(groups, name="groups")
app.add_typer(transactions, name="transactions")
app.add_typer(snapshots, name="snapshots")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and the kernels in use.")] = False,
) -> None:
    """SQLite for event streams, in Kafka's own on-disk format. Begin with: eventcore demo"""
    if version:
        info = ec.build_info()
        write(f"eventcore {ec.__version__} ({info['kernels']} kernels, CRC-32C {info['crc32c']})\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
        raise typer.Exit

"""`eventcore stat` of a whole store: its topics, what does not belong there, and what housekeeping has done."""

from __future__ import annotations

from typing import Any

import eventcore as ec
from eventcore.cli.options import open_store
from eventcore.cli.output import plain_text, print_table, size_text, write, write_json
from eventcore.cli.topics import print_topics, topic_facts


def stat_store(path: Any, as_json: bool) -> None:
    """Show a store."""
    with open_store(path) as store:
        facts = _facts(store)
    if as_json:
        write_json(facts)
    else:
        _print(facts)


def _facts(store: ec.Store) -> dict[str, Any]:
    problems = {problem.name: problem.reason for problem in store.problems}
    topics = [topic_facts(store, store.topic(name)) for name in store.topics if name not in problems]
    return {
        "path": str(store.path),
        "cluster_id": store.cluster_id,
        "topics": topics,
        "partitions": sum(len(topic["partitions"]) for topic in topics),
        "bytes": sum(partition.get("bytes", 0) for topic in topics for partition in topic["partitions"]),
        "problems": problems,
        "housekeeping": store.metrics()["housekeeping"],
        "version": ec.__version__,
        **ec.build_info(),
    }


def _print(facts: dict[str, Any]) -> None:
    write(f"{plain_text(facts['path'])}\n")
    print_topics(facts["topics"])
    care = facts["housekeeping"].get("partitions", {})
    if care:
        columns = ("partition", ">segments deleted", "bytes deleted", ">compactions", "bytes saved", "last error")
        rows = [
            (
                name,
                done["deleted_segments"],
                size_text(done["deleted_bytes"]),
                done["compactions"],
                size_text(done["saved_bytes"]),
                done["last_error"] or "-",
            )
            for name, done in care.items()
        ]
        print_table(columns, rows)
    if facts["problems"]:
        print_table(("ignored or not whole", "why"), list(facts["problems"].items()))
    for name in ("cluster_id", "partitions", "kernels"):
        write(f"{name.replace('_', ' '):<20} {facts[name]}\n")
    write(f"{'size':<20} {size_text(facts['bytes'])}\n")

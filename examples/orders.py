"""Three services that know nothing of each other but their topics, and an order that ships exactly once.

    python examples/orders.py FOLDER [--orders 100]

Each service is a process with a store of its own; it reads the stores of the others.

    orders      places orders, and notes what became of each            writes orders, outcomes
    inventory   reserves what there is, or rejects                      reads orders, writes reservations
    fulfilment  ships what was reserved                                 reads reservations, writes shipments

Whatever a service makes of the records that it has read it writes in one transaction, together with how far it has
read: kill any of them at any moment, start it again, and it goes on as if nothing had happened. What it knows (the
stock, the orders that are open) it gets by reading its own topic again. A correlation id goes with each order, in a
header, from the first record to the last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventcore as ec

ITEMS = ("apples", "bread", "cheese")
STOCK = 40
_BATCH = 20


def orders(folder: Path, count: int) -> None:
    """Place so many orders, and note what becomes of them."""
    with ec.open(folder / "orders") as store:
        store.create_topic("orders", 2, exist_ok=True)
        store.create_topic("outcomes", 1, exist_ok=True)
        place_orders(store, count)
        with (
            when_there(folder / "inventory", "reservations") as inventory,
            when_there(folder / "fulfilment", "shipments") as fulfilment,
            store.consumer("rejected", ["reservations"], source=inventory, isolation="read_committed") as rejected,
            store.consumer("shipped", ["shipments"], source=fulfilment, isolation="read_committed") as shipped,
        ):
            while len(committed(store, "outcomes")) < count:
                note_outcomes(store, rejected, lambda found: found["status"] == "rejected")
                note_outcomes(store, shipped, lambda found: True)


def place_orders(store: ec.Store, count: int) -> None:
    """The sequence says which order it is: one that is there already is not placed again."""
    producer = store.producer("orders")
    for number in range(count):
        partition, sequence = number % 2, number // 2
        if sequence < producer.next_sequence("orders", partition):
            continue
        order = {"order": number, "item": ITEMS[number % len(ITEMS)], "quantity": 1 + number % 3}
        headers = [("correlation-id", b"order-%d" % number)]
        value = json.dumps(order).encode()
        producer.append("orders", value, b"%d" % number, headers, partition=partition, sequence=sequence)


def note_outcomes(store: ec.Store, consumer: ec.Consumer, counts: Callable[[dict[str, Any]], bool]) -> None:
    """What the others have decided."""
    records = consumer.poll(0.05, _BATCH)
    if records:
        with store.transaction(consumer.group) as tx:
            for record in records:
                found = json.loads(record.value or b"")
                if counts(found):
                    tx.append("outcomes", record.value, record.key, record.headers)
            tx.commit_offsets(consumer)


def inventory(folder: Path, count: int) -> None:
    """Reserve what orders ask for, as long as there is some."""
    with ec.open(folder / "inventory") as store, when_there(folder / "orders", "orders") as source:
        store.create_topic("reservations", 2, exist_ok=True)
        done = committed(store, "reservations")
        stock = Counter(dict.fromkeys(ITEMS, STOCK))
        for one in done:
            if one["status"] == "reserved":
                stock[one["item"]] -= one["quantity"]
        handled = len(done)
        with store.consumer("inventory", ["orders"], source=source, isolation="read_committed") as consumer:
            while handled < count:
                records = consumer.poll(0.05, _BATCH)
                if not records:
                    continue
                with store.transaction("inventory") as tx:
                    for record in records:
                        order = json.loads(record.value or b"")
                        fits = stock[order["item"]] >= order["quantity"]
                        stock[order["item"]] -= order["quantity"] if fits else 0
                        answer = {**order, "status": "reserved" if fits else "rejected"}
                        tx.append("reservations", json.dumps(answer).encode(), record.key, record.headers)
                    tx.commit_offsets(consumer)
                handled += len(records)


def fulfilment(folder: Path, count: int) -> None:
    """Ship what was reserved."""
    with ec.open(folder / "fulfilment") as store:
        store.create_topic("shipments", 1, exist_ok=True)
        with (
            when_there(folder / "inventory", "reservations") as source,
            store.consumer("fulfilment", ["reservations"], source=source, isolation="read_committed") as consumer,
        ):
            while True:
                records = consumer.poll(0.05, _BATCH)
                if not records and len(committed(source, "reservations")) == count and not any(consumer.lag().values()):
                    return
                if not records:
                    continue
                with store.transaction("fulfilment") as tx:
                    for record in records:
                        found = json.loads(record.value or b"")
                        if found["status"] == "reserved":
                            answer = {**found, "status": "shipped"}
                            tx.append("shipments", json.dumps(answer).encode(), record.key, record.headers)
                    tx.commit_offsets(consumer)


def committed(store: ec.Store, topic: str) -> list[dict[str, Any]]:
    """All that a topic holds."""
    return [
        json.loads(value or b"")
        for partition in store.topic(topic)
        for value in partition.read_values(isolation="read_committed")
    ]


def when_there(folder: Path, topic: str) -> ec.Store:
    """Another service's store, once it has made its topic."""
    while True:
        try:
            store = ec.open(folder, "r")
            store.topic(topic)
            return store
        except (ec.NotALog, ec.UnknownTopic):
            time.sleep(0.02)


SERVICES = {"orders": orders, "inventory": inventory, "fulfilment": fulfilment}


def report(folder: Path) -> Counter[tuple[int, str]]:
    """How often each order got each outcome."""
    with ec.open(folder / "orders", "r") as store, ec.open(folder / "fulfilment", "r") as shipping:
        outcomes = Counter((one["order"], one["status"]) for one in committed(store, "outcomes"))
        shipped = Counter((one["order"], one["status"]) for one in committed(shipping, "shipments"))
    assert shipped == Counter({one: times for one, times in outcomes.items() if one[1] == "shipped"})
    return outcomes


def main() -> None:
    """Start the three, and tell what they did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--orders", type=int, default=100)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    services = [spawn.Process(target=run, args=(arguments.folder, arguments.orders)) for run in SERVICES.values()]
    for service in services:
        service.start()
    for service in services:
        service.join()
    outcomes = report(arguments.folder)
    assert set(outcomes.values()) == {1}
    assert {order for order, _ in outcomes} == set(range(arguments.orders))
    print(dict(Counter(status for _, status in outcomes)))


if __name__ == "__main__":
    main()

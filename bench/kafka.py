"""eventcore in-process beside a Kafka broker on loopback, the same records: `python -m bench.kafka [--json FILE]`.

Needs what the interop tests need: a JDK, Maven (Kafka's jars are fetched once) and confluent-kafka. The broker runs
with the JVM settings of Kafka's own start script, listens on 127.0.0.1 only, and is stopped at the end. Rounds take
turns, the garbage collector of Python is off, and figures are medians.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import eventcore as ec
from tests.interop.judge.broker import Broker
from tests.interop.judge.jars import KAFKA_VERSION

KAFKAS_JVM = (
    *("-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15"),
)
"""What bin/kafka-server-start.sh and kafka-run-class.sh set."""
LOT = 1000
"""Records in one `extend`, and so in one batch."""
FETCH = 10_000
"""Records in one `consume`."""
TIMEOUT_S = 60
THROUGHPUT = {
    "linger.ms": 50,
    "batch.size": 1_000_000,
    "batch.num.messages": 10_000,
    "compression.type": "none",
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 1 << 20,
}
LATENCY = {"linger.ms": 0, "compression.type": "none", "socket.nagle.disable": True}
READING = {
    "check.crcs": True,  # as eventcore does
    "fetch.wait.max.ms": 10,
    "fetch.message.max.bytes": 16 << 20,
    "queued.min.messages": 1_000_000,
    "socket.nagle.disable": True,
}
WORDS = """\
What this compares: how soon a Python program has its records in a log, or back from it, by either way; not two designs
of one thing. Kafka is a server: every record crosses a socket into another process that serves many clients and could
replicate it to other machines. eventcore is a library in the caller's own process: no network, no replicas, one writer
process. Who needs the former cannot use the latter instead.
A broker acknowledges what is in its page cache; it does not sync for anybody. That is fsync="never" here: like with
like. fsync="always" promises more: when the call returns the disk has it. On one node acks=all waits for nothing that
acks=1 does not wait for. Client and broker share the machine's processors."""

Pairs = list[tuple[bytes, bytes]]
Row = tuple[int, bytes | None, bytes | None]
"""Offset, key and value: times are each log's own."""


class Log(Protocol):
    """One log by either way."""

    def extend(self, pairs: Pairs) -> None:
        """Append all; acknowledged on return."""
        ...

    def append(self, key: bytes, value: bytes) -> None:
        """Append one; acknowledged on return."""
        ...

    def rows(self) -> Iterator[Row]:
        """Every record."""
        ...


class Embedded:
    """eventcore's: a folder, opened in this process."""

    def __init__(self, folder: Path, mode: str = "rw", fsync: str = "never") -> None:
        self.partition = ec.open_partition(folder, mode, fsync)  # type: ignore[arg-type]
        self.close = self.partition.close

    def extend(self, pairs: Pairs) -> None:
        for start in range(0, len(pairs), LOT):
            self.partition.extend(pairs[start : start + LOT])

    def append(self, key: bytes, value: bytes) -> None:
        self.partition.append(value, key)

    def rows(self) -> Iterator[Row]:
        return ((record.offset, record.key, record.value) for record in self.partition.read(0))

    def read(self) -> int:
        return sum(len(record.key or b"") + len(record.value or b"") for record in self.partition.read(0))

    def end(self) -> int:
        return self.partition.log_end_offset

    def read_columns(self) -> int:
        found = self.partition.columns()
        return int(found.key_length.sum() + found.value_length.sum())


class Brokered:
    """Kafka's: a topic of one partition, by librdkafka through a socket."""

    def __init__(self, broker: Broker, topic: str, acks: str, config: Mapping[str, Any]) -> None:
        from confluent_kafka import Consumer, Producer, TopicPartition

        broker.create_topic(topic, {})
        address = {"bootstrap.servers": broker.address, "log_level": 3}
        self.topic, self._at = topic, TopicPartition(topic, 0, 0)
        self._producer: Any = Producer({**address, "acks": acks, **config})
        self._consumer: Any = Consumer({**address, "group.id": topic, "enable.auto.commit": False, **READING})
        self._ready: tuple[Pairs, list[dict[str, Any]]] = ([], [])

    def close(self) -> None:
        """Let go of the broker; a producer does so when nobody has it any more."""
        self._producer = None
        self._consumer.close()

    def prepare(self, pairs: Pairs) -> None:
        """Have the records in the shape that `produce_batch` wants, so that making them is not measured."""
        self._ready = (pairs, [{"key": key, "value": value} for key, value in pairs])

    def extend(self, pairs: Pairs) -> None:
        if self._ready[0] is not pairs:
            self.prepare(pairs)
        if self._producer.produce_batch(self.topic, self._ready[1], partition=0) != len(pairs):
            raise RuntimeError("the producer's queue took less than it was given")
        self._flush()

    def append(self, key: bytes, value: bytes) -> None:
        self._producer.produce(self.topic, value, key, partition=0)
        self._flush()

    def _flush(self) -> None:
        if self._producer.flush(TIMEOUT_S):
            raise RuntimeError(f"the broker did not acknowledge everything within {TIMEOUT_S} s")

    def end(self) -> int:
        """The offset after the last record: a lost one would be missing here."""
        return int(self._consumer.get_watermark_offsets(self._at, TIMEOUT_S)[1])

    def _messages(self) -> Iterator[Any]:
        left = self.end()
        self._consumer.assign([self._at])
        while left:
            found = self._consumer.consume(min(left, FETCH), TIMEOUT_S)
            if not found or any(message.error() for message in found):
                raise RuntimeError(f"the broker did not send {left} records: {[m.error() for m in found[:1]]}")
            left -= len(found)
            yield from found

    def rows(self) -> Iterator[Row]:
        return ((message.offset(), message.key(), message.value()) for message in self._messages())

    def read(self) -> int:
        return sum(len(message.key() or b"") + len(message.value() or b"") for message in self._messages())


class Size(NamedTuple):
    """How much is measured."""

    count: int = 100_000
    """Records a round."""
    rounds: int = 9
    warmups: int = 3
    singles: int = 300
    """Appends of one record a round."""

    @property
    def total(self) -> int:
        """Records in a log at the end."""
        return self.count * (self.rounds + self.warmups)


class Figures(NamedTuple):
    """Records a second, and seconds for one acknowledged record, by way; and whether all ways gave the same records."""

    append: dict[str, list[float]]
    one: dict[str, list[float]]
    read: dict[str, list[float]]
    digests: dict[str, str]


NEVER, ALWAYS = 'eventcore, fsync="never"', 'eventcore, fsync="always"'
ONE, ALL, CONSUMED = "Kafka, acks=1", "Kafka, acks=all", "Kafka, consume"


def sample(count: int) -> Pairs:
    return [(b"key-%06d" % n, b"%0100d" % n) for n in range(count)]


def digest(rows: Iterable[Row]) -> str:
    """A hash of all records and their order."""
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()


def logs(broker: Broker, folder: Path, stack: ExitStack, purpose: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A new log of each kind."""
    found: dict[str, Any] = {
        NEVER: Embedded(folder / f"{purpose}-never-0", fsync="never"),
        ONE: Brokered(broker, f"{purpose}-acks-1", "1", config),
        ALL: Brokered(broker, f"{purpose}-acks-all", "all", config),
        ALWAYS: Embedded(folder / f"{purpose}-always-0", fsync="always"),
    }
    for log in found.values():
        stack.callback(log.close)
    return found


def present(size: int = 256 << 20) -> None:
    """Touch memory: a virtual machine's host may have taken back what was free, and getting it again is slow."""
    memory = bytearray(size)
    memory[::4096] = b"\1" * len(memory[::4096])


def seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], list[float]]], rounds: int, warmups: int) -> dict[str, list[float]]:
    """What each call measured, by its name, without the rounds in which the JVM still compiles."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmups + rounds):
        present()
        for name, call in calls.items():
            found = call()
            times[name] += found if number >= warmups else []
    return times


def appends(many: Mapping[str, Any], size: Size) -> dict[str, list[float]]:
    """Records a second; every log has all of them afterwards."""
    pairs = sample(size.count)
    for name in (ONE, ALL):
        many[name].prepare(pairs)
    calls = {name: lambda log=log: [size.count / seconds(lambda: log.extend(pairs))] for name, log in many.items()}
    found = in_turns(calls, size.rounds, size.warmups)
    ends = {name: log.end() for name, log in many.items()}
    if set(ends.values()) != {size.total}:
        raise RuntimeError(f"{size.total} records were sent, the logs end at {ends}")
    return found


def singles(lone: Mapping[str, Log], size: Size) -> dict[str, list[float]]:
    """Seconds for each record."""
    pairs = sample(size.singles)

    def one_by_one(log: Log) -> list[float]:
        return [seconds(partial(log.append, key, value)) for key, value in pairs]

    return in_turns({name: partial(one_by_one, log) for name, log in lone.items()}, size.rounds, size.warmups)


def reads(many: Mapping[str, Any], theirs: Embedded, size: Size) -> dict[str, list[float]]:
    """Records a second, of the whole log."""
    ways: dict[str, Callable[[], int]] = {
        "eventcore, Records": many[NEVER].read,
        "eventcore, columns": many[NEVER].read_columns,
        CONSUMED: many[ONE].read,
        "eventcore, Records, the broker's files": theirs.read,
    }
    calls = {name: lambda read=read: [size.total / seconds(read)] for name, read in ways.items()}
    return in_turns(calls, size.rounds, 1)


def measure(folder: Path, size: Size) -> Figures:
    """Run the broker, and everything by each way; the records are compared, also as they lie in the stopped broker."""
    theirs = folder / "broker" / "data" / "many-acks-1-0"
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(folder / "broker", KAFKAS_JVM))
        many, lone = (
            logs(broker, folder, stack, purpose, config)
            for purpose, config in (("many", THROUGHPUT), ("lone", LATENCY))
        )
        stack.callback(gc.enable)
        gc.disable()
        append, one = appends(many, size), singles(lone, size)
        direct = Embedded(theirs, "r")
        stack.callback(direct.close)
        read = reads(many, direct, size)
        digests = {name: digest(log.rows()) for name, log in many.items()}
        digests["the broker's files, while it runs"] = digest(direct.rows())
    after = Embedded(theirs, "r")
    digests["the broker's files, after it"] = digest(after.rows())
    after.close()
    return Figures(append, one, read, digests)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import confluent_kafka

    path = Path("/proc/cpuinfo")
    models = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return {
        "processor": f"{os.cpu_count()} x {models[0].split(':')[1].strip() if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "eventcore": f"{ec.__version__} {ec.build_info()}",
        "kafka": KAFKA_VERSION,
        "confluent-kafka": f"{confluent_kafka.version()}, librdkafka {confluent_kafka.libversion()[0]}",
    }


def print_rates(title: str, found: Mapping[str, list[float]], base: str) -> None:
    print(f"\n{title:<46}{'median':>14}{'least':>14}{'most':>14}  ÷ {base}")
    for name, rates in found.items():
        middle = median(rates)
        print(
            f"  {name:<44}{middle:>14,.0f}{min(rates):>14,.0f}{max(rates):>14,.0f}{middle / median(found[base]):>8.1f}"
        )


def print_times(title: str, found: Mapping[str, list[float]], base: str) -> None:
    print(f"\n{title:<46}{'p50':>14}{'p99':>14}{'':>14}  {base} ÷ it")
    for name, times in found.items():
        p50, p99 = median(times) * 1e6, quantiles(times, n=100)[98] * 1e6
        print(f"  {name:<44}{p50:>14,.1f}{p99:>14,.1f}{'':>14}{median(found[base]) * 1e6 / p50:>8.1f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.kafka", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", help="where the logs lie; a temporary folder of the system if not given")
    options = parser.parse_args()
    for name, value in machine().items():
        print(f"{name:<18}{value}")
    size = Size()
    with tempfile.TemporaryDirectory(prefix="eventcore-kafka-", dir=options.folder) as folder:
        found = measure(Path(folder), size)
    print_rates(f"Append {size.count:,} records a round, records/s", found.append, ONE)
    print_times("Append one record, acknowledged, µs", found.one, ONE)
    print_rates(f"Read {size.total:,} records, records/s", found.read, CONSUMED)
    same = len(set(found.digests.values())) == 1
    print(
        f"\nThe records read back by {len(found.digests)} ways are {'the same' if same else 'NOT THE SAME'}.\n\n{WORDS}"
    )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "size": size._asdict(), **found._asdict()}, indent=1))
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""A real single-node KRaft broker on loopback: format, start, drive with confluent-kafka, stop cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .jars import SMALL_JVM, java

Headers = list[tuple[str, "bytes | None"]]
_START_TIMEOUT_S = 240
_STOP_TIMEOUT_S = 120
_CALL_TIMEOUT_S = 120
_NODE_ID = 1
_CLUSTER_ID = "ZXZlbnRjb3JlLWp1ZGdlMQ"
_STARTED = "Kafka Server started"

_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=4194304
log.initial.task.delay.ms=1000
log.retention.ms=-1
"""


class Message(NamedTuple):
    """A record as a Kafka client sends or reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class BrokerFailed(Exception):
    """The broker did not start, stop or answer; carries the end of its log."""


class Broker:
    """A running broker over the data folder `<folder>/data`; formats the folder when it is new.

    Stopping is a SIGTERM to the process started here and waiting for it, so what it leaves is a clean shutdown.
    """

    def __init__(self, folder: Path, jvm: tuple[str, ...] = SMALL_JVM, settings: str = "") -> None:
        self.folder = folder
        self._jvm = jvm
        self.data = folder / "data"
        self.log_path = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        broker, controller = _free_ports(2)
        self.address = f"127.0.0.1:{broker}"
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        text = _PROPERTIES.format(node=_NODE_ID, broker=broker, controller=controller, data=self.data)
        self._properties.write_text(text + settings)  # of two lines of one name the last counts

    def __enter__(self) -> Broker:
        if not (self.data / "meta.properties").exists():
            self._format()
        command = java("kafka.Kafka", str(self._properties), jvm=self._jvm)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._wait_until_started()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Shut down cleanly; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise self._failed("did not stop") from None

    def log_text(self) -> str:
        """What the broker logged since its last start."""
        return self.log_path.read_text(errors="replace")

    def _format(self) -> None:
        arguments = ("format", "--standalone", "-t", _CLUSTER_ID, "-c", str(self._properties))
        with self.log_path.open("wb") as log:
            done = subprocess.run(java("kafka.tools.StorageTool", *arguments), stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            raise self._failed("cannot format its folder")

    def _wait_until_started(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while _STARTED not in self.log_text():
            if self._process.poll() is not None:
                raise self._failed(f"ended with status {self._process.returncode} while starting")
            if time.monotonic() > deadline:
                raise self._failed(f"did not start in {_START_TIMEOUT_S} s")
            time.sleep(0.1)

    def _failed(self, what: str) -> BrokerFailed:
        return BrokerFailed(f"the broker {what}; its log ends:\n{self.log_text()[-2000:]}")

    # The imports below are local so that judging files needs no Kafka client, only the JVM.

    def create_topic(self, name: str, config: Mapping[str, str], partitions: int = 1) -> None:
        """Create a topic; returns when the broker leads its partitions."""
        from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the stubs do not re-export it

        admin = AdminClient({"bootstrap.servers": self.address})
        futures = admin.create_topics([NewTopic(name, partitions, 1, config=dict(config))])
        futures[name].result(_CALL_TIMEOUT_S)

    def producer(self, **config: Any) -> Any:
        """A confluent_kafka.Producer; keywords are librdkafka's names with underscores for dots."""
        from confluent_kafka import Producer

        named = {name.replace("_", "."): value for name, value in config.items()}
        return Producer(
            {"bootstrap.servers": self.address, "enable.idempotence": True, "linger.ms": 5, "log_level": 3, **named}
        )

    def produce(self, topic: str, messages: Sequence[Message], at_once: int = 50, **config: Any) -> None:
        """Send to partition 0, `at_once` messages a time; a lot is a batch of its own, or several."""
        producer = self.producer(**config)
        for start in range(0, len(messages), at_once):
            send_all(producer, topic, messages[start : start + at_once])
            if producer.flush(_CALL_TIMEOUT_S):
                raise self._failed("did not acknowledge everything")

    def consume(self, topic: str, committed: bool = False) -> list[Message]:
        """Every record of partition 0 from its start to the end as known at the call."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        level = "read_committed" if committed else "read_uncommitted"
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "judge",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": level,
                "check.crcs": True,
                "fetch.wait.max.ms": 10,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
            return _poll_to_end(consumer)
        finally:
            consumer.close()


def send_all(producer: Any, topic: str, messages: Iterable[Message]) -> None:
    """Queue messages for partition 0; a delivery error is raised, not logged."""

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            raise BrokerFailed(f"the broker refused a message: {error}")

    for message in messages:
        producer.produce(
            topic,
            value=message.value,
            key=message.key,
            partition=0,
            timestamp=message.timestamp,
            headers=list(message.headers),
            on_delivery=delivered,
        )
        producer.poll(0)


def _poll_to_end(consumer: Any) -> list[Message]:
    from confluent_kafka import KafkaError

    messages: list[Message] = []
    deadline = time.monotonic() + _CALL_TIMEOUT_S
    while time.monotonic() < deadline:
        got = consumer.poll(1.0)
        if got is None:
            continue
        if got.error() is None:
            headers = tuple((name, value) for name, value in got.headers() or ())
            messages.append(Message(got.offset(), got.timestamp()[1], got.key(), got.value(), headers))
        elif got.error().code() == KafkaError._PARTITION_EOF:
            return messages
        else:
            raise BrokerFailed(f"the broker refused a fetch: {got.error()}")
    raise BrokerFailed("the end of the partition was not reached in time")


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on, each kept for us for a minute."""
    return [_kept_port() for _ in range(count)]


def _kept_port() -> int:
    """The end of a connection keeps its port for a minute after its close (TIME_WAIT): the system gives it to nobody
    who takes any port, but a broker, which asks for this one with SO_REUSEADDR, gets it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname()) as other:
            listener.accept()[0].close()  # who closes first is the one that waits
            other.recv(1)
        return int(listener.getsockname()[1])

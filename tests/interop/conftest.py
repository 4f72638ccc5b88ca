"""Fixtures of the interop tests. Where Kafka's software cannot be had they skip with the reason (CI refuses skips)."""

from __future__ import annotations

from pathlib import Path

import pytest

from .judge import broker_logs as recorded
from .judge import jars
from .judge.broker_logs import BrokerLogs


@pytest.fixture(scope="session")
def kafka() -> str:
    """Kafka's jars as a java class path."""
    try:
        return jars.classpath()
    except jars.JudgeUnavailable as error:
        pytest.skip(f"interop: {error}")


@pytest.fixture(scope="session")
def broker_logs(kafka: str) -> BrokerLogs:
    """Logs that a real broker wrote, with what was sent to it; kept in the cache folder between runs."""
    pytest.importorskip("confluent_kafka", reason="interop: pip install confluent-kafka to drive a real broker")
    return recorded.record_once(jars.cache_folder())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A partition folder under a name that Kafka accepts: topic, dash, partition number."""
    path = tmp_path / "events-0"
    path.mkdir()
    return path

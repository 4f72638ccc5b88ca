"""The comparison with a real broker, tiny, so that it cannot rot: each way has to give the same records."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import bench_kafka_cleaner
from bench.kafka import ALL, ALWAYS, CONSUMED, NEVER, ONE, Size, digest, measure, sample

pytestmark = pytest.mark.interop


def test_the_ways_give_the_same_records(kafka: str, tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="interop: pip install confluent-kafka to drive a real broker")
    size = Size(count=1500, rounds=1, warmups=1, singles=3)
    found = measure(tmp_path, size)
    expected = digest((offset, *pair) for offset, pair in enumerate(sample(1500) * 2))
    assert set(found.digests.values()) == {expected}, found.digests
    assert len(found.digests) == 6
    assert found.append.keys() == found.one.keys() == {NEVER, ONE, ALL, ALWAYS}
    assert CONSUMED in found.read
    assert all(rate > 0 for part in (found.append, found.read) for rates in part.values() for rate in rates)
    assert all(len(times) == size.singles for times in found.one.values())


def test_other_records_have_another_digest() -> None:
    rows = [(0, b"key", b"value"), (1, b"key", None)]
    others = [
        rows[:1],
        rows[::-1],
        [rows[0], (2, b"key", None)],
        [rows[0], (1, b"key", b"")],
        [rows[0], (1, None, b"key")],
    ]
    assert digest(rows) == digest(list(rows))
    assert digest(rows) not in [digest(other) for other in others]


def test_both_cleaners_leave_the_same_of_a_tiny_log(kafka: str, tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="interop: pip install confluent-kafka to drive a real broker")
    found = bench_kafka_cleaner.measure(tmp_path, 40_000, 0.1, rounds=1, small_map=1 << 16)  # several passes
    assert 3_900 < found.records_left <= 4_000
    assert min(found.kafka, found.ours) > 0


def test_rates_are_read_from_a_brokers_log() -> None:
    lines = (
        "\t1,017.0 MB of log processed in 5.3 seconds (191.4 MB/sec).",
        "\t0.0 MB of log processed in 0.0 seconds (NaN MB/sec).",
    )
    assert bench_kafka_cleaner.rates("\n".join(lines)) == [pytest.approx(191.9, abs=0.1)]

"""The judge is judged: Kafka's tools run here, find nothing wrong in good files, and report what is wrong in bad ones.

Without this, a parser that overlooks everything would make every other test of this folder pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import vectors

from .judge.broker_logs import COMPACTED, TOPICS, TRANSACTIONS, BrokerLogs
from .judge.dump import DumpResult, dump_folder, dump_log, log_files

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("kafka")]

BASE = "00000000000000000100"
GOOD = {
    f"{BASE}.log": vectors.PLAIN.data,
    f"{BASE}.index": bytes.fromhex("00000001 00000000"),  # ends with 101, starts at position 0
    f"{BASE}.timeindex": bytes.fromhex("0000018bcfe56805 00000001"),
    f"{BASE}.txnindex": vectors.TXN_INDEX_ENTRY,
    f"{BASE}.snapshot": vectors.SNAPSHOT_ONE,
}


def write(folder: Path, **changed: bytes) -> DumpResult:
    """Dump the good files with some of them replaced, each given by its suffix."""
    for name, data in GOOD.items():
        (folder / name).write_bytes(changed.get(name.rpartition(".")[2], data))
    return dump_folder(folder)


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_nothing_is_wrong_with_golden_files(folder: Path) -> None:
    result = write(folder)
    assert result.complaints == []
    log = result[folder / f"{BASE}.log"]
    assert [(b.base_offset, b.last_offset, b.count, b.codec, b.crc) for b in log.batches] == [
        (100, 101, 2, "none", 0x610AE70D)
    ]
    assert [(r.offset, r.key, r.value, r.header_keys) for r in log.records] == [
        (100, "k1", "v1", ()),
        (101, "k2", None, ("h", "n")),
    ]
    assert result[folder / f"{BASE}.index"].entries == [{"offset": 101, "position": 0}]
    assert result[folder / f"{BASE}.timeindex"].entries == [{"timestamp": vectors.TIMESTAMP + 5, "offset": 101}]
    assert result[folder / f"{BASE}.txnindex"].entries[0]["lastStableOffset"] == 105
    assert result[folder / f"{BASE}.snapshot"].entries[0]["lastOffset"] == 119


def test_golden_control_and_cleaned_batches(folder: Path) -> None:
    path = folder / "00000000000000000000.log"
    path.write_bytes(b"".join(golden.data for golden in (vectors.COMMIT_MARKER, vectors.ABORT_MARKER)))
    cleaned = folder / f"{BASE}.log"
    cleaned.write_bytes(vectors.RETAINED_EMPTY.data + vectors.TOMBSTONE_WITH_HORIZON.data)
    result = dump_log([path, cleaned])
    assert result.complaints_beside_gaps == []
    assert [text.split()[1] for text in result[path].control] == ["COMMIT", "ABORT"]
    assert [batch.delete_horizon for batch in result[cleaned].batches] == [None, vectors.TIMESTAMP + 86_400_000]


@pytest.mark.parametrize(
    ("suffix", "data", "complaint"),
    [
        pytest.param("log", flip(vectors.PLAIN.data, 80), "invalid batch at position 0", id="flipped value byte"),
        pytest.param("log", vectors.PLAIN.data + b"torn tail", "invalid bytes", id="torn tail"),
        pytest.param(
            "log", vectors.PLAIN.data + vectors.PLAIN.data[:-1], "invalid bytes", id="batch cut in the middle"
        ),
        pytest.param("log", vectors.PLAIN.data * 2, "offset gap (101, 100)", id="offsets go back"),
        pytest.param("log", vectors.PLAIN.data + bytes(100), "CorruptRecordException", id="reserved zeros left"),
        pytest.param("index", bytes.fromhex("00000002 00000000"), "Mismatches in", id="flipped offset in the index"),
        pytest.param("timeindex", bytes.fromhex("0000018bcfe56804 00000001"), "timestamp mismatch", id="timestamp"),
        pytest.param("timeindex", bytes.fromhex("0000018bcfe56805 00000002"), "not found", id="offset in no batch"),
        pytest.param("snapshot", flip(vectors.SNAPSHOT_ONE, 20), "corrupt", id="snapshot"),
    ],
)
def test_what_is_wrong_is_reported(folder: Path, suffix: str, data: bytes, complaint: str) -> None:
    result = write(folder, **{suffix: data})
    assert any(complaint in text for text in result.complaints), result.complaints


def test_files_after_a_crash_of_the_tool_are_still_dumped(folder: Path) -> None:
    bad, good = folder / "00000000000000000000.log", folder / f"{BASE}.log"
    bad.write_bytes(bytes(200))
    good.write_bytes(vectors.PLAIN.data)
    result = dump_log([bad, good])
    assert result[bad].complaints
    assert result[good].complaints == []
    assert len(result[good].records) == 2


def test_nothing_is_wrong_with_what_a_broker_wrote(broker_logs: BrokerLogs) -> None:
    folders = {topic: broker_logs.partition(topic) for topic in TOPICS}
    result = dump_log([path for folder in folders.values() for path in log_files(folder)])
    for topic, folder in folders.items():
        logs = [result[path.resolve()] for path in log_files(folder) if path.suffix == ".log"]
        complaints = [text for log in logs for text in (*log.complaints, *(() if topic == COMPACTED else log.gaps))]
        assert complaints == []
        dumped = {r.offset: (r.key, r.value) for log in logs for r in log.records}
        for message in broker_logs.read_uncommitted[topic]:
            assert dumped[message.offset] == (_text(message.key), _text(message.value))
    assert result.complaints_beside_gaps == []


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def test_a_broker_wrote_what_the_tests_need(broker_logs: BrokerLogs) -> None:
    """Several segments, aborted transactions and gaps are what the tests that read these logs are about."""
    assert len(list(broker_logs.partition("segments").glob("*.log"))) > 5
    assert list(broker_logs.partition(TRANSACTIONS).glob("*.txnindex"))
    read, kept = broker_logs.read_uncommitted[TRANSACTIONS], broker_logs.read_committed[TRANSACTIONS]
    assert 0 < len(kept) < len(read)
    compacted = [message.offset for message in broker_logs.read_uncommitted[COMPACTED]]
    assert compacted[-1] - compacted[0] + 1 > len(compacted)

"""Kafka's DumpLogSegments reads every kind of log this package writes: nothing wrong, and what was written is there.

All cases are dumped in one JVM. The tool compares every index entry with the batch it points at, checks every CRC and
decompresses and prints every record; keys and values come out as text, headers as their names.
"""

from __future__ import annotations

import pytest

import eventcore as ec

from .judge.dump import DumpedRecord, DumpResult, FileDump, dump_log, log_files
from .writing import CASES, Written

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("kafka")]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    written = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_")) / "events-0"
        folder.mkdir()
        written[name] = case(folder)
    return written


@pytest.fixture(scope="module")
def dump(cases: dict[str, Written]) -> DumpResult:
    return dump_log([path for case in cases.values() for path in log_files(case.folder)])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, cases: dict[str, Written]) -> Written:
    return cases[request.param]


def of_kind(dump: DumpResult, case: Written, suffix: str) -> list[FileDump]:
    return [dump[path.resolve()] for path in log_files(case.folder) if path.suffix == suffix]


def text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def as_dumped(record: ec.Record) -> DumpedRecord:
    return DumpedRecord(
        offset=record.offset,
        timestamp=record.timestamp,
        key_size=-1 if record.key is None else len(record.key),
        value_size=-1 if record.value is None else len(record.value),
        sequence=-1,
        header_keys=tuple(name for name, _ in record.headers),
        key=text(record.key),
        value=text(record.value),
    )


def test_kafka_finds_nothing_wrong(dump: DumpResult) -> None:
    assert dump.complaints == []


def test_the_records_are_those_that_were_written(dump: DumpResult, case: Written) -> None:
    dumped = [record for log in of_kind(dump, case, ".log") for record in log.records]
    assert dumped == [as_dumped(record) for record in case.records]


def test_the_batches_are_of_the_kind_that_was_asked_for(dump: DumpResult, case: Written) -> None:
    batches = [batch for log in of_kind(dump, case, ".log") for batch in log.batches]
    assert {(batch.codec, batch.timestamp_type) for batch in batches} == {(case.codec, case.timestamp_type)}
    assert sum(batch.count for batch in batches) == len(case.records)


def test_the_segments_are_as_many_as_the_case_needs(dump: DumpResult, case: Written) -> None:
    assert len([log for log in of_kind(dump, case, ".log") if log.batches]) >= case.min_segments


def test_every_segment_ends_its_time_index_with_its_largest_timestamp(dump: DumpResult, case: Written) -> None:
    """Retention and time search rely on that last entry (it is what Kafka adds at roll and close)."""
    times = {entries.path.stem: entries.entries for entries in of_kind(dump, case, ".timeindex")}
    for log in of_kind(dump, case, ".log"):
        if log.batches:
            assert times[log.path.stem][-1]["timestamp"] == max(batch.timestamp for batch in log.batches)


def test_the_indexes_are_sparse_as_configured(dump: DumpResult, cases: dict[str, Written]) -> None:
    """An interval of 0 indexes every batch but the first of each segment; the default of 4096 hardly any."""
    case = cases["single_appends"]
    assert len(of_kind(dump, case, ".index")[0].entries) == len(of_kind(dump, case, ".log")[0].batches) - 1


def test_a_snapshot_at_the_log_end_is_left_by_close(case: Written) -> None:
    """Without one a broker that takes over a clean log assumes that there never were producers."""
    assert (case.folder / f"{len(case.records):020}.snapshot").exists()


def test_indexes_and_logs_are_cut_to_their_size(case: Written) -> None:
    """Reserved zeros would be read as entries and batches."""
    for path in log_files(case.folder):
        assert path.stat().st_size < 1 << 20

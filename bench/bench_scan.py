"""Read a whole log through the public API: tuples, lazy records, values, columns, Arrow; beside sqlite3, lmdb, plyvel.

`python -m bench.bench_scan [--records N] [--folder F]` prints the ratios against their goals; `pytest
bench/bench_scan.py` is a check of the results alone. 10-byte keys, 100-byte values, batches of 1,000, everything in the
page cache. "native" checks every CRC, as the first reading of a mapping does; "again" knows them. Peers hold the
same four fields; their scans make the same tuples. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from bench.interleaved import report
from eventcore import _kernels as kernels

MANY = 1_000_000
BATCH = 1000
Row = tuple[int, int, bytes, bytes]
Scan = Callable[[], Iterable[Row]]
HEAD = struct.Struct("<qH")
TUPLES = {"sqlite3": 4.5, "lmdb": 2.8, "plyvel": 3.3}


def rows(first: int, count: int) -> list[Row]:
    return [(n, 1_700_000_000_000 + n // BATCH, b"key-%06d" % n, b"%0100d" % n) for n in range(first, first + count)]


def engine(folder: Path, count: int) -> ec.Partition:
    p = ec.open_partition(folder / "events-0", fsync="never")
    for first in range(0, count, BATCH):
        p.extend([ec.Record(-1, *row[1:]) for row in rows(first, min(BATCH, count - first))])
    return p


def sqlite_scan(folder: Path, count: int) -> Scan:
    db = sqlite3.connect(folder / "peer.sqlite")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE log (off INTEGER PRIMARY KEY, ts INTEGER, key BLOB, value BLOB)")
    for first in range(0, count, BATCH):
        db.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows(first, min(BATCH, count - first)))
    db.commit()
    return lambda: db.execute("SELECT off, ts, key, value FROM log ORDER BY off")


def packed(row: Row) -> tuple[bytes, bytes]:
    return row[0].to_bytes(8, "big"), HEAD.pack(row[1], len(row[2])) + row[2] + row[3]


def unpacked(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[Row]:
    unpack, start, number = HEAD.unpack_from, HEAD.size, int.from_bytes
    for offset, data in pairs:
        timestamp, size = unpack(data)
        yield number(offset, "big"), timestamp, data[start : start + size], data[start + size :]


def lmdb_scan(folder: Path, count: int) -> Scan:
    import lmdb

    env = lmdb.open(str(folder / "peer.lmdb"), map_size=1 << 32, writemap=True, map_async=True, sync=False)
    for first in range(0, count, BATCH):
        with env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti([packed(row) for row in rows(first, min(BATCH, count - first))], append=True)
    return lambda: unpacked(env.begin().cursor())


def plyvel_scan(folder: Path, count: int) -> Scan:
    import plyvel

    db = plyvel.DB(str(folder / "peer.level"), create_if_missing=True, compression=None)
    for first in range(0, count, BATCH):
        with db.write_batch() as batch:
            for row in rows(first, min(BATCH, count - first)):
                batch.put(*packed(row))
    return lambda: unpacked(db.iterator())


PEERS = {"sqlite3": sqlite_scan, "lmdb": lmdb_scan, "plyvel": plyvel_scan}


def peers(folder: Path, count: int) -> dict[str, Scan]:
    found = {}
    for name, make in PEERS.items():
        with suppress(ModuleNotFoundError):
            found[name] = make(folder, count)
    return found


def drained(scan: Callable[[], Iterable[object]]) -> Callable[[], None]:
    def drain() -> None:
        for _ in scan():
            pass

    return drain


class Readings:
    """What the engine is asked for, the first time and again."""

    def __init__(self, p: ec.Partition) -> None:
        self._p = p

    def first(self, call: Callable[[], object]) -> Callable[[], object]:
        def again_as_if_first() -> object:
            for segment in self._p.segments:
                segment.verified.forget()
            return call()

        return again_as_if_first

    def both(self, call: Callable[[], object]) -> dict[str, Callable[[], object]]:
        return {"native": self.first(call), "again": call}

    def crc_only(self) -> None:
        """Walk the batches and check their CRCs, nothing else."""
        table = bytearray(64 * 1024)
        for segment in self._p.segments:
            position, end = 0, segment.log.size
            while position < end:
                position = kernels.batch.scan(segment.log.view, position, end, table)[1]


def compare(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """{question: {contestant: its time ÷ native's}}."""
    p = engine(folder, count)
    others, reading = peers(folder, count), Readings(p)
    scans = {name: drained(scan) for name, scan in others.items()}
    sqlite = {"sqlite3": scans["sqlite3"]}
    figures = {}
    for title, call, beside, goals in (
        ("tuples", drained(p.read_tuples), scans, TUPLES),
        ("lazy records, nothing touched", drained(p.read_lazy), sqlite, {"sqlite3": 15.0}),
        ("values", drained(p.read_values), sqlite, {}),
        ("Records", drained(p.read), sqlite, {}),
        ("columns", p.columns, sqlite | {"crc only": reading.crc_only}, {"sqlite3": 18.0, "crc only": 0.4}),
        ("the offset column", lambda: p.columns(columns=["offset"]), sqlite, {}),
        ("Arrow batches", lambda: [found.to_arrow() and None for found in ec.scan(p)], sqlite, {}),
    ):
        contestants = reading.both(call) | beside
        if title == "columns":
            contestants["two threads"] = reading.first(lambda: p.columns(threads=2))
        figures[title] = report(f"{title}, {count:,} records, a record", contestants, count, goals)
    p.close()
    return figures


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ec.Partition]:
    with engine(tmp_path_factory.mktemp("scan"), 3 * BATCH) as p:
        yield p


READERS: dict[str, Callable[[ec.Partition], Any]] = {
    "tuples": lambda p: list(p.read_tuples()),
    "lazy": lambda p: [(r.offset, r.timestamp, r.key, r.value) for r in p.read_lazy()],
    "records": lambda p: [tuple(r[:4]) for r in p.read()],
    "columns": lambda p: columns_of(p.columns()),
    "two threads": lambda p: columns_of(p.columns(threads=2)),
    "scan": lambda p: [row for found in ec.scan(p) for row in columns_of(found)],
}


def columns_of(found: ec.ColumnBatch) -> list[Any]:
    return [(int(found.offset[n]), int(found.timestamp[n]), found.key(n), found.value(n)) for n in range(len(found))]


@pytest.mark.parametrize("name", READERS)
def test_scan(log: ec.Partition, name: str, benchmark: Any) -> None:
    benchmark.group = "scan of 3,000 records"
    assert benchmark(lambda: READERS[name](log)) == rows(0, 3 * BATCH)


@pytest.mark.parametrize("name", PEERS)
def test_peers_read_the_same(tmp_path: Path, name: str) -> None:
    scan = peers(tmp_path, 2500).get(name)
    if scan is None:
        pytest.skip(f"{name} is not installed")
    assert list(scan()) == rows(0, 2500)


def main() -> dict[str, dict[str, float]]:
    """Everything, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as folder:
        return compare(Path(folder), MANY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.bench_scan", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=MANY)
    parser.add_argument("--folder", type=Path, help="an empty folder to use, e.g. in memory; it is not removed")
    options = parser.parse_args()
    if options.folder:
        compare(options.folder, options.records)
    else:
        MANY = options.records
        main()

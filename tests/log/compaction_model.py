"""Compaction as a model: a log as a list of batches, cleaned by Kafka's rules in plain Python. Nightly, more of them:

python -m tests.log.compaction_model --histories 100000
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.disk import Disk
from eventcore.format import compression
from eventcore.format.batch import CODEC_MASK, HEADER_SIZE, BatchHeader
from eventcore.log.partition import Partition
from eventcore.log.partition_log import PartitionLog
from eventcore.log.reader import batches, records_area
from eventcore.types import Record

RETENTION_MS = 1000
START_MS = 1_700_000_000_000
CODECS = ("uncompressed", "gzip", "snappy", "lz4", "zstd")


class Clock:
    """Told what time it is."""

    now = START_MS

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.now


@dataclass
class Batch:
    """A batch of the model: what stays of its records, and the header that outlives them."""

    first: int
    last: int
    records: list[Record]
    append_time: bool = False
    horizon: int = -1
    producer: tuple[int, int, int] = (-1, -1, -1)
    producer_last: bool = field(default=False, compare=False)


def clean(log: list[Batch], start: int, mapped: int, now: int) -> list[Batch]:
    """One pass: records of [start, mapped) supersede, all batches below `mapped` are cleaned (rules C5 to C12)."""
    latest = {
        r.key: r.offset for batch in log for r in batch.records if start <= r.offset < mapped and r.key is not None
    }
    cleaned = []
    for batch in log:
        expired = 0 <= batch.horizon <= now
        kept = [
            r
            for r in batch.records
            if r.offset >= mapped
            or (r.key is not None and r.offset >= latest.get(r.key, -1) and not (r.value is None and expired))
        ]
        if kept or batch.last == mapped - 1 or batch.producer_last:
            sets = batch.horizon < 0 and any(r.value is None for r in kept)
            horizon = now + RETENTION_MS if sets else batch.horizon if kept else -1
            cleaned.append(replace(batch, records=kept, horizon=horizon))
    return cleaned


def read(partition: Partition, first: int = -1) -> list[Batch]:
    """The log as it is on the disk, every batch that begins at or above `first` decoded."""
    found = []
    segments = partition.segments
    for segment, position, header in batches(
        segments, max(first, segments.first.base_offset), partition.log_end_offset
    ):
        if header.base_offset < first:
            continue
        assert kernels.batch.crc_holds(segment.log.view, position, segment.log.size)
        area = records_area(segment.log.view, position, header, 1 << 24)
        records = kernels.decode.decode_records(area, header, 0, 1 << 62)
        horizon = -1 if header.delete_horizon is None else header.delete_horizon
        producer = (header.producer_id, header.producer_epoch, header.base_sequence)
        found.append(Batch(header.base_offset, header.last_offset, records, header.log_append_time, horizon, producer))
    return found


class History:
    """One random life of a partition, and of its model."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.map_bytes = rng.choice((1 << 16, 1 << 20))
        config = LogConfig.of(
            {
                "cleanup.policy": "compact",
                "segment.bytes": rng.choice((4096, 8192, 1 << 16)),
                "segment.index.bytes": rng.choice((48, 4096)),
                "index.interval.bytes": rng.choice((0, 100, 4096)),
                "delete.retention.ms": RETENTION_MS,
                "compression.type": rng.choice(CODECS),
                "message.timestamp.type": rng.choice(("CreateTime", "CreateTime", "LogAppendTime")),
                "min.compaction.lag.ms": rng.choice((0, 0, 0, 500)),
                "file.delete.delay.ms": 0,
            }
        )
        folder.mkdir(parents=True)
        self.folder, self.config = folder, config
        self.log = self._open()
        self.log._log.largest_segment = rng.choice((2000, (1 << 31) - 1))  # type: ignore[union-attr]
        self.keys = [b"%d" % at * rng.randint(1, 12) for at in range(rng.choice((2, 8, 40)))]
        self.model: list[Batch] = []
        self.clean_to = 0
        self.sequence = 0

    def _open(self) -> Partition:
        return Partition(PartitionLog(Disk(), self.folder, self.config, self.clock, "never"))

    def play(self) -> None:
        """Anything, in any order; the model is compared after every compaction."""
        for _ in range(self.rng.randint(3, 8)):
            for _ in range(self.rng.randint(1, 8)):
                self._append()
            if self.rng.random() < 0.8:
                self.log.roll()
            self.clock.now += self.rng.choice((0, 10, 600, 2000))
            if self.rng.random() < 0.2:
                self.log.close()
                self.log = self._open()
            self._compact()
        self.log.close()
        self.log = self._open()
        assert self.log.recovery.clean
        self._compare()
        self.log.close()

    def _append(self) -> None:
        rng = self.rng
        self.clock.now += rng.randint(0, 3)
        records = [
            Record(-1, self._time(), rng.choice(self.keys), self._value(), self._headers())
            for _ in range(rng.randint(1, 6))
        ]
        first = self.log.log_end_offset
        if rng.random() < 0.15:
            self._produce(records)
        elif rng.random() < 0.1:
            self._produce([r._replace(key=None) if rng.random() < 0.5 else r for r in records], producer=False)
        else:
            self.log.extend(records)
        assert self.log.log_end_offset == first + len(records)
        self.model += read(self.log, first)

    def _time(self) -> int:
        return self.clock.now + self.rng.choice((0, 0, 5, -5, -100_000))

    def _value(self) -> bytes | None:
        return None if self.rng.random() < 0.2 else b"%x" % self.rng.getrandbits(32) * self.rng.randint(0, 20)

    def _headers(self) -> tuple[tuple[str, bytes | None], ...]:
        return tuple((f"é{at}", self.rng.choice((None, b"", b"h" * 50))) for at in range(self.rng.choice((0, 0, 0, 2))))

    def _produce(self, records: list[Record], *, producer: bool = True) -> None:
        """A batch as a leader hands it over: of an idempotent producer, or with records that have no key."""
        rng, buf = self.rng, bytearray(1 << 16)
        who = (7, 0, self.sequence) if producer else (-1, -1, -1)
        end, _, _ = kernels.encode.encode(
            buf, 0, len(buf), records, 0, self.log.log_end_offset, self.log.leader_epoch, 0, 0, *who
        )
        self.sequence += len(records) if producer else 0
        header, codec = BatchHeader.read(buf, 0, end), rng.randrange(5)
        area = compression.compress(codec, None, memoryview(buf)[HEADER_SIZE:end])
        size = HEADER_SIZE + len(area)
        buf[HEADER_SIZE:size] = area
        fields = header._replace(attributes=header.attributes & ~CODEC_MASK | codec)
        kernels.batch.write_header(
            buf, 0, size, fields.base_offset, fields.leader_epoch, fields.attributes, *fields[6:]
        )
        self.log.append_batches(bytes(buf[:size]), "replica")

    def _compact(self) -> None:
        now, found = self.clock.now, self.log.cleanable()
        before = self.log.log_end_offset
        tail = read(self.log, found.end)
        starts: list[tuple[int, int]] = []
        log = self.log._log
        note = type(log)._pass

        def noted(found: object, *rest: object) -> bool:
            start = log.cleanable(now).first_dirty  # type: ignore[union-attr]
            done = note(log, found, *rest)  # type: ignore[arg-type]
            starts.append((start, log._first_dirty(log.segments)))  # type: ignore[union-attr]
            return done

        log._pass = noted  # type: ignore[union-attr,method-assign]
        report = self.log.compact(map_bytes=self.map_bytes)
        del log._pass  # type: ignore[union-attr]
        assert (report is None) == (found.dirty_bytes == 0)
        last = max((batch.last for batch in self.model if batch.producer[0] >= 0), default=-1)
        for start, end in starts:
            for batch in self.model:
                batch.producer_last = batch.last == last
            closed = [batch for batch in self.model if batch.last < found.end]
            self.model = clean(closed, start, end, now) + [batch for batch in self.model if batch.last >= found.end]
        assert self.log.log_end_offset == before
        assert read(self.log, found.end) == tail, "above the cleanable bound"
        self._compare()

    def _compare(self) -> None:
        found = read(self.log)
        assert found == self.model, _difference(found, self.model)
        report = self.log.verify()
        assert report.ok, report.problems


def _difference(found: list[Batch], wanted: list[Batch]) -> str:
    pairs = [(one, other) for one, other in zip(found, wanted, strict=False) if one != other]
    return f"{len(found)} batches, not {len(wanted)}; {pairs[:1] or (found or wanted)[-1:]}"


def check(seed: int, place: Path) -> None:
    """Play one history."""
    folder = place / f"history-{seed}"
    try:
        History(folder, seed).play()
    except BaseException as error:
        raise AssertionError(f"history {seed}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Play many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--place", type=Path, help="a folder for them: memory is faster than a disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventcore-", dir=options.place) as place:
        for seed in range(options.first, options.first + options.histories):
            check(seed, Path(place))
    print(f"{options.histories} histories, no difference")


if __name__ == "__main__":
    main()

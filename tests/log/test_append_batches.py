"""Encoded batches: what a client may send, what a follower takes over, and what each is told."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore import _kernels as kernels
from eventcore.disk import Disk
from eventcore.format import compression, control
from eventcore.log import ingest, producers

from .conftest import NOW, FakeClock, Open

ATTRIBUTES = {"transactional": 0x10, "control": 0x20, "append_time": 0x08, "horizon": 0x40}


def batch(
    items: list[Any],
    *,
    base: int = 0,
    epoch: int = -1,
    attributes: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    codec: int = 0,
) -> bytes:
    """An encoded batch, as a client would send it."""
    buf = bytearray(1 << 16)
    end, _, _ = kernels.encode.encode(buf, 0, len(buf), items, 0, base, epoch, attributes & ~7, NOW, *producer)
    fields = kernels.batch.read_header(buf, 0, end)
    if codec:
        area = compression.compress(codec, None, bytes(buf[61:end]))
        buf[61 : 61 + len(area)] = area
        end = 61 + len(area)
        kernels.batch.write_header(buf, 0, end, base, epoch, fields[5] | codec, *fields[6:])
    return bytes(buf[:end])


def marker(kind: int, base: int, producer_id: int, epoch: int, coordinator_epoch: int = 0) -> bytes:
    """An end-transaction marker as a leader's log holds it."""
    record = control.marker_record(kind, coordinator_epoch)
    return batch([record], base=base, epoch=0, attributes=0x30, producer=(producer_id, epoch, -1))


def patched(data: bytes, position: int, value: bytes) -> bytes:
    """The batch with some bytes changed and its CRC made right again."""
    out = bytearray(data)
    out[position : position + len(value)] = value
    out[17:21] = kernels.crc32c.crc32c(bytes(out[21:])).to_bytes(4, "big")
    return bytes(out)


def test_a_client_batch_gets_its_offsets(open_log: Open) -> None:
    p = open_log()
    p.append(b"first")
    p.set_leader_epoch(4)
    info = p.append_batches(batch([b"a", (b"k", b"b")]))
    assert info == ec.BatchInfo(1, 2, NOW, False)
    assert [(r.offset, r.key, r.value) for r in p.read(1)] == [(1, None, b"a"), (2, b"k", b"b")]
    assert p.fetch(1).data[12:16] == struct.pack(">i", 4)


@pytest.mark.parametrize("codec", range(5))
def test_a_client_batch_keeps_its_codec(open_log: Open, codec: int) -> None:
    p = open_log()
    p.append_batches(batch([b"x" * 100] * 20, codec=codec))
    assert p.fetch(0).data[22] & 7 == codec
    assert [r.value for r in p] == [b"x" * 100] * 20


@pytest.mark.parametrize("codec", range(5))
def test_a_topic_with_a_codec_recompresses(open_log: Open, codec: int) -> None:
    p = open_log(compression_type="zstd")
    p.append_batches(batch([b"x" * 100] * 20, codec=codec, producer=(7, 0, 0)))
    assert p.fetch(0).data[22] & 7 == compression.ZSTD
    assert [r.value for r in p] == [b"x" * 100] * 20
    assert p.append_batches(batch([b"x" * 100] * 20, codec=codec, producer=(7, 0, 0))).duplicate


def test_append_time_changes_only_the_header(open_log: Open, clock: FakeClock) -> None:
    p = open_log(message_timestamp_type="LogAppendTime")
    clock.now += 5
    info = p.append_batches(batch([ec.Record(value=b"a", timestamp=1), b"b"]))
    assert info.timestamp == NOW + 5
    assert [r.timestamp for r in p] == [NOW + 5] * 2


GOOD = batch([b"a", b"b", b"c"])
REFUSED = {
    "two batches": GOOD + GOOD,
    "trailing bytes": GOOD + b"\0",
    "base offset": batch([b"a"], base=5),
    "crc": GOOD[:17] + b"\0\0\0\0" + GOOD[21:],
    "control": batch([b"a"], attributes=0x30, producer=(1, 0, -1)),
    "append time": batch([b"a"], attributes=0x08),
    "delete horizon": patched(GOOD, 21, b"\x00\x40"),
    "count too small": patched(GOOD, 57, struct.pack(">i", 2)),
    "no records": patched(GOOD, 57, struct.pack(">i", 0)),
    "gap in offsets": patched(GOOD, 23, struct.pack(">i", 5)),
    "producer without sequence": batch([b"a"], producer=(1, 0, -1)),
    "transactional without producer": batch([b"a"], attributes=0x10),
    "wrong max timestamp": patched(GOOD, 35, struct.pack(">q", 5)),
    "far future": batch([ec.Record(value=b"a", timestamp=NOW + 3_600_001)]),
    "bad zstd": patched(batch([b"a"], codec=4), 61, b"\0\0"),
    "broken record": patched(GOOD, 61, b"\x7f"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_client_batch_is_refused_and_nothing_is_appended(open_log: Open, name: str) -> None:
    p = open_log()
    p.append(b"before")
    with pytest.raises((ec.InvalidRecord, ec.CorruptRecord)):
        p.append_batches(REFUSED[name])
    assert p.log_end_offset == 1
    assert p.append_batches(GOOD) == ec.BatchInfo(1, 3, NOW)


@pytest.mark.parametrize(
    ("position", "value", "error"),
    [
        (8, struct.pack(">i", -1), ec.CorruptRecord),
        (8, struct.pack(">i", 48), ec.CorruptRecord),
        (8, struct.pack(">i", (1 << 31) - 1), ec.Truncated),
        (16, b"\x01", ec.UnsupportedFormat),
        (16, b"\x03", ec.UnsupportedFormat),
        (21, b"\x00\x05", ec.CorruptRecord),
        (21, b"\x00\x80", ec.CorruptRecord),
        (57, struct.pack(">i", -1), ec.CorruptRecord),
        (57, struct.pack(">i", (1 << 31) - 1), ec.CorruptRecord),
        (23, struct.pack(">i", -1), ec.CorruptRecord),
    ],
)
@pytest.mark.parametrize("origin", ["client", "replica"])
def test_an_implausible_header_is_refused_before_anything_else(
    open_log: Open, origin: Any, position: int, value: bytes, error: type[Exception]
) -> None:
    p = open_log()
    with pytest.raises(error):
        p.append_batches(patched(GOOD, position, value), origin)
    assert p.log_end_offset == 0


@pytest.mark.parametrize("data", [b"", b"\0" * 16, b"\0" * 61, GOOD[:60], GOOD[:-1]])
def test_no_whole_batch_is_refused(open_log: Open, data: bytes) -> None:
    p = open_log()
    for origin in ("client", "replica"):
        with pytest.raises(ec.StorageError):
            p.append_batches(data, origin)  # type: ignore[arg-type]


def test_size_limits(open_log: Open) -> None:
    p = open_log(max_message_bytes=300, segment_bytes=4096)
    with pytest.raises(ec.RecordTooLarge, match=r"max\.message\.bytes"):
        p.append_batches(batch([b"x" * 300]))
    with pytest.raises(ec.RecordTooLarge, match=r"segment\.bytes"):
        p.append_batches(batch([b"x" * 5000], epoch=0), "replica")
    assert p.append_batches(batch([b"x" * 1000], epoch=0), "replica").last_offset == 0


def test_a_compacted_topic_needs_keys(open_log: Open) -> None:
    p = open_log(cleanup_policy="compact")
    with pytest.raises(ec.InvalidRecord, match="without a key"):
        p.append_batches(batch([(b"k", b"v"), b"no key"]))
    p.append_batches(batch([(b"k", b"v")]))


def test_an_idempotent_producer(open_log: Open) -> None:
    p = open_log()
    sent = [batch([b"%d" % i], producer=(7, 0, i)) for i in range(8)]
    for i, data in enumerate(sent):
        assert p.append_batches(data) == ec.BatchInfo(i, i, NOW, False)
    for i in range(3, 8):
        assert p.append_batches(sent[i]) == ec.BatchInfo(i, i, NOW, True)
    for bad in (sent[2], batch([b"gap"], producer=(7, 0, 9))):
        with pytest.raises(ec.OutOfOrderSequence):
            p.append_batches(bad)
    p.append_batches(batch([b"new epoch"], producer=(7, 1, 0)))
    with pytest.raises(ec.InvalidProducerEpoch):
        p.append_batches(batch([b"old"], producer=(7, 0, 8)))
    p.close()
    p = open_log()
    assert p.append_batches(batch([b"new epoch"], producer=(7, 1, 0))).duplicate
    (producer,) = p.producers()
    assert (producer.producer_id, producer.epoch, producer.last_sequence) == (7, 1, 0)


def test_sequences_wrap(open_log: Open) -> None:
    p = open_log()
    last = (1 << 31) - 1
    p.append_batches(batch([b"a", b"b"], producer=(7, 0, last - 1)))
    assert p.append_batches(batch([b"c"], producer=(7, 0, 0))).first_offset == 2
    p.close()
    p = open_log()
    assert p.append_batches(batch([b"d", b"e"], producer=(7, 0, 1))).first_offset == 3


def replicate(source: ec.Partition, target: ec.Partition) -> None:
    while target.log_end_offset < source.high_watermark:
        target.append_batches(source.fetch(target.log_end_offset).data, "replica")


def test_a_follower_becomes_equal_byte_for_byte(open_log: Open, tmp_path: Path) -> None:
    p = open_log()
    for epoch in range(3):
        p.set_leader_epoch(epoch * 2)
        for i in range(10):
            p.extend([b"%d" % i] * 7)
    with ec.open_partition(tmp_path / "follower-0", fsync="never") as follower:
        replicate(p, follower)
        assert [*follower] == [*p]
        assert follower.leader_epoch == 4
        assert [follower.end_offset_for_epoch(e) for e in range(6)] == [p.end_offset_for_epoch(e) for e in range(6)]
        assert bytes(follower.fetch(0, 1 << 20).data) == bytes(p.fetch(0, 1 << 20).data)


def test_a_cut_batch_at_the_end_of_a_fetch_is_left_out(open_log: Open) -> None:
    p = open_log()
    data = batch([b"a"], base=0, epoch=0) + batch([b"b"], base=1, epoch=0)
    assert p.append_batches(data[:-1], "replica").last_offset == 0
    assert p.append_batches(batch([b"b"], base=1, epoch=0), "replica").last_offset == 1


@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize("epoch", [0, 1], ids=["the same epoch", "a new epoch"])
def test_a_bad_batch_of_a_fetch_keeps_all_of_it_out(open_log: Open, bad: int, epoch: int) -> None:
    """The batches before it were copied by the time it is found."""
    p = open_log()
    p.append(b"first")
    found = [bytearray(batch([b"v" * 100] * 3, base=1 + 3 * n, epoch=epoch)) for n in range(3)]
    found[bad][-1] ^= 1
    with pytest.raises(ec.CorruptRecord, match="CRC") as refused:
        p.append_batches(b"".join(found), origin="replica")
    assert (refused.value.position, refused.value.offset) == (bad * len(found[0]), 1 + 3 * bad)
    assert p.log_end_offset == 1
    active = p.segments.active.log
    assert bytes(active.view[active.size : active.size + 12]) == bytes(12)
    assert kernels.batch.scan(active.view, 0, active.capacity, bytearray(640), True)[0] == 1
    p.append(b"second")
    assert [r.value for r in p] == [b"first", b"second"]
    p.close()
    p = open_log()
    assert (p.recovery.damage, len(p)) == ([], 2)


def test_a_follower_refuses_offsets_it_has(open_log: Open) -> None:
    p = open_log()
    p.extend([b"a"] * 3)
    with pytest.raises(ec.InvalidRecord, match="where the log ends at 3"):
        p.append_batches(batch([b"b"], base=2, epoch=0), "replica")
    bad = bytearray(batch([b"b"], base=3, epoch=0) + batch([b"c"], base=4, epoch=0))
    bad[-1] ^= 1
    with pytest.raises(ec.CorruptRecord):
        p.append_batches(bad, "replica")
    assert p.log_end_offset == 3
    assert p.append_batches(batch([b"gap"], base=10, epoch=0), "replica").first_offset == 10


def transactions(p: ec.Partition) -> None:
    """Producer 1 commits 0-1, producer 2 aborts 2-3, producer 3 stays open at 6; markers at 4 and 5; plain at 7."""
    for data in (
        batch([b"c0", b"c1"], base=0, epoch=0, attributes=0x10, producer=(1, 0, 0)),
        batch([b"a2", b"a3"], base=2, epoch=0, attributes=0x10, producer=(2, 0, 0)),
        marker(control.COMMIT, 4, 1, 0),
        marker(control.ABORT, 5, 2, 0),
        batch([b"o6"], base=6, epoch=0, attributes=0x10, producer=(3, 0, 0)),
        batch([b"p7"], base=7, epoch=0),
    ):
        p.append_batches(data, "replica")


@pytest.mark.parametrize("again", ["same handle", "clean", "unclean", "reader"])
def test_committed_readers_see_no_aborted_and_no_open_transaction(open_log: Open, folder: Path, again: str) -> None:
    p = open_log()
    transactions(p)
    if again in ("clean", "unclean"):
        p.close()
        if again == "unclean":
            (folder / "eventcore.recovery").unlink()
            (folder / f"{8:020d}.snapshot").unlink()
            (folder / f"{0:020d}.txnindex").unlink()
        p = open_log()
    if again == "reader":
        p = open_log(mode="r")
    assert [r.value for r in p] == [b"c0", b"c1", b"a2", b"a3", b"o6", b"p7"]
    assert [r.value for r in p.read(isolation="read_committed")] == [b"c0", b"c1"]
    columns = p.columns(isolation="read_committed")
    assert [columns.value(row) for row in range(len(columns))] == [b"c0", b"c1"]
    assert p.last_stable_offset == 6
    assert p.high_watermark == 8
    fetched = p.fetch(0, isolation="read_committed")
    assert fetched.aborted == (ec.AbortedTransaction(2, 2),)
    assert fetched.next_offset == 6
    with pytest.raises(ec.OffsetOutOfRange, match="marker"):
        p[4]


def test_a_decided_transaction_lets_the_stable_offset_move(open_log: Open) -> None:
    p = open_log()
    transactions(p)
    p.append_batches(marker(control.ABORT, 8, 3, 0), "replica")
    assert p.last_stable_offset == 9
    assert [r.value for r in p.read(isolation="read_committed")] == [b"c0", b"c1", b"p7"]


@pytest.mark.parametrize("kind", [control.ABORT, control.COMMIT])
def test_committed_readers_see_nothing_of_an_append_that_is_not_done(
    open_log: Open, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """A thread may read while another one appends: the bytes are there before it is known whose they are."""
    p, seen = open_log(), []

    def looking(act: Any) -> Any:
        def looked(*arguments: Any) -> Any:
            seen.append([record.value for record in p.read(isolation="read_committed")])
            return act(*arguments)

        return looked

    monkeypatch.setattr(producers.ProducerState, "note", looking(producers.ProducerState.note))
    monkeypatch.setattr(ingest, "index_aborted", looking(ingest.index_aborted))
    p.append(b"before")
    p.append_batches(batch([b"x", b"y"], base=1, epoch=0, attributes=0x10, producer=(7, 0, 0)), "replica")
    p.append_batches(marker(kind, 3, 7, 0), "replica")
    assert seen
    assert seen == [[b"before"]] * len(seen)
    decided = [b"x", b"y"] if kind == control.COMMIT else []
    assert [record.value for record in p.read(isolation="read_committed")] == [b"before", *decided]


def test_truncation_takes_a_transaction_back(open_log: Open) -> None:
    p = open_log()
    transactions(p)
    p.truncate(5)
    assert p.last_stable_offset == 2
    assert [r.value for r in p.read(isolation="read_committed")] == [b"c0", b"c1"]
    p.append_batches(marker(control.COMMIT, 5, 2, 0), "replica")
    assert [r.value for r in p.read(isolation="read_committed")] == [b"c0", b"c1", b"a2", b"a3"]


def test_a_plain_batch_inside_an_open_transaction_is_refused(open_log: Open) -> None:
    p = open_log()
    p.append_batches(batch([b"a"], attributes=0x10, producer=(7, 0, 0)))
    with pytest.raises(ec.InvalidTxnState):
        p.append_batches(batch([b"b"], producer=(7, 0, 1)))


def test_an_unknown_origin_is_refused(open_log: Open) -> None:
    with pytest.raises(ec.UsageError, match="origin"):
        open_log().append_batches(GOOD, "broker")  # type: ignore[arg-type]


class TracingDisk(Disk):
    """Notes the names of the files that were made durable."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.synced.append(self._path(fd).name)


@pytest.mark.parametrize("change", ["roll", "truncate"])
def test_aborted_transactions_are_durable_before_the_log_relies_on_it(folder: Path, change: str) -> None:
    disk = TracingDisk()
    with ec.open_partition(folder, fsync="never", disk=disk) as p:
        transactions(p)
        disk.synced.clear()
        if change == "roll":
            p.roll()
        else:
            p.truncate(5)
        assert f"{0:020d}.txnindex" in disk.synced


class FullDisk(Disk):
    """Refuses to replace small files while `full`."""

    full = False

    def replace_file(self, path: Path, data: bytes) -> None:
        if self.full:
            raise ec.DiskFull("no space left", path=path)
        super().replace_file(path, data)


def test_a_retry_after_a_full_disk_is_stored_once(folder: Path) -> None:
    disk = FullDisk()
    with ec.open_partition(folder, fsync="never", disk=disk) as p:
        data = batch([b"a"], producer=(7, 0, 0))
        disk.full = True
        with pytest.raises(ec.DiskFull):
            p.append_batches(data)
        disk.full = False
        assert p.append_batches(data).first_offset == 0
        assert [r.value for r in p] == [b"a"]


def test_an_empty_marker_batch_that_a_cleaner_left_ends_nothing(open_log: Open, folder: Path) -> None:
    empty = bytearray(61)
    kernels.batch.write_header(empty, 0, 61, 0, 0, 0x30, 0, -1, NOW, 9, 0, -1, 0)
    p = open_log()
    p.append_batches(empty, "replica")
    p.append_batches(batch([b"open"], base=1, epoch=0, attributes=0x10, producer=(1, 0, 0)), "replica")
    assert p.last_stable_offset == 1
    p.close()
    (folder / "eventcore.recovery").unlink()
    (folder / f"{2:020d}.snapshot").unlink()
    assert open_log().last_stable_offset == 1

"""The files beside the log, each read as the log reads it; and the codecs and control records of batches."""

from __future__ import annotations

import gzip
import struct
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import zstandard

from eventcore import _kernels as kernels
from eventcore.errors import CorruptFile, CorruptRecord, StorageError, UnsupportedFormat
from eventcore.files import checkpoint, producer_snapshot, recovery_point, seal
from eventcore.files.offset_index import OffsetIndex
from eventcore.files.recovery_point import RecoveryFile, RecoveryPoint
from eventcore.files.state_file import StateFile, tail
from eventcore.files.time_index import TimeIndex
from eventcore.files.txn_index import ENTRY_SIZE, TxnIndex
from eventcore.format import compression, control
from eventcore.format.layout import PRODUCER_SNAPSHOT_ENTRY, PRODUCER_SNAPSHOT_HEADER
from tests.crash.memory_disk import MemoryDisk
from tests.fuzz.kernel_targets import index_seeds
from tests.fuzz.mutate import crc32c, put_crc
from tests.fuzz.target import Target
from tests.golden import vectors
from tests.parity import twins

FOLDER = Path("/log")
BASE = 100
BAD_FILE = (CorruptFile, UnsupportedFormat)
LIMIT = 1 << 16
"""What the decompressed records of an input may hold."""
_DISK = 192 << 10
"""What the disk in memory itself takes for a file."""


def disk_of(name: str, data: memoryview) -> tuple[MemoryDisk, Path]:
    """A disk that holds one file."""
    return MemoryDisk({str(FOLDER): {name: bytes(data)}}), FOLDER / name


def all_closed(disk: MemoryDisk) -> None:
    """Whatever was wrong with a file, nobody has it open any more."""
    if disk.open_paths():
        raise AssertionError(f"still open: {disk.open_paths()}")


# -- codecs ----------------------------------------------------------------------------------------------------


def _codec(codec: int) -> Callable[[memoryview], None]:
    def run(data: memoryview) -> None:
        try:
            area = compression.decompress(codec, data, LIMIT)
        except (CorruptRecord, UnsupportedFormat):
            return
        if len(area) > LIMIT:
            raise AssertionError(f"{len(area)} bytes above the limit of {LIMIT}")

    return run


def _codec_seeds(codec: int) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        plain = [b"", b"x", b"".join(twins.RECORDS) * 3, bytes(3000), b"ab" * 40_000, bytes(range(256)) * 4]
        found = [compression.compress(codec, None, area) for area in plain]
        found += [found[2] + found[3]]
        if codec == compression.ZSTD:
            sized = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
            found += [sized.compress(plain[2]), sized.compress(bytes(1 << 20))]
        if codec == compression.GZIP:
            found += [gzip.compress(bytes(1 << 22))]
        if codec == compression.SNAPPY:
            found += [bytes(found[2][20:])]
        if codec == compression.LZ4:
            found += [bytes.fromhex("04224d18 7c 40") + struct.pack("<Q", 5) + b"\0" + found[2][7:]]
        return found

    return seeds


def fix_lz4(data: bytearray, rng: Random) -> None:
    """The checksum of an lz4 frame's header is a byte of an xxh32: that of the known flags, if they are known."""
    if rng.random() < 0.5:
        data[:7] = compression.LZ4_HEADER


# -- control records -------------------------------------------------------------------------------------------


def run_marker(data: memoryview) -> None:
    """A control record: the first byte says how much of the rest is its key."""
    key_size = data[0] % 12 if len(data) else 0
    try:
        control.read_marker(bytes(data[1 : 1 + key_size]), bytes(data[1 + key_size :]))
    except CorruptRecord:
        return


def marker_seeds() -> list[bytes]:
    """Both kinds of marker."""
    records = [control.marker_record(kind, 9) for kind in (control.ABORT, control.COMMIT)]
    return [bytes([len(key)]) + key + value for key, value in records]


# -- indexes ---------------------------------------------------------------------------------------------------


def run_index_files(data: memoryview) -> None:
    """Offset and time index of the same bytes: read, looked up in, opened for writing, added to and cut."""
    for kind, name in ((OffsetIndex, "x.index"), (TimeIndex, "x.timeindex")):
        disk, path = disk_of(name, data)
        reader = kind(disk, path, BASE, write=False)
        for target in (0, BASE, BASE + 42, twins.NOW, (1 << 63) - 1):
            reader.lookup(target)
        reader.refresh()
        for slot in range(reader.count):
            reader.offset_of(slot)
        reader.close()
        writer = kind(disk, path, BASE, write=True, capacity=4800)
        if not writer.full:
            writer.append(BASE + 9000, 77 + BASE) if kind is OffsetIndex else writer.append(1 << 62, BASE + 9000)
        writer.truncate(BASE + 30)
        writer.keep_below(BASE + 20)
        writer.trim()
        writer.close()
        all_closed(disk)


def run_txn_index(data: memoryview) -> None:
    """Read; appended to, cut and emptied as a recovery would."""
    disk, path = disk_of("x.txnindex", data)
    index = TxnIndex(disk, path, BASE)
    try:
        entries = index.entries()
        if len(entries) != len(data) // ENTRY_SIZE:
            raise AssertionError(f"{len(entries)} entries in {len(data)} bytes")
        last = entries[-1].last_offset if entries else BASE
        if last < (1 << 63) - 9:
            index.append(1, BASE, last + 1, last + 2)
        index.truncate(BASE + 5)
    except BAD_FILE:
        index.reset()
    index.close()
    all_closed(disk)


def txn_seeds() -> list[bytes]:
    """One entry, three, and a partial one behind them."""
    entry = struct.Struct(">hqqqq")
    three = b"".join(entry.pack(0, n, BASE + n, BASE + 4 * n + 4, BASE + n) for n in range(3))
    return [vectors.TXN_INDEX_ENTRY, three, three + b"\0\0\0"]


# -- snapshots, checkpoints, seals -----------------------------------------------------------------------------


def run_snapshot(data: memoryview) -> None:
    """What is taken is written so that it is taken again."""
    try:
        found = producer_snapshot.decode(bytes(data), FOLDER)
    except BAD_FILE:
        return
    if producer_snapshot.decode(producer_snapshot.encode(found.dump()), FOLDER).all() != found.all():
        raise AssertionError("a snapshot that is taken is written otherwise")


def fix_snapshot(data: bytearray, rng: Random) -> None:
    """The CRC, and mostly the count that fits the size."""
    start, entry_size = PRODUCER_SNAPSHOT_HEADER.size, PRODUCER_SNAPSHOT_ENTRY.size
    if len(data) >= start:
        if rng.random() < 0.7:
            count = (len(data) - start) // entry_size
            data[6:10] = count.to_bytes(4, "big")
            del data[start + count * entry_size :]
        put_crc(data, 2, 6)


def run_checkpoint(data: memoryview) -> None:
    """Both kinds of checkpoint, and partition.metadata."""
    for read in (checkpoint.read_epochs, checkpoint.read_offsets, checkpoint.read_topic_id):
        disk, path = disk_of("x", data)
        with suppress(CorruptFile):
            read(disk, path)
        all_closed(disk)


def fix_checkpoint(data: bytearray, rng: Random) -> None:
    """Whole lines of ASCII, and the number of them."""
    lines = bytes(byte & 0x7F for byte in data).split(b"\n")
    if len(lines) > 2 and lines[0] == b"0":
        lines[1] = b"%d" % (len(lines) - 3)
        data[:] = b"\n".join([*lines[:-1], b""])


def checkpoint_seeds() -> list[bytes]:
    """Each kind as it is written."""
    disk = MemoryDisk({str(FOLDER): {}})
    checkpoint.write_epochs(disk, FOLDER / "a", [(0, 0), (3, 100), (2**31 - 1, 2**63 - 1)])
    checkpoint.write_offsets(disk, FOLDER / "b", {("topic", 0): 5, ("x.y-z", 17): 2**63 - 1})
    checkpoint.write_topic_id(disk, FOLDER / "c", uuid.UUID(int=(1 << 127) + 12345))
    return [*disk.image()[str(FOLDER)].values(), b"0\n0\n"]


def run_recovery_point(data: memoryview) -> None:
    """Anything is read: what fails its checks says nothing. Then the file is written, and says that."""
    disk, path = disk_of(recovery_point.NAME, data)
    point = recovery_point.read(disk, path)
    if min(point.recovery_point, point.base_offset, point.position, point.log_start_offset) < 0:
        raise AssertionError(f"{point}")
    file = RecoveryFile(disk, path)
    wanted = RecoveryPoint(7, 3, 99, 1, clean=True)
    file.write(wanted)
    file.close()
    if replace(recovery_point.read(disk, path), boot_id=b"") != wanted:
        raise AssertionError("what was written last does not count")
    all_closed(disk)


_SLOT = 4096
_BODY_AT = recovery_point._FRAME.size
_BODY_END = _BODY_AT + recovery_point._BODY.size


def recovery_seeds() -> list[bytes]:
    """Both slots in use. Without the zeros that fill each, which `unfold` puts back."""
    disk = MemoryDisk({str(FOLDER): {}})
    file = RecoveryFile(disk, FOLDER / recovery_point.NAME)
    file.write(RecoveryPoint(100, 90, 4000, 5))
    file.write(RecoveryPoint(120, 90, 5000, 5, truncate_to=101, truncate_base=90, truncate_position=3000, clean=True))
    data = disk.image()[str(FOLDER)][recovery_point.NAME]
    return [data[:_BODY_END] + data[_SLOT : _SLOT + _BODY_END]]


def fix_recovery(data: bytearray, rng: Random) -> None:
    """The CRC of each slot."""
    for start in (0, _BODY_END):
        if len(data) >= start + _BODY_END:
            put_crc(data, start + 12, start + _BODY_AT, start + _BODY_END)


def run_recovery_slots(data: memoryview) -> None:
    """The slots of the input at their places in the file, and the input itself as the file."""
    slots = bytes(data)
    whole = slots[:_BODY_END].ljust(_SLOT, b"\0") + slots[_BODY_END:].ljust(_SLOT, b"\0")
    run_recovery_point(memoryview(whole))
    run_recovery_point(data)


_STATE_WORDS = (
    tail.LOG_START,
    tail.LAST_STABLE,
    tail.HIGH_WATERMARK,
    tail.LOG_END,
    tail.DURABLE,
    tail.GENERATION,
    tail.TRUNCATED_TO,
    tail.TRUNCATIONS,
)


def run_state_file(data: memoryview) -> None:
    """Opened by a reader and by the next writer; the file is as large as the input unless that is small."""
    for size in (len(data), tail.STATE_SIZE):
        for create in (False, True):
            disk, path = disk_of("eventcore.state", memoryview(bytes(data).ljust(size, b"\0")))
            try:
                state = StateFile(disk, path, create=create, write=create)
            except UnsupportedFormat:
                all_closed(disk)
                continue
            for word in _STATE_WORDS:
                state.load(word)
            if state.testament.mark < 0:
                raise AssertionError(f"{state.testament}")
            state.wait(state.signal() + 1, 0)
            if create:
                state.begin(5, 0)
                state.publish(1, 2, 3, 4)
            state.close()
            all_closed(disk)


def state_seeds() -> list[bytes]:
    """What a writer leaves, up to its last byte in use."""
    disk = MemoryDisk({str(FOLDER): {}})
    state = StateFile(disk, FOLDER / "s", create=True)
    state.begin(77, 0)
    state.publish(70, 77, 80, 77)
    state.fence()
    return [disk.image()[str(FOLDER)]["s"][:232]]


def _sealed_log() -> tuple[bytes, seal.Seal]:
    log = b"".join(
        twins.batch(bytes([number]) * size, base_offset=BASE + 2 * number, last_offset_delta=1)
        for number, size in enumerate([30_000, 40_000, 5, 0, 8])
    )
    return log, seal.Digest().seal(log, BASE, len(log), BASE + 10)


_LOG, _SEAL = _sealed_log()


def run_seal(data: memoryview) -> None:
    """Whatever a seal says, the log that it is held against is read in its bounds."""
    try:
        found = seal.decode(bytes(data))
    except BAD_FILE:
        return
    seal.belongs(found, len(_LOG), _LOG)
    if found.size > len(_LOG):
        return  # `belongs` has said no
    seal.check_blocks(found, _LOG)
    seal.check_blocks(found, _LOG, 40_000, 70_030)
    digest = seal.Digest.resumed(found)
    try:
        digest.seal(_LOG, found.base_offset, found.size, found.next_offset)
    except StorageError:
        return


def seal_seeds() -> list[bytes]:
    """Without and with a damaged range, and one of an empty log."""
    hole = seal.DamagedRange(0, 30_061, BASE, BASE + 2)
    holed = seal.Digest((hole,)).seal(bytes(30_061) + _LOG[30_061:], BASE, len(_LOG), BASE + 10)
    empty = seal.Seal(BASE, 0, BASE, 0, 0, np.empty((0, 4), np.int64))
    return [seal.encode(found) for found in (_SEAL, holed, empty)]


_BLOCKS_AT = seal._HEADER_SIZE
_ROW_SIZE = 32


def fix_seal(data: bytearray, rng: Random) -> None:
    """The CRC, and mostly numbers of blocks and damaged ranges that fit the size."""
    if len(data) < _BLOCKS_AT:
        return
    if rng.random() < 0.6:
        rows = (len(data) - _BLOCKS_AT) // _ROW_SIZE
        damaged = min(int(rng.random() * 3), rows)
        del data[_BLOCKS_AT + rows * _ROW_SIZE :]
        data[56:72] = struct.pack(">qq", rows - damaged, damaged)
    if rng.random() < 0.5:
        data[16:24], data[24:32] = struct.pack(">q", BASE), struct.pack(">q", len(_LOG))
    data[12:16] = crc32c(bytes(data[16:]), crc32c(bytes(data[:12]))).to_bytes(4, "big")


_SEAL_PLACES = tuple((at, "q") for at in range(16, _BLOCKS_AT + 96, 8))
_SNAPSHOT_PLACES = ((0, "h"), (6, "i"), (10, "q"), (18, "h"), (20, "i"), (24, "q"), (32, "i"), (36, "q"))
_RECOVERY_PLACES = tuple((start + at, "q") for start in (0, _BODY_END) for at in range(16, 88, 8))
_STATE_PLACES = tuple((at, "q") for at in range(0, 208, 8))
_TXN_PLACES = tuple((34 * n + at, code) for n in range(3) for at, code in zip((0, 2, 10, 18, 26), "hqqqq", strict=True))


def snapshot_seeds() -> Sequence[bytes]:
    """Kafka's, and one of three producers of several batches."""
    table = kernels.producers.ProducerTable()
    for n in range(12):
        table.note(n % 3, 3, 10 * n + 4, 4, 100 + 5 * n, twins.NOW, n % 2 == 0, twins.NOW + n % 2)
    return [
        vectors.SNAPSHOT_EMPTY,
        vectors.SNAPSHOT_ONE,
        vectors.SNAPSHOT_MARKER_ONLY,
        producer_snapshot.encode(table.dump()),
    ]


TARGETS = (
    Target("gzip", _codec(compression.GZIP), _codec_seeds(compression.GZIP), 2, memory=8 * LIMIT, factor=16),
    Target("snappy", _codec(compression.SNAPPY), _codec_seeds(compression.SNAPPY), 3, memory=4 * LIMIT),
    Target("lz4", _codec(compression.LZ4), _codec_seeds(compression.LZ4), 3, fix_lz4, memory=4 * LIMIT),
    Target("zstd", _codec(compression.ZSTD), _codec_seeds(compression.ZSTD), 2, memory=8 * LIMIT, factor=16),
    Target("marker", run_marker, marker_seeds, 4),
    Target("index-files", run_index_files, index_seeds, 2, memory=_DISK),
    Target("txn-index", run_txn_index, txn_seeds, 3, None, _TXN_PLACES, memory=_DISK, factor=16),
    Target("snapshot", run_snapshot, snapshot_seeds, 4, fix_snapshot, _SNAPSHOT_PLACES, factor=16),
    Target("checkpoint", run_checkpoint, checkpoint_seeds, 3, fix_checkpoint, memory=_DISK, factor=64),
    Target("recovery-point", run_recovery_slots, recovery_seeds, 2, fix_recovery, _RECOVERY_PLACES, memory=_DISK),
    Target("state-file", run_state_file, state_seeds, 2, None, _STATE_PLACES, memory=_DISK),
    Target("seal", run_seal, seal_seeds, 4, fix_seal, _SEAL_PLACES, memory=_DISK, factor=16),
)

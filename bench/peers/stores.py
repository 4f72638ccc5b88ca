"""The stores that are compared: one small class each, all with the same methods.

What they hold is (offset, timestamp, key, value), found by offset and scanned in order. Each writes in the fastest way
its documentation gives for records in order; none compresses. Opened with `durable=False` all survive the death of the
process and none a power cut; with `durable=True` an append returns when the disk has it.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Protocol

import eventcore as ec
from bench.peers.records import Batch, now_ms

Row = tuple[int, int, bytes, bytes]
_HEAD = struct.Struct("<qH")
"""Before the key and the value, in stores of plain bytes: timestamp, size of the key."""
_pack_head, _unpack_head = _HEAD.pack, _HEAD.unpack_from
_key_at = _HEAD.size
_pack_big, _unpack_big = struct.Struct(">Q").pack, struct.Struct(">Q").unpack


class Store(Protocol):
    """A log in a folder of its own. Opening it again finds what was there."""

    name: ClassVar[str]
    durability: ClassVar[str]
    """What `durable` is called there: off, and on."""
    append_one: Callable[[bytes, bytes], object]
    """(value, key)"""
    get: Callable[[int], Any]
    """The record at an offset."""

    def __init__(self, folder: Path, durable: bool = False) -> None: ...
    def append_batch(self, batch: Batch) -> object:
        """All of them, or none."""

    def scan(self) -> Iterator[Any]:
        """Every record in order, with its offset, timestamp, key and value as Python objects."""

    def close(self) -> None:
        """As the user leaves it: checkpoints and flushes that make it small are part of it."""


class EventCore:
    """This project, through its public API."""

    name = "eventcore"
    durability = 'fsync="never", fsync="always"'

    def __init__(self, folder: Path, durable: bool = False, **config: Any) -> None:
        self.partition = ec.open_partition(folder / "log-0", "rw", "always" if durable else "never", _config(config))
        self.append_one = self.partition.append
        self.get = self.partition.__getitem__

    def append_batch(self, batch: Batch) -> object:
        return self.partition.extend(batch.pairs)

    def scan(self) -> Iterator[Any]:
        return iter(getattr(self.partition, "read_tuples", self.partition.read)(0))

    def close(self) -> None:
        self.partition.close()


def _config(names: dict[str, Any]) -> dict[str, Any]:
    return {"segment.bytes": 128 << 20, "max.message.bytes": 4 << 20} | {
        name.replace("_", "."): value for name, value in names.items()
    }


class Sqlite:
    """`executemany` in one transaction, write-ahead log; the offset is the row's id."""

    name = "sqlite3"
    durability = "WAL, synchronous=NORMAL, synchronous=FULL"
    synchronous = "normal"

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self._db = db = sqlite3.connect(folder / "log.sqlite", isolation_level=None, check_same_thread=False)
        db.execute("pragma journal_mode=wal")
        db.execute(f"pragma synchronous={'full' if durable else self.synchronous}")
        db.execute("create table if not exists log (off integer primary key, ts integer, key blob, value blob)")
        self._end = db.execute("select coalesce(max(off) + 1, 0) from log").fetchone()[0]

    def append_batch(self, batch: Batch) -> object:
        first, self._end = self._end, self._end + len(batch.keys)
        rows = zip(range(first, self._end), repeat(now_ms()), batch.keys, batch.values, strict=False)
        self._db.execute("begin")
        self._db.executemany("insert into log values (?, ?, ?, ?)", rows)
        return self._db.execute("commit")

    def append_one(self, value: bytes, key: bytes) -> object:
        self._db.execute("insert into log values (?, ?, ?, ?)", (self._end, now_ms(), key, value))
        self._end += 1
        return None

    def scan(self) -> Iterator[Row]:
        return self._db.execute("select off, ts, key, value from log order by off")

    def get(self, offset: int) -> Row:
        row: Row = self._db.execute("select off, ts, key, value from log where off = ?", (offset,)).fetchone()
        return row

    def close(self) -> None:
        self._db.execute("pragma wal_checkpoint(truncate)")
        self._db.close()


class SqliteOff(Sqlite):
    """The same without any sync, not even at checkpoints."""

    name = "sqlite3 (synchronous=OFF)"
    durability = "WAL, synchronous=OFF, synchronous=FULL"
    synchronous = "off"


class Lmdb:
    """`putmulti(append=True)` on integer keys; not durable: a writable map, written back when the system likes."""

    name = "lmdb"
    durability = "sync=False writemap map_async, sync=True"

    def __init__(self, folder: Path, durable: bool = False) -> None:
        how = {} if durable else {"sync": False, "metasync": False, "writemap": True, "map_async": True}
        lmdb = import_module("lmdb")
        self._env = lmdb.open(str(folder / "log.lmdb"), map_size=4 << 30, max_dbs=1, **how)
        self._db = self._env.open_db(b"log", integerkey=True)
        self._pack, self._unpack = struct.Struct("=Q").pack, struct.Struct("=Q").unpack
        with self._env.begin(self._db) as transaction, transaction.cursor() as cursor:
            self._end = self._unpack(cursor.key())[0] + 1 if cursor.last() else 0

    def append_batch(self, batch: Batch) -> object:
        first, self._end, pack, now = self._end, self._end + len(batch.keys), self._pack, now_ms()
        rows = [(pack(n), _pack_head(now, len(k)) + k + v) for n, (k, v) in enumerate(batch.pairs, first)]
        with self._env.begin(self._db, write=True) as transaction, transaction.cursor() as cursor:
            return cursor.putmulti(rows, append=True)

    def append_one(self, value: bytes, key: bytes) -> object:
        with self._env.begin(self._db, write=True) as transaction:
            transaction.put(self._pack(self._end), _pack_head(now_ms(), len(key)) + key + value, append=True)
        self._end += 1
        return None

    def scan(self) -> Iterator[Row]:
        unpack, head, at = self._unpack, _unpack_head, _key_at
        with self._env.begin(self._db) as transaction, transaction.cursor() as cursor:
            for key, data in cursor:
                time, size = head(data)
                yield unpack(key)[0], time, data[at : at + size], data[at + size :]

    def get(self, offset: int) -> Row:
        with self._env.begin(self._db) as transaction:
            return _row(offset, transaction.get(self._pack(offset)))

    def getter(self) -> tuple[Callable[[int], Row], Callable[[], None]]:
        """`get` within one transaction, and what ends it."""
        transaction, pack = self._env.begin(self._db), self._pack
        return lambda offset: _row(offset, transaction.get(pack(offset))), transaction.abort

    def close(self) -> None:
        self._env.sync(True)
        self._env.close()


def _row(offset: int, data: bytes) -> Row:
    time, size = _unpack_head(data)
    return offset, time, data[_key_at : _key_at + size], data[_key_at + size :]


class Rocksdict:
    """RocksDB: one `WriteBatch` an append, big-endian keys, no compression."""

    name = "rocksdict"
    durability = "WAL, WAL and sync"

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self._rocks = rocks = import_module("rocksdict")
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocks.DBCompressionType.none())
        self._db = rocks.Rdict(str(folder / "log.rocks"), options)
        write = rocks.WriteOptions()
        write.sync = durable
        self._db.set_write_options(write)
        self._write = write
        self._end = next((_unpack_big(key)[0] + 1 for key in self._db.keys(backwards=True)), 0)

    def append_batch(self, batch: Batch) -> object:
        first, self._end, now = self._end, self._end + len(batch.keys), now_ms()
        rows = self._rocks.WriteBatch(raw_mode=True)
        put = rows.put
        for n, (key, value) in enumerate(batch.pairs, first):
            put(_pack_big(n), _pack_head(now, len(key)) + key + value)
        return self._db.write(rows, self._write)

    def append_one(self, value: bytes, key: bytes) -> object:
        self._db.put(_pack_big(self._end), _pack_head(now_ms(), len(key)) + key + value, self._write)
        self._end += 1
        return None

    def scan(self) -> Iterator[Row]:
        head, at = _unpack_head, _key_at
        for key, data in self._db.items():
            time, size = head(data)
            yield _unpack_big(key)[0], time, data[at : at + size], data[at + size :]

    def get(self, offset: int) -> Row:
        return _row(offset, self._db[_pack_big(offset)])

    def close(self) -> None:
        self._db.flush()
        self._db.close()


class Plyvel:
    """LevelDB: one `write_batch` an append, big-endian keys, no compression."""

    name = "plyvel"
    durability = "WAL, sync=True"

    def __init__(self, folder: Path, durable: bool = False) -> None:
        plyvel = import_module("plyvel")
        # With the write buffer that RocksDB has by default; LevelDB's own is 4 MiB, and appending slower.
        options = {"create_if_missing": True, "compression": None, "write_buffer_size": 64 << 20}
        self._db = plyvel.DB(str(folder / "log.leveldb"), **options)
        self._sync = durable
        with self._db.iterator(reverse=True, include_value=False) as keys:
            self._end = next((_unpack_big(key)[0] + 1 for key in keys), 0)

    def append_batch(self, batch: Batch) -> object:
        first, self._end, now = self._end, self._end + len(batch.keys), now_ms()
        rows = self._db.write_batch(sync=self._sync)
        put = rows.put
        for n, (key, value) in enumerate(batch.pairs, first):
            put(_pack_big(n), _pack_head(now, len(key)) + key + value)
        return rows.write()

    def append_one(self, value: bytes, key: bytes) -> object:
        self._db.put(_pack_big(self._end), _pack_head(now_ms(), len(key)) + key + value, sync=self._sync)
        self._end += 1
        return None

    def scan(self) -> Iterator[Row]:
        head, at = _unpack_head, _key_at
        with self._db.iterator() as rows:
            for key, data in rows:
                time, size = head(data)
                yield _unpack_big(key)[0], time, data[at : at + size], data[at + size :]

    def get(self, offset: int) -> Row:
        return _row(offset, self._db.get(_pack_big(offset)))

    def close(self) -> None:
        self._db.compact_range()
        self._db.close()


class PlainFile:
    """What one writes by hand: frames with a length and a CRC in one file, an index of positions in memory."""

    name = "plain file"
    durability = "write and flush, and fdatasync"
    _FRAME = struct.Struct("<IIIq")
    """CRC of the rest, sizes of key and value, timestamp."""

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self._file = (folder / "log.frames").open("a+b")
        self._durable = durable
        self._index = array("Q")
        for _, size in self._frames():
            self._index.append(size)
        self._position = self._file.seek(0, os.SEEK_END)

    def append_batch(self, batch: Batch) -> object:
        parts, position, note, now = [], self._position, self._index.append, now_ms()
        pack, crc32 = self._FRAME.pack, zlib.crc32
        for key, value in batch.pairs:
            body = key + value
            frame = pack(crc32(body), len(key), len(value), now) + body
            parts.append(frame)
            note(position)
            position += len(frame)
        return self._write(b"".join(parts), position)

    def append_one(self, value: bytes, key: bytes) -> object:
        body = key + value
        frame = self._FRAME.pack(zlib.crc32(body), len(key), len(value), now_ms()) + body
        self._index.append(self._position)
        return self._write(frame, self._position + len(frame))

    def _write(self, data: bytes, position: int) -> object:
        self._file.write(data)
        self._file.flush()
        if self._durable:
            os.fdatasync(self._file.fileno())
        self._position = position
        return None

    def _frames(self) -> Iterator[tuple[Row, int]]:
        """(record, position of its frame), the CRC of each checked."""
        unpack, size, crc32 = self._FRAME.unpack_from, self._FRAME.size, zlib.crc32
        self._file.flush()
        with open(self._file.name, "rb") as file:
            data = file.read()
        position, offset, end = 0, 0, len(data)
        while position < end:
            crc, key_size, value_size, time = unpack(data, position)
            start, middle = position + size, position + size + key_size
            key, value = data[start:middle], data[middle : middle + value_size]
            if crc32(value, crc32(key)) != crc:
                raise ValueError(f"bad frame at {position}")
            yield (offset, time, key, value), position
            position, offset = middle + value_size, offset + 1

    def scan(self) -> Iterator[Row]:
        return (row for row, _ in self._frames())

    def get(self, offset: int) -> Row:
        index, position = self._index, self._index[offset]
        end = index[offset + 1] if offset + 1 < len(index) else self._position
        data = os.pread(self._file.fileno(), end - position, position)
        _, size, _, time = self._FRAME.unpack_from(data)
        at = self._FRAME.size
        return offset, time, data[at : at + size], data[at + size :]

    def close(self) -> None:
        self._file.close()


PEERS: tuple[type[Store], ...] = (Sqlite, Lmdb, Rocksdict, Plyvel, PlainFile)
STORES: tuple[type[Store], ...] = (EventCore, *PEERS)
_MODULES = {"lmdb": "lmdb", "rocksdict": "rocksdict", "plyvel": "plyvel"}


def installed(name: str) -> bool:
    """Whether a peer can be asked here."""
    with suppress(ImportError):
        import_module(_MODULES.get(name, "sqlite3"))
        return True
    return False


def size_on_disk(folder: Path) -> int:
    """Bytes of the blocks that the files of a folder occupy, once they are on the disk; holes are not counted."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            total += os.fstat(fd).st_blocks * 512
            os.close(fd)
    return total

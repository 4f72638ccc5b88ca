"""The hot operations whose instructions `bench.instructions` counts, one function each.

To add one, write a function here with `@workload`. It is given a `Ground` to prepare on, and returns what to call and
a check that the call did what the name says. A workload that comes to mean something else gets another name, because
counts are compared by name.

Run under callgrind (`python -m bench.workloads`) each workload has a process of its own, forked from this one before
anything is open. A call of `getsid`, which nobody else makes, marks where counting begins and ends: callgrind is told
to write down its counters there. After as many calls to warm up, there are `calls` and then twice as many; their
difference is free of what the loop and the marks cost.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import sys
import tempfile
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import eventcore as ec
from eventcore import _kernels as kernels

START_MS = 1_700_000_000_000
KEY, VALUE = b"key-000000", b"v" * 100
EVERY = (-(1 << 63), (1 << 63) - 1)
"""The least and the greatest offset: every record is wanted."""
Prepared = tuple[Callable[[], Any], Callable[[Any], bool]]


class Workload(NamedTuple):
    """An operation, and how many calls of it are counted."""

    name: str
    calls: int
    prepare: Callable[[Ground], Prepared]


WORKLOADS: list[Workload] = []


def workload(name: str, calls: int) -> Callable[[Callable[[Ground], Prepared]], Callable[[Ground], Prepared]]:
    """Count the function's operation under this name."""

    def add(prepare: Callable[[Ground], Prepared]) -> Callable[[Ground], Prepared]:
        WORKLOADS.append(Workload(name, calls, prepare))
        return prepare

    return add


class SteadyClock:
    """A millisecond a look. By the machine's clock the number of time index entries would be a matter of luck."""

    def __init__(self) -> None:
        self._now_ms = START_MS

    def now_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms


class Ground(ExitStack):
    """What a workload needs, for as long as it runs."""

    def folder(self) -> Path:
        return Path(self.enter_context(tempfile.TemporaryDirectory(prefix="eventcore-")))

    def partition(self, batches: int = 0, clock: SteadyClock | None = None) -> ec.Partition:
        """A new log, with that many batches of 1,000 records in it; by the machine's clock without a `clock`."""
        # Its pages are there from the beginning: who makes them ahead of appends is another thread, in its own time.
        config = {"segment.bytes": 64 << 20, "preallocate": True}
        p = ec.open_partition(self.folder() / "events-0", fsync="never", clock=clock, config=config)
        self.callback(p.close)
        for _ in range(batches):
            p.extend(pairs(1000))
        return p


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"key-%06d" % n, b"%0100d" % n) for n in range(count)]


def encoded(records: int, batches: int = 1) -> bytes:
    """A log of batches of so many records each."""
    buf, end = bytearray(batches * (100 + 130 * records)), 0
    for base_offset in range(0, batches * records, records):
        end = kernels.encode.encode(buf, end, len(buf), pairs(records), 0, base_offset, -1, 0, START_MS)[0]
    return bytes(memoryview(buf)[:end])


def column(values: list[bytes]) -> tuple[bytes, Any, None]:
    return b"".join(values), array("q", accumulate(map(len, values), initial=0)), None


def crc_of(size: int) -> Prepared:
    data = bytes(range(256)) * (size // 256) or bytes(range(size))
    known = kernels.crc32c.crc32c_with(kernels.crc32c.available()[-1], data)
    return partial(kernels.crc32c.crc32c, data), lambda crc: bool(crc == known)


@workload("crc32c, 64 B", 2000)
def crc_64(ground: Ground) -> Prepared:
    return crc_of(64)


@workload("crc32c, 4 KiB", 1000)
def crc_4k(ground: Ground) -> Prepared:
    return crc_of(4096)


@workload("crc32c, 64 KiB", 200)
def crc_64k(ground: Ground) -> Prepared:
    return crc_of(65536)


@workload("encode, 1,000 pairs", 20)
def encode(ground: Ground) -> Prepared:
    buf, items, expected = bytearray(1 << 18), pairs(1000), encoded(1000)
    call = partial(kernels.encode.encode, buf, 0, len(buf), items, 0, 0, -1, 0, START_MS)
    return call, lambda found: buf[: found[0]] == expected


@workload("encode_columns, 1,000 rows", 20)
def encode_columns(ground: Ground) -> Prepared:
    buf, expected = bytearray(1 << 18), encoded(1000)
    keys, values = (column(list(one)) for one in zip(*pairs(1000), strict=True))
    times = array("q", [START_MS]) * 1000
    arguments = (buf, 0, len(buf), 1000, 0, *keys, *values, times, 0, -1, 0, START_MS)
    return partial(kernels.encode.encode_columns, *arguments), lambda found: buf[: found[0]] == expected


@workload("read_records, 1,000", 20)
def read_records(ground: Ground) -> Prepared:
    data = encoded(1000)
    call = partial(kernels.decode.read_records, data, 0, len(data), *EVERY, 1 << 20, 0)
    return call, lambda found: [(record.key, record.value) for record in found[0]] == pairs(1000)


@workload("read_columns, 1,000", 20)
def read_columns(ground: Ground) -> Prepared:
    data, table = encoded(1000), tuple(array("q", bytes(8 * 1000)) for _ in range(6))
    call = partial(kernels.decode.read_columns, data, 0, len(data), *EVERY, table, 0, 0)
    return call, lambda found: found[0] == 1000 and list(table[0]) == list(range(1000))


@workload("index find_offset, 65,536 entries", 2000)
def find_offset(ground: Ground) -> Prepared:
    data = b"".join(number.to_bytes(4, "big") * 2 for number in range(0, 1 << 20, 16))
    call = partial(kernels.index.find_offset, data, 1 << 16, 777_777)
    return call, lambda found: bool(found == (777_776, 777_776))


@workload("scan, 100 batches of 10", 20)
def scan(ground: Ground) -> Prepared:
    data, rows = encoded(10, 100), array("q", bytes(8 * kernels.batch.ROW_SIZE * 101))
    call = partial(kernels.batch.scan, data, 0, len(data), rows)
    return call, lambda found: found[:2] == (100, len(data))


@workload("publish", 2000)
def publish(ground: Ground) -> Prepared:
    state = bytearray(4096)
    call = partial(kernels.tail.publish, state, 1, 2, 3, 4)
    return call, lambda _: bool(kernels.tail.load(state, kernels.tail.HIGH_WATERMARK) == 2)


@workload("p.append, one record", 2000)
def append(ground: Ground) -> Prepared:
    p = ground.partition()
    call = partial(p.append, VALUE, KEY, timestamp=START_MS)  # by its own clock the record would go another way
    return call, lambda offset: offset == len(p) - 1 and p[offset].value == VALUE


@workload("p.append, one record with a header", 400)
def append_with_header(ground: Ground) -> Prepared:
    p = ground.partition(clock=SteadyClock())
    call = partial(p.append, VALUE, KEY, [("name", b"value")])
    return call, lambda offset: offset == len(p) - 1 and len(p[offset].headers) == 1


@workload("p.extend, 100 records", 60)
def extend(ground: Ground) -> Prepared:
    p = ground.partition(clock=SteadyClock())
    return partial(p.extend, pairs(100)), lambda found: len(found) == 100 and found.stop == len(p)


@workload("p.extend_columns, 1,000 records", 100)  # so many, as what a MiB costs comes when the populator is ready
def extend_columns(ground: Ground) -> Prepared:
    p = ground.partition(clock=SteadyClock())
    data, offsets, _ = column([VALUE] * 1000)
    return partial(
        p.extend_columns, (data, np.asarray(offsets))
    ), lambda found: len(found) == 1000 and found.stop == len(p)


@workload("p[i], batches of 1,000", 20)
def point(ground: Ground) -> Prepared:
    p = ground.partition(3, SteadyClock())
    return partial(p.__getitem__, 1500), lambda record: record[2:4] == pairs(501)[500] and record.offset == 1500


def machine() -> dict[str, str]:
    """What counts depend on, besides the code. callgrind shows programs a processor of its own making."""
    built = Path(kernels.crc32c.__file__ or "").read_bytes()
    compilers = re.findall(rb"(?:GCC: \([^)]*\)|clang version) [\w.]+", built)
    return {
        "python": sys.version,
        "compiler": " ".join(sorted({found.decode() for found in compilers})),
        "cython": type(kernels.crc32c.crc32c).__module__,
        "libc": " ".join(platform.libc_ver()),
        "processor": platform.machine() + (" avx2" if "avx2" in _cpuinfo() else ""),
        "numpy": metadata.version("numpy"),
        "crc32c": kernels.crc32c.implementation(),
    }


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def run(one: Workload, mark: Callable[[], object]) -> bool:
    """Calls with marks before, between and after; whether the last one did what it should."""
    with Ground() as ground:
        call, check = one.prepare(ground)
        found = None
        for calls in (one.calls, one.calls, 2 * one.calls):
            mark()
            for _ in repeat(None, calls):
                found = call()
        mark()
        return check(found)


def forked(one: Workload) -> int:
    """The id of the process that ran it. It ends without tidying up, and its status says whether all was well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if run(one, lambda: os.getsid(0)) else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"the workload {one.name!r} did not do what it should")
    return pid


def main() -> None:
    """Run all; print what callgrind's files then have to be looked for."""
    gc.disable()
    ran = {one.name: {"pid": forked(one), "calls": one.calls} for one in WORKLOADS}
    json.dump({"machine": machine(), "source": str(Path(ec.__file__).parents[1]), "workloads": ran}, sys.stdout)


if __name__ == "__main__":
    main()

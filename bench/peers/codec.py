"""Work without a disk: encode and decode batches beside the Kafka clients for Python, CRC-32C beside google-crc32c."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import eventcore as ec
from bench import bench_crc32c, bench_decode, bench_encode
from bench.peers.answers import Answer
from bench.peers.records import batches
from bench.peers.rounds import Ground, ask, repeated

CLIENTS = ("aiokafka", "kafka-python")


def _named(found: dict[str, Any], names: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(calls by the name of the comparison, who is missing)."""
    why = {"native": "not built"}
    missing = {name: why.get(kind, "not installed") for kind, name in names.items() if kind not in found}
    return {name: found[kind] for kind, name in names.items() if kind in found}, missing


def encode(ground: Ground) -> Iterator[Answer]:
    """A batch from (key, value) pairs: the kernel that `extend` calls, and the clients' batch builders."""
    names = {"native": "eventcore", "pure": "eventcore, pure Python", **{name: name for name in CLIENTS}}
    for size in (100, 1000):
        calls, missing = _named(bench_encode.contestants(size), names)
        turns = {name: repeated(call, size, ground.scale.least_s) for name, call in calls.items()}
        yield ask(f"encode-{size}", f"Encode a batch of {size:,}", "time", turns, ground.scale.rounds, missing)


def decode(ground: Ground) -> Iterator[Answer]:
    """Batches to (offset, timestamp, key, value), CRC checked: kernels, clients, and the whole of a partition."""
    names = {
        "native": "eventcore, Records (kernel)",
        "native columns": "eventcore, columns (kernel)",
        "pure": "eventcore, pure Python",
        **{name: name for name in CLIENTS},
    }
    for size in (100, 1000):
        calls, missing = _named(bench_decode.contestants(size), names)
        turns = {name: repeated(call, size, ground.scale.least_s) for name, call in calls.items()}
        with ground.fresh() as folder, ec.open_partition(folder / "log-0", "rw", "never") as partition:
            for batch in batches(min(10_000, ground.scale.records), size):
                partition.extend(batch.pairs)
            if hasattr(partition, "read_tuples"):
                call = partial(_to_list, partition)
                turns = {"eventcore, tuples": repeated(call, len(partition), ground.scale.least_s), **turns}
            else:
                missing["eventcore, tuples"] = "not available in this version"
            yield ask(f"decode-{size}", f"Decode batches of {size:,}", "time", turns, ground.scale.rounds, missing)


def _to_list(partition: Any) -> list[Any]:
    return list(partition.read_tuples(0))


def crc(ground: Ground) -> Iterator[Answer]:
    """CRC-32C of bytes, the call from Python included."""
    names = {"native": "eventcore", "google-crc32c": "google-crc32c"}
    found, missing = _named(bench_crc32c.contestants(), names)
    for title, size in (("64 bytes", 64), ("4 KiB", 4096), ("1 MiB", 1 << 20)):
        data = random.Random(size).randbytes(size)
        turns = {name: repeated(partial(call, data), 1, ground.scale.least_s) for name, call in found.items()}
        yield ask(f"crc-{size}", f"CRC-32C of {title}", "time", turns, ground.scale.rounds, missing)

"""What eventcore promises beside its peers: every goal of the comparison, in one place.

A goal is a ratio of two medians of one run (`Goal`), except where a time is named.
"""

from __future__ import annotations

from bench.peers.answers import Goal

_TREES = ("lmdb", "rocksdict", "plyvel")
_DURABLE = ("sqlite3", "lmdb", "rocksdict", "plyvel", "plain file")
_POINT_READS = tuple(
    Goal(f"point-{size}", limit, (peer,))
    for size in (1, 100, 1000, 10_000)
    for limit, peer in ((1.3, "lmdb"), (4, "sqlite3"))
)

GOALS = (
    Goal("append-1000", 60, ("sqlite3",)),
    Goal("append-1000", 12, _TREES),
    Goal("append-1000-cold", 35, ("sqlite3",)),
    Goal("append-1000-cold", 4.5, _TREES),
    Goal("append-100", 45, ("sqlite3",)),
    Goal("append-100", 6, ("lmdb",)),
    Goal("append-1", 8, ("plyvel",)),
    Goal("append-1", 45, ("sqlite3",)),
    Goal("columns-in", 0.5, ("memcpy",)),
    Goal("columns-in", 5, ("pyarrow IPC",)),
    Goal("durable-1", 1.2, _DURABLE),
    Goal("durable-100", 2.2, _DURABLE),
    Goal("durable-1000", 2.6, _DURABLE),
    Goal("durable-threads", 5, ("eventcore, 1 thread",), "eventcore, 32 threads"),
    Goal("scan", 4.5, ("sqlite3",), "eventcore, tuples"),
    Goal("scan", 2.8, ("lmdb",), "eventcore, tuples"),
    Goal("scan", 3.3, ("plyvel",), "eventcore, tuples"),
    Goal("scan", 15, ("sqlite3",), "eventcore, lazy records"),
    Goal("scan", 18, ("sqlite3",), "eventcore, columns"),
    *_POINT_READS,
    *(Goal(f"encode-{size}", 7, ("aiokafka",)) for size in (100, 1000)),
    *(Goal(f"decode-{size}", 2.2, ("aiokafka",), "eventcore, tuples") for size in (100, 1000)),
    *(Goal(f"disk-{size}", 1 / 0.92, ("sqlite3",), as_part=True) for size in (100, 1000)),
    *(Goal(f"disk-{size}", 1 / 0.91, ("lmdb",), as_part=True) for size in (100, 1000)),
    Goal("tail", 1.5e-6, who="eventcore, spinning"),
    Goal("tail", 15, ("socketpair",), "eventcore, spinning"),
    Goal("open", 2e-3, who="eventcore, the large log"),
    Goal("crc-64", 1, ("google-crc32c",)),
    *(Goal(f"crc-{size}", 1.6, ("google-crc32c",)) for size in (4096, 1 << 20)),
)

TWINS = {
    "append, one record a call": 50,
    "extend, 1,000 records": 50,
    "extend_columns, 1,000 records": 50,
    "read to columns": 50,
    "read to Records": 20,
}
"""Native at least so many times as quick as its pure twin, by operation of `bench.bench_partition`."""

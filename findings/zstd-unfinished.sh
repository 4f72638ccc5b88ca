#!/usr/bin/env bash
# Some readers of a zstd file whose frame is still open drop flushed events without a word (seen 2026-12-01).
#
# The writer flushes blocks, as a log does, and has not ended its frame; a writer that died leaves the same. zstandard
# 0.25.0: how much comes depends on the size of the pieces that are read, since what is left over once the source is at
# its end is never given; lines of text are read in pieces, too. duckdb 2.0.1: fewer rows, the last one half an event.
# pandas 3.1.1 reads all there is. None of them raises, though pandas and DuckDB do for gzip in the same state.
# backports.zstd 1.8.0, pyarrow 26.0.1 and polars 2.1.0 raise. The docstrings of zstandard's readers are silent on it.
# The end of input is not the end of a frame: frame and count the events by yourself, end a frame with each flush that
# readers shall see, or read with a library that raises.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q 'zstandard==0.25.0' 'backports.zstd==1.8.0' 'pandas==3.1.1' 'duckdb==2.0.1' \
    'polars==2.1.0' 'pyarrow==26.0.1'
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import gzip
import io
from importlib.metadata import version

import duckdb
import pandas
import polars
import pyarrow
import zstandard
from backports import zstd

PACKAGES = ["zstandard", "backports.zstd", "pandas", "duckdb", "polars", "pyarrow"]
print(*(f"{package} {version(package)}" for package in PACKAGES))
LINES, LINE = 100_000, b"one event\n"
TENTH = LINE * (LINES // 10)

with open("events.zst", "wb") as file:
    writer = zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    for _ in range(10):
        writer.write(TENTH)
        writer.flush(zstandard.FLUSH_BLOCK)  # the frame stays open
gz = gzip.open("events.gz", "wb")
gz.write(TENTH * 10)
gz.flush()

WAYS = {
    "zstandard": lambda: zstandard.open("events.zst").read().count(b"\n"),
    "backports.zstd": lambda: zstd.open("events.zst").read().count(b"\n"),
    "pandas": lambda: len(pandas.read_csv("events.zst", header=None)),
    "duckdb": lambda: duckdb.sql("SELECT count(*) FROM read_csv('events.zst', header = false)").fetchall()[0][0],
    "pyarrow": lambda: pyarrow.input_stream("events.zst").read().count(b"\n"),
    "polars": lambda: len(polars.read_csv("events.zst", has_header=False)),
    "gzip": lambda: gzip.open("events.gz").read().count(b"\n"),
    "pandas, gzip": lambda: len(pandas.read_csv("events.gz", header=None)),
    "duckdb, gzip": lambda: duckdb.sql("SELECT count(*) FROM read_csv('events.gz', header = false)").fetchall()[0][0],
}


def seen(way):
    try:
        return way()
    except Exception as error:
        return type(error).__name__


answers = {name: seen(way) for name, way in WAYS.items()}
for name, answer in answers.items():
    print(f"{name:16}", answer)


def bytes_in_pieces(source, size):
    reader, count = zstandard.ZstdDecompressor().stream_reader(source), 0
    while piece := reader.read(size):
        count += len(piece)
    return count


with open("events.zst", "rb") as file:
    unfinished = file.read()
finished = zstandard.compress(LINE * LINES)
sizes = [100, 8192, 65536, 1 << 20]
pieces = [bytes_in_pieces(io.BytesIO(unfinished), size) for size in sizes]
print(f"zstandard, of {LINES * len(LINE)} flushed bytes, in pieces of {sizes}: {pieces}")
with zstandard.open("events.zst", "rt") as text:
    lines = sum(1 for _ in text)
print(f"zstandard, lines of {LINES}: {lines}")

assert answers == {
    "zstandard": LINES,
    "backports.zstd": "EOFError",
    "pandas": LINES,
    "duckdb": 91_751,
    "pyarrow": "OSError",
    "polars": "OSError",
    "gzip": "EOFError",
    "pandas, gzip": "EOFError",
    "duckdb, gzip": "IOException",
}
assert duckdb.sql("SELECT DISTINCT column0 FROM read_csv('events.zst', header = false) ORDER BY 1").fetchall() == [
    ("one ",),
    ("one event",),
]
assert pieces == [900_000, 901_120, 917_504, 1_000_000]
assert lines < LINES
assert [bytes_in_pieces(io.BytesIO(finished), size) for size in sizes] == [LINES * len(LINE)] * 4
PY
echo "as seen"

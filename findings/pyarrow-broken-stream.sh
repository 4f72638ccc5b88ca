#!/usr/bin/env bash
# pyarrow 26.0.1 makes a whole, readable, shorter file of a stream that broke in the middle (seen 2026-12-01).
#
# `pyarrow.dataset.write_dataset` raises the stream's error, and yet ends the Parquet file it was at as if all rows had
# come: nothing tells that file from a good one. With existing_data_behavior="delete_matching" the good file that was
# there is gone by then. Nothing in the call's documentation speaks of errors. `ParquetWriter` as a context manager
# does the same, with all that came before the error. DuckDB 2.0.1's COPY leaves no file, and where there was one keeps
# it. Who exports a log this way and meets a damaged batch, a full disk or a lost connection ends with a shorter table;
# a job that is run again "only where the file is missing" never makes it good. Write into a fresh folder and rename it
# when the call has returned, or compare the rows of the file with the log's.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip install -q 'pyarrow==26.0.1' 'duckdb==2.0.1'
venv/bin/python - <<'PY'
import time

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

print("pyarrow", pa.__version__, "duckdb", duckdb.__version__)
BATCHES, ROWS = 5, 1000
SCHEMA = pa.schema([("offset", pa.int64())])


def batches(broken_after):
    for i in range(BATCHES):
        if i == broken_after:
            time.sleep(1)  # the writer works behind the reader's back, and gets time
            raise OSError("the log is damaged here")
        yield pa.record_batch({"offset": range(i * ROWS, (i + 1) * ROWS)}, SCHEMA)


def stream(broken_after=None):
    return pa.RecordBatchReader.from_batches(SCHEMA, batches(broken_after))


def raised(call):
    try:
        call()
    except (OSError, duckdb.Error) as error:
        assert "the log is damaged here" in str(error)
        return True
    return False


def rows(path):
    try:
        return pyarrow.parquet.read_table(path).num_rows
    except FileNotFoundError:
        return None


def write_dataset(folder, source, **options):
    pyarrow.dataset.write_dataset(source, folder, format="parquet", **options)


assert raised(lambda: write_dataset("fresh", stream(3)))
fresh = rows("fresh/part-0.parquet")
print("write_dataset: rows of a broken stream", fresh)

write_dataset("again", stream())
assert rows("again/part-0.parquet") == BATCHES * ROWS
assert raised(lambda: write_dataset("again", stream(3), existing_data_behavior="delete_matching"))
again = rows("again/part-0.parquet")
print("write_dataset over a good file: rows", again)


def write_by_batch():
    with pyarrow.parquet.ParquetWriter("written.parquet", SCHEMA) as writer:
        for batch in batches(3):
            writer.write_batch(batch)


assert raised(write_by_batch)
print("ParquetWriter: rows", rows("written.parquet"))


def copy(path, source):
    duckdb.sql(f"COPY (FROM source) TO '{path}' (FORMAT parquet)")


assert raised(lambda: copy("copied.parquet", stream(3)))
copied = [rows("copied.parquet")]
copy("copied.parquet", stream())
assert raised(lambda: copy("copied.parquet", stream(3)))
copied.append(rows("copied.parquet"))
print("DuckDB, no file before, a good one before: rows", copied)

# How many batches the writer has done by then is left to its threads.
assert fresh in (1 * ROWS, 2 * ROWS, 3 * ROWS) and again in (1 * ROWS, 2 * ROWS, 3 * ROWS)
assert rows("written.parquet") == 3 * ROWS
assert copied == [None, BATCHES * ROWS]
PY
echo "as seen"

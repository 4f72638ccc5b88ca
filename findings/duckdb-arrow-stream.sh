#!/usr/bin/env bash
# duckdb 2.0.1 asks an object for its Arrow stream several times in one query (seen 2026-12-01).
#
# Of an object that only has `__arrow_c_stream__` it takes the schema from the first streams and the rows from the
# last, and asks anew each time a relation is looked at. So an object that hands its one stream out again answers the
# first look, then has 0 rows, without an error: printing a relation is such a look. DuckDB guards pyarrow's
# RecordBatchReader against just this, with an error, but no object of yours. One that raises when it is asked a second
# time cannot be queried at all, not even once. DuckDB's guide to Arrow says that a RecordBatchReader can be scanned
# once, and nothing of other objects. A log that shows itself as a table: open the log anew in each call, read nothing
# before the first batch is asked for, and do not count calls as reads.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q 'duckdb==2.0.1' 'pyarrow==26.0.1'
"$tmp/venv/bin/python" - <<'PY'
import duckdb
import pyarrow as pa

print("duckdb", duckdb.__version__, "pyarrow", pa.__version__)


def reader():
    batch = pa.record_batch({"n": list(range(10))})
    return pa.RecordBatchReader.from_batches(batch.schema, iter([batch]))


class Anew:
    """A stream of its own for each call."""

    def __init__(self):
        self.calls, self.stream = 0, reader()

    def __arrow_c_stream__(self, requested_schema=None):
        self.calls += 1
        return self.next_stream().__arrow_c_stream__(requested_schema)

    def next_stream(self):
        return reader()


class Again(Anew):
    """The same stream for each call."""

    def next_stream(self):
        return self.stream


class Once(Anew):
    """One stream, then an error."""

    def next_stream(self):
        if self.calls > 1:
            raise RuntimeError("the stream is gone")
        return self.stream


def printed_then_fetched(source):
    relation = duckdb.from_arrow(source)
    assert "9" in str(relation)
    return len(relation.fetchall())


def registered_then_counted_twice(source):
    connection = duckdb.connect()
    connection.register("source", source)
    return [connection.execute("SELECT count(*) FROM source").fetchall()[0][0] for _ in range(2)]


def seen(look, source):
    try:
        return look(source)
    except duckdb.InvalidInputException:
        return "refused"


looks = [printed_then_fetched, registered_then_counted_twice]
answers = {kind.__name__: [seen(look, kind()) for look in looks] for kind in (Anew, Again, Once)}
answers["RecordBatchReader"] = [seen(look, reader()) for look in looks]
for kind, answer in answers.items():
    print(f"{kind:20}", answer)

source = Anew()
assert duckdb.execute("SELECT count(*) FROM source").fetchall() == [(10,)]
calls = [source.calls]
source = Anew()
assert duckdb.sql("SELECT count(*) FROM source").fetchall() == [(10,)]
calls.append(source.calls)
print("streams asked for by one execute(), by one sql():", calls)

assert answers["Anew"] == [10, [10, 10]]
assert answers["Again"] == [0, [10, 0]]
assert answers["RecordBatchReader"] == ["refused", "refused"]
assert answers["Once"] == ["refused", "refused"]
assert calls == [2, 3]
PY
echo "as seen"

"""append: formats, broken lines, batches, and that what was read before an end of any kind is kept."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


def values(path: Path) -> list[bytes | None]:
    with ec.open_partition(path, "r") as partition:
        return [record.value for record in partition]


def keys(path: Path) -> list[bytes | None]:
    with ec.open_partition(path, "r") as partition:
        return [record.key for record in partition]


def test_lines_lose_their_ends_and_nothing_else(run: Run, tmp_path: Path) -> None:
    ended = run("append", tmp_path / "p", stdin=b"a\r\n\n\xff\x00 \nlast")
    assert (ended.code, ended.err) == (0, "")
    assert ended.text.startswith("appended 4 records, offsets 0 to 3, in ")
    assert values(tmp_path / "p") == [b"a", b"", b"\xff\x00 ", b"last"]


def test_the_summary_as_json(run: Run, tmp_path: Path) -> None:
    run("append", tmp_path / "p", stdin=b"a\n")
    (summary,) = run("append", tmp_path / "p", "-", "--json", stdin=b"b\nc\n").objects
    assert (summary["records"], summary["first_offset"], summary["last_offset"]) == (2, 1, 2)
    assert (summary["skipped"], summary["bytes_read"]) == (0, 4)
    assert summary["records_per_second"] > 0
    (empty,) = run("append", tmp_path / "p", "--json").objects
    assert (empty["records"], empty["first_offset"]) == (0, None)


@pytest.mark.parametrize(("batch", "batches"), [(1, 5), (2, 3), (5, 1), (1000, 1)])
def test_batches_hold_as_many_records_as_asked(run: Run, tmp_path: Path, batch: int, batches: int) -> None:
    run("append", tmp_path / "p", "--batch", batch, stdin=b"a\nb\nc\nd\ne\n")
    assert len(run("dump", tmp_path / "p", "--json").objects) == batches


def test_the_file_ending_says_the_format(run: Run, tmp_path: Path) -> None:
    for name, text in (("a.csv", "x\n1\n"), ("a.ndjson", '{"x":"1"}\n'), ("a.jsonl", '{"x":"1"}\n'), ("a.txt", "1\n")):
        (tmp_path / name).write_text(text)
        assert run("append", tmp_path / "p", tmp_path / name).code == 0
    assert values(tmp_path / "p") == [b'{"x":"1"}'] * 3 + [b"1"]


def test_ndjson_lines_stay_as_they_are_and_keys_keep_their_text(run: Run, tmp_path: Path) -> None:
    lines = [
        b'{"k": "\xc3\xbc", "n": 1.10}',
        b' {"k":1.10}',
        b'{"k":true}',
        b'{"k":null}',
        b'{"k":12345678901234567890123}',
    ]
    ended = run(
        "append", tmp_path / "p", "--format", "ndjson", "--key", "k", stdin=b"\xef\xbb\xbf" + b"\r\n".join(lines)
    )
    assert ended.code == 0, ended.err
    assert values(tmp_path / "p") == lines
    assert keys(tmp_path / "p") == ["ü".encode(), b"1.10", b"true", None, b"12345678901234567890123"]


def test_csv_rows_become_objects_of_text(run: Run, tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfid,"a ""%s"" b"\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n\xc3\xbc,\r\n'
    assert run("append", tmp_path / "p", "--format", "csv", "--key", "id", stdin=data).code == 0
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert [json.loads(value or b"") for value in values(tmp_path / "p")] == rows
    assert values(tmp_path / "p")[1] == '{"id":"ü","a \\"%s\\" b":""}'.encode()
    assert keys(tmp_path / "p") == [b"1", "ü".encode()]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("1500", 1500),
        ("1970-01-01T00:00:01.500Z", 1500),
        ("1970-01-01T02:00:01+02:00", 1000),
        ("2016-02-29T12:00:00.123+00:00", 1456747200123),
    ],
)
def test_times_come_from_a_field(run: Run, tmp_path: Path, form: str, text: str, timestamp: int) -> None:
    data = f"t\n{text}\n" if form == "csv" else json.dumps({"t": int(text) if text.isdigit() else text})
    assert run("append", tmp_path / "p", "--format", form, "--timestamp", "t", stdin=data.encode()).code == 0
    with ec.open_partition(tmp_path / "p", "r") as partition:
        assert [record.timestamp for record in partition] == [timestamp]


NDJSON_BAD = {
    b"nonsense": "not JSON: Expecting value at column 1",
    b"[1]": "not a JSON object",
    b'{"k":NaN}': "not JSON: NaN is no number",
    b'{"k":"\xff"}': "not UTF-8",
    b'{"k":"\\ud800","t":1}': "not UTF-8",
    b'{"q":1}': "there is no field 'k'",
    b'{"k":[1],"t":1}': "which cannot be a key",
    b'{"k":1,"t":1.5}': "is no time",
    b'{"k":1,"t":null}': "holds no time",
    b'{"k":1,"t":"2020-01-01T00:00:00"}': "has no zone",
    b'{"k":1,"t":"1969-01-01T00:00:00Z"}': "before 1970",
    b'{"k":1,"t":99999999999999999999}': "too large",
    b'{"k":' + b"[" * 100_000: "nested too deeply",
    b'{"k":"' + b"x" * 500_000 + b'"}': "longer than 400000 bytes",
}
CSV_BAD = {
    b"1": "1 columns where the header has 3",
    b"1,2,3,4": "4 columns where the header has 3",
    b"1,\xff,3": "not UTF-8",
    b"1,tomorrow,3": "is no time",
    b'1,2,"3"x': "not CSV: ",
    b'1,"2,' + b"x" * 500_000: "longer than 400000 bytes",
    b'1,2,"' + b"x\n" * 250_000 + b'"': "is a quote missing?",
}
LINES_BAD = {b"x" * 400_001: "longer than 400000 bytes", b"x" * 3_000_000: "longer than 400000 bytes"}
CASES = [
    *[("lines", b"", b"one", line, reason) for line, reason in LINES_BAD.items()],
    *[("ndjson", b"", b'{"k":"1","t":5}', line, reason) for line, reason in NDJSON_BAD.items()],
    *[("csv", b"k,t,x\n", b"1,5,3", line, reason) for line, reason in CSV_BAD.items()],
]


@pytest.mark.parametrize(("form", "head", "good", "bad", "reason"), CASES, ids=lambda part: str(part)[:24])
def test_a_broken_line_ends_the_run_or_is_skipped(
    run: Run, tmp_path: Path, form: str, head: bytes, good: bytes, bad: bytes, reason: str
) -> None:
    data = head + b"\n".join([good, good, bad, good, b""])
    number = 4 if head else 3
    fields = () if form == "lines" else ("--key", "k", "--timestamp", "t")
    options = ("--format", form, *fields, "--max-line", 400_000)

    stopped = run("append", tmp_path / "stopped", *options, stdin=data)
    assert stopped.code == 1
    assert stopped.error.startswith(f"error: line {number}: ")
    assert reason in stopped.error
    assert len(values(tmp_path / "stopped")) == 2
    assert "appended 2 records" in stopped.text

    skipped = run("append", tmp_path / "skipped", *options, "--skip-bad", "--json", stdin=data)
    assert skipped.code == 0
    assert f"skipped line {number}: " in skipped.err
    assert reason in skipped.err
    assert set(values(tmp_path / "skipped")) == set(values(tmp_path / "stopped"))
    if b"\n" not in bad:  # where a runaway quote ends, nobody knows: lines behind it may be lost, and are reported
        assert (skipped.objects[0]["records"], skipped.objects[0]["skipped"]) == (3, 1)


@pytest.mark.parametrize("size", [999, 1000, 1001, 400_000, 600_000])
def test_the_limit_of_a_line_is_exact(run: Run, tmp_path: Path, size: int) -> None:
    for limit, code in ((size, 0), (size - 1, 1)):
        ended = run("append", tmp_path / str(limit), "--max-line", limit, stdin=b"a\r\n" + b"x" * size + b"\r\nb\n")
        assert ended.code == code
        assert len(values(tmp_path / str(limit))) == (3 if code == 0 else 1)


def test_records_the_log_refuses_are_named_by_their_lines(run: Run, tmp_path: Path) -> None:
    lines = [b"x" * (290 if number in (4, 9, 10) else 20) for number in range(1, 21)]
    options = ("--config", "max.message.bytes=300", "--max-line", 1000)
    stopped = run("append", tmp_path / "a", *options, stdin=b"\n".join(lines))
    assert stopped.code == 1
    assert "line 4: " in stopped.error
    assert values(tmp_path / "a") == lines[:3]
    skipped = run("append", tmp_path / "b", *options, "--skip-bad", stdin=b"\n".join(lines))
    assert skipped.code == 0
    assert [line.split(":")[0] for line in skipped.err.splitlines()] == [f"skipped line {n}" for n in (4, 9, 10)]
    assert values(tmp_path / "b") == [line for line in lines if len(line) == 20]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"a,a\n1,2\n", "twice"),
        (b"a,\xff\n1,2\n", "not UTF-8"),
        (b"b\n1\n", "names no column 'a'"),
        (b'"a\n', "not CSV"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(run: Run, tmp_path: Path, header: bytes, reason: str) -> None:
    ended = run("append", tmp_path / "p", "--format", "csv", "--key", "a", "--skip-bad", stdin=header)
    assert ended.code == 1
    assert reason in ended.error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--config", "segment.byte=1"), "did you mean segment.bytes"),
        (("--config", "segment.bytes=1"), "allowed is 4096"),
        (("--config", "segment.bytes"), "not name=value"),
        (("--fsync", "sometimes"), "--fsync"),
        (("--batch", "0"), "--batch"),
        (("--format", "xml"), "--format"),
        (("--key", "id"), "plain lines have no fields"),
    ],
)
def test_wrong_options_are_usage_errors_and_make_no_folder(
    run: Run, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    ended = run("append", tmp_path / "p", *options, stdin=b"a\n")
    assert ended.code == 2
    assert reason in ended.error
    assert not (tmp_path / "p").exists()


def test_configuration_reaches_the_log(run: Run, tmp_path: Path) -> None:
    run(
        "append",
        tmp_path / "p",
        "--batch",
        10,
        "--config",
        "segment.bytes=4096",
        stdin=b"x" * 99 + b"\n" + b"y\n" * 5000,
    )
    assert len(run("stat", tmp_path / "p", "--json").objects[0]["segments"]) > 3


def test_a_missing_input_file_makes_no_folder(run: Run, tmp_path: Path) -> None:
    ended = run("append", tmp_path / "p", tmp_path / "none.txt")
    assert ended.code == 1
    assert "none.txt" in ended.error
    assert not (tmp_path / "p").exists()

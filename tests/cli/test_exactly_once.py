"""append --exactly-once: killed at any moment and started again, every line is one record; what speaks against it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


def lines(count: int) -> list[str]:
    return [f'{{"id": "{n % 50}", "n": {n}}}' for n in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with ec.open(tmp_path / "store", fsync="never") as store:
        store.create_topic("orders", 3)
    return tmp_path / "store"


def values(store: Path) -> list[list[bytes]]:
    with ec.open(store, "r") as opened:
        return [[record.value for record in partition] for partition in opened.topic("orders")]


def test_a_second_run_appends_what_is_new(run: Run, store: Path, tmp_path: Path) -> None:
    file, arguments = tmp_path / "orders.ndjson", ("--topic", "orders", "--key", "id", "--exactly-once", "--json")
    file.write_text("\n".join(lines(100)) + "\n")
    first = run("append", store, file, *arguments).objects[0]
    assert (first["records"], first["repeated"]) == (100, 0)
    file.write_text("\n".join(lines(130)) + "\n")
    again = run("append", store, file, *arguments).objects[0]
    assert (again["records"], again["repeated"]) == (30, 100)
    assert run("append", store, file, *arguments[:-1]).text.rstrip().endswith("; 130 were there already")
    found = values(store)
    assert sorted(value for part in found for value in part) == sorted(line.encode() for line in lines(130))
    plain = run("append", store, file, "--topic", "orders", "--key", "id", "--json").objects[0]
    assert plain["records"] == 130, "without it a run appends all"


def test_lines_without_a_key_and_other_batches(run: Run, store: Path) -> None:
    text = "".join(f"{n}\n" for n in range(200))
    for batch, end in ((7, 333), (50, 600), (1, len(text)), (1000, len(text))):
        ended = run(
            "append", store, "--topic", "orders", "--exactly-once", "--name", "a pipe", "--batch", batch,
            stdin=text[: text.rindex("\n", 0, end) + 1].encode(),
        )  # fmt: skip
        assert ended.code == 0
    (found,) = filter(None, values(store))
    assert found == [b"%d" % n for n in range(200)]


def test_a_partition_by_itself(run: Run, tmp_path: Path) -> None:
    file, folder = tmp_path / "lines.txt", tmp_path / "events-0"
    file.write_text("one\ntwo\n")
    for expected in (0, 2):
        assert run("append", folder, file, "--exactly-once", "--json").objects[0]["repeated"] == expected
    with ec.open_partition(folder, "r") as partition:
        assert [record.value for record in partition] == [b"one", b"two"]


def test_a_line_that_is_too_large_ends_it_until_it_is_mended(run: Run, store: Path, tmp_path: Path) -> None:
    file, arguments = tmp_path / "lines.txt", ("--topic", "orders", "--exactly-once")
    with ec.open(store) as opened:
        opened.configure_topic("orders", {"max.message.bytes": 1000})
    text = [f"{n}" for n in range(100)]
    file.write_text("\n".join([*text[:60], "x" * 2000, *text[60:]]))
    broken = run("append", store, file, *arguments, "--max-line", 5000)
    assert broken.code == 1
    assert "line 61" in broken.err
    file.write_text("\n".join(text))
    assert run("append", store, file, *arguments).code == 0
    assert [value for part in values(store) for value in part] == [line.encode() for line in text]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--exactly-once",), "needs one"),
        (("--name", "x"), "appended once"),
        (("--exactly-once", "--name", "x", "--skip-bad"), "mend the line"),
        (("--exactly-once", "--name", ""), "1 to 1024 bytes"),
    ],
)
def test_what_makes_no_sense(run: Run, store: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = run("append", store, "--topic", "orders", *arguments, stdin=b"a\n")
    assert refused.code in (1, 2)
    assert message in " ".join(refused.err.replace("│", " ").split())
    assert not any(values(store))


@pytest.mark.sampled
@pytest.mark.parametrize("runs", [6, pytest.param(60, marks=pytest.mark.nightly)])
@pytest.mark.timeout(400)
def test_killed_at_any_moment(store: Path, tmp_path: Path, runs: int) -> None:
    """Again and again, until a run is left to come to its end."""
    file, rng, count = tmp_path / "orders.ndjson", random.Random(runs), 2000 * runs
    file.write_text("\n".join(lines(count)) + "\n")
    command = [sys.executable, "-m", "eventcore", "append", str(store), str(file), "--topic", "orders"]
    command += ["--key", "id", "--exactly-once", "--batch", "20", "--fsync", "never", "--json"]
    for _ in range(runs):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = values(store)
    assert all(found)
    assert sorted(value for part in found for value in part) == sorted(line.encode() for line in lines(count))
    for part in found:
        numbers = [int(value.split(b'"n": ')[1][:-1]) for value in part]
        assert numbers == sorted(numbers)

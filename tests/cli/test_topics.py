"""topics, and append, read and stat of a whole store."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Path:
    """A store of two topics."""
    path = tmp_path / "store"
    assert run("topics", "create", path, "quakes", "--partitions", 3, "--config", "retention.ms=1000").code == 0
    assert run("topics", "create", path, "plain").code == 0
    return path


def test_create_list_describe_alter_delete(run: Run, store: Path) -> None:
    (listed,) = run("topics", "list", store, "--json").objects
    assert [(topic["topic"], len(topic["partitions"]), topic["config"]) for topic in listed] == [
        ("plain", 1, {}),
        ("quakes", 3, {"retention.ms": 1000}),
    ]
    assert "quakes" in run("topics", "list", store).text
    assert run("topics", "create", store, "quakes", "--partitions", 3, "--exist-ok").code == 0
    assert "there is a topic 'quakes'" in run("topics", "create", store, "quakes").error
    ended = run(
        "topics", "alter", store, "quakes", "--unset", "retention.ms", "--config", "cleanup.policy=compact", "--json"
    )
    assert ended.objects == [{"topic": "quakes", "config": {"cleanup.policy": "compact"}}]
    (described,) = run("topics", "describe", store, "quakes", "--json").objects
    assert described["effective_config"]["cleanup.policy"] == "compact"
    text = run("topics", "describe", store, "quakes").text
    assert "this topic" in text
    assert "segment.bytes" in text
    refused = run("topics", "delete", store, "quakes", stdin=b"n\n")
    assert (refused.code, "nothing was deleted" in refused.err) == (1, True)
    assert run("topics", "delete", store, "quakes", "--yes").code == 0
    assert [topic["topic"] for topic in run("topics", "list", store, "--json").objects[0]] == ["plain"]


def test_append_and_read_by_topic(run: Run, store: Path) -> None:
    lines = b"".join(b'{"id": "%d", "value": %d}\n' % (number % 7, number) for number in range(70))
    options = ("--topic", "quakes", "--format", "ndjson", "--key", "id", "--batch", 20, "--json")
    ended = run("append", store, *options, stdin=lines)
    (facts,) = ended.objects
    assert (facts["records"], facts["topic"]) == (70, "quakes")
    with ec.open(store, "r") as opened:
        topic = opened.topic("quakes")
        assert {str(n): [0, len(p) - 1] for n, p in enumerate(topic) if len(p)} == facts["offsets"]
        for number, partition in enumerate(topic):
            assert all(topic.partition_for(record.key) == number for record in partition)
    everything = run("read", store, "--topic", "quakes", "--json").objects
    assert len(everything) == 70
    one = run("read", store, "--topic", "quakes", "--partition", 1, "--from", 2, "--limit", 3, "--json").objects
    assert [record["offset"] for record in one] == [2, 3, 4]
    assert len(run("read", store, "--topic", "quakes", "--limit", 40, "--json").objects) == 40
    assert run("append", store, "--topic", "plain", stdin=b"a\nb\n").text.startswith(
        "appended 2 records to 1 partitions"
    )


def test_broken_lines_are_found_in_their_partitions(run: Run, store: Path) -> None:
    run("topics", "alter", store, "quakes", "--config", "max.message.bytes=300")
    lines = b"".join(b'{"id": "%d", "v": "%s"}\n' % (n, b"x" * (400 if n in (3, 8) else 4)) for n in range(12))
    ended = run(
        *("append", store, "--topic", "quakes", "--format", "ndjson", "--key", "id", "--skip-bad", "--json"),
        *("--max-line", 1000),
        stdin=lines,
    )
    (facts,) = ended.objects
    assert (facts["records"], facts["skipped"]) == (10, 2)
    assert {line.split(":")[0] for line in ended.err.splitlines()} == {"skipped line 4", "skipped line 9"}


def test_stat_of_a_store(run: Run, store: Path) -> None:
    run("append", store, "--topic", "plain", stdin=b"a\nb\n")
    (store / "strange").mkdir()
    (facts,) = run("stat", store, "--json").objects
    assert (facts["partitions"], list(facts["problems"])) == (4, ["strange"])
    assert facts["topics"][0]["partitions"][0]["high_watermark"] == 2
    text = run("stat", store).text
    for word in ("plain", "quakes", "strange", "cluster id"):
        assert word in text


def test_stat_shows_what_housekeeping_did(run: Run, store: Path) -> None:
    with ec.open(store, config={"store.housekeeping.enable": False}) as opened:
        partition = opened.topic("quakes")[0]
        partition.append(b"old", timestamp=5)
        partition.roll()
        opened.housekeep()
    (facts,) = run("stat", store, "--json").objects
    assert facts["housekeeping"]["partitions"]["quakes-0"]["deleted_segments"] == 1
    assert "segments deleted" in run("stat", store).text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("topics", "create", "{store}", "a/b"), "cannot name a topic"),
        (("topics", "create", "{store}", "x", "--partitions", 1_000_000), "1000000"),
        (("topics", "create", "{store}", "x", "--config", "retention.mss=1"), "retention.ms"),
        (("topics", "create", "{store}", "x", "--config", "retention.ms=soon"), "must be a int"),
        (("topics", "describe", "{store}", "missing"), "there is no topic"),
        (("topics", "alter", "{store}", "quakes"), "nothing to change"),
        (("topics", "list", "{store}-missing"), "no folder"),
        (("topics", "alter", "{store}-missing", "x", "--unset", "retention.ms"), "no folder"),
        (("append", "{store}-missing", "--topic", "x"), "no folder"),
        (("append", "{store}", "--topic", "missing"), "there is no topic"),
        (("append", "{store}", "--topic", "plain", "--config", "retention.ms=1"), "topics alter"),
        (("read", "{store}", "--topic", "quakes", "--partition", 3), "no partition 3"),
        (("read", "{store}", "--topic", "quakes", "--from", 3), "give --partition"),
        (("read", "{store}", "--partition", 3), "only with --topic"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(run: Run, store: Path, arguments: tuple[object, ...], problem: str) -> None:
    ended = run(*(str(argument).format(store=store) for argument in arguments), stdin=b"line\n")
    assert ended.code in (1, 2)
    assert problem in ended.error

"""groups and transactions: what a person asks of a store whose consumers and producers are elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run

SETTINGS = {"store.housekeeping.enable": False}


@pytest.fixture
def store(memory_path: Path) -> Path:
    """A topic of two partitions with ten records each; a group that has done with seven of the first ones."""
    path = memory_path / "store"
    with ec.open(path, fsync="never", config=SETTINGS) as opened:
        topic = opened.create_topic("orders", 2)
        for number in range(2):
            for at in range(10):
                topic[number].append(b"v", timestamp=1_700_000_000_000 + at * 1000)
        opened.groups.commit("billing", {("orders", 0): 7})
    return path


def test_list_and_describe(run: Run, store: Path) -> None:
    (listed,) = run("groups", "list", store, "--json").objects
    assert [(one["group"], one["members"], len(one["partitions"])) for one in listed] == [("billing", {}, 1)]
    text = run("groups", "list", store).text
    assert "billing" in text
    (described,) = run("groups", "describe", store, "billing", "--json").objects
    (place,) = described["partitions"]
    assert (place["topic"], place["partition"], place["committed_offset"], place["end_offset"], place["lag"]) == (
        "orders",
        0,
        7,
        10,
        3,
    )
    with ec.open(store, "r") as reader, reader.consumer("billing", ["orders"]) as consumer:
        text = run("groups", "describe", store, "billing").text
        assert consumer.member_id[:8] in text
        assert "1 members" in text
    assert "there is no group 'nobody'" in run("groups", "describe", store, "nobody").error


@pytest.mark.parametrize(
    ("to", "offset"), [("earliest", 0), ("latest", 10), ("4", 4), ("2023-11-14T22:13:25Z", 5), ("2033-01-01Z", None)]
)
def test_reset(run: Run, store: Path, to: str, offset: int | None) -> None:
    ended = run("groups", "reset", store, "billing", "--to", to, "--topic", "orders", "--json")
    if offset is None:
        assert ended.code == 2
        return
    (facts,) = ended.objects
    assert {one["partition"]: one["committed_offset"] for one in facts["partitions"]} == {0: offset, 1: offset}
    with ec.open(store, "r") as reader:
        assert reader.groups.offsets("billing")["orders", 1].offset == offset


def test_reset_of_one_partition_beside_a_writer(run: Run, store: Path) -> None:
    with ec.open(store, config=SETTINGS) as writer:
        assert run("groups", "reset", store, "billing", "--to", 3, "--topic", "orders", "--partition", 1).code == 0
        assert {key: one.offset for key, one in writer.groups.offsets("billing").items()} == {
            ("orders", 0): 7,
            ("orders", 1): 3,
        }
        with writer.consumer("billing", ["orders"]):
            assert "has 1 members" in run("groups", "reset", store, "billing", "--to", "latest").error
    assert run("groups", "reset", store, "billing", "--to", "latest", "--partition", 1).code == 2
    assert "say in which partitions" in run("groups", "reset", store, "new", "--to", "latest").error
    assert "it ends at 10" in run("groups", "reset", store, "billing", "--to", 11).error


def test_delete(run: Run, store: Path) -> None:
    refused = run("groups", "delete", store, "billing", stdin=b"n\n")
    assert (refused.code, "nothing was deleted" in refused.err) == (1, True)
    assert run("groups", "delete", store, "billing", "--yes", "--json").objects == [
        {"group": "billing", "deleted": True}
    ]
    assert run("groups", "list", store, "--json").objects == [[]]
    assert run("groups", "delete", store, "billing", "--yes").code == 1


@pytest.mark.sampled
def test_transactions(run: Run, store: Path) -> None:
    with ec.open(store, fsync="never", config=SETTINGS) as writer:
        with writer.transaction("done") as tx:
            tx.append("orders", b"x", partition=0)
        tx = writer.transaction("open")
        tx.append("orders", b"y", partition=1)
        tx.flush()
        (listed,) = run("transactions", "list", store, "--json").objects
        assert [(one["transactional_id"], one["state"], one["partitions"]) for one in listed] == [
            ("open", "ongoing", ["orders-1"])
        ]
        assert 0 <= listed[0]["open_for_ms"] < 60_000
        assert len(run("transactions", "list", store, "--all", "--json").objects[0]) == 2
        assert "orders-1" in run("transactions", "list", store).text
        tx.abort()
        writer.topic("orders")[0].append_sequenced([b"z"], 99, 0, 0, transactional=True)
    (found,) = run("transactions", "hanging", store, "--json").objects
    assert [(one["topic"], one["partition"], one["producer_id"]) for one in found] == [("orders", 0, 99)]
    assert "99" in run("transactions", "hanging", store).text
    place = ("--topic", "orders", "--partition", 0, "--first-offset", found[0]["first_offset"])
    assert "nothing was aborted" in run("transactions", "abort", store, *place, stdin=b"n\n").err
    assert run("transactions", "abort", store, *place, "--yes").code == 0
    assert run("transactions", "hanging", store, "--json").objects == [[]]
    assert "no transaction hangs there" in run("transactions", "abort", store, *place, "--yes").error

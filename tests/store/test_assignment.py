"""assignment: every partition has one member who wants it, none has two more than another could take, few move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.store.assignment import assign

TOPICS = ("a", "b", "c")
wants = st.dictionaries(
    st.sampled_from("uvwxyz"), st.sets(st.sampled_from(TOPICS), min_size=1).map(sorted), min_size=1, max_size=6
)
counts = st.fixed_dictionaries({topic: st.integers(0, 8) for topic in TOPICS})


@pytest.mark.sampled
@settings(max_examples=500)
@given(wants, wants, counts)
def test_it_is_even_and_whole(
    before: dict[str, list[str]], now: dict[str, list[str]], partitions: dict[str, int]
) -> None:
    had = assign(before, partitions, {})
    found = assign(now, partitions, had)
    wanted = {topic for topics in now.values() for topic in topics}
    assert found.keys() == {(topic, number) for topic in wanted for number in range(partitions[topic])}
    size = {name: list(found.values()).count(name) for name in now}
    for (topic, _), owner in found.items():
        assert topic in now[owner]
        assert all(size[owner] - size[name] < 2 for name, topics in now.items() if topic in topics)
    assert assign(now, partitions, found) == found, "nothing moves if nobody came or went"


def test_one_more_takes_only_its_share() -> None:
    had = assign({"u": ["a"], "v": ["a"]}, {"a": 9}, {})
    found = assign({"u": ["a"], "v": ["a"], "w": ["a"]}, {"a": 9}, had)
    assert sum(found[key] != had[key] for key in had) == 3
    assert list(found.values()).count("w") == 3


def test_who_goes_leaves_the_others_what_they_have() -> None:
    had = assign({"u": ["a"], "v": ["a"], "w": ["a"]}, {"a": 9}, {})
    found = assign({"u": ["a"], "w": ["a"]}, {"a": 9}, had)
    assert all(found[key] == owner for key, owner in had.items() if owner != "v")


def test_nobody_and_nothing() -> None:
    assert assign({}, {"a": 3}, {("a", 0): "gone"}) == {}
    assert assign({"u": ["deleted"]}, {}, {}) == {}

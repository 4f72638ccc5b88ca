"""Which member of a consumer group is to have which partition: evenly, and with as few moves as that takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Key = tuple[str, int]


def assign(
    members: Mapping[str, Collection[str]], partitions: Mapping[str, int], had: Mapping[Key, str]
) -> dict[Key, str]:
    """The member for each partition of each topic.

    `members` are the topics that each of them wants, `partitions` how many a topic has, `had` who has what now: it
    stays there unless another one who wants it has two fewer. Everybody finds the same for the same.
    """
    wanted = {topic for topics in members.values() for topic in topics}
    found: dict[Key, str] = {}
    counts = dict.fromkeys(sorted(members), 0)
    free: list[Key] = []
    for topic in sorted(wanted):
        for number in range(partitions.get(topic, 0)):
            owner = had.get((topic, number), "")
            if topic in members.get(owner, ()):
                found[topic, number] = owner
                counts[owner] += 1
            else:
                free.append((topic, number))
    for key in free:
        member = _least(members, counts, key[0])
        found[key] = member
        counts[member] += 1
    _level(members, counts, found)
    return found


def _least(members: Mapping[str, Collection[str]], counts: Mapping[str, int], topic: str) -> str:
    """Of those who want the topic, the one who has the fewest partitions."""
    return min((name for name in counts if topic in members[name]), key=lambda name: counts[name])


def _level(members: Mapping[str, Collection[str]], counts: dict[str, int], found: dict[Key, str]) -> None:
    """Move partitions from who has more to who has fewer. It ends: each move makes the sum of the squares smaller."""
    moved = True
    while moved:
        moved = False
        for key, owner in found.items():
            member = _least(members, counts, key[0])
            if counts[owner] - counts[member] >= 2:
                found[key] = member
                counts[owner] -= 1
                counts[member] += 1
                moved = True

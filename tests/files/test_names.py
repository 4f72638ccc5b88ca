"""names: what is a segment's file, a topic, a partition's folder, and above all what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.errors import UsageError
from eventcore.files import names

OFFSET_MAX = 2**63 - 1
SUFFIXES = (*names.SEGMENT_SUFFIXES, names.SNAPSHOT)


@pytest.mark.parametrize(
    ("offset", "suffix", "name"),
    [
        (0, ".log", "00000000000000000000.log"),
        (4711, ".timeindex", "00000000000000004711.timeindex"),
        (OFFSET_MAX, ".snapshot", "09223372036854775807.snapshot"),
    ],
)
def test_file_name(offset: int, suffix: str, name: str) -> None:
    assert names.file_name(offset, suffix) == name
    assert names.parse_file_name(name) == (offset, suffix)


@given(st.integers(0, OFFSET_MAX), st.integers(0, OFFSET_MAX), st.sampled_from(SUFFIXES))
def test_names_sort_like_offsets_and_parse_back(one: int, other: int, suffix: str) -> None:
    first, second = names.file_name(one, suffix), names.file_name(other, suffix)
    assert (first < second) == (one < other)
    assert names.parse_file_name(first) == (one, suffix)


@pytest.mark.parametrize("offset", [-1, OFFSET_MAX + 1])
def test_no_file_for_an_offset_that_is_none(offset: int) -> None:
    with pytest.raises(UsageError, match=str(offset)):
        names.file_name(offset, names.LOG)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".log",
        "0.log",
        "000000000000000000000.log",  # 21 digits
        "09223372036854775808.log",  # above int64
        "99999999999999999999.index",
        "00000000000000000000.log.deleted",
        "00000000000000000000.log.cleaned",
        "00000000000000000000.log.swap",
        "00000000000000000000.log\n",
        "00000000000000000000.LOG",
        "00000000000000000000.seals",
        "-0000000000000000001.log",
        "0000000000000000000٣.log",  # a digit, but not ours
        "leader-epoch-checkpoint",
        "partition.metadata",
    ],
)
def test_other_file_names(name: str) -> None:
    assert names.parse_file_name(name) is None


@given(st.text(max_size=40))
def test_only_generated_file_names_parse(name: str) -> None:
    parsed = names.parse_file_name(name)
    assert parsed is None or names.file_name(*parsed) == name


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "-", "__consumer_offsets", "...", "x" * 249])
def test_topic_names(name: str) -> None:
    assert names.check_topic_name(name) == name
    assert names.is_topic_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 250, "a/b", "a\\b", "a b", "a\n", "a\0", "ä", "../x", "~"])
def test_no_topic_names(name: str) -> None:
    assert not names.is_topic_name(name)
    with pytest.raises(UsageError, match="cannot name a topic"):
        names.check_topic_name(name)


def test_a_bad_topic_name_is_not_repeated_at_any_length() -> None:
    with pytest.raises(UsageError) as caught:
        names.check_topic_name("/" * 10_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("folder", "parsed"),
    [
        ("orders-0", ("orders", 0)),
        ("my-topic-12", ("my-topic", 12)),
        ("a.b-c-2147483647", ("a.b-c", 2147483647)),
        ("--1", ("-", 1)),
        ("__cluster_metadata-0", ("__cluster_metadata", 0)),
    ],
)
def test_partition_folders(folder: str, parsed: tuple[str, int]) -> None:
    assert names.parse_partition_folder(folder) == parsed


@pytest.mark.parametrize(
    "folder",
    [
        "",
        "orders",
        "orders-",
        "-0",
        ".-0",
        "..-0",
        "a/b-0",
        "orders-x",
        "orders-007",
        "orders-+1",
        "orders-1\n",
        "orders-٣",
        "orders-2147483648",
        "orders-0.0123456789abcdef0123456789abcdef-delete",
        "orders-0.0123456789abcdef0123456789abcdef-future",
        "lost+found",
        "x" * 250 + "-0",
    ],
)
def test_other_folders(folder: str) -> None:
    assert names.parse_partition_folder(folder) is None

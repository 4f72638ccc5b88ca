"""What the files and folders of a log are called (Kafka's names)."""

from __future__ import annotations

import re
from functools import lru_cache

from eventcore.errors import UsageError

LOG = ".log"
INDEX = ".index"
TIME_INDEX = ".timeindex"
TXN_INDEX = ".txnindex"
SEAL = ".seal"
SNAPSHOT = ".snapshot"
SEGMENT_SUFFIXES = (LOG, INDEX, TIME_INDEX, TXN_INDEX, SEAL)
"""The files of one segment."""

DELETED = ".deleted"
CLEANED = ".cleaned"
SWAP = ".swap"

TOPIC_NAME_SIZE_MAX = 249
NAME_SIZE_MAX = 255
"""Of any file or folder."""
RESERVED_TOPICS = frozenset(
    ("__cluster_metadata", "__consumer_offsets", "__transaction_state", "__share_group_state", "__remote_log_metadata")
)
"""Kafka's own; not to be made, changed or deleted by users."""
_OFFSET_MAX = (1 << 63) - 1
_PARTITION_MAX = (1 << 31) - 1
_FILE = re.compile(r"([0-9]{20})(\.log|\.index|\.timeindex|\.txnindex|\.seal|\.snapshot)")
_TOPIC = re.compile(rf"[A-Za-z0-9._-]{{1,{TOPIC_NAME_SIZE_MAX}}}")
_DELETED_FOLDER = re.compile(r".*-(?:0|[1-9][0-9]{0,9})\.[0-9a-f]{32}-delete")
_PARTITION = re.compile(r"0|[1-9][0-9]{0,9}")


def file_name(base_offset: int, suffix: str) -> str:
    """The name of a segment's or snapshot's file: 20 digits, so that names sort like offsets."""
    if not 0 <= base_offset <= _OFFSET_MAX:
        raise UsageError(f"there is no file for offset {base_offset}")
    return f"{base_offset:020d}{suffix}"


@lru_cache(maxsize=1 << 14)  # an opening lists its folder several times
def parse_file_name(name: str) -> tuple[int, str] | None:
    """(base offset, suffix) of a segment's or snapshot's file, None for any other name."""
    match = _FILE.fullmatch(name)
    if match is None or int(match[1]) > _OFFSET_MAX:
        return None
    return int(match[1]), match[2]


def is_topic_name(name: str) -> bool:
    """Whether `name` may name a topic."""
    return name not in (".", "..") and _TOPIC.fullmatch(name) is not None


def check_topic_name(name: str) -> str:
    """The name itself, if it may name a topic. It becomes part of a folder's name, so it is not to be trusted."""
    if not is_topic_name(name):
        raise UsageError(
            f"{name[:TOPIC_NAME_SIZE_MAX]!r} cannot name a topic",
            hint=f"use up to {TOPIC_NAME_SIZE_MAX} of A-Z a-z 0-9 . _ -, and not '.' or '..' alone",
        )
    return name


def parse_partition_folder(name: str) -> tuple[str, int] | None:
    """(topic, partition) of a partition's folder: the last '-' splits. None for any other name.

    A number that Kafka would write otherwise ("-007") names no partition: two folders would claim the same one.
    """
    topic, _, number = name.rpartition("-")
    if not is_topic_name(topic) or not _PARTITION.fullmatch(number) or int(number) > _PARTITION_MAX:
        return None
    return topic, int(number)


def partition_folder(topic: str, partition: int) -> str:
    """The name of a partition's folder."""
    return f"{topic}-{partition}"


def deleted_folder(topic: str, partition: int, unique: str) -> str:
    """What a partition's folder is called until it is removed; `unique` are 32 hexadecimal digits."""
    suffix = f"-{partition}.{unique}-delete"
    return topic[: NAME_SIZE_MAX - len(suffix)] + suffix


def is_deleted_folder(name: str) -> bool:
    """Whether a folder is one that waits to be removed."""
    return _DELETED_FOLDER.fullmatch(name) is not None

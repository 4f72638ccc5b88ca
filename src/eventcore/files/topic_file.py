"""`eventcore.topic`, in the folder of a topic's partition 0: how many partitions it has, and its configuration.

Only what differs from the store's defaults is kept. Kafka ignores the file, and removes it with the topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eventcore.disk import Disk
from eventcore.errors import CorruptFile
from eventcore.files import json_file

NAME = "eventcore.topic"
_SCALARS = (int, float, str, bool)


class TopicFile(NamedTuple):
    """What the file says."""

    partitions: int
    config: dict[str, Any]
    """By Kafka's names."""


def read(disk: Disk, path: Path) -> TopicFile | None:
    """What the file says, None if it is missing. Raises CorruptFile and UnsupportedFormat."""
    values = json_file.read(disk, path)
    if values is None:
        return None
    partitions, config = values.get("partitions"), values.get("config")
    is_right = isinstance(partitions, int) and partitions > 0 and isinstance(config, dict)
    if not is_right or not all(isinstance(value, _SCALARS) for value in config.values()):  # type: ignore[union-attr]
        raise CorruptFile("a topic file without partitions or configuration", path=path)
    return TopicFile(partitions, config)  # type: ignore[arg-type]


def write(disk: Disk, path: Path, partitions: int, config: Mapping[str, Any]) -> None:
    """Replace the file; durable after `sync_dir`."""
    json_file.write(disk, path, {"partitions": partitions, "config": dict(config)})
